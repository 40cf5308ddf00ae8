"""Control periods that the fleet node misses, and what it costs, from 16 to 256 robots at 20 Hz in real time.

Simulator, tasks, map, watchdog and fleet node are processes that talk over DDS, in real time on this machine and on its
system clock, as with robots. A period is missed if it begins more than half a period late by the fleet node's own
clock. The growth is given as a ratio to the smallest fleet of the same run; the shares of a core are measured over the
same seconds. The simulator tells how much of the time it kept up with: below 1.00 the run says nothing.

    .venv/bin/python benchmarks/bench_fleet_size.py --robots 16 64 128 256 --seconds 30 --json out/bench/fleet_size.json
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import yaml
from common import finish, progress
from marlgpt_sim.runs.demo_plan import Args, parameter_files, plan
from marlgpt_sim.runs.node_processes import Processes

TICKS = os.sysconf("SC_CLK_TCK")
RATE = 20.0  # Hz of poses, control periods and commands
START = 60.0  # s that the graph may take to come up
WARM_UP = 8.0  # s of driving before the measurement: the first decisions compile


def cpu_seconds(pid: int) -> float:
    """Seconds of processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def real_time(paths: dict[str, Path], names: list[str]) -> None:
    """Change the demo's parameters from lockstep to real time on the system clock, in place, and add a watchdog."""
    changes = {
        "simulator": {
            "real_time_factor": 1.0, "lockstep": False, "cmd_timeout": 0.2, "system_time": True,
            "publish_rate": RATE,
        },
        "task_source": {"use_sim_time": False},
        "fleet_node": {
            "trigger": "timer", "latency": 0.2, "use_sim_time": False, "control_rate": RATE,
            "first_settle": 1.0,
        },
        "watchdog_node": {"robots": names, "stamped_cmd_vel": True, "timeout": 0.5},
    }  # fmt: skip
    paths["watchdog_node"] = paths["fleet_node"].with_name("watchdog_node.yaml")
    for name, values in changes.items():
        body = {"/**": {"ros__parameters": {}}}
        if paths[name].exists():
            body = yaml.safe_load(paths[name].read_text())
        body["/**"]["ros__parameters"].update(values)
        paths[name].write_text(yaml.safe_dump(body))


class Watcher:
    """Activates the fleet node and reads its diagnostics and the simulator's status."""

    def __init__(self) -> None:
        """Join the graph."""
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from lifecycle_msgs.srv import ChangeState
        from marlgpt_msgs.msg import SimStatus

        rclpy.init()
        self.rclpy, self.values, self.contacts = rclpy, {}, 0
        self.factors: list[float] = []
        self.node = rclpy.create_node("bench_fleet_size")
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_health, 10)
        self.node.create_subscription(SimStatus, "sim/status", self._on_status, 10)
        self.change = self.node.create_client(ChangeState, "fleet_node/change_state")

    def _on_health(self, message) -> None:
        for status in message.status:
            if status.name == "marlgpt: fleet":
                self.values = {value.key: value.value for value in status.values}

    def _on_status(self, message) -> None:
        self.contacts = message.robot_contacts + message.wall_contacts
        self.factors.append(message.real_time_factor)

    def spin(self, seconds: float, processes: Processes) -> None:
        """Handle messages for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            processes.check()
            self.rclpy.spin_once(self.node, timeout_sec=0.2)

    def activate(self, processes: Processes) -> None:
        """Configure and activate. Raises ``RuntimeError`` if the node does not come up."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        if not self.change.wait_for_service(START):
            raise RuntimeError("fleet_node did not come up")
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            request = ChangeState.Request()
            request.transition.id = transition
            future = self.change.call_async(request)
            self.rclpy.spin_until_future_complete(self.node, future, timeout_sec=START)
            if future.result() is None or not future.result().success:
                raise RuntimeError(f"fleet_node refused transition {transition}")
        end = time.monotonic() + START
        while int(self.values.get("decisions", 0)) == 0:
            self.spin(0.5, processes)
            if time.monotonic() > end:
                raise RuntimeError(f"no decision after {START} s: {self.values}")

    def counts(self, processes: Processes) -> dict[str, float]:
        """Sums so far, just after a diagnosis: late periods, goals, decisions, and cores of each process."""
        self.values = {}
        while not self.values:
            self.spin(0.05, processes)
        sums = {name: float(self.values[name]) for name in ("late_periods", "goals_reached", "decisions")}
        cores = {f"core_{name}": cpu_seconds(child.pid) for name, child in processes.children.items()}
        return {**sums, **cores, "wall": time.monotonic(), "contacts": self.contacts}


def measure(robots: int, seconds: float, logs: Path | None = None) -> dict[str, float]:
    """One run; ``logs`` keeps those of the processes."""
    with tempfile.TemporaryDirectory() as folder:
        logs = logs or Path(folder) / "logs"
        run = plan(Args(robots=robots, duration=seconds, out=Path(folder)))
        paths = parameter_files(run, logs)
        real_time(paths, run.names)
        watcher = Watcher()
        try:
            with Processes(paths, logs) as processes:
                watcher.activate(processes)
                watcher.spin(WARM_UP, processes)
                before = watcher.counts(processes)
                watcher.factors.clear()
                watcher.spin(seconds, processes)
                after = watcher.counts(processes)
        finally:
            watcher.node.destroy_node()
            watcher.rclpy.shutdown()
    took = after["wall"] - before["wall"]
    values, factors = watcher.values, watcher.factors
    return {
        "late_share": (after["late_periods"] - before["late_periods"]) / (took * RATE),
        "longest_period_s": float(values["longest_period_s"]),  # since activation
        **{name: (after[name] - before[name]) / took for name in after if name.startswith("core_")},
        "decision_ms_p50": float(values["decision_ms_p50"]),
        "decision_ms_p99": float(values["decision_ms_p99"]),
        "decisions_per_s": (after["decisions"] - before["decisions"]) / took,
        "stale_robots": int(values["stale_robots"]),
        "refused": int(values["rejected_messages"]),
        "goals": int(after["goals_reached"] - before["goals_reached"]),
        "contacts": after["contacts"],
        "real_time_factor": sum(factors) / max(len(factors), 1),
        "radius": run.args.radius,
        "cells": int((run.grid.components == 0).sum()),
    }


def main() -> int:
    """Print missed periods and cost per fleet size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--robots", type=int, nargs="+", default=[16, 32, 64, 128, 256], help="fleet sizes")
    parser.add_argument("--seconds", type=float, default=30.0, help="measured seconds of each")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results to this file as well")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep the processes' logs in this folder")
    args = parser.parse_args()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    results, first = {}, None
    for robots in args.robots:
        progress(f"{robots} robots")
        result = measure(robots, args.seconds, args.logs and args.logs / str(robots))
        first = first or result["core_fleet_node"]
        result["cost_ratio"] = result["core_fleet_node"] / first
        results[robots] = result
        print(line(robots, result), flush=True)
    progress("")
    finish(args, "fleet_size", results)
    return 0


def line(robots: int, result: dict[str, float]) -> str:
    """What one run showed, in words."""
    others = ", ".join(
        f"{name.removeprefix('core_').removesuffix('_node')} {share:.2f}"
        for name, share in result.items()
        if name.startswith("core_") and name != "core_fleet_node" and share >= 0.005
    )
    return (
        f"{robots:4d} robots: {100 * result['late_share']:.2f} % of periods late, {result['core_fleet_node']:.2f} of a "
        f"core ({result['cost_ratio']:.1f} x; {others}), decisions {result['decision_ms_p50']:.1f} ms p50, "
        f"{result['decision_ms_p99']:.1f} ms p99, longest period {result['longest_period_s']:.2f} s, "
        f"{result['goals']} goals, {result['contacts']} contacts, {result['stale_robots']} stale, {result['refused']} "
        f"refused, simulator at {result['real_time_factor']:.2f} of real time"
    )


if __name__ == "__main__":
    sys.exit(main())

"""Control periods that the fleet node misses, and what it costs, from 16 to 256 robots at 20 Hz in real time.

Simulator, tasks, map and fleet node are processes that talk over DDS, in real time on this machine. A period is missed
if it begins more than half a period late. The growth is given as a ratio to the smallest fleet of the same run; the
share of a core of the fleet node is measured over the same seconds.

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
from marlgpt_sim.demo import Args, Processes, parameter_files, plan

TICKS = os.sysconf("SC_CLK_TCK")
START = 60.0  # s that the graph may take to come up


def cpu_seconds(pid: int) -> float:
    """Seconds of processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def real_time(paths: dict[str, Path]) -> None:
    """Change the demo's parameters from lockstep to real time, in place."""
    changes = {
        "simulator": {"real_time_factor": 1.0, "lockstep": False, "cmd_timeout": 0.2},
        "fleet_node": {"trigger": "timer", "latency": 0.2},
    }
    for name, values in changes.items():
        body = yaml.safe_load(paths[name].read_text())
        body["/**"]["ros__parameters"].update(values)
        paths[name].write_text(yaml.safe_dump(body))


class Watcher:
    """Activates the fleet node and reads its diagnostics."""

    def __init__(self) -> None:
        """Join the graph."""
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from lifecycle_msgs.srv import ChangeState
        from marlgpt_msgs.msg import SimStatus

        rclpy.init()
        self.rclpy, self.values, self.contacts = rclpy, {}, 0
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


def measure(robots: int, seconds: float) -> dict[str, float]:
    """One run."""
    with tempfile.TemporaryDirectory() as folder:
        run = plan(Args(robots=robots, duration=seconds, out=Path(folder)))
        paths = parameter_files(run, Path(folder) / "logs")
        real_time(paths)
        watcher = Watcher()
        try:
            with Processes(paths, Path(folder) / "logs") as processes:
                watcher.activate(processes)
                watcher.spin(5.0, processes)  # the first decisions compile
                pid = processes.children["fleet_node"].pid
                late, used, begun = int(watcher.values["late_periods"]), cpu_seconds(pid), time.monotonic()
                watcher.spin(seconds, processes)
                took = time.monotonic() - begun
                values = watcher.values
                return {
                    "late_share": (int(values["late_periods"]) - late) / (took * 20.0),
                    "core_share": (cpu_seconds(pid) - used) / took,
                    "decision_ms_p50": float(values["decision_ms_p50"]),
                    "decision_ms_p99": float(values["decision_ms_p99"]),
                    "stale_robots": int(values["stale_robots"]),
                    "goals": int(values["goals_reached"]),
                    "contacts": watcher.contacts,
                }
        finally:
            watcher.node.destroy_node()
            watcher.rclpy.shutdown()


def main() -> int:
    """Print missed periods and cost per fleet size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--robots", type=int, nargs="+", default=[16, 64, 128, 256], help="fleet sizes")
    parser.add_argument("--seconds", type=float, default=30.0, help="measured seconds of each")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results to this file as well")
    args = parser.parse_args()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    results, first = {}, None
    for robots in args.robots:
        progress(f"{robots} robots")
        result = measure(robots, args.seconds)
        first = first or result["core_share"]
        result["cost_ratio"] = result["core_share"] / first
        results[robots] = result
        print(
            f"{robots:4d} robots: {100 * result['late_share']:.2f} % of periods late, {result['core_share']:.2f} of a "
            f"core ({result['cost_ratio']:.1f} x), decisions {result['decision_ms_p50']:.1f} ms p50, "
            f"{result['decision_ms_p99']:.1f} ms p99, {result['goals']} goals, {result['contacts']} contacts",
            flush=True,
        )
    progress("")
    finish(args, "fleet_size", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())

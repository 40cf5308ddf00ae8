"""Watches a fleet whose policy is swapped while it drives, and does the swap."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import rclpy
from marlgpt_msgs.msg import FleetDecision, FleetState
from marlgpt_msgs.srv import LoadPolicy
from rclpy.executors import SingleThreadedExecutor

from marlgpt_sim.nodes.demo_monitor import STARTUP, Monitor, _bring_up, _follow, _spin_until

if TYPE_CHECKING:
    from marlgpt_sim.runs.demo_plan import Plan
    from marlgpt_sim.runs.node_processes import Processes

AROUND = 10.0
"""Simulated seconds before and after the swap in which gaps between decisions are looked at."""


class SwapMonitor(Monitor):
    """Also notes when decisions were taken, and whether the fleet ever said that it is stopped."""

    def __init__(self, run: Plan) -> None:
        """Subscribe and find the service."""
        super().__init__(run)
        self.decided: list[float] = []
        self.stopped = False
        self.reached: list[tuple[float, int]] = []
        self.load = self.create_client(LoadPolicy, "fleet/load_policy")

    def _on_decision(self, message: FleetDecision) -> None:
        super()._on_decision(message)
        self.decided.append(message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec)

    def _on_state(self, message: FleetState) -> None:
        super()._on_state(message)
        self.stopped |= message.stopped
        now = message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec
        if not self.reached or message.goals_reached != self.reached[-1][1]:
            self.reached.append((now, int(message.goals_reached)))


def watch(run: Plan, processes: Processes, after: Path, broken: Path, seconds: float) -> dict:
    """Drive, offer a broken file, swap to ``after``, drive on; see :func:`marlgpt_sim.commands.hot_swap.run`.

    Raises:
        RuntimeError: A process ended, the fleet did not configure, or nothing was heard for too long.
    """
    rclpy.init()
    monitor = SwapMonitor(run)
    executor = SingleThreadedExecutor()
    executor.add_node(monitor)
    try:
        _bring_up(monitor, executor, processes)
        _spin_until(
            monitor, executor, processes, monitor.load.service_is_ready, "service fleet/load_policy", STARTUP
        )
        begin = monitor.now
        _follow(monitor, executor, processes, seconds)
        refused = _load(monitor, executor, processes, broken)
        before = _phase(monitor, begin, 0)
        swapped = monitor.now
        swap = _load(monitor, executor, processes, after)
        done = monitor.now
        _follow(monitor, executor, processes, done - monitor.begin + seconds)
        phase = _phase(monitor, done, before["goals"])
        near = [t for t in monitor.decided if swapped - AROUND <= t <= done + AROUND]
        gaps = [b - a for a, b in zip(near, near[1:], strict=False)]
        usual = [b - a for a, b in zip(monitor.decided, monitor.decided[1:], strict=False) if b <= swapped]
        status = monitor.status
        return {
            "robots": len(run.names),
            "before": before,
            "refused": refused,
            "swap": {**swap, "sim_seconds": round(done - swapped, 2)},
            "after": phase,
            "longest_decision_gap_s": round(max(gaps, default=0.0), 3),
            "longest_decision_gap_before_s": round(max(usual, default=0.0), 3),
            "commanded_stop": monitor.stopped,
            "robot_contacts": int(status.robot_contacts),
            "wall_contacts": int(status.wall_contacts),
            "min_separation_m": round(float(status.min_separation), 4),
            "swapped_at_s": round(done - monitor.begin, 2),
            "reached": [(round(t - monitor.begin, 2), goals) for t, goals in monitor.reached],
        }
    finally:
        executor.shutdown()
        monitor.destroy_node()
        rclpy.try_shutdown()


def _load(monitor: SwapMonitor, executor, processes: Processes, path: Path) -> dict:
    """Call ``fleet/load_policy`` while the fleet drives on."""
    started = time.monotonic()
    future = monitor.load.call_async(LoadPolicy.Request(path=str(path.resolve())))
    _spin_until(monitor, executor, processes, future.done, "answer of fleet/load_policy", 60.0)
    answer = future.result()
    return {
        "accepted": bool(answer.success),
        "message": answer.message,
        "policy": answer.policy,
        "wall_seconds": round(time.monotonic() - started, 2),
    }


def _phase(monitor: SwapMonitor, begin: float, goals: int) -> dict:
    """Goals since ``begin``, of which ``goals`` had been reached before."""
    spent = monitor.now - begin
    found = int(monitor.state.goals_reached) - goals
    return {
        "policy": monitor.state.policy,
        "goals": found,
        "sim_seconds": round(spent, 2),
        "goals_per_minute": round(60 * found / spent, 2),
    }

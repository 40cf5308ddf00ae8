"""Watches a demo over ROS 2: brings the fleet up, records the bag and collects the trace and the summary."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rclpy
from geometry_msgs.msg import PoseArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from marlgpt_msgs.msg import FleetDecision, FleetState, SimStatus
from marlgpt_policy.grid.geometry import yaw_of
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from tqdm import tqdm

from marlgpt_sim.bags.bag_types import TopicSpec
from marlgpt_sim.nodes.recorder_node import BagRecorder
from marlgpt_sim.runs.report import RunTrace

if TYPE_CHECKING:
    from marlgpt_sim.runs.demo_plan import Plan
    from marlgpt_sim.runs.node_processes import Processes

STARTUP = 120.0  # s of wall time until the first decision
SILENCE = 60.0  # s of wall time without any message from the simulator
SAMPLE = 0.1  # s of simulated time between two samples of the trace
DEEP = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)


def topics(names: list[str], everything: bool) -> list[TopicSpec]:
    """What the bag holds."""
    found = [
        TopicSpec("map", "nav_msgs/msg/OccupancyGrid", latched=True, depth=1),
        TopicSpec("fleet/grid", "marlgpt_msgs/msg/Grid", latched=True, depth=1),
        TopicSpec("fleet/state", "marlgpt_msgs/msg/FleetState"),
        TopicSpec("fleet/decisions", "marlgpt_msgs/msg/FleetDecision"),
        TopicSpec("fleet/markers", "visualization_msgs/msg/MarkerArray"),
        TopicSpec("sim/ground_truth", "geometry_msgs/msg/PoseArray"),
        TopicSpec("sim/status", "marlgpt_msgs/msg/SimStatus"),
        TopicSpec("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray"),
    ]
    for name in names:
        found.append(TopicSpec(f"{name}/goal_pose", "geometry_msgs/msg/PoseStamped"))
        if everything:
            found.append(TopicSpec(f"{name}/odom", "nav_msgs/msg/Odometry"))
            found.append(TopicSpec(f"{name}/cmd_vel", "geometry_msgs/msg/TwistStamped"))
    return found


class Monitor(Node):
    """Collects what the report and the summary need; times are simulated seconds."""

    def __init__(self, run: Plan) -> None:
        """Subscribe to the fleet and the simulator."""
        super().__init__(
            "demo_monitor", parameter_overrides=[rclpy.parameter.Parameter("use_sim_time", value=True)]
        )
        self.run = run
        self.now = 0.0
        self.heard = time.monotonic()
        self.begin: float | None = None
        self.begin_wall = 0.0
        self.state: FleetState | None = None
        self.status: SimStatus | None = None
        self.decision_ms: list[float] = []
        self.samples: list[tuple] = []
        self.create_subscription(FleetState, "fleet/state", self._on_state, DEEP)
        self.create_subscription(FleetDecision, "fleet/decisions", self._on_decision, DEEP)
        self.create_subscription(PoseArray, "sim/ground_truth", self._on_truth, DEEP)
        self.create_subscription(SimStatus, "sim/status", self._on_status, DEEP)
        self.change = self.create_client(ChangeState, "fleet_node/change_state")

    def _on_state(self, message: FleetState) -> None:
        self.state = message

    def _on_status(self, message: SimStatus) -> None:
        self.status = message

    def _on_decision(self, message: FleetDecision) -> None:
        if self.begin is None:
            self.begin, self.begin_wall = self.now, time.monotonic()
        self.decision_ms.append(message.total_ms)

    def _on_truth(self, message: PoseArray) -> None:
        self.heard = time.monotonic()
        stamp = message.header.stamp
        self.now = stamp.sec + stamp.nanosec * 1e-9
        if self.begin is None or (self.samples and self.now - self.samples[-1][0] < SAMPLE - 1e-6):
            return
        try:
            poses = _planar(message)
        except ValueError as error:
            self.get_logger().warning(f"poses left out of the trace: {error}", throttle_duration_sec=5.0)
            return
        if len(poses) != len(self.run.names):
            return
        robots = [] if self.state is None else self.state.robots
        robots = robots if len(robots) == len(poses) else []
        cells = np.array([(r.goal_row, r.goal_col) for r in robots] or [(-1, -1)] * len(poses))
        goals = np.where(cells[:, :1] >= 0, self.run.grid.centre(cells), np.nan)
        status = [r.status for r in robots] or [0] * len(poses)
        reached = [r.goals_reached for r in robots] or [0] * len(poses)
        vetoes = 0 if self.state is None else self.state.vetoes
        self.samples.append(
            (self.now, poses, goals, status, reached, _gap(poses, self.run.args.radius), vetoes)
        )

    def trace(self, summary: dict) -> RunTrace:
        """The run as the report takes it."""
        times, poses, goals, status, reached, separation, vetoes = zip(*self.samples, strict=True)
        return RunTrace(
            map=self.run.map, robots=self.run.names, radius=self.run.args.radius,
            times=np.array(times) - times[0], poses=np.array(poses), goals=np.array(goals),
            status=np.array(status, dtype=np.uint8), goals_reached=np.array(reached, dtype=int),
            separation=np.array(separation), vetoes=np.array(vetoes, dtype=int), grid=self.run.grid,
            title=f"{len(self.run.names)} robots on {self.run.args.map.stem}", summary=summary,
        )  # fmt: skip


def _planar(message: PoseArray) -> np.ndarray:
    """float64[n, 3] x, y (m) and yaw (rad); ``ValueError`` for a quaternion without direction."""
    places = [(p.position, p.orientation) for p in message.poses]
    return np.array([(xy.x, xy.y, yaw_of((q.x, q.y, q.z, q.w))) for xy, q in places]).reshape(-1, 3)


def _gap(poses: np.ndarray, radius: float) -> float:
    """Smallest gap in m between the surfaces of two robots; infinity for a single one."""
    if len(poses) < 2:
        return float("inf")
    apart = np.hypot(*(poses[:, None, :2] - poses[None, :, :2]).transpose(2, 0, 1))
    return float(apart[np.triu_indices(len(poses), 1)].min() - 2 * radius)


def watch(run: Plan, processes: Processes, bag: Path, everything: bool) -> tuple[RunTrace, dict]:
    """Bring the fleet up and watch it for the planned time.

    Raises:
        RuntimeError: A process ended, the fleet did not configure, or nothing was heard for too long.
    """
    rclpy.init()
    monitor = Monitor(run)
    executor = SingleThreadedExecutor()
    executor.add_node(monitor)
    try:
        with BagRecorder(monitor, bag, topics(run.names, everything)) as recorder:
            _bring_up(monitor, executor, processes)
            _follow(monitor, executor, processes, run.args.duration)
            messages = recorder.messages
        summary = summarise(monitor)
        print(f"bag: {messages:,} messages")
        return monitor.trace(summary), summary
    finally:
        executor.shutdown()
        monitor.destroy_node()
        rclpy.try_shutdown()


def _spin_until(monitor: Monitor, executor, processes: Processes, done, what: str, timeout: float) -> None:
    end = time.monotonic() + timeout
    checked = 0.0
    while not done():
        executor.spin_once(0.2)
        if time.monotonic() - checked > 0.5:
            processes.check()
            checked = time.monotonic()
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not happen within {timeout:.0f} s; the logs are beside the bag")


def _bring_up(monitor: Monitor, executor, processes: Processes) -> None:
    _spin_until(monitor, executor, processes, monitor.change.service_is_ready, "start of fleet_node", STARTUP)
    for transition, name in (
        (Transition.TRANSITION_CONFIGURE, "configure"),
        (Transition.TRANSITION_ACTIVATE, "activate"),
    ):
        request = ChangeState.Request(transition=Transition(id=transition))
        future = monitor.change.call_async(request)
        _spin_until(monitor, executor, processes, future.done, f"{name} of fleet_node", STARTUP)
        if not future.result().success:
            log = processes.logs["fleet_node"].read_text(errors="replace").strip().splitlines()
            raise RuntimeError(f"fleet_node could not {name}:\n  " + "\n  ".join(log[-5:]))
    _spin_until(
        monitor, executor, processes, lambda: monitor.begin is not None, "the first decision", STARTUP
    )


def _follow(monitor: Monitor, executor, processes: Processes, duration: float) -> None:
    checked = time.monotonic()
    with tqdm(
        total=round(duration, 1), unit="sim s", bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} sim s{postfix}"
    ) as bar:
        while monitor.now - monitor.begin < duration:
            executor.spin_once(0.2)
            wall = time.monotonic()
            if wall - checked > 0.5:
                checked = wall
                processes.check()
                if wall - monitor.heard > SILENCE:
                    raise RuntimeError(f"nothing heard from the simulator for {SILENCE:.0f} s")
                bar.n = min(duration, monitor.now - monitor.begin)
                reached = 0 if monitor.state is None else monitor.state.goals_reached
                speed = (monitor.now - monitor.begin) / (wall - monitor.begin_wall)
                bar.set_postfix_str(f"goals {reached}, {speed:.1f} x real time")
        bar.n = duration


def summarise(monitor: Monitor) -> dict:
    """The figures of the run, by the names of the documented summary."""
    state, status = monitor.state, monitor.status
    sim_seconds = monitor.samples[-1][0] - monitor.begin
    wall_seconds = time.monotonic() - monitor.begin_wall
    p50, p99 = np.percentile(monitor.decision_ms, [50, 99])
    gaps = [sample[5] for sample in monitor.samples]
    return {
        "robots": len(monitor.run.names),
        "sim_seconds": round(sim_seconds, 2),
        "wall_seconds": round(wall_seconds, 2),
        "goals_reached": int(state.goals_reached),
        "goals_per_minute": round(60 * state.goals_reached / sim_seconds, 2),
        "robots_without_goal_reached": [r.name for r in state.robots if r.goals_reached == 0],
        "robot_contacts": int(status.robot_contacts),
        "wall_contacts": int(status.wall_contacts),
        "min_separation_m": round(float(min(status.min_separation, *gaps)), 4)
        if len(state.robots) > 1
        else None,
        "vetoes": int(state.vetoes),
        "decisions": int(state.decisions),
        "decision_ms_p50": round(float(p50), 3),
        "decision_ms_p99": round(float(p99), 3),
        "provider": state.provider,
        "policy": state.policy,
        "late_ticks": int(status.late_ticks),
        "seed": monitor.run.args.seed,
    }

"""The two things that the soak drives: a fleet with one decision for all, and robots that decide for themselves.

Both have the same few methods, so that the run, the operator and the books do not know which one they face.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from marlgpt_policy.decentralised.peer_state import Rules, State
from marlgpt_policy.decentralised.robot_controller import ControllerConfig, RobotController
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.fleet.fleet import Fleet
from marlgpt_policy.fleet.fleet_config import FleetConfig
from marlgpt_policy.grid.distance_field import DistanceField
from marlgpt_policy.grid.goal_cell import GoalError
from marlgpt_policy.grid.nav_grid import NavGrid
from marlgpt_policy.policy.onnx_policy import OnnxPolicy, PolicyOutput
from marlgpt_policy.robots.robot_config import RobotConfig

from marlgpt_sim.soak.rule_watch import SettlingWatch
from marlgpt_sim.soak.scenario import PERIOD, Scenario
from marlgpt_sim.world.faults import Delivery

CLOSER = slice(135, 139)
"""Values of the POGEMA encoding that say which moves bring the robot itself closer to its goal."""


class StubPolicy:
    """Called like ``OnnxPolicy``: random moves, or always straight towards the goal."""

    provider, layout = "soak", POGEMA_LAYOUT

    def __init__(self, seed: int | None) -> None:
        """Draw moves from ``seed``; None stampedes."""
        self.name = "stampeding" if seed is None else "random"
        self.random = None if seed is None else np.random.default_rng(seed)

    def __call__(self, values: np.ndarray, valid: np.ndarray, action_mask: np.ndarray) -> PolicyOutput:
        """As ``OnnxPolicy``."""
        n = len(values)
        logits = np.full((n, 20), -1e9, dtype=np.float32)
        if self.random is None:
            logits[:, 0] = 0.0
            logits[:, 1:5] = 30.0 * values[:, CLOSER]
        else:
            logits[:, :5] = self.random.normal(scale=2.0, size=(n, 5))
        logits[~action_mask] = -1e9
        shown = np.exp(logits[:, :5].astype(np.float64) - logits[:, :5].max(axis=1, keepdims=True))
        probabilities = (shown / shown.sum(axis=1, keepdims=True)).astype(np.float32)
        return PolicyOutput(logits, np.zeros((n, 20), np.float32), probabilities)


@cache
def _shipped(path: Path) -> OnnxPolicy:
    """One per process: loading takes longer than a short run."""
    return OnnxPolicy(path, POGEMA_LAYOUT, threads=1)


def policy_of(scenario: Scenario, path: Path) -> OnnxPolicy | StubPolicy:
    """The policy that a scenario asks for; the shipped one is read from ``path``."""
    if scenario.policy == "shipped":
        return _shipped(path)
    return StubPolicy(scenario.seed if scenario.policy == "random" else None)


@dataclass
class View:
    """What the adversary and the situations look at, from inside the driver: rows are robots.

    Attributes:
        moving, docking, docked, returning: bool[n].
        cells, targets: int[n, 2] cells that each robot leaves and drives to; -1 for none.
        progress: float[n] share of the edge driven.
        start, end: float[n, 2] the straight way that a docking robot is on, m.
        cell_size: m.
    """

    moving: np.ndarray
    docking: np.ndarray
    docked: np.ndarray
    returning: np.ndarray
    cells: np.ndarray
    targets: np.ndarray
    progress: np.ndarray
    start: np.ndarray
    end: np.ndarray
    cell_size: float


class CentralDriver:
    """A ``Fleet``.

    Attributes:
        breaches: what broke a rule of the argument in the last period (``soak/rule_watch.py``).
    """

    def __init__(
        self, scenario: Scenario, grid: NavGrid, policy: OnnxPolicy | StubPolicy, bodies: list[RobotConfig],
        distances: DistanceField,
    ) -> None:  # fmt: skip
        """Start a fleet without goals."""
        self.grid, self.policy, self.bodies, self.distances = grid, policy, bodies, distances
        self.config = FleetConfig(
            execution=scenario.execution, control_period=PERIOD, latency=scenario.latency, seed=scenario.seed,
            first_settle=scenario.first_settle, pose_error=scenario.pose_error,
            temperature=0.0 if scenario.policy == "stampeding" else 0.2,
        )  # fmt: skip
        self.remedies: Counter[str] = Counter()
        self.radius, self.breaches = max(body.radius for body in bodies), []
        self._start()

    def _start(self) -> None:
        self.fleet = Fleet(self.grid, self.policy, self.bodies, self.config, self.distances)
        self._settling = SettlingWatch(self.fleet, self.radius, self.config.pose_error)

    def restart(self) -> None:
        """The process died and another one took its place: all is forgotten but the stops, which a watchdog keeps."""
        halted, stopped = self.fleet.halted.copy(), self.fleet.stopped
        self.remedies.update(self.fleet.remedies)
        self._start()
        self.fleet.halted[:], self.fleet.stopped = halted, stopped

    def tick(self, poses: list[Delivery], clock: float) -> np.ndarray:
        """One control period; commands float64[n, 3]."""
        fleet = self.fleet
        for pose in poses:
            if pose.stamp >= fleet.pose_time[pose.robot]:  # as the node: older ones are dropped
                fleet.update_pose(pose.robot, pose.x, pose.y, pose.yaw, pose.stamp)
        commands = fleet.tick(clock).commands
        self.breaches = self._settling.look()
        return commands

    @property
    def listed(self) -> np.ndarray:
        """int[n, 2] goals that it says it has; -1 for none."""
        return self.fleet.goals

    @property
    def refusals(self) -> set[int]:
        """Robots whose goal it says it cannot reach."""
        return {i for i, detail in enumerate(self.fleet.detail) if "cannot be reached" in detail}

    @property
    def removed(self) -> np.ndarray:
        """bool[n] robots that an operator took out."""
        return self.fleet.removed

    @property
    def stopped(self) -> np.ndarray:
        """bool[n] robots that an operator stopped."""
        return self.fleet.halted | self.fleet.stopped

    def set_goal(self, robot: int, xy: np.ndarray, clock: float) -> bool:
        """Send a robot to ``xy`` m; False if it is refused."""
        try:
            self.fleet.set_goal(robot, float(xy[0]), float(xy[1]))
        except GoalError:
            return False
        return True

    def cancel_goal(self, robot: int) -> None:
        """As ``Fleet``."""
        self.fleet.cancel_goal(robot)

    def stop(self, robot: int | None) -> None:
        """As ``Fleet``."""
        self.fleet.stop(robot)

    def resume(self, robot: int | None) -> None:
        """As ``Fleet``."""
        self.fleet.resume(robot)

    def remove_robot(self, robot: int) -> None:
        """As ``Fleet``."""
        self.fleet.remove_robot(robot)

    def add_robot(self, robot: int) -> None:
        """As ``Fleet``."""
        self.fleet.add_robot(self.bodies[robot])

    def replace_map(self) -> list[str]:
        """The same map once more; what was dropped."""
        return self.fleet.replace_map(self.grid, self.distances)

    def counts(self) -> Counter[str]:
        """Remedies used since the start."""
        return self.remedies + Counter(self.fleet.remedies)

    def longest_queue(self) -> int:
        """Claims on the cell that most robots wait for."""
        targets = {(r, c) for r, c in self.fleet.targets[self.fleet.moving].tolist()}
        return max((len(self.fleet.reservations.queue(np.array(cell))) for cell in targets), default=0)

    def view(self) -> View:
        """What robots are doing."""
        f = self.fleet
        return View(
            f.moving & f.docked, f.docking.copy(), f.docked.copy(), f.returning.copy(), f.cells, f.targets,
            f.progress, f.dock_from, self.grid.centre(f.cells), self.grid.cell_size,
        )  # fmt: skip


class LoneDriver:
    """One ``RobotController`` for each robot, and a network that loses, delays and reorders their messages."""

    def __init__(
        self, scenario: Scenario, grid: NavGrid, policy: OnnxPolicy | StubPolicy, bodies: list[RobotConfig],
        distances: DistanceField,
    ) -> None:  # fmt: skip
        """Start every robot's process."""
        self.breaches: list[str] = []  # its rules have no queues
        self.scenario, self.grid, self.policy, self.bodies = scenario, grid, policy, bodies
        self.distances = distances
        self.names = tuple(body.name for body in bodies)
        fastest = max(body.limits.max_speed for body in bodies)
        self.rules = Rules(self.names, "soak", grid.cell_size / fastest)
        self.random = np.random.default_rng((scenario.seed, 13))
        self.removed = np.zeros(len(bodies), bool)
        self.stopped = np.zeros(len(bodies), bool)
        self.starts = 0
        self.post: list[tuple[int, int, State]] = []  # period in which it arrives, receiver, message
        self.robots = [self._start(i) for i in range(len(bodies))]
        self._period = 0

    def _start(self, i: int) -> RobotController:
        self.starts += 1
        config = ControllerConfig(
            PERIOD, latency=self.scenario.latency, seed=self.scenario.seed % 2**31 + i,
            temperature=0.0 if self.scenario.policy == "stampeding" else 0.2,
        )  # fmt: skip
        return RobotController(
            self.bodies[i], self.grid, self.policy, self.rules, self.starts, config, self.distances
        )

    def restart(self) -> None:
        """The process of one robot, in turn, died and another one took its place."""
        i = self.starts % len(self.bodies)
        self.robots[i] = self._start(i)
        if self.stopped[i]:
            self.robots[i].stop()

    def tick(self, poses: list[Delivery], clock: float) -> np.ndarray:
        """One control period; commands float64[n, 3]."""
        self._period += 1
        arrived = [entry for entry in self.post if entry[0] <= self._period]
        self.post = [entry for entry in self.post if entry[0] > self._period]
        for _, receiver, state in arrived:
            self.robots[receiver].receive(state)
        for pose in poses:
            robot = self.robots[pose.robot]
            if pose.stamp >= robot.pose_time:
                robot.update_pose(pose.x, pose.y, pose.yaw, pose.stamp)
        commands = np.zeros((len(self.robots), 3))
        for i, robot in enumerate(self.robots):
            result = robot.tick(clock)
            commands[i] = result.command
            if result.message is not None:
                self._broadcast(i, result.message)
        return commands

    def _broadcast(self, sender: int, message: State) -> None:
        heard = self.random.random(len(self.robots)) >= self.scenario.network_loss
        late = self.random.integers(1, self.scenario.network_delay + 1, len(self.robots))
        for j in np.flatnonzero(heard).tolist():
            if j != sender:
                self.post.append((self._period + int(late[j]), j, message))

    @property
    def listed(self) -> np.ndarray:
        """int[n, 2] goals that the robots say they have; -1 for none."""
        return np.array([(-1, -1) if r.choice.goal is None else r.choice.goal for r in self.robots])

    @property
    def refusals(self) -> set[int]:
        """Robots whose goal they say they cannot reach."""
        return {i for i, robot in enumerate(self.robots) if "cannot be reached" in robot.detail}

    def set_goal(self, robot: int, xy: np.ndarray, clock: float) -> bool:
        """Send a robot to ``xy`` m; False if it is refused."""
        try:
            self.robots[robot].set_goal(float(xy[0]), float(xy[1]), clock)
        except GoalError:
            return False
        return True

    def cancel_goal(self, robot: int) -> None:
        """As ``RobotController``."""
        self.robots[robot].cancel_goal()

    def stop(self, robot: int | None) -> None:
        """Stop one, or all."""
        for i in range(len(self.robots)) if robot is None else [robot]:
            self.stopped[i] = True
            self.robots[i].stop()

    def resume(self, robot: int | None) -> None:
        """Let one, or all, drive again."""
        for i in range(len(self.robots)) if robot is None else [robot]:
            self.stopped[i] = False
            self.robots[i].resume()

    def counts(self) -> Counter[str]:
        """There are no remedies to count."""
        return Counter()

    def longest_queue(self) -> int:
        """A cell has one holder."""
        return 1

    def view(self) -> View:
        """What robots are doing."""
        n = len(self.robots)
        cells, targets = np.full((n, 2), -1), np.full((n, 2), -1)
        progress, end = np.ones(n), np.zeros((n, 2))
        docked = np.array([robot.docked for robot in self.robots])
        docking = np.array(
            [robot.peers.joined and not robot.docked and bool(robot.path) for robot in self.robots]
        )
        for i, robot in enumerate(self.robots):
            if robot.path:
                cells[i], targets[i] = robot.path[0], robot.path[min(1, len(robot.path) - 1)]
                start, end[i] = self.grid.centre(np.array([cells[i], targets[i]]))
                if robot.pose is not None and len(robot.path) > 1:
                    progress[i] = float((robot.pose[:2] - start) @ (end[i] - start)) / self.grid.cell_size**2
        moving = docked & (cells != targets).any(axis=1)
        start = np.array([robot._start for robot in self.robots])
        size = self.grid.cell_size
        return View(moving, docking, docked, np.zeros(n, bool), cells, targets, progress, start, end, size)

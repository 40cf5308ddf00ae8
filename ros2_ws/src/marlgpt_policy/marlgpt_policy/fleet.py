"""The fleet step without ROS: poses and goals in, velocity commands out.

Every control period :meth:`Fleet.tick` checks which robots are fit to drive, takes a joint decision when the
robots have finished their cells (late ones hold theirs), and tracks each robot's edge. A robot drives into a
cell only while it holds its reservation, followers stay behind their leaders by measured progress, and a
robot that is lost, stale or off the grid stands still while the others keep working around it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from marlgpt_policy.clearance import DistanceField
from marlgpt_policy.cost_to_go import UNREACHABLE, CostToGo
from marlgpt_policy.encoders import pogema
from marlgpt_policy.grid import NavGrid
from marlgpt_policy.layout import HISTORY
from marlgpt_policy.patience import Patience
from marlgpt_policy.policy import OnnxPolicy, choose
from marlgpt_policy.rescue import PLANNED, Rescue, compile_search
from marlgpt_policy.reservations import NOBODY, Reservations
from marlgpt_policy.shield import move_worth, rank_moves, resolve
from marlgpt_policy.tracker import Drive, MotionLimits, track

CONTACT_RESERVE = 0.03
"""Metres between two discs that coupled motion leaves for tracking error and pose noise; half of what the
cells leave where that is less."""


class Status(IntEnum):
    """What a robot is doing; the values of ``marlgpt_msgs/RobotState``."""

    NO_POSE = 0
    IDLE = 1
    WAITING = 2
    MOVING = 3
    STALE = 4
    STOPPED = 5
    OFF_GRID = 6
    DOCKING = 7


class GoalError(ValueError):
    """A goal cannot be accepted; the message names the robot, the goal and the reason."""


@dataclass(frozen=True)
class RobotConfig:
    """One robot's body.

    Attributes:
        name: Unique name, also its topic prefix.
        radius: Radius of the disc that contains it, m.
        drive: Differential or holonomic.
        limits: Speeds and accelerations it may be commanded.
    """

    name: str
    radius: float = 0.22
    drive: Drive = Drive.DIFFERENTIAL
    limits: MotionLimits = field(default_factory=MotionLimits)


@dataclass(frozen=True)
class FleetConfig:
    """Timing and choices of the fleet.

    Attributes:
        control_period: Seconds between ticks.
        pose_timeout: Age in s at which a pose is stale and its robot stops.
        step_timeout: Seconds after a decision at which the next one is taken without late robots.
        step_minimum: Least seconds between decisions (when every robot waits, a step takes no time).
        goal_grace: Seconds a decision waits for the next goal of a robot that has just reached one.
        latency: Seconds between a pose being measured and its command taking effect; None is one period.
        arrive_tolerance: Distance in m from a cell's centre that counts as there.
        temperature: Of sampling from the policy; 0 takes the most probable move. Above 0, it rises to 1 for robots
            that get no nearer to their goals (see ``patience.py``).
        seed: Of sampling and of tie-breaking.
    """

    control_period: float = 0.05
    pose_timeout: float = 0.5
    step_timeout: float = 0.6
    step_minimum: float = 0.2
    goal_grace: float = 0.15
    latency: float | None = None
    arrive_tolerance: float = 0.03
    temperature: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("control_period", "pose_timeout", "step_timeout", "arrive_tolerance"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number of seconds or metres, got {value!r}")


@dataclass(frozen=True)
class Decision:
    """One joint decision; arrays over all n robots.

    Attributes:
        step: Number of the decision, from 1.
        cells: int[n, 2] cells decided from (-1 for robots without one).
        goals: int[n, 2] goal cells, -1 for none.
        proposed: int8[n] the policy's moves.
        executed: int8[n] the shield's moves.
        probabilities: float32[n, 5].
        value: float32[n] the critic's value of the executed move.
        held: bool[n] took no part (late, stale, lost).
        encode_ms: Time to encode, in ms.
        infer_ms: Time of ONNX Runtime, in ms.
        shield_ms: Time of the shield, in ms.
    """

    step: int
    cells: np.ndarray
    goals: np.ndarray
    proposed: np.ndarray
    executed: np.ndarray
    probabilities: np.ndarray
    value: np.ndarray
    held: np.ndarray
    encode_ms: float
    infer_ms: float
    shield_ms: float


@dataclass(frozen=True)
class Tick:
    """Result of one control period.

    Attributes:
        commands: float64[n, 3] (vx, vy, wz) in the body frame, m/s and rad/s.
        reached: Indices of robots that reached their goals.
        decision: The decision taken in this period, if any.
    """

    commands: np.ndarray
    reached: list[int]
    decision: Decision | None


class Fleet:
    """Everything the fleet knows between ticks. Arrays are indexed by robot, in the order of ``robots``."""

    def __init__(
        self,
        grid: NavGrid,
        policy: OnnxPolicy,
        robots: list[RobotConfig],
        config: FleetConfig | None = None,
        distances: DistanceField | None = None,
    ) -> None:
        """Set up ``robots`` on ``grid``.

        ``distances`` lets robots that stand between cells drive to the nearest one; without it they must
        start on a cell's centre.

        Raises:
            ValueError: No robot, duplicate names, or a radius too large for the grid's cells.
        """
        names = [robot.name for robot in robots]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"robot name used twice: {', '.join(twice)}; every robot needs a name of its own"
            )
        if not robots:
            raise ValueError("no robots configured; set the parameter 'robots'")
        self.grid, self.policy, self.robots = grid, policy, robots
        self.config = config or FleetConfig()
        self.distances = distances
        self.names = names
        n = len(robots)
        self.radius = max(robot.radius for robot in robots)
        # Fraction of an edge that a follower may be ahead of its leader: behind a leader that turns away the
        # closest approach is cell * (1 - slack) / sqrt(2), behind one that drives straight cell * (1 - slack).
        spare = grid.cell_size / math.sqrt(2) - 2 * self.radius
        self.reserve = min(CONTACT_RESERVE, spare / 2)
        body = 2 * self.radius + self.reserve
        self.turn_slack = 1 - math.sqrt(2) * body / grid.cell_size
        self.straight_slack = min(0.5, 1 - body / grid.cell_size)
        if spare < 0.02:
            raise ValueError(
                f"robots of radius {self.radius} m need cells of at least "
                f"{math.sqrt(2) * (2 * self.radius + 0.02):.3f} m, "
                f"the grid's are {grid.cell_size} m"
            )
        self.drive = np.array([robot.drive for robot in robots], dtype=np.int8)
        self.limits = np.array([robot.limits.as_row() for robot in robots])
        self.costs = CostToGo(grid.moves)
        self.reservations = Reservations(grid.free.shape)
        self.random = np.random.default_rng(self.config.seed)
        self.poses = np.full((n, 3), np.nan)
        self.pose_time = np.full(n, -np.inf)
        self.driven = np.zeros((n, 3))  # what the commands since the last pose should have moved the robot
        self.unseen = np.zeros(n, dtype=bool)  # no new pose since the last tick
        self.last_tick = -np.inf
        self.jitter = 0.0  # s by which ticks have lately been late
        self.cells = np.full((n, 2), -1, dtype=np.int64)
        self.targets = np.full((n, 2), -1, dtype=np.int64)
        self.docked = np.zeros(n, dtype=bool)
        self.docking = np.zeros(n, dtype=bool)
        self.dock_from = np.full((n, 2), np.nan)
        self.goals = np.full((n, 2), -1, dtype=np.int64)
        self.history = np.full((n, HISTORY), pogema.NO_ACTION, dtype=np.int8)
        self.leader = np.full(n, -1, dtype=np.int64)
        self.leader_edge = np.zeros(n, dtype=np.int64)
        self.edge = np.zeros(n, dtype=np.int64)
        self.move = np.zeros(n, dtype=np.int8)
        self.progress = np.ones(n)
        self.waited = self.random.random(n)
        self.patience = Patience(n)
        self.rescue = Rescue(self.costs, n)
        compile_search()
        self.commands = np.zeros((n, 3))
        self.goals_reached = np.zeros(n, dtype=np.int64)
        self.vetoes = np.zeros(n, dtype=np.int64)
        self.detail = ["no pose received yet"] * n
        self.steps = 0
        self.decisions = 0
        self.stopped = False
        self.last_decision = -np.inf
        self.last_reached = -np.inf

    # Inputs ---------------------------------------------------------------------------------------------

    def update_pose(self, robot: int, x: float, y: float, yaw: float, now: float) -> None:
        """Take a pose in the grid's frame (m, rad) received at ``now`` s.

        Raises:
            ValueError: NaN or infinite values; the last good pose stays and goes stale.
        """
        if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(yaw)):
            raise ValueError(f"pose of robot '{self.names[robot]}' is not finite: ({x}, {y}, {yaw})")
        self.poses[robot] = (x, y, yaw)
        self.driven[robot] = 0.0
        self.unseen[robot] = False
        self.pose_time[robot] = now

    def goal_cell(self, robot: int, x: float, y: float) -> np.ndarray:
        """The cell int[2] that a goal at (x, y) m means for a robot.

        Raises:
            GoalError: Outside the map, too far from any free cell, or in a room the robot cannot reach.
        """
        name = f"goal ({x:.2f}, {y:.2f}) of robot '{self.names[robot]}'"
        if not (math.isfinite(x) and math.isfinite(y)):
            raise GoalError(f"{name} is not finite")
        cell = self.grid.cell_of(np.array([x, y]))
        if not self.grid.inside(cell):
            raise GoalError(f"{name} lies outside the map or in its outer walls")
        if not self.grid.free[tuple(cell)]:
            cell = self.grid.nearest_free(np.array([x, y]), self.grid.cell_size / math.sqrt(2))
            if cell is None:
                raise GoalError(
                    f"{name} lies in a wall or too close to one for a robot of {self.radius} m radius"
                )
        cell = np.asarray(cell, dtype=np.int64)
        if self.docked[robot] and self.costs.field(cell)[tuple(self.cells[robot])] >= UNREACHABLE:
            raise GoalError(
                f"{name} cannot be reached from where the robot is: no way wide enough leads there"
            )
        return cell

    def set_goal(self, robot: int, x: float, y: float) -> np.ndarray:
        """Send a robot to (x, y) m in the grid's frame; the goal cell int[2]. Raises ``GoalError``."""
        self.goals[robot] = self.goal_cell(robot, x, y)
        if self.docked[robot]:
            self.detail[robot] = ""
        return self.goals[robot].copy()

    def cancel_goal(self, robot: int) -> None:
        """Forget a robot's goal; it finishes its cell and stays."""
        self.goals[robot] = -1

    def stop(self) -> None:
        """Stop all robots until :meth:`resume`."""
        self.stopped = True

    def resume(self) -> None:
        """Let robots drive again after :meth:`stop`."""
        self.stopped = False

    # One control period ---------------------------------------------------------------------------------

    def tick(self, now: float) -> Tick:
        """Advance to ``now`` s: arrivals, docking, a decision if it is time, and commands."""
        self._watch_clock(now)
        known = np.isfinite(self.poses[:, 0])
        age = now - self.pose_time
        fresh = known & (age <= self.config.pose_timeout) & (age >= -2 * self.config.control_period)
        self._watch_displaced(fresh)
        self._dock(fresh)
        reached = self._settle(fresh, now)
        decision = None
        if self._time_to_decide(fresh, now):
            decision = self._decide(fresh)
            self.last_decision = now
        self._drive(fresh)
        return Tick(self.commands.copy(), reached, decision)

    def _watch_clock(self, now: float) -> None:
        """Note how late this tick is and how far the last commands have carried robots without a new pose."""
        if now < self.last_tick - 1e-6:  # the clock was set back: no pose is known to be recent any more
            self.pose_time[:] = -np.inf
            self.last_decision = self.last_reached = self.last_tick = -np.inf
        period = self.config.control_period
        elapsed = now - self.last_tick if math.isfinite(self.last_tick) else period
        elapsed = min(max(elapsed, 0.0), self.config.pose_timeout)
        self.last_tick = now
        self.jitter = max(elapsed - period, 0.98 * self.jitter)
        moved = self._displacement(self.poses[:, 2] + self.driven[:, 2], self.commands, elapsed)
        self.driven[self.unseen] += moved[self.unseen]
        self.unseen[:] = np.isfinite(self.poses[:, 0])

    def status(self, robot: int, now: float) -> tuple[Status, str]:
        """What a robot is doing and, where it stands still for a reason, why."""
        if not np.isfinite(self.poses[robot, 0]):
            return Status.NO_POSE, "no pose received yet"
        age = now - self.pose_time[robot]
        if age > self.config.pose_timeout:
            return Status.STALE, f"last pose is {age:.2f} s old by its stamp"
        if self.stopped:
            return Status.STOPPED, "fleet is stopped until resumed"
        if self.docking[robot]:
            return Status.DOCKING, ""
        if not self.docked[robot]:
            return Status.OFF_GRID, self.detail[robot]
        if (self.targets[robot] != self.cells[robot]).any():
            return Status.MOVING, ""
        return (Status.IDLE, self.detail[robot]) if self.goals[robot, 0] < 0 else (Status.WAITING, "")

    def _blocked(self, skip: int = -1) -> np.ndarray:
        """bool[R, C] cells that no robot may enter because one off the grid stands or docks near them."""
        blocked = np.zeros(self.grid.free.shape, dtype=bool)
        for i in np.flatnonzero(~self.docked & np.isfinite(self.poses[:, 0])):
            if i != skip:
                blocked |= self._near(i, self.poses[i, :2])
        return blocked

    def _near(self, robot: int, end: np.ndarray) -> np.ndarray:
        """bool[R, C] cells whose edges come too close to a robot between its pose and ``end`` float[2].

        An edge whose ends are both at least d from a point passes it at sqrt(d^2 - (cell / 2)^2).
        """
        reach = math.hypot(2 * self.radius + self.reserve, self.grid.cell_size / 2)
        rows, cols = self.grid.free.shape
        centres = self.grid.centre(np.stack(np.meshgrid(range(rows), range(cols), indexing="ij"), axis=-1))
        start = self.poses[robot, :2]
        span = end - start
        along = ((centres - start) @ span) / max(float(span @ span), 1e-12)
        closest = start + np.clip(along, 0, 1)[..., None] * span
        return np.hypot(*np.moveaxis(centres - closest, -1, 0)) < reach

    def _watch_displaced(self, fresh: np.ndarray) -> None:
        """A robot that was pushed off its edge leaves the grid and has to dock again; it keeps its cells."""
        on = np.flatnonzero(self.docked & fresh)
        starts, ends = self.grid.centre(self.cells[on]), self.grid.centre(self.targets[on])
        away = _distance_to_segment(self.poses[on, :2], starts, ends)
        for i in on[away > 0.35 * self.grid.cell_size]:
            self.docked[i] = False
            self.detail[i] = "was moved off its way"

    def _dock(self, fresh: np.ndarray) -> None:
        """Put robots with a fresh pose onto the grid, driving them to the nearest cell where needed."""
        for i in np.flatnonzero(~self.docked & fresh) if not self.stopped else ():
            position = self.poses[i, :2]
            if self.docking[i]:
                start, end = self.dock_from[i], self.grid.centre(self.cells[i])
                if _distance_to_segment(position, start, end) > 0.15 * self.grid.cell_size:
                    self.docking[i] = False  # moved by something else; it keeps its cell and starts anew
                    self.detail[i] = "was moved off its way while docking"
                    continue
                if np.hypot(*(self.grid.centre(self.cells[i]) - position)) <= self.config.arrive_tolerance:
                    self._finish_docking(i)
                continue
            cell, reason = self._docking_cell(i, position)
            if cell is None:
                self.detail[i] = reason
                continue
            self._release_all(i)
            self.reservations.acquire(cell, i)
            self.cells[i] = self.targets[i] = cell
            self.dock_from[i] = position
            self.docking[i] = True
            self.edge[i] += 1
            if np.hypot(*(self.grid.centre(cell) - position)) <= self.config.arrive_tolerance:
                self._finish_docking(i)

    def _docking_cell(self, i: int, position: np.ndarray) -> tuple[np.ndarray | None, str]:
        nearest = self.grid.cell_of(position)
        if not (self.grid.inside(nearest) or self.grid.inside(nearest + 1) or self.grid.inside(nearest - 1)):
            return None, f"pose ({position[0]:.2f}, {position[1]:.2f}) lies outside the map"
        around = [nearest + (dr, dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)]
        free = [cell for cell in around if self.grid.inside(cell) and self.grid.free[tuple(cell)]]
        free.sort(key=lambda cell: float(np.hypot(*(self.grid.centre(cell) - position))))
        reason = f"no free cell near its pose ({position[0]:.2f}, {position[1]:.2f})"
        held = self.reservations.holder
        for cell in free:
            centre = self.grid.centre(cell)
            distance = float(np.hypot(*(centre - position)))
            if distance > self.config.arrive_tolerance:
                if self.distances is None or distance > self.grid.cell_size:
                    continue
                if self.distances.along(position, centre) < min(self.radius, self.distances.at(position)):
                    continue
            needed = self._near(i, centre)
            others = held[needed & (held != NOBODY) & (held != i)]
            if len(others):
                reason = f"waits for robot '{self.names[others[0]]}' to make way"
                continue
            if self._too_close(i, position, centre):
                reason = "another robot off the grid is too close"
                continue
            return cell, ""
        return None, reason

    def _too_close(self, i: int, start: np.ndarray, end: np.ndarray) -> bool:
        """Does any other robot off the grid stand or dock within reach of the segment?"""
        for j in np.flatnonzero(~self.docked & np.isfinite(self.poses[:, 0])):
            if j == i:
                continue
            ends = [self.poses[j, :2]] + ([self.grid.centre(self.cells[j])] if self.docking[j] else [])
            span = end - start
            for a, b in zip(ends, ends[1:] + ends[-1:], strict=True):
                for t in np.linspace(0, 1, 9):
                    point = a + t * (b - a)
                    along = np.clip(((point - start) @ span) / max(float(span @ span), 1e-12), 0, 1)
                    if np.hypot(*(point - start - along * span)) < 2 * self.radius + 2 * self.reserve:
                        return True
        return False

    def _finish_docking(self, i: int) -> None:
        self.docked[i], self.docking[i] = True, False
        self.progress[i] = 1.0
        self.leader[i] = -1
        self.move[i] = 0
        self.detail[i] = ""
        self.history[i] = pogema.NO_ACTION
        if self.goals[i, 0] >= 0 and self.costs.field(self.goals[i])[tuple(self.cells[i])] >= UNREACHABLE:
            self.detail[i] = (
                f"goal cell {tuple(int(v) for v in self.goals[i])} cannot be reached, goal dropped"
            )
            self.goals[i] = -1

    def _release_all(self, i: int) -> None:
        self.reservations.holder[self.reservations.holder == i] = NOBODY

    def _settle(self, fresh: np.ndarray, now: float) -> list[int]:
        """Finish the edges of robots that are at their targets; the robots that reached their goals."""
        reached = []
        on = np.flatnonzero(self.docked & fresh)
        away = np.hypot(*(self.poses[on, :2] - self.grid.centre(self.targets[on])).T)
        finished = (self.cells[on] != self.targets[on]).any(axis=1) | (
            self.targets[on] == self.goals[on]
        ).all(axis=1)
        for i in on[finished & (away <= self.config.arrive_tolerance)]:
            if (self.cells[i] != self.targets[i]).any():
                if self.reservations.holder[tuple(self.cells[i])] == i:
                    self.reservations.release(self.cells[i], i)
                self.cells[i] = self.targets[i]
                self.edge[i] += 1
                self.leader[i] = -1
                self.progress[i] = 1.0
            if self.goals[i, 0] >= 0 and (self.cells[i] == self.goals[i]).all():
                self.goals[i] = -1
                self.goals_reached[i] += 1
                self.waited[i] = self.random.random()
                self.last_reached = now
                reached.append(int(i))
        return reached

    def _time_to_decide(self, fresh: np.ndarray, now: float) -> bool:
        ready = self._ready(fresh)
        if self.stopped or not (ready & (self.goals[:, 0] >= 0)).any():
            return False
        if now - self.last_decision < self.config.step_minimum:
            return False
        if now - self.last_reached < self.config.goal_grace and (ready & (self.goals[:, 0] < 0)).any():
            return False
        moving = self.docked & fresh & ~ready
        return not moving.any() or now - self.last_decision >= self.config.step_timeout

    def _ready(self, fresh: np.ndarray) -> np.ndarray:
        """bool[n] robots that have finished their cell and may take part in a decision."""
        return self.docked & fresh & (self.cells == self.targets).all(axis=1)

    def _decide(self, fresh: np.ndarray) -> Decision:
        ready = self._ready(fresh)
        on_grid = np.flatnonzero(self.cells[:, 0] >= 0)
        blocked = self._blocked()
        # A robot on its way counts at the nearer end of its edge; the other end is closed to all.
        anchors = np.where((self.progress >= 0.5)[:, None], self.targets, self.cells)
        for i in on_grid[~ready[on_grid]]:
            for cell in (self.cells[i], self.targets[i]):
                holder = self.reservations.holder[tuple(cell)]
                if holder == i and (cell != anchors[i]).any():
                    blocked[tuple(cell)] = True
                elif holder != i and (cell == anchors[i]).all():
                    anchors[i] = self.targets[i]  # its cell has been handed to a follower
        started = time.perf_counter()
        goals = np.where(self.goals[:, :1] >= 0, self.goals, anchors)
        fields = self.costs.fields(goals[on_grid])
        which = np.flatnonzero(ready[on_grid])
        values, valid, mask = pogema.encode(
            fields, anchors[on_grid], goals[on_grid], self.history[on_grid], self.grid.moves, which
        )
        members = on_grid[which]
        for move in range(1, 5):
            ahead = anchors[members] + pogema.MOVES[move]
            legal = mask[:, move]
            mask[legal, move] = ~blocked[ahead[legal, 0], ahead[legal, 1]]
        encoded = time.perf_counter()
        output = self.policy(values, valid, mask)
        row, column = anchors[members].T
        self.patience.update(members, fields[which, row, column], goals[members])
        temperatures = self.patience.temperatures(members, self.config.temperature)
        proposed = choose(output.probabilities, temperatures, self.random)
        inferred = time.perf_counter()
        fixed = ~ready[on_grid]
        closed = blocked.copy()
        closed[tuple(anchors[on_grid[fixed]].T)] = True
        planned = self.rescue.propose(
            members, anchors[members], goals[members], fields[which], self.patience.idle[members], closed
        )
        proposed = np.where(planned >= 0, planned, proposed).astype(np.int8)
        ranking = np.full((len(on_grid), 5), -1, dtype=np.int8)
        ranking[which] = rank_moves(output.logits, proposed, mask)
        worth = np.zeros((len(on_grid), 5))
        worth[which] = move_worth(output.logits, proposed, mask)
        priority = np.where(self.goals[on_grid, 0] >= 0, self.waited[on_grid], self.waited[on_grid] % 1.0)
        priority[which] += np.where(planned >= 0, PLANNED, 0.0)
        seed = int(self.random.integers(2**32))
        executed = resolve(anchors[on_grid], ranking, priority, self.grid.moves, fixed, blocked, worth, seed)
        shielded = time.perf_counter()
        decision = self._record(on_grid, which, anchors, proposed, executed, output)
        self._start_edges(members, executed[which])
        return Decision(
            **decision,
            encode_ms=(encoded - started) * 1e3,
            infer_ms=(inferred - encoded) * 1e3,
            shield_ms=(shielded - inferred) * 1e3,
        )

    def _record(self, on_grid, which, anchors, proposed, executed, output) -> dict:
        n = len(self.robots)
        members = on_grid[which]
        self.steps += 1
        self.decisions += len(members)
        full = {
            "proposed": np.zeros(n, np.int8), "executed": np.zeros(n, np.int8),
            "probabilities": np.zeros((n, 5), np.float32), "value": np.zeros(n, np.float32),
        }  # fmt: skip
        full["proposed"][members] = proposed
        full["executed"][on_grid] = executed
        full["probabilities"][members] = output.probabilities
        full["value"][members] = output.q[np.arange(len(members)), executed[which]]
        held = np.ones(n, dtype=bool)
        held[members] = False
        self.vetoes[members] += proposed != executed[which]
        self.waited[members] += 1
        self.history[members] = np.concatenate([executed[which, None], self.history[members, :-1]], axis=1)
        cells = np.where(self.cells >= 0, anchors, -1)
        return {"step": self.steps, "cells": cells, "goals": self.goals.copy(), "held": held, **full}

    def _start_edges(self, members: np.ndarray, moves: np.ndarray) -> None:
        """Reserve the next cells; a follower takes over its leader's cell and is coupled to its progress."""
        here = {tuple(self.cells[i]): int(i) for i in members}
        taken = {}
        for i, move in zip(members, moves, strict=True):
            self.move[i] = move
            self.leader[i] = -1
            if move:
                self.targets[i] = self.cells[i] + pogema.MOVES[move]
                self.edge[i] += 1
                self.progress[i] = 0.0
                taken[int(i)] = tuple(self.targets[i])
        for i, cell in taken.items():
            j = here.get(cell)
            if j is None:
                self.reservations.acquire(np.array(cell), i)
            else:
                self.leader[i], self.leader_edge[i] = j, self.edge[j]
        for i, cell in taken.items():
            if self.leader[i] >= 0:
                self.reservations.hand_over(np.array(cell), int(self.leader[i]), i)

    def _limits_of_progress(self) -> np.ndarray:
        """float[n] how far along its edge each robot may be, from the measured progress of its leader."""
        limit = np.ones(len(self.robots))
        for i in np.flatnonzero(self.leader >= 0):
            j = self.leader[i]
            if not self.docked[j]:
                limit[i] = 0.0  # pushed off its way: where it will be is not known
            elif self.edge[j] == self.leader_edge[i]:
                slack = self.straight_slack if self.move[i] == self.move[j] else self.turn_slack
                limit[i] = min(1.0, self.progress[j] + slack)
        return limit

    def _drive(self, fresh: np.ndarray) -> None:
        n = len(self.robots)
        active = (self.docked | self.docking) & np.isfinite(self.poses[:, 0])
        starts, ends = np.zeros((n, 2)), np.zeros((n, 2))
        starts[active] = self.grid.centre(self.cells[active])
        ends[active] = self.grid.centre(self.targets[active])
        starts[self.docking] = self.dock_from[self.docking]
        starts[~active] = ends[~active] = self.poses[~active, :2]
        hold = ~fresh | ~active | self.stopped | self._in_the_way(ends)
        limit = np.where(self.docking, 1.0, self._limits_of_progress())
        # Where a pose is missing, a robot brakes by where its commands have taken it, not by where it was.
        poses = self.poses + self.driven
        result = track(
            poses, self.commands, starts, ends, limit, hold, self.drive, self.limits,
            self.config.control_period, latency=self._latency(),
            arrive_tolerance=self.config.arrive_tolerance,
        )  # fmt: skip
        measured = (self.driven == 0.0).all(axis=1)  # followers trust in nothing else
        moving = self.docked & fresh & measured & (self.cells != self.targets).any(axis=1)
        self.progress[moving] = np.clip(result.progress[moving], 0.0, 1.0)
        self.commands = result.commands
        self.commands[~fresh | ~active | self.stopped] = 0.0  # at once, whatever the profile says

    def _latency(self) -> float:
        """Seconds until a command acts, and how much longer the last one may have to hold if ticks come late."""
        latency = self.config.latency
        return (self.config.control_period if latency is None else latency) + self.jitter

    @staticmethod
    def _displacement(yaw: np.ndarray, commands: np.ndarray, seconds: float) -> np.ndarray:
        """float[n, 3] (x, y, yaw) that body-frame commands float[n, 3] move robots within ``seconds``."""
        step = commands * seconds
        middle = yaw + step[:, 2] / 2
        cos, sin = np.cos(middle), np.sin(middle)
        return np.stack(
            [cos * step[:, 0] - sin * step[:, 1], sin * step[:, 0] + cos * step[:, 1], step[:, 2]], axis=1
        )

    def _in_the_way(self, ends: np.ndarray) -> np.ndarray:
        """bool[n] robots on the grid whose remaining way passes one that stands or docks off the grid."""
        hold = np.zeros(len(self.robots), dtype=bool)
        moving = self.docked & (self.cells != self.targets).any(axis=1)
        for k in np.flatnonzero(~self.docked & np.isfinite(self.poses[:, 0])):
            gap = _distance_to_segment(self.poses[k, :2], self.poses[:, :2], ends)
            hold |= moving & (gap < 2 * self.radius + self.reserve)
        return hold


def _distance_to_segment(points: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """float[n] distance from points float[n or 1, 2] to segments from ``starts`` to ``ends`` float[n, 2]."""
    span = ends - starts
    length = np.maximum((span**2).sum(axis=-1), 1e-12)
    along = np.clip(((points - starts) * span).sum(axis=-1) / length, 0, 1)
    return np.hypot(*np.moveaxis(points - starts - along[..., None] * span, -1, 0))

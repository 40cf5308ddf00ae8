"""The fleet step without ROS: poses and goals in, velocity commands out.

Every control period :meth:`Fleet.tick` checks which robots are fit to drive, ends the edges of those that have
arrived, decides for those that need a decision, and tracks each robot's edge. In asynchronous execution a robot
decides as soon as it is about to arrive; in synchronous execution all robots decide together once all have arrived. A
robot drives into a cell only while it holds its reservation, followers stay behind their leaders by measured progress
(``motion/edge_coupling.py``), and a robot that is lost, stale or off the grid stands still while the others keep
working around it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from marlgpt_policy.deadlock.detours import OBSTACLE_AFTER
from marlgpt_policy.encoders import pogema
from marlgpt_policy.fleet.decider import Decider
from marlgpt_policy.fleet.decision_record import Decision
from marlgpt_policy.fleet.fleet_config import FleetConfig
from marlgpt_policy.fleet.fleet_status import FleetStatus
from marlgpt_policy.grid.cost_to_go import UNREACHABLE, CostToGo
from marlgpt_policy.grid.distance_field import DistanceField
from marlgpt_policy.grid.goal_cell import GoalError
from marlgpt_policy.grid.nav_grid import NavGrid
from marlgpt_policy.motion.dead_reckoning import DeadReckoning, displacement
from marlgpt_policy.motion.docking import DOCKING_SPEED, Docking
from marlgpt_policy.motion.edge_coupling import Edges
from marlgpt_policy.motion.protective_stop import free_ways
from marlgpt_policy.motion.reservations import Reservations
from marlgpt_policy.motion.safety_margins import SafetyMargins
from marlgpt_policy.motion.tracker import APPROACH_PERIODS, CREEP, track
from marlgpt_policy.motion.velocity_limiter import limit
from marlgpt_policy.policy.onnx_policy import OnnxPolicy
from marlgpt_policy.robots.robot_config import RobotConfig
from marlgpt_policy.robots.robot_state import NO_CELL


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


class Fleet(FleetStatus):
    """Everything the fleet knows between ticks. Arrays are indexed by robot, in the order of ``robots``.

    Attributes:
        grid, costs, reservations, edges, docking_places: Where it drives; made anew by :meth:`replace_map`.
        decider: Policy, shield and remedies.
        stopped: All robots stand until :meth:`resume`.
    """

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
        super().__init__(robots)
        self.config = config or FleetConfig()
        self.random = np.random.default_rng(self.config.seed)
        self.waited[:] = self.random.random(len(robots))
        self.stopped = False
        self.last_tick = -np.inf
        self.jitter = 0.0  # s by which ticks have lately been late
        self.last_decision = -np.inf
        self.last_reached = -np.inf
        self.jumps = 0
        self.reckoning = DeadReckoning(len(robots))
        self._set_grid(grid, policy, distances)

    def _set_grid(self, grid: NavGrid, policy: OnnxPolicy, distances: DistanceField | None) -> None:
        radius = max(robot.radius for robot in self.robots)
        margins = SafetyMargins.of(grid.cell_size, radius, self.config.pose_error)
        self.radius, self.grid, self.distances, self.margins = radius, grid, distances, margins
        self.costs = CostToGo(grid.moves)
        self.reservations = Reservations(grid.free.shape)
        self.edges = Edges(self, grid, self.reservations, margins.body, self.config.arrive_tolerance)
        self.docking_places = Docking(
            self, grid, self.reservations, distances, radius, margins.reserve, self.config.arrive_tolerance,
            max(margins.pose_error, 0.0),
        )  # fmt: skip
        limits = self.limits
        self.step_time = float(np.median(grid.cell_size / limits[:, 0] + limits[:, 0] / limits[:, 2]))
        self.decider = Decider(
            self, grid, self.costs, self.reservations, policy, self.config.temperature, self.random,
            self.step_time,
        )  # fmt: skip

    # What others ask for --------------------------------------------------------------------------------

    @property
    def policy(self) -> OnnxPolicy:
        """The policy in use."""
        return self.decider.policy

    @property
    def steps(self) -> int:
        """Joint decisions so far."""
        return self.decider.steps

    @property
    def decisions(self) -> int:
        """Decisions of single robots so far."""
        return self.decider.decisions

    @property
    def remedies(self) -> dict[str, int]:
        """How often each remedy against getting stuck was used (``deadlock/remedies.py``)."""
        counts = dict.fromkeys(("plans", "plan", "sampling", "firsts", "pibt", "made_way"), 0)
        counts |= self.decider.remedies
        way = self.decider.right_of_way
        return counts | {"plans": way.plans.count, "firsts": way.count, "turned_back": self.edges.turned_back}

    # Inputs ---------------------------------------------------------------------------------------------

    def update_pose(self, robot: int, x: float, y: float, yaw: float, now: float) -> None:
        """Take a pose in the grid's frame (m, rad) received at ``now`` s.

        A pose farther from the last one than the robot can have driven stops it; others keep clear of both places.
        If the poses go back it drives on, if they agree for ``jump_settle`` s they are believed.

        Raises:
            ValueError: NaN or infinite values; the last good pose stays and goes stale.
        """
        if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(yaw)):
            raise ValueError(f"pose of robot '{self.names[robot]}' is not finite: ({x}, {y}, {yaw})")
        if self.removed[robot]:
            return
        # In plain numbers: thousands of poses come per second, and arrays of three cost more than they help.
        last, tolerance = self.poses[robot], self.config.jump_distance
        before = last.tolist()
        known = math.isfinite(before[0])
        if known and not self.reckoning.explains(robot, before, (x, y, yaw), now, tolerance):
            settled = self._suspect(robot, np.array((x, y, yaw)), now)
            if not settled:
                return
            self.docked[robot] = self.docking[robot] = False
            self.detail[robot] = "its pose jumped and settled elsewhere"
        if math.isfinite(self.suspect[robot, 0]):
            self.suspect[robot] = np.nan
            self.suspect_since[robot] = np.nan
        if not known:
            self.first_pose[robot] = now
        last[0], last[1], last[2] = x, y, yaw
        self.pose_time[robot] = now
        self.reckoning.believe(robot, now - self._latency() - self.config.control_period)

    def _suspect(self, robot: int, pose: np.ndarray, now: float) -> bool:
        """Note a pose that is not believed; True once such poses have agreed for long enough."""
        last = self.suspect[robot]
        agrees = np.isfinite(last[0]) and math.hypot(*(pose - last)[:2]) <= 2 * self.config.jump_distance
        if not agrees:
            self.jumps += not np.isfinite(last[0])
            self.suspect_since[robot] = now
        self.suspect[robot] = pose
        return now - self.suspect_since[robot] >= self.config.jump_settle

    def goal_cell(self, robot: int, x: float, y: float) -> np.ndarray:
        """The cell int[2] that a goal at (x, y) m means for a robot.

        Raises:
            GoalError: Outside the map, too far from any free cell, or in a room the robot cannot reach.
        """
        name = f"goal ({x:.2f}, {y:.2f}) of robot '{self.names[robot]}'"
        if not (math.isfinite(x) and math.isfinite(y)):
            raise GoalError(f"{name} is not finite")
        if self.removed[robot]:
            raise GoalError(f"{name}: the robot was removed from the fleet; add it again first")
        if max(abs(x), abs(y)) > 1e9:
            raise GoalError(f"{name} lies outside the map or in its outer walls")
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

    def stop(self, robot: int | None = None) -> None:
        """Stop one robot, or all, until :meth:`resume`."""
        if robot is None:
            self.stopped = True
        else:
            self.halted[robot] = True

    def resume(self, robot: int | None = None) -> None:
        """Let one robot drive again after :meth:`stop`, or take back the stop of all; each undoes only its own."""
        if robot is None:
            self.stopped = False
        else:
            self.halted[robot] = False

    def add_robot(self, robot: RobotConfig) -> int:
        """Take a robot into the fleet, or back into it after :meth:`remove_robot`; its index.

        Raises:
            ValueError: The name is in use, or the robot is too large for the grid's cells.
        """
        if robot.name in self.names:
            i = self.names.index(robot.name)
            if not self.removed[i]:
                raise ValueError(f"robot '{robot.name}' is in the fleet already")
            self.removed[i] = False
            self.detail[i] = "no pose received yet"
            return i
        if robot.radius > self.radius:
            raise ValueError(
                f"robot '{robot.name}' has a radius of {robot.radius} m, the fleet was laid out for {self.radius} m"
            )
        self.grow([robot])
        self.waited[-1] = self.random.random()
        self.decider.grow(1)
        self.reckoning.grow(1)
        self.docking_places.grow(1)
        return len(self) - 1

    def remove_robot(self, robot: int) -> None:
        """Forget a robot that is physically gone: its cells are free, and whoever waited for it drives on."""
        self.edges.remove(robot)
        self.forget(robot)
        self.removed[robot] = True
        self.detail[robot] = "removed from the fleet"

    def replace_policy(self, policy: OnnxPolicy) -> None:
        """Decide with another policy from the next decision on."""
        self.decider.policy = policy

    def replace_map(self, grid: NavGrid, distances: DistanceField | None) -> list[str]:
        """Drive on another map: robots stop, dock to its cells and go on to the places of their goals.

        Returns:
            Messages, one for each goal that the new map does not allow.

        Raises:
            ValueError: The robots are too large for the grid's cells; then nothing has changed.
        """
        SafetyMargins.of(grid.cell_size, max(robot.radius for robot in self.robots), self.config.pose_error)
        has_goal = np.flatnonzero(self.goals[:, 0] >= 0)
        places = self.grid.centre(self.goals[has_goal])
        old = self.decider
        self._set_grid(grid, old.policy, distances)
        self.decider.steps, self.decider.decisions, self.decider.remedies = (
            old.steps,
            old.decisions,
            old.remedies,
        )
        self.decider.right_of_way.take_over(old.right_of_way)
        for name in ("docked", "docking", "returning"):
            getattr(self, name)[:] = False
        for name in ("cells", "targets", "next_targets", "goals"):
            getattr(self, name)[:] = -1
        self.progress[:] = 1.0
        self.commands[:] = 0.0
        dropped = []
        for i, (x, y) in zip(has_goal.tolist(), places.tolist(), strict=True):
            try:
                self.set_goal(i, x, y)
            except GoalError as error:
                dropped.append(str(error))
        return dropped

    # One control period ---------------------------------------------------------------------------------

    def tick(self, now: float) -> Tick:
        """Advance to ``now`` s: arrivals, docking, a decision if it is time, and commands."""
        self._watch_clock(now)
        age = now - self.pose_time
        fresh = self.seen & (age <= self.config.pose_timeout) & (age >= -2 * self.config.control_period)
        fresh &= ~np.isfinite(self.suspect[:, 0])
        fit = fresh & ~self.halted & (not self.stopped) & (now - self.first_pose >= self.config.first_settle)
        self.docking_places.watch_displaced(fresh)
        if not self.stopped:
            self._docked(self.docking_places.update(fit, self._latency(), now), now)
        self.edges.settle(fresh, now)
        reached = self._goals_reached(fresh, now)
        self._watch_unfit(fit, now)
        decision = self._decide(fit, now)
        self._drive(fresh, fit, now)
        return Tick(self.commands.copy(), reached, decision)

    def _watch_clock(self, now: float) -> None:
        """Note how late this tick is and how far commands have carried the robots since their poses were measured."""
        if now < self.last_tick - 1e-6:  # the clock was set back: no pose is known to be recent any more
            self.pose_time[:] = self.progress_time[:] = self.decided[:] = self.recorded[:] = -np.inf
            self.progress_time[:] = now
            self.broken_until[np.isfinite(self.broken_until)] = now
            self.unfit_since[np.isfinite(self.unfit_since)] = now
            self.suspect_since[np.isfinite(self.suspect_since)] = now
            self.rest_at[np.isfinite(self.rest_at)] = now + self._latency() + self.config.control_period
            self.first_pose = np.minimum(self.first_pose, now)
            self.last_decision = self.last_reached = self.last_tick = -np.inf
            self.reckoning.forget_times()
        period = self.config.control_period
        elapsed = now - self.last_tick if math.isfinite(self.last_tick) else period
        late = elapsed > max(self._latency(), 3 * period) + period
        elapsed = min(max(elapsed, 0.0), self.config.pose_timeout)
        self.last_tick = now
        self.jitter = max(elapsed - period, 0.98 * self.jitter)
        moved = displacement(self.poses[:, 2] + self.driven[:, 2], self.rolling, elapsed)
        self.reckoning.note(np.nan_to_num(moved), now)
        self.driven = self.reckoning.after(self.pose_time)
        if late:  # the bases have stopped by themselves, or are about to: robots start anew from a standstill
            self.commands[:] = 0.0
            self._roll(elapsed - self._latency(), now)

    def _docked(self, arrived: list[int], now: float) -> None:
        """Robots have come onto the grid: what they did before does not count, and their goals must be in reach."""
        for i in arrived:
            self.history[i] = pogema.NO_ACTION
            self.progress_time[i] = now
            if self.goals[i, 0] >= 0 and self.costs.field(self.goals[i])[tuple(self.cells[i])] >= UNREACHABLE:
                goal = tuple(int(v) for v in self.goals[i])
                self.detail[i] = f"goal cell {goal} cannot be reached, goal dropped"
                self.goals[i] = -1

    def _goals_reached(self, fresh: np.ndarray, now: float) -> list[int]:
        """Robots that stand at their goals; these are done with."""
        at = self.docked & fresh & (self.goals[:, 0] >= 0)
        at &= (self.cells == self.goals).all(axis=1) & ~self.moving
        at = np.flatnonzero(at)
        away = np.hypot(*(self.poses[at, :2] - self.grid.centre(self.cells[at])).T)
        reached = at[away <= self.config.arrive_tolerance]
        self.goals[reached] = NO_CELL
        self.goals_reached[reached] += 1
        for i in reached:
            self.waited[i] = self.random.random()
            self.last_reached = now
        return reached.tolist()

    def _watch_unfit(self, fit: np.ndarray, now: float) -> None:
        """Lead the ways of others around robots that have not driven for a while, whatever the reason."""
        unfit = ~(fit & self.docked) & ~self.removed & self.seen
        unfit |= self.docked & (self.edges.stalled(now) | (now < self.broken_until))
        self.unfit_since[unfit & np.isnan(self.unfit_since)] = now
        self.unfit_since[~unfit] = np.nan
        long = now - np.nan_to_num(self.unfit_since, nan=now) > OBSTACLE_AFTER
        if self.stopped or not (long.any() or len(self.decider.detours.closed)):
            return
        closed = np.isin(self.reservations.holder, np.flatnonzero(long)) | self.docking_places.blocked(long)
        self.decider.detours.close(np.argwhere(closed))

    def _ready(self, fit: np.ndarray, now: float) -> np.ndarray:
        """bool[n] robots that may take part in a decision: at their cells, or about to arrive."""
        ready = self.docked & fit & (self.next_targets[:, 0] < 0) & (now >= self.broken_until)
        arrived = ~self.moving
        if self.config.execution == "asynchronous":
            left = (1.0 - self.progress) * self.grid.cell_size
            goal = (self.targets == self.goals).all(axis=1)
            arrived |= (left <= self._lookahead()) & ~goal & ~self.returning
        ready &= arrived
        i = np.flatnonzero(ready)
        ready[i] = self.reservations.holder[self.targets[i, 0], self.targets[i, 1]] == i
        return ready

    def _lookahead(self) -> np.ndarray:
        """float64[n] m before its cell's centre at which a robot must know whether to drive on."""
        speed = np.hypot(self.rolling[:, 0], self.rolling[:, 1])
        period = self.config.control_period
        wait = self._latency() + (1 + APPROACH_PERIODS) * period + self.config.step_minimum
        return speed**2 / (2 * self.limits[:, 2]) + speed * wait

    def _time_to_decide(self, ready: np.ndarray, fit: np.ndarray, now: float) -> bool:
        if self.stopped or not (ready & (self.goals[:, 0] >= 0)).any():
            return False
        if now - self.last_decision < self.config.step_minimum - 1e-6:
            return False
        if self.config.execution == "asynchronous":
            return True
        if now - self.last_reached < self.config.goal_grace and (ready & (self.goals[:, 0] < 0)).any():
            return False
        late = self.docked & fit & ~ready
        return not late.any() or now - self.last_decision >= self.config.step_timeout

    def _decide(self, fit: np.ndarray, now: float) -> Decision | None:
        ready = self._ready(fit, now)
        if not self._time_to_decide(ready, fit, now):
            return None
        closed = self.docking_places.blocked()
        # Cells that are being left are open to followers, but not those of robots that are not getting on.
        shut = np.flatnonzero(
            ~fit | ~self.docked | self.edges.stalled(now) | self.returning | (now < self.broken_until)
        )
        if len(shut):
            closed |= self.reservations.queued(shut)
        timed = self.config.execution == "asynchronous"
        decision, members, moves = self.decider.decide(
            ready,
            fit & self.docked & (now >= self.broken_until),
            closed,
            self.docking_places.in_reach,
            now,
            timed,
        )
        self.edges.start(members, moves, now)
        self.last_decision = now
        return decision

    def _drive(self, fresh: np.ndarray, fit: np.ndarray, now: float) -> None:
        n = len(self)
        active = (self.docked | self.docking) & self.seen
        straight = self.edges.straight
        starts, ends = np.zeros((n, 2)), np.zeros((n, 2))
        starts[active] = self.grid.centre(self.cells[active])
        ends[active] = self.grid.centre(np.where(straight[:, None], self.next_targets, self.targets)[active])
        starts[self.docking] = self.dock_from[self.docking]
        starts[~active] = ends[~active] = self.poses[~active, :2]
        span = ends - starts
        length = np.maximum(np.hypot(span[:, 0], span[:, 1]), 1e-6)
        edges = np.where(straight, 2.0, 1.0)  # on the way that is tracked
        share = np.where(self.docking, 1.0, self.edges.limits()) / edges
        free = free_ways(self, ends, active, self._reach())
        along = ((self.poses[:, :2] + self.driven[:, :2] - starts) * span).sum(axis=1) / length + free
        obstructed = np.where(self.moving | self.docking, along < share * length, np.isfinite(free))
        share = np.where(obstructed, np.clip(along / length, 0.0, 1.0), share)
        # Who stands may only go back to its centre: where that is obstructed it stays.
        in_the_way = self.docking_places.in_the_way(ends) | (obstructed & ~(self.moving | self.docking))
        speed = np.hypot(self.rolling[:, 0], self.rolling[:, 1])
        in_the_way |= self.seen & self.reckoning.disoriented(
            self.pose_time, now, self._latency(), self.config.control_period, speed, self.limits[:, 2]
        )
        limits = self.limits.copy()
        limits[self.docking, 0] = np.minimum(limits[self.docking, 0], DOCKING_SPEED)
        # A robot brakes by where its commands have taken it since its pose was measured, not by where it was then.
        result = track(
            self.poses + self.driven, self.commands, starts, ends, np.minimum(share, 1.0),
            ~fit | ~active | in_the_way, self.drive, limits, self.config.control_period,
            rolling=self.rolling, pending=self._pending(), latency=self._latency(), turn_latency=self._turn_latency(),
            arrive_tolerance=self.config.arrive_tolerance,
        )  # fmt: skip
        moving = self.docked & fresh & self.moving
        # Followers trust in what was measured and nothing else.
        measured = ((self.poses[:, :2] - starts) * span).sum(axis=1) / length**2 * edges
        self.progress[moving] = np.clip(measured[moving], 0.0, 1.0)
        self.edges.note_progress(now)
        limited = (share * edges < np.minimum(edges, self.progress + 0.1)) | in_the_way
        self.edges.note_failures(fit & self.docked & ~limited, now)
        self.edges.turn_back(fit, limited, now)
        self.docking_places.note_blocked(fit & obstructed, now)
        self.commands = limit(
            result.commands, self.commands, self.limits, self.config.control_period,
            ~fit | ~active | (obstructed & (free <= 0.0)),
        )  # fmt: skip
        self._roll(self.config.control_period, now)

    def _pending(self) -> np.ndarray:
        """float64[n] m that commands may still carry the robots that had not acted when their poses were measured."""
        return self.reckoning.driven_between(self.pose_time - self._latency(), self.pose_time)

    def _roll(self, seconds: float, now: float) -> None:
        """Let the velocities that the robots have at most follow their commands, for ``seconds``."""
        nobody = np.zeros(len(self), dtype=bool)
        self.rolling = limit(self.commands, self.rolling, self.limits, max(seconds, 0.0), nobody)
        rolls = np.hypot(self.rolling[:, 0], self.rolling[:, 1]) >= CREEP
        self.rest_at[rolls] = now + self._latency() + self.config.control_period

    def _reach(self) -> np.ndarray:
        """float64[n] m that each robot keeps from the places of others, whatever it may do there by its claims.

        Between robots on the grid coupling keeps all of the reserve; this is to act only where that has failed.
        """
        return 2 * self.radius + self.margins.reserve * np.where(self.docking, 1.0, 0.5)

    def _latency(self) -> float:
        """Seconds until a command acts, and how much longer the last one may have to hold if ticks come late."""
        latency = self.config.latency
        return (self.config.control_period if latency is None else latency) + self.jitter

    def _turn_latency(self) -> float:
        """Seconds until a turn takes effect, as usual; never more than :meth:`_latency`."""
        turn = self.config.turn_latency
        return min(self._latency(), 2 * self.config.control_period if turn is None else turn)

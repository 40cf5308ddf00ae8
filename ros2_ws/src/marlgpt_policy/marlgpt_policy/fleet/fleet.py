"""The fleet step without ROS: poses and goals in, velocity commands out.

Every control period :meth:`Fleet.tick` checks which robots are fit to drive, ends the edges of those that have
arrived, decides for those that need a decision, and tracks each robot's edge. In asynchronous execution a robot
decides as soon as it is about to arrive; in synchronous execution all robots decide together once all have arrived. A
robot drives into a cell only while it holds its reservation, followers stay behind their leaders by measured progress
(``motion/edge_coupling.py``), and a robot that is lost, stale or off the grid stands still while the others keep
working around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marlgpt_policy.deadlock.detours import OBSTACLE_AFTER
from marlgpt_policy.fleet import fleet_status
from marlgpt_policy.fleet.decider import Decider
from marlgpt_policy.fleet.decision_record import Decision
from marlgpt_policy.fleet.driving import Driving
from marlgpt_policy.fleet.fleet_config import FleetConfig
from marlgpt_policy.fleet.localisation import Localisation
from marlgpt_policy.fleet.planners.planner import Planner
from marlgpt_policy.fleet.planners.policy_planner import Policy, PolicyPlanner
from marlgpt_policy.grid.cost_to_go import UNREACHABLE, CostToGo
from marlgpt_policy.grid.distance_field import DistanceField
from marlgpt_policy.grid.goal_cell import GoalError, goal_cell
from marlgpt_policy.grid.nav_grid import NavGrid
from marlgpt_policy.motion.docking import Docking
from marlgpt_policy.motion.edge_coupling import Edges
from marlgpt_policy.motion.floor import Floor
from marlgpt_policy.motion.reservations import Reservations
from marlgpt_policy.motion.safety_margins import SafetyMargins
from marlgpt_policy.robots.robot_config import RobotConfig, Status
from marlgpt_policy.robots.robot_state import NO_CELL, Robots


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


class Fleet(Robots):
    """Everything the fleet knows between ticks. Arrays are indexed by robot, in the order of ``robots``.

    Each array has one owner, the only one that writes it: ``localisation``, ``docking``, ``edges``, ``driving``,
    ``decider``, or the fleet itself (``robot_state.py`` says which).

    Attributes:
        config: Timing and choices.
        localisation: Where the robots are.
        floor, edges, docking_places, driving, decider: Where and how they drive; made anew by :meth:`replace_map`.
        stopped: All robots stand until :meth:`resume`.
    """

    def __init__(
        self,
        grid: NavGrid,
        policy: Policy | Planner,
        robots: list[RobotConfig],
        config: FleetConfig | None = None,
        distances: DistanceField | None = None,
    ) -> None:
        """Set up ``robots`` on ``grid``.

        Args:
            grid: The cells.
            policy: A policy, or any other planner.
            robots: Their bodies.
            config: Timing and choices.
            distances: Lets robots that stand between cells drive to the nearest one; without it they must start on
                a cell's centre.

        Raises:
            ValueError: No robot, duplicate names, or a radius too large for the grid's cells.
        """
        super().__init__(robots)
        self.config = config or FleetConfig()
        self.random = np.random.default_rng(self.config.seed)
        self.stopped = False
        self.last_decision = -np.inf
        self.last_reached = -np.inf
        self.localisation = Localisation(self, self.config)
        planner = policy if hasattr(policy, "propose") else PolicyPlanner(policy)
        self._set_floor(self._floor_of(grid, distances), planner)
        self.decider.start()

    def _floor_of(self, grid: NavGrid, distances: DistanceField | None) -> Floor:
        radius = max(robot.radius for robot in self.robots)
        return Floor.of(grid, distances, radius, self.config.pose_error, self.config.arrive_tolerance)

    def _set_floor(self, floor: Floor, planner: Planner) -> None:
        self.floor = floor
        self.edges = Edges(self, floor)
        self.docking_places = Docking(self, floor, self.edges)
        self.driving = Driving(self, floor, self.edges, self.docking_places, self.localisation, self.config)
        limits = self.limits
        self.step_time = float(np.median(floor.size / limits[:, 0] + limits[:, 0] / limits[:, 2]))
        self.decider = Decider(self, floor, planner, self.config.temperature, self.random, self.step_time)

    # What others ask for --------------------------------------------------------------------------------

    @property
    def grid(self) -> NavGrid:
        """The cells of the floor."""
        return self.floor.grid

    @property
    def costs(self) -> CostToGo:
        """Cost-to-go on the floor."""
        return self.floor.costs

    @property
    def reservations(self) -> Reservations:
        """Claims on the floor's cells."""
        return self.floor.reservations

    @property
    def distances(self) -> DistanceField | None:
        """Clearance of the floor's map."""
        return self.floor.distances

    @property
    def margins(self) -> SafetyMargins:
        """Distances between robots on the floor, m."""
        return self.floor.margins

    @property
    def radius(self) -> float:
        """Radius of the largest robot that the floor was laid out for, m."""
        return self.floor.radius

    @property
    def jumps(self) -> int:
        """How often a robot's poses began to lie too far from where it can have driven."""
        return self.localisation.jumps

    @property
    def jitter(self) -> float:
        """Seconds by which control periods have lately been late."""
        return self.localisation.jitter

    @property
    def policy(self) -> Policy | Planner:
        """The policy in use, or the planner where there is none."""
        planner = self.decider.planner
        return planner.policy if isinstance(planner, PolicyPlanner) else planner

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

    def status(self, robot: int, now: float) -> tuple[Status, str]:
        """What a robot is doing and, where it stands still for a reason, why."""
        return fleet_status.status(self, self.config, self.stopped, robot, now)

    def statuses(self, now: float) -> list[tuple[Status, str]]:
        """:meth:`status` of every robot."""
        return fleet_status.statuses(self, self.config, self.stopped, now)

    # Inputs ---------------------------------------------------------------------------------------------

    def update_pose(self, robot: int, x: float, y: float, yaw: float, now: float) -> None:
        """Take a pose in the grid's frame (m, rad) received at ``now`` s.

        A pose farther from the last one than the robot can have driven stops it; others keep clear of both places.
        If the poses go back it drives on, if they agree for ``jump_settle`` s they are believed.

        Raises:
            ValueError: NaN or infinite values; the last good pose stays and goes stale.
        """
        if self.localisation.update_pose(robot, x, y, yaw, now):
            self.docking_places.undock(robot, "its pose jumped and settled elsewhere")

    def goal_cell(self, robot: int, x: float, y: float) -> np.ndarray:
        """The cell int[2] that a goal at (x, y) m means for a robot.

        Raises:
            GoalError: Outside the map, too far from any free cell, or in a room the robot cannot reach.
        """
        name = f"goal ({x:.2f}, {y:.2f}) of robot '{self.names[robot]}'"
        if self.removed[robot]:
            raise GoalError(f"{name}: the robot was removed from the fleet; add it again first")
        cell = goal_cell(self.grid, x, y, name, self.radius)
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

    def stand(self, robot: int | None = None) -> None:
        """Take the commands of one robot, or all, to be zero from now on: somebody else has sent that."""
        self.driving.stand(robot)

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
        for owner in (self.decider, self.localisation, self.docking_places):
            owner.grow(1)
        return len(self) - 1

    def remove_robot(self, robot: int) -> None:
        """Forget a robot that is physically gone: its cells are free, and whoever waited for it drives on."""
        self.edges.remove(robot)
        self.forget(robot)
        self.removed[robot] = True
        self.detail[robot] = "removed from the fleet"

    def replace_policy(self, policy: Policy) -> None:
        """Decide with another policy from the next decision on."""
        self.decider.planner = PolicyPlanner(policy)

    def replace_map(self, grid: NavGrid, distances: DistanceField | None) -> list[str]:
        """Drive on another map: robots stop, dock to its cells and go on to the places of their goals.

        Returns:
            Messages, one for each goal that the new map does not allow.

        Raises:
            ValueError: The robots are too large for the grid's cells; then nothing has changed.
        """
        floor = self._floor_of(grid, distances)
        has_goal = np.flatnonzero(self.goals[:, 0] >= 0)
        places = self.grid.centre(self.goals[has_goal])
        before = self.decider
        self._set_floor(floor, before.planner)
        self.decider.take_over(before)
        self.docking_places.reset()
        self.edges.reset()
        self.driving.stand()
        self.goals[:] = -1
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
        fresh = self.localisation.fresh(now)
        fit = fresh & ~self.halted & (not self.stopped) & (now - self.first_pose >= self.config.first_settle)
        self.docking_places.watch_displaced(fresh)
        if not self.stopped:
            self._docked(self.docking_places.update(fit, self.localisation.latency, now), now)
        self.edges.settle(fresh, now)
        reached = self._goals_reached(fresh, now)
        self._watch_unfit(fit, now)
        decision = self._decide(fit, now)
        self.driving.drive(fresh, fit, now)
        return Tick(self.commands.copy(), reached, decision)

    def _watch_clock(self, now: float) -> None:
        """Note how late this tick is; where time has gone back, everybody's times begin anew."""
        if self.localisation.clock_was_set_back(now):
            self.driving.clock_set_back(now)
            self.localisation.clock_set_back(now)
            self.edges.clock_set_back(now)
            self.decider.clock_set_back()
            self.unfit_since[np.isfinite(self.unfit_since)] = now
            self.last_decision = self.last_reached = -np.inf
        gap = self.localisation.advance(now)
        if gap is not None:
            self.driving.start_anew(gap, now)

    def _docked(self, arrived: list[int], now: float) -> None:
        """Robots have come onto the grid: what they did before does not count, and their goals must be in reach."""
        for i in arrived:
            self.decider.begin_anew(i)
            self.edges.begin_anew(i, now)
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
            self.decider.goal_reached(i)
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
            arrived |= (left <= self.driving.lookahead()) & ~goal & ~self.returning
        ready &= arrived
        i = np.flatnonzero(ready)
        ready[i] = self.reservations.holder[self.targets[i, 0], self.targets[i, 1]] == i
        return ready

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

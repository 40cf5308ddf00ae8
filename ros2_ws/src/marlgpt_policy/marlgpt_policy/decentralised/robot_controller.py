"""One robot of a decentralised fleet without ROS: poses, goals and other robots' states in, commands and states out.

The robot runs the same encoder, policy and motion as the fleet node does, but only for itself, and takes its cells by
the protocol of :mod:`marlgpt_policy.decentralised.cell_protocol`. It stands, and drives along edges, only in cells
that it holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from marlgpt_policy.decentralised.cell_protocol import Peers
from marlgpt_policy.decentralised.move_choice import STAY, MoveChoice
from marlgpt_policy.decentralised.peer_state import Rules, Shown, State
from marlgpt_policy.grid.cost_to_go import CostToGo
from marlgpt_policy.grid.distance_field import DistanceField
from marlgpt_policy.grid.geometry import distance_to_segment
from marlgpt_policy.grid.goal_cell import GoalError, goal_cell
from marlgpt_policy.grid.moves import MOVE_OFFSETS
from marlgpt_policy.grid.nav_grid import Cell, NavGrid
from marlgpt_policy.motion.clear_way import free_ahead
from marlgpt_policy.motion.dead_reckoning import DeadReckoning, displacement
from marlgpt_policy.motion.docking import DOCKING_SPEED, astray, meets_wall
from marlgpt_policy.motion.docking_cell import DOCKING_GAP, docking_cell, touched
from marlgpt_policy.motion.safety_margins import TRACKING_ERROR
from marlgpt_policy.motion.tracker import track
from marlgpt_policy.policy.onnx_policy import OnnxPolicy
from marlgpt_policy.robots.robot_config import RobotConfig, Status, check_positive

STILL_TIME, STILL_WITHIN = 0.5, 0.02
"""A robot joins after its pose has stayed within these metres for these seconds."""
LONGEST_PATH = 3
"""Cells held at once: the one being left, the next, and the one after it where that is granted in time."""
REMEMBER_WAIT = 0.5
"""Seconds of standing that count as one waiting move in the history."""


@dataclass(frozen=True)
class ControllerConfig:
    """Timing and choices of one robot; the values mean what they mean in ``FleetConfig``.

    Attributes:
        control_period: Seconds between ticks.
        pose_timeout: Age in s at which a pose is stale and the robot stops.
        latency: Seconds between a pose being measured and its command taking effect.
        arrive_tolerance: Distance in m from a cell's centre that counts as there.
        pose_error: Bound in m on the error of each robot's poses; cells that leave too little for it are refused.
        temperature: Of sampling from the policy.
        seed: Of sampling.
        message_period: Seconds between states sent when nothing changes.
        patience: Seconds after which a request that was not granted is thought over.
        wait: Seconds until the next decision after deciding to stay.
    """

    control_period: float = 0.05
    pose_timeout: float = 0.5
    latency: float = 0.2
    arrive_tolerance: float = 0.03
    pose_error: float = 0.0
    temperature: float = 0.2
    seed: int = 0
    message_period: float = 0.1
    patience: float = 0.6
    wait: float = 0.25

    def __post_init__(self) -> None:
        """Raise ``ValueError`` that names the first value out of range."""
        check_positive(
            self, "control_period", "pose_timeout", "arrive_tolerance", "message_period", "patience", "wait"
        )


@dataclass(frozen=True)
class ControllerTick:
    """Result of one control period.

    Attributes:
        command: float64[3] (vx, vy, wz) in the body frame, m/s and rad/s.
        message: State to broadcast now, if any.
        reached: Whether the robot has reached its goal.
    """

    command: np.ndarray
    message: State | None
    reached: bool


class RobotController:
    """Everything one robot knows between ticks."""

    def __init__(
        self,
        robot: RobotConfig,
        grid: NavGrid,
        policy: OnnxPolicy,
        rules: Rules,
        incarnation: int,
        config: ControllerConfig | None = None,
        distances: DistanceField | None = None,
        absent: tuple[str, ...] = (),
    ) -> None:
        """Set up ``robot`` on ``grid``.

        Args:
            robot: Its body.
            grid: The cells.
            policy: One call per decision.
            rules: What the fleet agrees on; ``rules.members`` names this robot.
            incarnation: Larger than that of any earlier process of this robot; a clock's nanoseconds will do.
            config: Timing and choices.
            distances: Lets a robot that stands between cells drive to the nearest one.
            absent: Robots that are not on the floor.

        Raises:
            ValueError: A robot too large for the cells, too fast for the rules, or not among the members.
        """
        config = config or ControllerConfig()
        # Edges without a common cell are a cell apart; each of two robots may be beside its own by all of these.
        errors = 2 * (config.arrive_tolerance + config.pose_error + TRACKING_ERROR)
        if grid.cell_size < 2 * robot.radius + max(DOCKING_GAP, errors):
            raise ValueError(
                f"robots of radius {robot.radius} m with an arrive_tolerance of {config.arrive_tolerance} m and a "
                f"pose_error of {config.pose_error} m need cells of at least "
                f"{2 * robot.radius + max(DOCKING_GAP, errors):.3f} m, the grid's are {grid.cell_size:.3f} m"
            )
        self.robot, self.grid, self.rules = robot, grid, rules
        self.config = config
        self.distances = distances
        self.incarnation = incarnation
        self.peers = Peers(robot.name, rules, incarnation, absent)
        self.choice = MoveChoice(
            self.peers, grid, policy, CostToGo(grid.moves), self.config.temperature, self.config.seed
        )
        self.pose: np.ndarray | None = None
        self.pose_time = -math.inf
        self.command = np.zeros(3)
        self.path: list[Cell] = []  # cells held in driving order: the one being left or stood on first
        self.docked = False
        self.stopped = False
        self.goals_reached = 0
        self.detail = ""
        self._start = np.zeros(2)  # where the way to the first cell's centre begins
        self._still: tuple[float, np.ndarray] | None = None
        self._decide_at = -math.inf
        self._remembered = -math.inf
        self._last_message = -math.inf
        self._tell = False  # something changed that others wait for
        self._reckoning, self._driven, self._last_tick = DeadReckoning(1), np.zeros(3), -math.inf

    # Inputs ---------------------------------------------------------------------------------------------

    def update_pose(self, x: float, y: float, yaw: float, now: float) -> None:
        """Take a pose in the grid's frame (m, rad) measured at ``now`` s.

        Raises:
            ValueError: NaN or infinite values; the last good pose stays and goes stale.
        """
        if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(yaw)):
            raise ValueError(f"pose of robot '{self.robot.name}' is not finite: ({x}, {y}, {yaw})")
        self.pose, self.pose_time = np.array([x, y, yaw]), now

    def receive(self, state: State) -> None:
        """Take another robot's state. Raises ``ValueError`` for one without cells."""
        known = self.peers.known.get(state.name)
        if self.peers.receive(state) and state.request is not None:
            new = known is None or known.state.request_clock != state.request_clock
            near = any(abs(r - state.request[0]) + abs(c - state.request[1]) <= 2 for r, c in self.peers.held)
            self._tell |= (new and near) or state.joining

    def set_goal(self, x: float, y: float, now: float) -> Cell:
        """Send the robot to (x, y) m in the grid's frame; the goal cell.

        Raises:
            GoalError: Outside the map, too far from any free cell, or where the robot cannot get.
        """
        name = f"goal ({x:.2f}, {y:.2f}) of robot '{self.robot.name}'"
        cell = tuple(goal_cell(self.grid, x, y, name, self.robot.radius).tolist())
        last = self.choice.goal
        self.choice.set_goal(cell, now)
        if self.path and not self.choice.reachable(self.path[-1]):
            self.choice.set_goal(last, now)
            raise GoalError(
                f"{name} cannot be reached from where the robot is: no way wide enough leads there"
            )
        return cell

    def cancel_goal(self) -> None:
        """Forget the goal; the robot finishes its cells and stays."""
        self.choice.set_goal(None, 0.0)

    def stop(self) -> None:
        """Stand still until :meth:`resume`; the robot keeps its cells."""
        self.stopped = True
        self.peers.drop()

    def resume(self) -> None:
        """Drive again after :meth:`stop`."""
        self.stopped = False

    def restart(self) -> None:
        """Forget all cells and join again from where the robot stands: after it was moved, or time went back."""
        self.incarnation += 1
        self.peers = Peers(self.robot.name, self.rules, self.incarnation, tuple(self.peers.absent))
        self.choice.peers = self.peers
        self.path, self.docked, self._still = [], False, None
        self._last_message = self._decide_at = self._remembered = -math.inf

    # One control period ---------------------------------------------------------------------------------

    def tick(self, now: float) -> ControllerTick:
        """Advance to ``now`` s: join or settle, decide, take cells, drive, and tell the others.

        Raises:
            PolicyError: The policy failed; the robot must be stopped.
        """
        if now < self._last_message or now < self._last_tick:
            self.pose_time = self._last_tick = -math.inf  # no pose is known to be recent any more
            self._reckoning.forget_times()
            self.restart()
        self._reckon(now)
        age = now - self.pose_time
        fresh = -2 * self.config.control_period <= age <= self.config.pose_timeout
        reached = False
        if self.pose is not None and fresh and not self.peers.usurped:
            if not self.path:
                self._claim(now)
            elif not self.peers.joined:
                self._join(now)
            elif self._strayed():
                self.detail = "was moved off its way"
                self.restart()
            else:
                reached = self._settle(now)
                self._decide(now)
        self._drive(now, fresh)
        return ControllerTick(self.command.copy(), self._message(now), reached)

    def status(self, now: float) -> tuple[Status, str]:
        """What the robot is doing and, where it stands still for a reason, why."""
        if self.pose is None:
            return Status.NO_POSE, "no pose received yet"
        if now - self.pose_time > self.config.pose_timeout:
            return Status.STALE, f"last pose is {now - self.pose_time:.2f} s old by its stamp"
        if self.peers.usurped:
            return Status.STOPPED, "another process drives under this robot's name"
        if self.stopped:
            return Status.STOPPED, "stopped until resumed"
        if not self.peers.joined:
            return Status.OFF_GRID, self.detail
        if not self.docked:
            return Status.DOCKING, ""
        if len(self.path) > 1:
            return Status.MOVING, ""
        return (Status.IDLE if self.choice.goal is None else Status.WAITING), self.detail

    # Joining --------------------------------------------------------------------------------------------

    def _claim(self, now: float) -> None:
        """Once it stands still, claim every cell that a robot could not use beside this one."""
        position = self.pose[:2]
        if self._still is None or np.hypot(*(position - self._still[1])) > STILL_WITHIN:
            self._still = (now, position)
        if now - self._still[0] < STILL_TIME:
            return
        cell = docking_cell(
            self.grid, self.distances, position, self.robot.radius, self.config.arrive_tolerance
        )
        if cell is None:
            self.detail = f"no free cell near its pose ({position[0]:.2f}, {position[1]:.2f})"
            return
        self.path, self._start = [cell], position.copy()
        self.peers.claim([cell, *touched(self.grid, position, cell, self.robot.radius)])

    def _join(self, now: float) -> None:
        if np.hypot(*(self.pose[:2] - self._start)) > 2 * STILL_WITHIN:
            self.restart()
            return
        self.peers.tick(now)
        self._tell |= self.peers.joined
        waits = self.peers.waits_for()
        self.detail = "" if waits is None else f"waits to join: robot '{waits[0]}' {waits[1]}"

    # Driving --------------------------------------------------------------------------------------------

    def _ends(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Start and end in m of the straight way ahead, and how many cells of the path it covers."""
        if not self.docked:
            return self._start, self.grid.centre(np.array(self.path[0])), 0
        count = 1
        for k in range(2, len(self.path)):
            (a, b), (c, d), (e, f) = self.path[k - 2 : k + 1]
            if (c - a, d - b) != (e - c, f - d):
                break
            count = k
        count = min(count, len(self.path) - 1)
        start, end = self.grid.centre(np.array([self.path[0], self.path[count]]))
        return start, end, count

    def _strayed(self) -> bool:
        start, end, _ = self._ends()
        away = distance_to_segment(self.pose[None, :2], start, end)[0]
        error = self.config.pose_error
        if away > astray(self.grid.cell_size, self.config.arrive_tolerance, error):
            return True
        if away <= TRACKING_ERROR or not self.docked:
            return False
        return meets_wall(self.distances, self.pose[:2], end, self.robot.radius + error)

    def _settle(self, now: float) -> bool:
        """Give up the cells that the robot has left; whether it has reached its goal."""
        position, tolerance = self.pose[:2], self.config.arrive_tolerance
        if not self.docked:
            if np.hypot(*(self.grid.centre(np.array(self.path[0])) - position)) > tolerance:
                return False
            self.docked, self._tell = True, True
            for cell in [cell for cell in self.peers.held if cell != self.path[0]]:
                self.peers.release(cell)
            if not self.choice.reachable(self.path[0]):
                self.detail = f"goal cell {self.choice.goal} cannot be reached, goal dropped"
                self.cancel_goal()
        while len(self.path) > 1:
            start, centre = self.grid.centre(np.array(self.path[:2]))
            passed = float((position - start) @ (centre - start)) / self.grid.cell_size
            there = np.hypot(*(centre - position)) <= tolerance
            through = self._ends()[2] > 1 and passed >= self.grid.cell_size - tolerance
            if not (there or through):
                return False
            self.peers.release(self.path.pop(0))
            self._tell = True
        if self.choice.goal != self.path[0] or self._away() > tolerance:
            return False
        self.cancel_goal()
        self.goals_reached += 1
        return True

    def _away(self) -> float:
        """Metres from the end of the path, along it."""
        centres = self.grid.centre(np.array(self.path))
        legs = np.hypot(*np.diff(centres[1:], axis=0).T).sum() if len(self.path) > 2 else 0.0
        return float(np.hypot(*(centres[min(1, len(self.path) - 1)] - self.pose[:2])) + legs)

    def _decide(self, now: float) -> None:
        """Ask for the next cell when it is time to, and take it when the others let it pass."""
        if self.stopped or not self.docked:
            return
        choice, peers, end = self.choice, self.peers, self.path[-1]
        if not peers.quorum(now):
            self.detail = "too few robots hear this one"
            peers.drop()
            return
        wants = choice.goal not in (None, end) or choice.must_leave(end, now)
        soon = len(self.path) < LONGEST_PATH and self._away() <= 0.8 * self.grid.cell_size
        if not wants:
            peers.drop()
        elif soon and now >= self._decide_at:
            if len(self.path) == 1 and now - self._remembered >= REMEMBER_WAIT:
                choice.remember(STAY)
                self._remembered = now
            wish = choice.pick(end, now)
            self._decide_at = now + (self.config.wait if wish is None else self.config.patience)
            if wish is None:
                peers.drop()
            elif wish != peers.request:
                peers.drop()
                peers.ask(wish)
                self._tell = True
        taken = peers.tick(now)
        if taken is not None:
            offset = np.array(taken) - end
            choice.remember(int(np.flatnonzero((MOVE_OFFSETS == offset).all(axis=1))[0]))
            self.path.append(taken)
            self.detail, self._decide_at, self._remembered, self._tell = "", now, now, True

    def _drive(self, now: float, fresh: bool) -> None:
        """Update the command; zero at once where the robot must not drive."""
        if not (fresh and self.peers.joined and self.path) or self.stopped or self.peers.usurped:
            self.command = np.zeros(3)
            return
        start, end, _ = self._ends()
        latency, period, measured = (
            self.config.latency,
            self.config.control_period,
            np.array([self.pose_time]),
        )
        limits = self.robot.limits.as_row()
        if not self.docked:
            limits[0] = min(limits[0], DOCKING_SPEED)
        here = self.pose + self._driven
        share, blocked = self._clear(here[:2], start, end)
        speed = np.array([np.hypot(self.command[0], self.command[1])])
        blocked |= bool(
            self._reckoning.disoriented(measured, now, latency, period, speed, limits[None, 2])[0]
        )
        result = track(
            here[None], self.command[None], start[None], end[None], np.array([share]), np.array([blocked]),
            np.array([self.robot.drive], np.int8), limits[None], period,
            pending=self._reckoning.driven_between(measured - latency, measured), latency=latency,
            arrive_tolerance=self.config.arrive_tolerance,
        )  # fmt: skip
        self.command = result.commands[0]

    def _reckon(self, now: float) -> None:
        """Note how far the last command has taken the robot, and where that is from its pose."""
        elapsed = min(max(now - self._last_tick, 0.0), self.config.pose_timeout)
        self._last_tick = now
        yaw = 0.0 if self.pose is None else self.pose[2] + self._driven[2]
        self._reckoning.note(displacement(np.array([yaw]), self.command[None], elapsed), now)
        self._driven = self._reckoning.after(np.array([self.pose_time]))[0]

    def _clear(self, here: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[float, bool]:
        """Share of the way that the newest known places of others leave, and whether the robot must stand for them."""
        others = [
            known.state.shown.pose
            for name, known in self.peers.known.items()
            if name not in self.peers.absent
        ]
        reach = 2 * self.robot.radius + (0.5 if self.docked else 1.0) * DOCKING_GAP
        places = np.array(others, dtype=np.float64).reshape(-1, 3)[:, :2].copy()
        free = free_ahead(
            here[None].copy(), end[None].copy(), np.ones(1, bool), places, np.arange(1, len(others) + 1),
            np.array([reach]),
        )[0]  # fmt: skip
        length = float(np.hypot(*(end - start)))
        if length < 1e-6 or not math.isfinite(free):
            return 1.0, math.isfinite(free)
        along = float((here - start) @ (end - start)) / length
        return min(max((along + free) / length, 0.0), 1.0), free <= 0.0

    def _message(self, now: float) -> State | None:
        due = now - self._last_message >= self.config.message_period - 1e-6
        if not self.peers.held or self.pose is None or not (due or self._tell):
            return None
        self._last_message, self._tell = now, False
        stale = now - self.pose_time > self.config.pose_timeout
        return self.peers.message(
            now,
            Shown(
                tuple(float(v) for v in self.pose),
                self.stopped or stale,
                self.choice.goal,
                self.choice.waited(now),
                tuple(int(v) for v in self.choice.history),
            ),
        )

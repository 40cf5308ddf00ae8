"""Faults of a simulated fleet: what goes wrong between a `FleetWorld` and whoever drives it. No ROS.

One control period of a driver with faults in between:

    for pose in faults.poses():  # what arrives in this period
        fleet.update_pose(pose.robot, pose.x, pose.y, pose.yaw, pose.stamp)
    faults.send(fleet.tick(faults.clock).commands)
    for _ in range(steps):
        faults.step(dt)  # steps the world

Faults begin at random, per kind at `FaultConfig`'s rates, or by `inject`. Everything random comes from the
seed: the same calls give the same run. With a default `FaultConfig` nothing goes wrong.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from marlgpt_sim.world.fault_config import KINDS, FaultConfig
from marlgpt_sim.world.fleet_world import FleetWorld

_ROW = {kind: row for row, kind in enumerate(KINDS)}
_SOON = 1e-9  # s, times this close are the same
_PLACES_TRIED = 4  # per step, for a robot that waits for room to come back
_POSE_ERRORS = ("pose_jump", "pose_bias", "pose_noise")
_POSE_TRAFFIC = ("pose_dropout", "pose_delay", "pose_reorder", "pose_duplicate")
_CMD_TRAFFIC = ("cmd_loss", "cmd_reorder", "cmd_duplicate")


class Delivery(NamedTuple):
    """A pose that arrives at the driver now.

    Attributes:
        robot: its index.
        x: metres in the map frame, as measured. `y` likewise; `yaw`: radians in [-pi, pi).
        stamp: seconds on the simulated clock at which it was measured.
        twist: body-frame vx, vy (m/s) and yaw rate (rad/s) at that time.
    """

    robot: int
    x: float
    y: float
    yaw: float
    stamp: float
    twist: tuple[float, float, float]


@dataclass(frozen=True)
class Fault:
    """One fault that began.

    Attributes:
        time: seconds since the start.
        kind: one of `KINDS`.
        robot: its index; -1 for the clock.
        duration: seconds, 0 for what happens at once.
        magnitude: numbers by the names in `KINDS`.
    """

    time: float
    kind: str
    robot: int
    duration: float
    magnitude: dict[str, float]


class Faults:
    """Stands between a world and its driver and lets things go wrong.

    Args:
        world: the world; step it through this object only.
        config: rates, durations and magnitudes.
        seed: of everything random here.
        cmd_timeout: seconds without a command after which a base stops by itself.
        places: float[m, 2 or 3], x, y (metres) where robots may come back or join, those with room among
            them; default the world's poses at the start.
        cmd_delay: seconds that every command takes to a base, faults apart.
        streams: a number for each robot, of its own stream of random numbers for single messages: the robots of a
            smaller fleet keep theirs. Default 0, 1, 2 ...

    Attributes:
        time: seconds since the start.
        clock_offset: seconds by which the simulated clock is off, after clock jumps.
        log: list of `Fault`, all that began.
        obeyed, pushed: float64[n, 3] what the bases obeyed and what pushes added in the last step, None without
            any, as `FleetWorld.step` takes them.

    A fault of a kind that a robot has already replaces that one.
    """

    def __init__(
        self,
        world: FleetWorld,
        config: FaultConfig | None = None,
        seed: int = 0,
        cmd_timeout: float = 0.2,
        places: np.ndarray | None = None,
        cmd_delay: float = 0.0,
        streams: Sequence[int] | None = None,
    ) -> None:
        """Draw when the first faults begin; see the class for the arguments."""
        self.world, self.config = world, config or FaultConfig()
        self.cmd_timeout = float(cmd_timeout)
        self.time = self.clock_offset = 0.0
        self.log: list[Fault] = []
        n, kinds = len(world), len(KINDS)
        self._places = np.array(world.poses if places is None else places, np.float64)[:, :2]
        self._random = np.random.default_rng((seed, n))  # when faults begin and how bad they are
        streams = range(n) if streams is None else streams
        self._message = [np.random.default_rng((seed, 1, i)) for i in streams]  # per message of a robot
        self.cmd_delay = float(cmd_delay)
        self.obeyed: np.ndarray = np.zeros((n, 3))
        self.pushed: np.ndarray | None = None
        self._begun = np.zeros(kinds, np.int64)
        self._start, self._until = np.full((kinds, n), -np.inf), np.full((kinds, n), -np.inf)
        self._on = {kind: np.zeros(n, bool) for kind in KINDS}  # who has which fault, from `_look`
        self._busy: set[str] = set()  # kinds that anybody has
        self._change = 0.0  # when to look again
        self._size = {kind: np.zeros((n, len(names))) for kind, names in KINDS.items()}
        self._removed = np.zeros(n, bool)
        self._coming: dict[int, str] = {}  # robots that wait for room, and the kind that they count under
        self._next = np.full((kinds, n), np.inf)  # when the next fault of each kind begins
        for kind, row in _ROW.items():
            whose = ~world.present if kind == "join" else np.ones(n, bool)
            if kind == "clock_jump":
                whose = np.arange(n) < 1  # there is one clock
            if self.config.rate(kind) > 0.0:
                self._next[row, whose] = self._wait(kind, int(whose.sum()))
        self._commands, self._heard = np.zeros((n, 3)), np.full(n, -np.inf)
        self._poses_due, self._commands_due = _Mail(), _Mail()
        self._in_order = np.full(n, -np.inf)  # no pose overtakes one that is to arrive then

    @property
    def clock(self) -> float:
        """Seconds on the simulated clock, which may have been set back or forward."""
        return self.world.time + self.clock_offset

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Per kind, the faults begun since the start and those that last now."""
        return {kind: (int(self._begun[row]), int(self.active(kind).sum())) for kind, row in _ROW.items()}

    def active(self, kind: str) -> np.ndarray:
        """bool[n], robots that have a fault of this kind now; those that wait for room still do."""
        self._look()
        mask = self._removed.copy() if kind == "removal" else self._on[kind].copy()
        mask[[i for i, waits_for in self._coming.items() if waits_for == kind]] = True
        return mask

    def inject(self, kind: str, robot: int = 0, duration: float | None = None, **magnitude: float) -> None:
        """Begin a fault now.

        Args:
            kind: one of `KINDS`.
            robot: its index; of no meaning for clock jumps.
            duration: seconds; drawn from the configuration if None. May be inf.
            magnitude: numbers by the names in `KINDS`; those not given are 0, or drawn if none is given.

        Raises:
            ValueError: unknown kind or magnitude, numbers that are not usable, a robot that is absent (for
                `join`: present), or a clock that would be set before zero.
        """
        if kind not in KINDS:
            raise ValueError(f"unknown kind of fault {kind!r}; known: {', '.join(KINDS)}")
        names = KINDS[kind]
        unknown = sorted(set(magnitude) - set(names))
        if unknown:
            raise ValueError(f"{kind} has no magnitude {unknown[0]!r}; it has {', '.join(names) or 'none'}")
        if not all(math.isfinite(value) for value in magnitude.values()):
            raise ValueError(f"magnitudes of {kind} must be finite, got {magnitude}")
        if duration is not None and not duration >= 0.0:
            raise ValueError(f"duration of {kind} must be zero or positive, got {duration}")
        if kind == "push" and duration is not None and not 0.0 < duration < math.inf:
            raise ValueError(f"duration of a push must be positive and finite, got {duration}")
        if kind != "clock_jump" and self.world.present[robot] == (kind == "join"):
            state = "present" if kind == "join" else "absent"
            raise ValueError(f"no {kind} for robot {self.world.names[robot]!r}, which is {state}")
        if kind == "clock_jump" and self.clock + magnitude.get("seconds", 0.0) < 0.0:
            raise ValueError(f"the clock at {self.clock} s cannot be set back by {magnitude}")
        drawn_duration, drawn = self._draw(kind)
        size = {name: float(magnitude.get(name, 0.0)) for name in names} if magnitude else drawn
        self._begin(kind, robot, drawn_duration if duration is None else float(duration), size)

    def set_down(self, robot: int, pose: Sequence[float]) -> None:
        """Lift a robot and set it down at a pose (x, y in m, yaw in rad), standing.

        What is on its way to or from it is lost: its wheels turned in the air.

        Raises:
            ValueError: there is no room, or the robot is absent.
        """
        if not self.world.present[robot]:
            raise ValueError(f"robot {self.world.names[robot]!r} is absent and cannot be set down")
        self.world.remove(robot)
        self.world.place(robot, pose, 0.0)
        self._commands[robot], self._heard[robot] = 0.0, -np.inf
        self._poses_due.forget(robot)
        self._commands_due.forget(robot)

    def send(self, commands: np.ndarray, heard: np.ndarray | None = None) -> None:
        """Put commands on their way to the robots, where a base obeys whatever arrives last.

        Args:
            commands: float[n, 3], body-frame vx, vy (m/s) and yaw rate (rad/s).
            heard: bool[n], robots that a command is sent to; default all.

        Raises:
            ValueError: wrong shape.
        """
        commands = np.asarray(commands, np.float64)
        if commands.shape != self._commands.shape:
            raise ValueError(f"commands have shape {commands.shape}, expected {self._commands.shape}")
        heard = self.world.present if heard is None else np.asarray(heard, bool) & self.world.present
        self._look()
        lost, mixed, doubled = (self._on[kind] for kind in _CMD_TRAFFIC)
        direct = heard & ~(lost | mixed | doubled)
        if self.cmd_delay > 0.0:
            direct = np.zeros(len(self.world), bool)
        self._commands[direct], self._heard[direct] = commands[direct], self.time
        for i in np.flatnonzero(heard & ~direct & ~lost):
            due = self.time + self.cmd_delay + (self._lateness("cmd_reorder", i) if mixed[i] else 0.0)
            self._commands_due.put(due, i, commands[i].copy())
            if doubled[i]:
                self._commands_due.put(due + self._size["cmd_duplicate"][i, 0], i, commands[i].copy())

    def poses(self) -> list[Delivery]:
        """Measure the robots' poses once and return those, old and new, that arrive now, in order."""
        self._look()
        world, now, clock = self.world, self.time, self.clock
        measured = world.measured_poses()
        if not self._busy.isdisjoint(_POSE_ERRORS):
            measured += self._errors()
            measured[:, 2] = (measured[:, 2] + np.pi) % (2.0 * np.pi) - np.pi
        lost, late, mixed, doubled = (self._on[kind] for kind in _POSE_TRAFFIC)
        rows, twists = measured.tolist(), world.velocities.tolist()
        poses = [
            Delivery(i, *rows[i], clock, tuple(twists[i]))
            for i in np.flatnonzero(world.present & ~lost).tolist()
        ]
        if self._busy.isdisjoint(_POSE_TRAFFIC) and not self._poses_due:
            return poses
        for pose in poses:
            i = pose.robot
            due = now + self._size["pose_delay"][i, 0] if late[i] else now
            due = self._in_order[i] = max(due, self._in_order[i])
            if mixed[i]:
                due += self._lateness("pose_reorder", i)
            self._poses_due.put(due, i, pose)
            if doubled[i]:
                self._poses_due.put(due + self._size["pose_duplicate"][i, 0], i, pose)
        return [pose for _, pose in self._poses_due.take(now)]

    def step(self, dt: float) -> None:
        """Let faults begin and end, commands arrive, and the world advance by `dt` seconds."""
        self._advance()
        self._look()
        for i, command in self._commands_due.take(self.time):
            self._commands[i], self._heard[i] = command, self.time
        self.obeyed, self.pushed = self._obeyed(), self._pushes(dt)
        self.world.step(self.obeyed, dt, self.pushed)
        self.time += dt

    def _look(self) -> None:
        """See who has which fault now, if that may have changed since the last look."""
        if self.time < self._change:
            return
        on = self._until > self.time + _SOON
        self._on = dict(zip(KINDS, on, strict=True))
        self._busy = {kind for kind, mask in self._on.items() if mask.any()}
        self._change = min(
            self._until[on].min(initial=np.inf) - _SOON, self._next.min(initial=np.inf) - _SOON
        )

    def _advance(self) -> None:
        """Begin the faults that are due and bring back robots whose time has come."""
        now = self.time + _SOON
        if self.time >= self._change:
            for row, i in np.argwhere(self._next <= now).tolist():
                kind = list(KINDS)[row]
                self._next[row, i] += self._wait(kind)
                duration, size = self._draw(kind)
                if kind == "clock_jump" or self.world.present[i] != (kind == "join"):
                    self._begin(kind, i, duration, size)
        if self._removed.any():
            for i in np.flatnonzero(self._removed & (self._until[_ROW["removal"]] <= now)).tolist():
                self._removed[i] = False
                self._coming[i] = "removal"
        for i in list(self._coming):
            self._return(i)

    def _begin(self, kind: str, robot: int, duration: float, size: dict[str, float]) -> None:
        """Begin a fault now and note it."""
        row = _ROW[kind]
        if kind == "join":
            if robot in self._coming:
                return  # it waits for room already
            self._coming[robot], self._removed[robot] = kind, False
            self._until[_ROW["removal"], robot] = -np.inf
            self._next[row, robot] = np.inf
        elif kind == "clock_jump":
            robot = -1
            self.clock_offset += size["seconds"]
        else:
            self._start[row, robot], self._until[row, robot] = self.time, self.time + duration
            self._size[kind][robot] = list(size.values())
        if kind == "removal":
            self.world.remove(robot)
            self._removed[robot] = True
            self._poses_due.forget(robot)
            self._commands_due.forget(robot)
        self._change = self.time
        self._begun[row] += 1
        self.log.append(Fault(self.time, kind, robot, duration, size))

    def _return(self, robot: int) -> None:
        """Put a robot that waits into the world, if its poses arrive and one of a few places has room for it."""
        if any(self._on[kind][robot] for kind in ("pose_jump", "pose_dropout")):
            return  # nobody would know where it is
        for x, y in self._places[self._random.integers(len(self._places), size=_PLACES_TRIED)]:
            wall, gap = self.world.clearance(robot, (x, y))
            if wall > self.config.place_wall and gap > self.config.place_gap:
                self.world.place(robot, (x, y, self._random.uniform(-np.pi, np.pi)), 0.0)
                self._commands[robot], self._heard[robot] = 0.0, -np.inf
                self._in_order[robot] = -np.inf
                del self._coming[robot]
                return

    def _wait(self, kind: str, count: int | None = None) -> Any:
        """Seconds until the next fault of a kind: exponential, so that faults are a Poisson process."""
        return self._random.exponential(3600.0 / self.config.rate(kind), count)

    def _draw(self, kind: str) -> tuple[float, dict[str, float]]:
        """Duration in seconds (0 for what happens at once) and magnitudes of one random fault."""

        def even(what: str, signed: bool = False) -> float:
            value = self._random.uniform(*self.config.range_of(kind, what))
            return value * self._random.choice((-1.0, 1.0)) if signed else value

        def vector(what: str) -> tuple[float, float]:
            length, angle = even(what), self._random.uniform(-np.pi, np.pi)
            return length * math.cos(angle), length * math.sin(angle)

        duration = 0.0 if kind in ("join", "clock_jump") else even("duration")
        if kind == "pose_jump":
            in_place = self._random.random() < 0.5
            x, y = vector("xy") if in_place else (0.0, 0.0)
            return duration, {"x": x, "y": y, "yaw": 0.0 if in_place else even("yaw", signed=True)}
        if kind in ("pose_bias", "push"):
            x, y = vector("xy" if kind == "pose_bias" else "distance")
            size = {"x": x, "y": y}
            return duration, size if kind == "pose_bias" else size | {"yaw": even("yaw", signed=True)}
        signed = {("slip", "yaw"), ("clock_jump", "seconds")}
        size = {name: even(name, (kind, name) in signed) for name in KINDS[kind]}
        if kind == "clock_jump" and self.clock + size["seconds"] <= 0.0:
            size["seconds"] = -size["seconds"]  # there is no time before zero
        return duration, size

    def _lateness(self, kind: str, robot: int) -> float:
        """Seconds by which one message is late during disorder: a share of them by the lag, the rest not."""
        share, lag = self._size[kind][robot]
        return lag if self._message[robot].random() < share else 0.0

    def _errors(self) -> np.ndarray:
        """What measured poses are off by now, float64[n, 3]."""
        errors = np.zeros((len(self.world), 3))
        jumped, drifted, noisy = (self._on[kind] for kind in _POSE_ERRORS)
        errors[jumped] += self._size["pose_jump"][jumped]
        row = _ROW["pose_bias"]
        for i in np.flatnonzero(drifted):
            part = (self.time - self._start[row, i]) / (self._until[row, i] - self._start[row, i])
            errors[i, :2] += math.sin(math.pi * part) * self._size["pose_bias"][i]
        if noisy.any():
            drawn = np.zeros((len(errors), 3))
            for i in np.flatnonzero(noisy).tolist():
                drawn[i] = self._message[i].random(3)
            errors[noisy] += (2.0 * drawn[noisy] - 1.0) * self._size["pose_noise"][noisy][:, [0, 0, 1]]
        return errors

    def _obeyed(self) -> np.ndarray:
        """What the bases do of the commands that they have heard last, float64[n, 3]."""
        commands = self._commands.copy()
        commands[self.time - self._heard > self.cmd_timeout + _SOON] = 0.0
        if "slow" in self._busy:
            commands *= np.where(self._on["slow"], self._size["slow"][:, 0], 1.0)[:, None]
        if "slip" in self._busy:
            slip = self._on["slip"]
            share, yaw = self._size["slip"][slip].T
            commands[slip, 2] += yaw * np.hypot(commands[slip, 0], commands[slip, 1])
            commands[slip, :2] *= share[:, None]
        commands[self._on["stall"]] = 0.0
        return commands

    def _pushes(self, dt: float) -> np.ndarray | None:
        """Velocities that pushes add in the next `dt` seconds, float64[n, 3]; None without any."""
        if "push" not in self._busy:
            return None
        pushed = self._on["push"]
        start, until = self._start[_ROW["push"], pushed], self._until[_ROW["push"], pushed]
        share = np.minimum((until - self.time) / dt, 1.0) / (until - start)
        pushes = np.zeros((len(self.world), 3))
        pushes[pushed] = self._size["push"][pushed] * share[:, None]
        return pushes


class _Mail:
    """Messages of robots on their way, delivered by time and, at the same time, in the order sent."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, int, Any]] = []
        self._sent = 0

    def __len__(self) -> int:
        """Messages on their way."""
        return len(self._due)

    def put(self, due: float, robot: int, message: Any) -> None:
        """Send a robot's message that arrives at `due` seconds."""
        heapq.heappush(self._due, (round(due, 6), self._sent, robot, message))  # to the microsecond
        self._sent += 1

    def take(self, now: float) -> list[tuple[int, Any]]:
        """Robots and messages that have arrived by `now`; they are no longer on their way."""
        arrived = []
        while self._due and self._due[0][0] <= now + _SOON:
            arrived.append(heapq.heappop(self._due)[2:])
        return arrived

    def forget(self, robot: int) -> None:
        """Lose all messages of a robot."""
        self._due = [entry for entry in self._due if entry[2] != robot]
        heapq.heapify(self._due)

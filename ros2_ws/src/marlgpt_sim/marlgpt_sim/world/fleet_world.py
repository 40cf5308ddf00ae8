"""A fleet of disc robots in a continuous plane with walls: exact motion, honest contacts, no ROS.

The world integrates every robot along the exact arc of its body-frame velocity, cut into substeps. A
substep's arc is replaced by its chord, whose vertices lie on the arc; the chord leaves the arc by at most
`SAGITTA` (substeps are made short enough for that). On chords, contact is exact: the time of the first
contact of two discs, or of a disc and an occupied pixel (a square, not a point), is solved in closed form, so
no robot can tunnel through anything at any speed or step size. A robot that drives into something stops where
it touches and may still turn or drive away; discs keep a gap of at least `SKIN` / 2 and never penetrate.

Robots may be absent (no body at all) and may be pushed by an outside force, which by construction never makes
them touch anything: what is counted as a contact was driven into.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from marlgpt_sim.world import dynamics
from marlgpt_sim.world.collision import wall_distance

if TYPE_CHECKING:
    from marlgpt_policy.grid.occupancy_map import OccupancyMap

DIFFERENTIAL, HOLONOMIC = 0, 1


@dataclass(frozen=True)
class Contact:
    """One contact event: two surfaces that were apart met.

    Attributes:
        time: seconds of simulated time.
        a: name of the robot.
        b: name of the other robot, or "wall".
        xy: point of contact in the map frame, metres.
        pushed: whether one of the two was being pushed in that step.
    """

    time: float
    a: str
    b: str
    xy: tuple[float, float]
    pushed: bool = False


class FleetWorld:
    """Robots as discs on an occupancy map, driven by body-frame velocity commands.

    Args:
        map: occupancy map; everything outside of it is wall.
        poses: float[n, 3], start x, y (metres), yaw (radians) in the map frame.
        radii: float[n] or one for all, metres.
        drive: int[n] or one for all, `DIFFERENTIAL` (lateral commands are ignored) or `HOLONOMIC`.
        limits: float[n, 4] or [4], maximum speed (m/s), yaw rate (rad/s), acceleration (m/s^2) and yaw
            acceleration (rad/s^2). Only a contact stops a robot faster than its acceleration.
        seed: seed of the measurement noise, the only random thing here.
        pose_noise_xy: standard deviation of measured x and y, metres.
        pose_noise_yaw: standard deviation of the measured yaw, radians.
        names: robot names for events and errors; default robot_0 ... robot_{n-1}.
        unknown_is_wall: whether unknown pixels stop robots like occupied ones.
        present: bool[n], which robots are in the world at the start; default all. The poses of absent ones
            need not be clear of anything.
        push_margin: metres that a push leaves between surfaces, besides what driving robots need to stop.

    Attributes:
        time: simulated seconds; `ticks` counts the steps.
        present: bool[n], robots that have a body; changed by `remove` and `place` only.
        poses: float64[n, 3], true poses (of absent robots the last).
        velocities: float64[n, 3], body-frame vx, vy (m/s) and yaw rate (rad/s).
        robot_contacts, wall_contacts: number of contact events so far. Each is counted once, when the
            surfaces meet, and again only after they were `RELEASE` apart.
        contacts: list of `Contact`, in order of time within each substep.
        min_separation: smallest gap between the surfaces of two present robots ever, between steps too; inf
            for fewer than two.

    Raises:
        ValueError: duplicate names, non-finite poses, bad radii or limits, robots that start in a wall,
            outside the map or in each other; the message names the robot.
    """

    def __init__(
        self,
        map: OccupancyMap,
        poses: np.ndarray,
        radii: np.ndarray | float,
        drive: np.ndarray | int = DIFFERENTIAL,
        limits: np.ndarray | Sequence[float] = (0.5, 2.0, 3.0, 6.0),
        seed: int = 0,
        pose_noise_xy: float = 0.0,
        pose_noise_yaw: float = 0.0,
        names: Sequence[str] | None = None,
        unknown_is_wall: bool = False,
        present: np.ndarray | Sequence[bool] | None = None,
        push_margin: float = 0.05,
    ) -> None:
        """Check the start and build the wall tables; see the class for the arguments."""
        self.poses = np.array(poses, np.float64).reshape(-1, 3)
        n = len(self.poses)
        self.names = [f"robot_{i}" for i in range(n)] if names is None else list(names)
        self.radii = np.array(np.broadcast_to(np.asarray(radii, np.float64), n))
        self.drive = np.array(np.broadcast_to(np.asarray(drive, np.int64), n))
        self.limits = np.array(np.broadcast_to(np.asarray(limits, np.float64), (n, 4)))
        self.present = np.ones(n, np.bool_) if present is None else np.array(present, np.bool_)
        self.push_margin = float(push_margin)
        self.velocities = np.zeros((n, 3))
        self.time, self.ticks = 0.0, 0
        self.robot_contacts = self.wall_contacts = 0
        self.contacts: list[Contact] = []
        self.seed = int(seed)
        self.pose_noise_xy, self.pose_noise_yaw = float(pose_noise_xy), float(pose_noise_yaw)
        self._walls = _Walls(map, unknown_is_wall)
        self._touching = np.zeros((n, n), np.bool_)
        self._touching_wall = np.zeros(n, np.bool_)
        self._check()
        self.poses[:, 2] = _wrap(self.poses[:, 2])
        self.min_separation = self.separation

    def __len__(self) -> int:
        """Number of robots."""
        return len(self.poses)

    def step(self, commands: np.ndarray, dt: float, pushes: np.ndarray | None = None) -> None:
        """Advance all robots by `dt` seconds under constant commands.

        Args:
            commands: float[n, 3], wanted body-frame vx, vy (m/s) and yaw rate (rad/s).
            dt: seconds, > 0.
            pushes: float[n, 3], velocities in the map frame that an outside force adds: x, y (m/s) and yaw
                rate (rad/s). They end short of walls and robots, see `dynamics.push`.

        Raises:
            ValueError: wrong shape, a command or push that is not finite (by robot name), or a bad `dt`.
        """
        commands = self._rows("command", commands)
        if pushes is not None:
            pushes = self._rows("push", pushes)
        if not 0.0 < dt < np.inf:
            raise ValueError(f"dt must be a positive number of seconds, got {dt}")
        walls = self._walls
        table = walls.occupied, walls.distance, walls.resolution, walls.frame
        if pushes is not None:
            self.min_separation = dynamics.push(
                self.poses, self.velocities, self.radii, self.limits, self.present, pushes, dt,
                self.push_margin, self.min_separation, *table,
            )  # fmt: skip
        self.min_separation, events = dynamics.step(
            self.poses, self.velocities, self.radii, self.drive, self.limits, self.present, commands, dt,
            self.min_separation, self._touching, self._touching_wall, *table,
        )  # fmt: skip
        for t, a, b, x, y in events:
            if b < 0:
                self.wall_contacts += 1
            else:
                self.robot_contacts += 1
            other = "wall" if b < 0 else self.names[int(b)]
            both = [int(k) for k in (a, b) if k >= 0]
            pushed = pushes is not None and bool(pushes[both].any())
            self.contacts.append(
                Contact(float(self.time + t), self.names[int(a)], other, (float(x), float(y)), pushed)
            )
        self.ticks += 1
        self.time += dt

    def remove(self, robot: int) -> None:
        """Take a robot out of the world: no body, no speed; its pose stays what it was."""
        self.present[robot] = False
        self.velocities[robot] = 0.0
        self._touching[robot] = self._touching[:, robot] = False
        self._touching_wall[robot] = False

    def clearance(self, robot: int, xy: Sequence[float]) -> tuple[float, float]:
        """Metres from a robot's surface, if it stood at `xy`, to the nearest wall and present robot."""
        walls, (x, y) = self._walls, (float(v) for v in xy)
        wall = wall_distance(x, y, walls.occupied, walls.distance, walls.resolution, walls.frame)
        gaps = np.hypot(self.poses[:, 0] - x, self.poses[:, 1] - y) - self.radii
        gaps[robot] = np.inf
        return wall - self.radii[robot], float(gaps[self.present].min(initial=np.inf)) - self.radii[robot]

    def place(self, robot: int, pose: Sequence[float], clearance: float = 0.05) -> None:
        """Put an absent robot into the world, standing.

        Args:
            robot: its index.
            pose: x, y (metres) and yaw (radians) in the map frame.
            clearance: metres that must be free around it, to walls and to other robots.

        Raises:
            ValueError: the robot is in the world already, the pose is not finite, or there is less room.
        """
        name = self.names[robot]
        if self.present[robot]:
            raise ValueError(f"robot {name!r} is in the world already; remove it first")
        if not np.isfinite(np.asarray(pose, np.float64)).all():
            raise ValueError(f"pose of robot {name!r} is not finite: {list(pose)}")
        gap = min(self.clearance(robot, pose[:2]))
        if not gap > max(clearance, 0.0):
            raise ValueError(
                f"robot {name!r} has {gap:.3f} m of room at ({pose[0]:.3f}, {pose[1]:.3f}), needs more than "
                f"{max(clearance, 0.0)} m"
            )
        self.poses[robot] = pose
        self.poses[robot, 2] = _wrap(self.poses[robot, 2])
        self.velocities[robot] = 0.0
        self.present[robot] = True
        self.min_separation = min(self.min_separation, self.separation)

    def measured_poses(self) -> np.ndarray:
        """Poses with Gaussian noise, float64[n, 3]; the same within a step however often it is asked."""
        poses = self.poses.copy()
        if self.pose_noise_xy > 0.0 or self.pose_noise_yaw > 0.0:
            noise = np.random.default_rng((self.seed, self.ticks)).standard_normal(poses.shape)
            poses += noise * (self.pose_noise_xy, self.pose_noise_xy, self.pose_noise_yaw)
            poses[:, 2] = _wrap(poses[:, 2])
        return poses

    @property
    def separation(self) -> float:
        """Smallest gap between the surfaces of two present robots now, metres; inf for fewer than two."""
        return float(dynamics.separation(self.poses, self.radii, self.present)[0])

    def wall_gaps(self) -> np.ndarray:
        """Exact distance from each robot's surface to the nearest wall, float64[n], metres; inf if absent."""
        walls = self._walls
        gaps = np.array([
            wall_distance(x, y, walls.occupied, walls.distance, walls.resolution, walls.frame)
            for x, y in self.poses[:, :2]
        ]) - self.radii  # fmt: skip
        return np.where(self.present, gaps, np.inf)

    def _rows(self, what: str, rows: np.ndarray) -> np.ndarray:
        """Return float64[n, 3] commands or pushes; ValueError, naming the robot, for what is not."""
        rows = np.ascontiguousarray(rows, np.float64)
        if rows.shape != self.poses.shape:
            raise ValueError(f"{what}s have shape {rows.shape}, expected {self.poses.shape}")
        if not np.isfinite(rows).all():
            bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            raise ValueError(f"{what} of robot {self.names[bad]!r} is not finite: {rows[bad].tolist()}")
        return rows

    def _check(self) -> None:
        """Raise ValueError, naming the robot, for a start that is not physical."""
        names, n = self.names, len(self.poses)
        if len(names) != n:
            raise ValueError(f"{len(names)} names for {n} poses")
        if self.present.shape != (n,):
            raise ValueError(f"present has shape {self.present.shape}, expected ({n},)")
        for i, name in enumerate(names):
            if name in names[:i]:
                raise ValueError(f"robot name {name!r} is used twice")
            if not np.isfinite(self.poses[i]).all():
                raise ValueError(f"pose of robot {name!r} is not finite: {self.poses[i].tolist()}")
            if not 0.0 < self.radii[i] < np.inf:
                raise ValueError(f"radius of robot {name!r} must be positive, got {self.radii[i]}")
            if self.drive[i] not in (DIFFERENTIAL, HOLONOMIC):
                raise ValueError(f"drive of robot {name!r} must be 0 or 1, got {self.drive[i]}")
            if not (np.isfinite(self.limits[i]).all() and (self.limits[i] > 0.0).all()):
                raise ValueError(f"limits of robot {name!r} must be positive, got {self.limits[i].tolist()}")
        for name in ("pose_noise_xy", "pose_noise_yaw", "push_margin"):
            value = getattr(self, name)
            if not 0.0 <= value < np.inf:
                raise ValueError(f"{name} must be zero or positive, got {value}")
        for name, gap, (x, y) in zip(names, self.wall_gaps(), self.poses[:, :2], strict=True):
            if not gap > 0.0:
                raise ValueError(
                    f"robot {name!r} at ({x:.3f}, {y:.3f}) starts in a wall or outside the map: "
                    f"it reaches {-gap:.3f} m too far"
                )
        gap, i, j = dynamics.separation(self.poses, self.radii, self.present)
        if not gap > 0.0:
            raise ValueError(f"robots {names[i]!r} and {names[j]!r} overlap at the start by {-gap:.3f} m")


class _Walls:
    """The occupied pixels with a ring of wall around the map, and their distance transform.

    Attributes:
        occupied: bool[H + 2, W + 2]. `distance`: float32, pixels from each pixel's centre to the nearest
            occupied one's. `frame`: float[4], x and y of the lower left corner, cosine and sine of the yaw.
    """

    def __init__(self, map: OccupancyMap, unknown_is_wall: bool) -> None:
        occupied = np.asarray(map.occupied, bool)
        if unknown_is_wall:
            occupied = occupied | np.asarray(map.unknown, bool)
        self.occupied = np.pad(occupied, 1, constant_values=True)
        self.distance = ndimage.distance_transform_edt(~self.occupied).astype(np.float32)
        self.resolution = float(map.resolution)
        x, y, yaw = (float(v) for v in map.origin)
        c, s = np.cos(yaw), np.sin(yaw)
        self.frame = np.array([x - self.resolution * (c - s), y - self.resolution * (s + c), c, s])


def _wrap(yaw: np.ndarray) -> np.ndarray:
    """Angles in [-pi, pi), radians."""
    return (yaw + np.pi) % (2.0 * np.pi) - np.pi

"""A fleet of disc robots in a continuous plane with walls: exact motion, honest contacts, no ROS.

The world integrates every robot along the exact arc of its body-frame velocity, cut into substeps. A
substep's arc is replaced by its chord, whose vertices lie on the arc; the chord leaves the arc by at most
`SAGITTA` (substeps are made short enough for that). On chords, contact is exact: the time of the first
contact of two discs, or of a disc and an occupied pixel (a square, not a point), is solved in closed form, so
no robot can tunnel through anything at any speed or step size. A robot that drives into something stops where
it touches and may still turn or drive away; discs keep a gap of at least `SKIN` / 2 and never penetrate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from scipy import ndimage

if TYPE_CHECKING:
    from marlgpt_policy.occupancy import OccupancyMap

DIFFERENTIAL, HOLONOMIC = 0, 1
SAGITTA = 1e-5  # m, largest distance between a substep's arc and the chord that contacts are computed on
SKIN = 1e-6  # m, surfaces this close are in contact
RELEASE = 1e-3  # m, a contact ends (and may be counted again) once the surfaces are this far apart
_ALIGNED = 1e-12  # m, approach smaller than rounding
_LAST = 1.0 - 2.0**-40  # share of a substep for a stop at its very end; 1 means moving


@dataclass(frozen=True)
class Contact:
    """One contact event: two surfaces that were apart met.

    Attributes:
        time: seconds of simulated time.
        a: name of the robot.
        b: name of the other robot, or "wall".
        xy: point of contact in the map frame, metres.
    """

    time: float
    a: str
    b: str
    xy: tuple[float, float]


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

    Attributes:
        time: simulated seconds; `ticks` counts the steps.
        poses: float64[n, 3], true poses. `velocities`: float64[n, 3], body-frame vx, vy, wz.
        robot_contacts, wall_contacts: number of contact events so far. Each is counted once, when the
            surfaces meet, and again only after they were `RELEASE` apart.
        contacts: list of `Contact`, in order of time within each substep.
        min_separation: smallest gap between two robots' surfaces ever, between steps too; inf for one robot.

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
    ) -> None:
        """Check the start and build the wall tables; see the class for the arguments."""
        self.poses = np.array(poses, np.float64).reshape(-1, 3)
        n = len(self.poses)
        self.names = [f"robot_{i}" for i in range(n)] if names is None else list(names)
        self.radii = np.array(np.broadcast_to(np.asarray(radii, np.float64), n))
        self.drive = np.array(np.broadcast_to(np.asarray(drive, np.int64), n))
        self.limits = np.array(np.broadcast_to(np.asarray(limits, np.float64), (n, 4)))
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

    def step(self, commands: np.ndarray, dt: float) -> None:
        """Advance all robots by `dt` seconds under constant commands.

        Args:
            commands: float[n, 3], wanted body-frame vx, vy (m/s) and yaw rate (rad/s).
            dt: seconds, > 0.

        Raises:
            ValueError: wrong shape, a command that is not finite (by robot name), or a bad `dt`.
        """
        commands = np.ascontiguousarray(commands, np.float64)
        if commands.shape != self.poses.shape:
            raise ValueError(f"commands have shape {commands.shape}, expected {self.poses.shape}")
        if not np.isfinite(commands).all():
            bad = int(np.flatnonzero(~np.isfinite(commands).all(axis=1))[0])
            raise ValueError(f"command of robot {self.names[bad]!r} is not finite: {commands[bad].tolist()}")
        if not 0.0 < dt < np.inf:
            raise ValueError(f"dt must be a positive number of seconds, got {dt}")
        walls = self._walls
        self.min_separation, events = _step(
            self.poses, self.velocities, self.radii, self.drive, self.limits, commands, dt,
            self.min_separation, self._touching, self._touching_wall,
            walls.occupied, walls.distance, walls.resolution, walls.frame,
        )  # fmt: skip
        for t, a, b, x, y in events:
            if b < 0:
                self.wall_contacts += 1
            else:
                self.robot_contacts += 1
            other = "wall" if b < 0 else self.names[int(b)]
            self.contacts.append(Contact(self.time + t, self.names[int(a)], other, (float(x), float(y))))
        self.ticks += 1
        self.time += dt

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
        """Smallest gap between the surfaces of two robots now, metres; inf for fewer than two."""
        return float(_separation(self.poses, self.radii)[0])

    def wall_gaps(self) -> np.ndarray:
        """Exact distance from each robot's surface to the nearest wall, float64[n], metres."""
        walls = self._walls
        return np.array([
            _wall_distance(x, y, walls.occupied, walls.distance, walls.resolution, walls.frame)
            for x, y in self.poses[:, :2]
        ]) - self.radii  # fmt: skip

    def _check(self) -> None:
        """Raise ValueError, naming the robot, for a start that is not physical."""
        names, n = self.names, len(self.poses)
        if len(names) != n:
            raise ValueError(f"{len(names)} names for {n} poses")
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
        for name, value in (("pose_noise_xy", self.pose_noise_xy), ("pose_noise_yaw", self.pose_noise_yaw)):
            if not 0.0 <= value < np.inf:
                raise ValueError(f"{name} must be zero or positive, got {value}")
        for name, gap, (x, y) in zip(names, self.wall_gaps(), self.poses[:, :2], strict=True):
            if not gap > 0.0:
                raise ValueError(
                    f"robot {name!r} at ({x:.3f}, {y:.3f}) starts in a wall or outside the map: "
                    f"it reaches {-gap:.3f} m too far"
                )
        gap, i, j = _separation(self.poses, self.radii)
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


@njit(cache=True)
def _separation(poses, radii):
    """Smallest gap between two discs and the pair that has it; (inf, -1, -1) for fewer than two."""
    best, a, b = np.inf, -1, -1
    for i in range(len(poses)):
        for j in range(i + 1, len(poses)):
            gap = np.hypot(poses[j, 0] - poses[i, 0], poses[j, 1] - poses[i, 1]) - radii[i] - radii[j]
            if gap < best:
                best, a, b = gap, i, j
    return best, a, b


@njit(cache=True)
def _step(poses, velocities, radii, drive, limits, commands, dt, least, touching, touching_wall,
          occupied, distance, resolution, frame):  # fmt: skip
    """Advance the arrays in place by dt; returns the least gap so far and events [time, a, b or -1, x, y]."""
    n = len(poses)
    pieces = 1
    for i in range(n):
        _accelerate(velocities[i], commands[i], drive[i], limits[i], dt)
        speed = np.hypot(velocities[i, 0], velocities[i, 1])
        pieces = max(pieces, int(np.ceil(dt * np.sqrt(speed * abs(velocities[i, 2]) / (8.0 * SAGITTA)))))
    h = dt / pieces
    events = np.empty((n * pieces, 5))  # every event stops a robot for its substep: at most n per substep
    count = 0
    moves, until = np.empty((n, 2)), np.empty(n)
    wall_time, wall_xy = np.empty(n), np.empty((n, 2))
    pairs = np.empty((n * (n - 1) // 2, 2), np.int64)
    for piece in range(pieces):
        for i in range(n):
            moves[i, 0], moves[i, 1] = _displacement(poses[i, 2], velocities[i], h)
            until[i] = 1.0
            wall_time[i] = _wall_impact(
                poses[i], moves[i], radii[i], occupied, distance, resolution, frame, wall_xy[i]
            )  # fmt: skip
        near = _near_pairs(poses, radii, moves, max(least, SKIN), pairs)
        count = _resolve(
            poses, radii, moves, until, wall_time, wall_xy, pairs[:near], touching, touching_wall,
            piece * h, h, events, count,
        )  # fmt: skip
        for k in range(near):
            i, j = pairs[k]
            both = radii[i] + radii[j]
            least = min(least, _least_gap(poses[i], moves[i], until[i], poses[j], moves[j], until[j], both))
        for i in range(n):
            poses[i, 0] += until[i] * moves[i, 0]
            poses[i, 1] += until[i] * moves[i, 1]
            yaw = poses[i, 2] + velocities[i, 2] * h
            poses[i, 2] = yaw - 2.0 * np.pi * np.floor((yaw + np.pi) / (2.0 * np.pi))
            if until[i] < 1.0:
                velocities[i, 0] = velocities[i, 1] = 0.0
        _release(poses, radii, touching, touching_wall, occupied, distance, resolution, frame)
    return least, events[:count]


@njit(cache=True)
def _accelerate(velocity, command, drive, limits, dt):
    """Move a body-frame velocity towards its command within the speed and acceleration limits, in place."""
    vx, vy = command[0], command[1]
    if drive == 0:
        vy = 0.0
    speed = np.hypot(vx, vy)
    if speed > limits[0]:
        vx, vy = vx * limits[0] / speed, vy * limits[0] / speed
    dx, dy = vx - velocity[0], vy - velocity[1]
    change = np.hypot(dx, dy)
    if change > limits[2] * dt:
        dx, dy = dx * limits[2] * dt / change, dy * limits[2] * dt / change
    velocity[0] += dx
    velocity[1] += dy
    wz = min(max(command[2], -limits[1]), limits[1])
    velocity[2] += min(max(wz - velocity[2], -limits[3] * dt), limits[3] * dt)


@njit(cache=True)
def _displacement(yaw, velocity, h):
    """World displacement of a body that keeps its body-frame velocity for h seconds: an exact arc."""
    angle = velocity[2] * h
    along, across = 1.0, 0.5 * angle
    if abs(angle) > 1e-9:
        along = np.sin(angle) / angle
        across = 2.0 * np.sin(0.5 * angle) ** 2 / angle
    x = h * (velocity[0] * along - velocity[1] * across)
    y = h * (velocity[0] * across + velocity[1] * along)
    c, s = np.cos(yaw), np.sin(yaw)
    return c * x - s * y, s * x + c * y


@njit(cache=True)
def _near_pairs(poses, radii, moves, margin, pairs):
    """Write the pairs that may come within `margin` in this substep; returns how many."""
    n, count = len(poses), 0
    reach = np.empty(n)
    for i in range(n):
        reach[i] = radii[i] + np.hypot(moves[i, 0], moves[i, 1])
    for i in range(n):
        for j in range(i + 1, n):
            limit = reach[i] + reach[j] + margin
            dx, dy = poses[j, 0] - poses[i, 0], poses[j, 1] - poses[i, 1]
            if dx * dx + dy * dy < limit * limit:
                pairs[count, 0], pairs[count, 1] = i, j
                count += 1
    return count


@njit(cache=True)
def _resolve(poses, radii, moves, until, wall_time, wall_xy, pairs, touching, touching_wall, start, h, events,
             count):  # fmt: skip
    """Stop robots at their contacts, earliest first, by setting `until` (share of the substep they move)."""
    now = 0.0
    while True:
        first, a, b = 2.0, -1, -1
        for i in range(len(poses)):
            if until[i] == 1.0 and wall_time[i] < first:
                first, a = wall_time[i], i
        for k in range(len(pairs)):
            i, j = pairs[k]
            both = radii[i] + radii[j]
            t = _pair_impact(poses[i], moves[i], until[i], poses[j], moves[j], until[j], both, now)
            if t < first:
                first, a, b = t, i, j
        if a < 0:
            return count
        now = min(max(now, first), _LAST)
        if b < 0:
            until[a] = now
            if not touching_wall[a]:
                touching_wall[a] = True
                count = _record(events, count, start + now * h, a, b, wall_xy[a, 0], wall_xy[a, 1])
            continue
        go_a, go_b = min(now, until[a]), min(now, until[b])
        ax, ay = poses[a, 0] + go_a * moves[a, 0], poses[a, 1] + go_a * moves[a, 1]
        bx, by = poses[b, 0] + go_b * moves[b, 0], poses[b, 1] + go_b * moves[b, 1]
        # Only a robot that drives towards the other is stopped: the one that is hit may drive away.
        into_a = until[a] == 1.0 and moves[a, 0] * (bx - ax) + moves[a, 1] * (by - ay) > 0.0
        into_b = until[b] == 1.0 and moves[b, 0] * (ax - bx) + moves[b, 1] * (ay - by) > 0.0
        if into_a or not into_b:
            until[a] = min(until[a], now)
        if into_b or not into_a:
            until[b] = min(until[b], now)
        if not touching[a, b]:
            touching[a, b] = True
            share = radii[a] / (radii[a] + radii[b])
            x, y = ax + share * (bx - ax), ay + share * (by - ay)
            count = _record(events, count, start + now * h, a, b, x, y)


@njit(cache=True)
def _record(events, count, t, a, b, x, y):
    """Append one event row; returns the new count."""
    events[count, 0], events[count, 1], events[count, 2], events[count, 3], events[count, 4] = t, a, b, x, y
    return count + 1


@njit(cache=True)
def _pair_impact(p, d, p_until, q, e, q_until, radius, now):
    """Share of the substep at which two discs meet after `now`, 2.0 if they do not.

    They meet if they would come closer than SKIN / 2; they stop where they are SKIN apart. The band between
    lets robots slide past each other in contact without being held by rounding.
    """
    sp, sq = min(now, p_until), min(now, q_until)
    x, y = q[0] + sq * e[0] - p[0] - sp * d[0], q[1] + sq * e[1] - p[1] - sp * d[1]
    vx = (e[0] if q_until == 1.0 else 0.0) - (d[0] if p_until == 1.0 else 0.0)
    vy = (e[1] if q_until == 1.0 else 0.0) - (d[1] if p_until == 1.0 else 0.0)
    gone = np.hypot(x, y)
    approach = x * vx + y * vy
    speed2 = vx * vx + vy * vy
    if approach >= 0.0 or speed2 == 0.0:
        return 2.0
    closest = min(-approach / speed2, 1.0 - now)
    least = np.hypot(x + closest * vx, y + closest * vy)
    if least >= radius + 0.5 * SKIN or least > gone - _ALIGNED:
        return 2.0
    if gone <= radius + SKIN:
        return now
    return now + _enter_circle(x, y, vx, vy, radius + SKIN)


@njit(cache=True)
def _enter_circle(x, y, vx, vy, radius):
    """Time at which x + t v enters the circle of `radius` about the origin from outside; 2.0 if never."""
    a, b, c = vx * vx + vy * vy, x * vx + y * vy, x * x + y * y - radius * radius
    root = b * b - a * c
    if a == 0.0 or b >= 0.0 or root < 0.0:
        return 2.0
    return max(c / (-b + np.sqrt(root)), 0.0)


@njit(cache=True)
def _least_gap(p, d, p_until, q, e, q_until, radius):
    """Least gap of two discs over a substep in which each moves until its share and then stands."""
    least = np.inf
    cuts = (0.0, min(p_until, q_until), max(p_until, q_until))
    for k in range(2):
        t = cuts[k]
        sp, sq = min(t, p_until), min(t, q_until)
        x, y = q[0] + sq * e[0] - p[0] - sp * d[0], q[1] + sq * e[1] - p[1] - sp * d[1]
        vx = (e[0] if q_until > t else 0.0) - (d[0] if p_until > t else 0.0)
        vy = (e[1] if q_until > t else 0.0) - (d[1] if p_until > t else 0.0)
        speed2 = vx * vx + vy * vy
        closest = 0.0 if speed2 == 0.0 else min(max(-(x * vx + y * vy) / speed2, 0.0), cuts[k + 1] - t)
        least = min(least, np.hypot(x + closest * vx, y + closest * vy) - radius)
    return least


@njit(cache=True)
def _release(poses, radii, touching, touching_wall, occupied, distance, resolution, frame):
    """End the contacts whose surfaces are RELEASE apart, in place."""
    for i in range(len(poses)):
        if touching_wall[i]:
            gap = _wall_distance(poses[i, 0], poses[i, 1], occupied, distance, resolution, frame) - radii[i]
            touching_wall[i] = gap < RELEASE
        for j in range(i + 1, len(poses)):
            if touching[i, j]:
                gap = np.hypot(poses[j, 0] - poses[i, 0], poses[j, 1] - poses[i, 1]) - radii[i] - radii[j]
                touching[i, j] = gap < RELEASE


@njit(cache=True)
def _to_pixels(x, y, resolution, frame):
    """Map frame to metres along the pixel axes, from the lower left corner of the padded map."""
    dx, dy = x - frame[0], y - frame[1]
    return frame[2] * dx + frame[3] * dy, -frame[3] * dx + frame[2] * dy


@njit(cache=True)
def _box_distance(x, y, x0, y0, side):
    """Distance of a point to the square with lower left corner (x0, y0)."""
    return np.hypot(max(x0 - x, 0.0, x - x0 - side), max(y0 - y, 0.0, y - y0 - side))


@njit(cache=True)
def _wall_distance(x, y, occupied, distance, resolution, frame):
    """Exact distance of a point in the map frame to the nearest occupied pixel's square, metres."""
    rows, columns = occupied.shape
    x, y = _to_pixels(x, y, resolution, frame)
    row, column = int(np.floor(y / resolution)), int(np.floor(x / resolution))
    if not (0 <= row < rows and 0 <= column < columns) or occupied[row, column]:
        return 0.0
    reach = int(distance[row, column]) + 2
    least = np.inf
    for r in range(max(row - reach, 0), min(row + reach + 1, rows)):
        for c in range(max(column - reach, 0), min(column + reach + 1, columns)):
            if occupied[r, c]:
                least = min(least, _box_distance(x, y, c * resolution, r * resolution, resolution))
    return least


@njit(cache=True)
def _wall_impact(pose, move, radius, occupied, distance, resolution, frame, xy):
    """Share of the substep at which a disc meets a wall, 2.0 if it does not; writes the point of contact."""
    length = np.hypot(move[0], move[1])
    if length == 0.0:
        return 2.0
    rows, columns = occupied.shape
    x, y = _to_pixels(pose[0], pose[1], resolution, frame)
    vx, vy = frame[2] * move[0] + frame[3] * move[1], -frame[3] * move[0] + frame[2] * move[1]
    row, column = int(np.floor(y / resolution)), int(np.floor(x / resolution))
    if not (0 <= row < rows and 0 <= column < columns):
        return 0.0
    # Both ends of the distance are pixel centres, each at most sqrt(1/2) pixel from the true point.
    if (distance[row, column] - 1.5) * resolution > radius + length + SKIN:
        return 2.0
    reach = radius + SKIN
    first, first_r, first_c = 2.0, -1, -1
    top = min(int(np.floor((max(y, y + vy) + reach) / resolution)) + 1, rows)
    right = min(int(np.floor((max(x, x + vx) + reach) / resolution)) + 1, columns)
    for r in range(max(int(np.floor((min(y, y + vy) - reach) / resolution)), 0), top):
        for c in range(max(int(np.floor((min(x, x + vx) - reach) / resolution)), 0), right):
            if occupied[r, c]:
                t = _box_impact(x, y, vx, vy, c * resolution, r * resolution, resolution, radius)
                if t < first:
                    first, first_r, first_c = t, r, c
    if first_r >= 0:
        x, y = x + first * vx, y + first * vy
        x = min(max(x, first_c * resolution), (first_c + 1) * resolution)
        y = min(max(y, first_r * resolution), (first_r + 1) * resolution)
        xy[0], xy[1] = frame[0] + frame[2] * x - frame[3] * y, frame[1] + frame[3] * x + frame[2] * y
    return first


@njit(cache=True)
def _box_impact(x, y, vx, vy, x0, y0, side, radius):
    """Share of the move at which a disc meets one square, with the band of `_pair_impact`; 2.0 if never."""
    gone = _box_distance(x, y, x0, y0, side)
    if gone < radius + 0.501 * SKIN:  # at the band's inner edge to rounding: only an approach counts
        step = min(1e-3 * side / np.hypot(vx, vy), 1.0)
        return 0.0 if _box_distance(x + step * vx, y + step * vy, x0, y0, side) < gone - _ALIGNED else 2.0
    if _enter_rounded_box(x - x0, y - y0, vx, vy, side, radius + 0.5 * SKIN) > 1.0:
        return 2.0
    if gone <= radius + SKIN:
        return 0.0
    return min(_enter_rounded_box(x - x0, y - y0, vx, vy, side, radius + SKIN), 1.0)


@njit(cache=True)
def _enter_rounded_box(x, y, vx, vy, side, radius):
    """Time at which a point enters the square [0, side]^2 grown by `radius` from outside; 2.0 if never."""
    first = min(
        _enter_box(x, y, vx, vy, -radius, side + radius, 0.0, side),
        _enter_box(x, y, vx, vy, 0.0, side, -radius, side + radius),
    )
    for k in range(4):
        first = min(first, _enter_circle(x - side * (k % 2), y - side * (k // 2), vx, vy, radius))
    return first


@njit(cache=True)
def _enter_box(x, y, vx, vy, x_low, x_high, y_low, y_high):
    """Time at which a point enters an axis-aligned box from outside; 2.0 if never."""
    enter, leave = -np.inf, np.inf
    for p, v, low, high in ((x, vx, x_low, x_high), (y, vy, y_low, y_high)):
        if v == 0.0:
            if p < low or p > high:
                return 2.0
        else:
            t0, t1 = (low - p) / v, (high - p) / v
            enter, leave = max(enter, min(t0, t1)), min(leave, max(t0, t1))
    return enter if enter <= leave and enter >= 0.0 else 2.0

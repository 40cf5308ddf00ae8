"""From a cell-to-cell edge to a velocity command, for many robots at once.

Speeds follow a square-root profile that can always be braked in time: with T two control periods, `v` solves
`v^2 / (2 a) + T v = d`, where d is the distance left after the time the robot needs to obey (`latency`). This
is a braking parabola far out and an exponential approach close by, so the robot stops at the point and not
beyond it. There is no mode to remember between calls: everything follows from the pose and the last command.

Kinematics. A differential drive is a unicycle with pose (x, y, theta) and inputs (v, w): x' = v cos theta,
y' = v sin theta, theta' = w; it cannot move sideways, so it has to face where it goes. A holonomic drive has
(vx, vy, w), each free. Braking from v with deceleration a takes the distance v^2 / (2 a).

Coordinates of an edge with unit vector e = (ex, ey) and left normal n = (-ey, ex): a robot at offset o from the start
has ``along`` = o . e and ``across`` = o . n, both in m.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

from marlgpt_policy.robots.robot_config import Drive

ALIGN_WINDOW = math.radians(10.0)
"""Rad; heading error at which the allowed forward speed of a differential drive reaches zero."""

LOOKAHEAD = 0.20
"""m; a differential drive aims at the point of its edge this far ahead of itself."""

LANE = 0.10
"""m; cross-track error at which a holonomic robot only returns to its edge."""

APPROACH_PERIODS = 2.0
"""Control periods of the exponential approach (T above) for speed."""

TURN_PERIODS = 3.0
"""The same for yaw rate; longer, because localisation yaw is noisier than position."""

ALONG_SHARE, ACROSS_SHARE = 0.8, 0.6
"""Shares of the acceleration for braking along and across a holonomic robot's edge; 0.8^2 + 0.6^2 = 1."""


CREEP = 0.01
"""m/s; a slower approach is a standstill, the rest of the way is about a millimetre."""

DEADBAND = 0.01
"""m; a standing robot does not start for less, or measurement noise would ratchet it past its stop."""

EDGE_SLACK = 1e-3
"""m; lets a robot beside its stop move straight towards the edge although no progress is left."""


@dataclass(frozen=True)
class TrackResult:
    """Commands and measurements of n robots.

    Attributes:
        commands: float64[n, 3], (vx, vy) in the body frame in m/s and wz in rad/s.
        progress: float64[n], share of the edge covered, 0..1; 1 for an edge of no length; NaN if the pose,
            the edge or the limit of that robot was not finite, so that whoever depends on it stops too.
        arrived: bool[n], the robot is within the arrival tolerance of its target.
        cross_track: float64[n], signed distance from the edge's line in m, left positive; for an edge of no
            length the distance from the target; NaN as above.
    """

    commands: np.ndarray
    progress: np.ndarray
    arrived: np.ndarray
    cross_track: np.ndarray


def track(
    poses: np.ndarray,
    commands: np.ndarray,
    starts: np.ndarray,
    targets: np.ndarray,
    progress_limit: np.ndarray,
    hold: np.ndarray,
    drive: np.ndarray,
    limits: np.ndarray,
    dt: float,
    *,
    rolling: np.ndarray | None = None,
    pending: np.ndarray | None = None,
    latency: float | None = None,
    turn_latency: float | None = None,
    arrive_tolerance: float = 0.03,
) -> TrackResult:
    """Compute the next velocity command of every robot.

    A differential drive turns in place until it faces its edge, then drives along it; a holonomic one keeps
    its yaw. Both stop at the target or where `progress_limit` ends, whichever comes first, and a robot that
    was pushed away from its target drives back to it. Nobody drives backwards. Each command is within the
    limits and within one period's acceleration of the last one (a last command beyond the limits counts as
    the nearest one within). Two exceptions: a robot whose pose, edge or limit is not finite gets zero at
    once, and a differential drive's vy is zero at once.

    Args:
        poses: float64[n, 3], (x, y, yaw) in the map frame, m and rad.
        commands: float64[n, 3], the last command of each robot, laid out as the result; not finite counts
            as standing.
        starts: float64[n, 2], where each edge begins, map frame, m.
        targets: float64[n, 2], where it ends; equal to `starts` for a robot that waits. A waiting robot
            ignores `progress_limit`.
        progress_limit: float64[n], how far along its edge a robot may be now, 0..1.
        hold: bool[n], brake to a standstill now.
        drive: int8[n], values of `Drive`.
        limits: float64[n, 4], rows of `MotionLimits.as_row`.
        dt: control period, s.
        rolling: float64[n, 3], the velocity each robot may still have, laid out as the result: it brakes by this one;
            the last command by default, which is less only after a stop.
        pending: float64[n], m that commands given within the last `latency` may still carry each robot; by default
            what the last one would if all of them had been the same. A robot that brakes was faster before.
        latency: time between a pose being measured and its command taking effect, s; one period by default.
            With the true latency or more the limit is not overshot.
        turn_latency: the same for turning, where an overshoot does no harm and the usual time is better than the
            worst one; `latency` by default.
        arrive_tolerance: distance from the target that counts as arrived, m; at least 0.02. A robot that
            arrives rolling still stops at the exact target; one that stands within the tolerance stays.

    Raises:
        ValueError: naming the argument whose shape or value is wrong.
    """
    poses = _checked("poses", poses, (None, 3))
    n = len(poses)
    commands, limits = _checked("commands", commands, (n, 3)), _checked("limits", limits, (n, 4))
    starts, targets = _checked("starts", starts, (n, 2)), _checked("targets", targets, (n, 2))
    progress_limit = _checked("progress_limit", progress_limit, (n,))
    hold = _checked("hold", hold, (n,), np.bool_)
    drive = _checked("drive", drive, (n,), np.int8)
    if not (np.isfinite(limits) & (limits > 0.0)).all():
        raise ValueError(f"limits must be positive and finite, got {limits.tolist()}")
    if not np.isin(drive, (Drive.DIFFERENTIAL, Drive.HOLONOMIC)).all():
        raise ValueError(f"drive must be 0 (differential) or 1 (holonomic), got {drive.tolist()}")
    rolling = commands if rolling is None else _checked("rolling", rolling, (n, 3))
    pending = np.zeros(n) if pending is None else _checked("pending", pending, (n,))
    latency = dt if latency is None else latency
    turn_latency = latency if turn_latency is None else turn_latency
    for name, value, lowest in (
        ("dt", dt, 1e-6),
        ("latency", latency, 0.0),
        ("turn_latency", turn_latency, 0.0),
    ):
        if not (math.isfinite(value) and value >= lowest):
            raise ValueError(f"{name} must be at least {lowest} s, got {value}")
    if not (math.isfinite(arrive_tolerance) and arrive_tolerance >= 2.0 * DEADBAND):
        raise ValueError(f"arrive_tolerance must be at least {2.0 * DEADBAND} m, got {arrive_tolerance}")
    result = TrackResult(np.zeros((n, 3)), np.full(n, np.nan), np.zeros(n, dtype=bool), np.full(n, np.nan))
    _track_all(
        poses, commands, rolling, pending, starts, targets, progress_limit, hold, drive, limits, float(dt),
        float(latency),
        float(turn_latency), float(arrive_tolerance), result.commands, result.progress, result.arrived,
        result.cross_track,
    )  # fmt: skip
    return result


def _checked(
    name: str, value: np.ndarray, shape: tuple[int | None, ...], dtype: type = np.float64
) -> np.ndarray:
    array = np.ascontiguousarray(value, dtype=dtype)
    if array.ndim != len(shape) or any(s not in (None, a) for s, a in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("n" if s is None else str(s) for s in shape)
        raise ValueError(f"{name} must have shape [{wanted}], got {list(array.shape)}")
    return array


@numba.njit(cache=True)
def _profile(distance: float, acceleration: float, approach: float) -> float:
    """Return the speed from which a stop within `distance` is always possible; 0 at or behind the point."""
    if distance <= 0.0:
        return 0.0
    # v^2 / (2 a) + T v = d with T = `approach`, solved for v >= 0: braking distance plus what T seconds at v add.
    lag = acceleration * approach
    return math.sqrt(lag * lag + 2.0 * acceleration * distance) - lag


@numba.njit(cache=True)
def _stop_speed(
    distance: float, rolling: float, pending: float, acceleration: float, dt: float, latency: float
) -> float:
    """Return the speed for a stop after `distance`, given the speed that the robot has in that direction.

    Commands that have not acted yet carry it on by `pending`, or by as much as the last one does until it is replaced.

    If the next commands are lost, a base goes on with this one until it stops by itself, which `latency` covers.
    So a speed above the one that it has must leave room for all of that, too.
    """
    if rolling < CREEP and distance < DEADBAND:
        return 0.0
    # Distance left when this command takes effect: what earlier commands still carry the robot is gone already.
    speed = _profile(distance - max(pending, rolling * latency), acceleration, APPROACH_PERIODS * dt)
    # v latency + v^2 / (2 a) <= d for a speed that is to rise: room for the case that no further command arrives.
    speed = min(speed, max(rolling, _profile(distance, acceleration, latency)))
    return speed if speed >= CREEP else 0.0


@numba.njit(cache=True)
def _wrap(angle: float) -> float:
    """Return the same angle in [-pi, pi) rad."""
    return (angle + math.pi) % (2.0 * math.pi) - math.pi


@numba.njit(cache=True)
def _clip(value: float, low: float, high: float) -> float:
    """Return the nearest number to `value` within `low` to `high`."""
    return min(max(value, low), high)


@numba.njit(cache=True)
def _alignment(error: float) -> float:
    """Return the share of speed, 0..1, at a heading error in rad: a unicycle that faces elsewhere turns first."""
    return max(0.0, 1.0 - abs(error) / ALIGN_WINDOW)


@numba.njit(cache=True)
def _turn_rate(error: float, last: float, limit: np.ndarray, dt: float, latency: float) -> float:
    """Return the yaw rate that turns by `error` rad and stops there."""
    # The same braking profile for angles: what the last rate turns until this command acts is gone already.
    left = error - last * latency
    rate = min(limit[1], _profile(abs(left), limit[3], TURN_PERIODS * dt))
    return math.copysign(rate, left)


@numba.njit(cache=True)
def _differential(
    pose: np.ndarray, last: np.ndarray, pending: float, target: np.ndarray, edge: np.ndarray, limit: np.ndarray,
    dt: float, latency: float, turn_latency: float, tolerance: float,
) -> tuple[float, float]:  # fmt: skip
    """Return the wanted forward speed and yaw rate.

    `edge` is (unit x, unit y, length, along, across, distance along the edge that may still be driven).
    """
    to_x, to_y = target[0] - pose[0], target[1] - pose[1]
    distance = math.hypot(to_x, to_y)
    length, along, across, allowed = edge[2], edge[3], edge[4], edge[5]
    rolling = max(0.0, last[0])
    forward = math.cos(pose[2]) * edge[0] + math.sin(pose[2]) * edge[1]
    # The reservation ends after `allowed` m of edge. At heading theta relative to the edge, v covers v cos(theta) of
    # edge a second, so the robot itself may drive allowed / cos(theta).
    cap = limit[0]
    if length > 0.0 and forward > 0.0:
        left = (allowed + EDGE_SLACK) / max(forward, 1e-6)
        cap = min(cap, _stop_speed(left, rolling, pending, limit[2], dt, latency))
    error = _wrap(math.atan2(to_y, to_x) - pose[2])
    if distance <= tolerance:
        # Roll on to the exact centre if the heading happens to fit, but neither start nor turn for it.
        if rolling < CREEP:
            return 0.0, 0.0
        speed = _stop_speed(distance * math.cos(error), rolling, pending, limit[2], dt, latency) * _alignment(
            error
        )
        if length > 0.0:
            error = _wrap(math.atan2(edge[1], edge[0]) - pose[2])
            on_edge = _stop_speed(length - along, rolling, pending, limit[2], dt, latency) * _alignment(error)
            speed = max(speed, on_edge)
        return min(speed, cap), 0.0
    if length > 0.0:
        # Pure pursuit: head for the point of the edge `LOOKAHEAD` m further along than the robot, the target at most.
        # From the robot it lies at (ahead, -across) in coordinates of the edge, here turned into the map frame.
        ahead = min(length, max(0.0, along) + LOOKAHEAD) - along
        aim_x = ahead * edge[0] + across * edge[1]
        aim_y = ahead * edge[1] - across * edge[0]
        error = _wrap(math.atan2(aim_y, aim_x) - pose[2])
    speed = min(cap, _stop_speed(distance, rolling, pending, limit[2], dt, latency)) * _alignment(error)
    return speed, _turn_rate(error, last[2], limit, dt, turn_latency)


@numba.njit(cache=True)
def _holonomic(
    pose: np.ndarray, last: np.ndarray, pending: float, target: np.ndarray, edge: np.ndarray, limit: np.ndarray,
    dt: float, latency: float, tolerance: float,
) -> tuple[float, float]:  # fmt: skip
    """Return the wanted velocity in the map frame; `edge` as in `_differential`."""
    # Body frame to map frame: rotation by the yaw.
    cosine, sine = math.cos(pose[2]), math.sin(pose[2])
    rolling_x, rolling_y = cosine * last[0] - sine * last[1], sine * last[0] + cosine * last[1]
    to_x, to_y = target[0] - pose[0], target[1] - pose[1]
    distance = math.hypot(to_x, to_y)
    standing = math.hypot(last[0], last[1]) < CREEP
    if distance <= tolerance and (standing or edge[2] == 0.0):
        return 0.0, 0.0
    if edge[2] == 0.0:  # waits: straight back to the target, if it was pushed away
        towards_x, towards_y = to_x / distance, to_y / distance
        rolling = max(0.0, rolling_x * towards_x + rolling_y * towards_y)
        speed = min(limit[0], _stop_speed(distance, rolling, pending, limit[2], dt, latency))
        return speed * towards_x, speed * towards_y
    length, along, across, allowed = edge[2], edge[3], edge[4], edge[5]
    # Velocity in coordinates of the edge. Along and across get shares of a with 0.8^2 + 0.6^2 = 1, so that braking in
    # both at once stays within a.
    rolling_along = rolling_x * edge[0] + rolling_y * edge[1]
    rolling_across = rolling_y * edge[0] - rolling_x * edge[1]
    brake_along, brake_across = ALONG_SHARE * limit[2], ACROSS_SHARE * limit[2]
    speed = _stop_speed(allowed, max(0.0, rolling_along), pending, brake_along, dt, latency)
    if along > length and distance > tolerance:  # past the end: back
        speed = -_stop_speed(along - length, max(0.0, -rolling_along), 0.0, brake_along, dt, latency)
    # The further beside the edge, the slower along it; `LANE` m beside it the robot only returns.
    speed *= max(0.0, 1.0 - abs(across) / LANE)
    sideways = 0.0
    if distance > tolerance:
        side = math.copysign(1.0, across)
        rolling = max(0.0, -side * rolling_across)
        sideways = -side * _stop_speed(abs(across), rolling, 0.0, brake_across, dt, latency)
    # Each direction gets its own share of the acceleration: driving off must not keep it from braking across.
    speed = _clip(speed, rolling_along - brake_along * dt, rolling_along + brake_along * dt)
    sideways = _clip(sideways, rolling_across - brake_across * dt, rolling_across + brake_across * dt)
    scale = min(1.0, limit[0] / max(math.hypot(speed, sideways), 1e-12))
    speed, sideways = speed * scale, sideways * scale
    # Edge frame to map frame: speed e + sideways n.
    return speed * edge[0] - sideways * edge[1], speed * edge[1] + sideways * edge[0]


@numba.njit(cache=True)
def _last_command(command: np.ndarray, limit: np.ndarray, holonomic: bool, last: np.ndarray) -> None:
    """Write the last command, moved within the limits, into `last`."""
    last[:] = 0.0
    if not np.isfinite(command).all():
        return
    last[2] = _clip(command[2], -limit[1], limit[1])
    last[0] = command[0]
    if not holonomic:
        last[0] = _clip(command[0], -limit[0], limit[0])
        return
    last[1] = command[1]
    norm = math.hypot(command[0], command[1])
    if norm > limit[0]:
        last[0], last[1] = command[0] / norm * limit[0], command[1] / norm * limit[0]


@numba.njit(cache=True)
def _within_acceleration(wanted: np.ndarray, last: np.ndarray, limit: np.ndarray, dt: float) -> None:
    """Move `wanted` to the nearest command that one period can reach, in place."""
    # Clip the whole change, not each axis: the direction of the change stays.
    change_x, change_y = wanted[0] - last[0], wanted[1] - last[1]
    change = math.hypot(change_x, change_y)
    if change > limit[2] * dt:
        # On the straight line between two velocities within the speed limit, hence within it too.
        wanted[0] = last[0] + change_x * (limit[2] * dt / change)
        wanted[1] = last[1] + change_y * (limit[2] * dt / change)
    wanted[2] = last[2] + _clip(wanted[2] - last[2], -limit[3] * dt, limit[3] * dt)


@numba.njit(cache=True)
def _track_all(
    poses: np.ndarray, commands: np.ndarray, rolling: np.ndarray, pending: np.ndarray, starts: np.ndarray,
    targets: np.ndarray, progress_limit: np.ndarray, hold: np.ndarray, drive: np.ndarray, limits: np.ndarray,
    dt: float, latency: float, turn_latency: float, tolerance: float,
    out: np.ndarray, progress: np.ndarray, arrived: np.ndarray, cross_track: np.ndarray,
) -> None:  # fmt: skip
    """Track for each robot; arguments as for `track`, results of `TrackResult` written into the last four."""
    edge, last, rolls = np.empty(6), np.empty(3), np.empty(3)
    for i in range(len(poses)):
        pose, start, target, limit = poses[i], starts[i], targets[i], limits[i]
        known = np.isfinite(pose).all() and np.isfinite(start).all() and np.isfinite(target).all()
        if not (known and np.isfinite(progress_limit[i])):
            continue  # the results are already zero command, not arrived, NaN
        span_x, span_y = target[0] - start[0], target[1] - start[1]
        off_x, off_y = pose[0] - start[0], pose[1] - start[1]
        distance = math.hypot(target[0] - pose[0], target[1] - pose[1])
        length = math.hypot(span_x, span_y)
        arrived[i] = distance <= tolerance
        # Coordinates of the edge; edge[5] is how far along it the reservation still lets the robot drive, in m.
        if length > 1e-6:
            edge[0], edge[1], edge[2] = span_x / length, span_y / length, length
            edge[3] = off_x * edge[0] + off_y * edge[1]
            edge[4] = off_y * edge[0] - off_x * edge[1]
            edge[5] = _clip(progress_limit[i], 0.0, 1.0) * length - edge[3]
            progress[i] = _clip(edge[3] / length, 0.0, 1.0)
            cross_track[i] = edge[4]
        else:
            edge[:] = 0.0
            progress[i] = 1.0
            cross_track[i] = distance
        holonomic = drive[i] == 1
        # Limits count from the last command, braking from the velocity that the robot may still have.
        _last_command(commands[i], limit, holonomic, last)
        _last_command(rolling[i], limit, holonomic, rolls)
        wanted = out[i]
        if not hold[i] and holonomic:
            x, y = _holonomic(pose, rolls, pending[i], target, edge, limit, dt, latency, tolerance)
            cosine, sine = math.cos(pose[2]), math.sin(pose[2])
            wanted[0], wanted[1] = cosine * x + sine * y, cosine * y - sine * x  # map frame to body frame
        elif not hold[i]:
            wanted[0], wanted[2] = _differential(
                pose, rolls, pending[i], target, edge, limit, dt, latency, turn_latency, tolerance
            )
        _within_acceleration(wanted, last, limit, dt)

"""Exact contact geometry: when discs that move straight meet each other or the squares of a map's walls.

All functions are compiled. Times are shares of a move; 2.0 means that it never happens. A move's surfaces meet
if they would come closer than `SKIN` / 2, and stop where they are `SKIN` apart.
"""

from __future__ import annotations

import numpy as np
from numba import njit

SKIN = 1e-6  # m, surfaces this close are in contact
_ALIGNED = 1e-12  # m, approach smaller than rounding


@njit(cache=True)
def pair_impact(p, d, p_until, q, e, q_until, radius, now):
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
def least_gap(p, d, p_until, q, e, q_until, radius):
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
def _to_pixels(x, y, resolution, frame):
    """Map frame to metres along the pixel axes, from the lower left corner of the padded map."""
    dx, dy = x - frame[0], y - frame[1]
    return frame[2] * dx + frame[3] * dy, -frame[3] * dx + frame[2] * dy


@njit(cache=True)
def wall_distance(x, y, occupied, distance, resolution, frame):
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
def wall_impact(pose, move, radius, occupied, distance, resolution, frame, xy):
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
def _box_distance(x, y, x0, y0, side):
    """Distance of a point to the square with lower left corner (x0, y0)."""
    return np.hypot(max(x0 - x, 0.0, x - x0 - side), max(y0 - y, 0.0, y - y0 - side))


@njit(cache=True)
def _box_impact(x, y, vx, vy, x0, y0, side, radius):
    """Share of the move at which a disc meets one square, with the band of `pair_impact`; 2.0 if never."""
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


@njit(cache=True)
def _enter_circle(x, y, vx, vy, radius):
    """Time at which x + t v enters the circle of `radius` about the origin from outside; 2.0 if never."""
    a, b, c = vx * vx + vy * vy, x * vx + y * vy, x * x + y * y - radius * radius
    root = b * b - a * c
    if a == 0.0 or b >= 0.0 or root < 0.0:
        return 2.0
    return max(c / (-b + np.sqrt(root)), 0.0)

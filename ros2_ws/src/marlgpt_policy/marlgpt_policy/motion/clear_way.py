"""How far a disc may drive straight on before it comes too close to where others are or will be; all compiled."""

from __future__ import annotations

import math

import numba
import numpy as np

APPROACH = 1e-3
"""m that a robot must come nearer to another one to count as approaching: who drives away may be as close as it is."""


@numba.njit(cache=True)
def until_near(x, y, ux, uy, ax, ay, bx, by, reach):
    """Metres that a point at (x, y) moves along the unit vector (ux, uy) until it is within ``reach`` m of a segment.

    The segment runs from (ax, ay) to (bx, by), and may be a point. 0 if it is so near already, inf if it never is.
    """
    span_x, span_y = bx - ax, by - ay
    length = math.hypot(span_x, span_y)
    least = min(
        _until_in_circle(x - ax, y - ay, ux, uy, reach), _until_in_circle(x - bx, y - by, ux, uy, reach)
    )
    if length < 1e-9:
        return least
    wx, wy = span_x / length, span_y / length
    along, across = (x - ax) * wx + (y - ay) * wy, (y - ay) * wx - (x - ax) * wy
    if 0.0 <= along <= length and abs(across) < reach:
        return 0.0
    towards = uy * wx - ux * wy
    if across * towards < 0.0:
        t = (abs(across) - reach) / abs(towards)
        if t >= 0.0 and 0.0 <= along + t * (ux * wx + uy * wy) <= length:
            least = min(least, t)
    return least


@numba.njit(cache=True)
def _until_in_circle(x, y, ux, uy, radius):
    """The same for a circle about the origin."""
    b, c = x * ux + y * uy, x * x + y * y - radius * radius
    if c < 0.0:
        return 0.0
    root = b * b - c
    if b >= 0.0 or root <= 0.0:
        return np.inf
    return c / (-b + math.sqrt(root))


@numba.njit(cache=True)
def free_ahead(positions, ends, active, places, owners, reach):
    """Metres that robots may drive straight towards ``ends`` before another one's place is too close.

    A place that is too close already counts only if the robot would come nearer to it.

    Args:
        positions: float64[n, 2] where the robots are, m.
        ends: float64[n, 2] where their ways end, m.
        active: bool[n] robots that drive; the others get inf.
        places: float64[m, 2] where robots are, as far as anybody knows, m; one may have several.
        owners: int64[m] whose places these are.
        reach: float64[n] m that each robot keeps between its centre and the places of others.

    Returns:
        float64[n] m; inf where the whole way is clear.
    """
    free = np.full(len(positions), np.inf)
    for i in range(len(positions)):
        if not active[i]:
            continue
        x, y = positions[i, 0], positions[i, 1]
        way_x, way_y = ends[i, 0] - x, ends[i, 1] - y
        length = math.hypot(way_x, way_y)
        if not length > 1e-9:
            continue
        ux, uy = way_x / length, way_y / length
        for k in range(len(places)):
            if owners[k] == i:
                continue
            off_x, off_y = places[k, 0] - x, places[k, 1] - y
            apart = math.hypot(off_x, off_y)
            if not apart < reach[i] + length:
                continue
            along = min(max(off_x * ux + off_y * uy, 0.0), length)
            nearest = math.hypot(off_x - along * ux, off_y - along * uy)
            if nearest >= reach[i] or nearest > apart - APPROACH:
                continue
            free[i] = min(free[i], _until_in_circle(-off_x, -off_y, ux, uy, reach[i]))
    return free


@numba.njit(cache=True)
def coupling_limits(pairs, cells, targets, next_targets, docked, positions, centres, body, tolerance):
    """How far robots may drive along their edges: see :meth:`marlgpt_policy.motion.edge_coupling.Edges.limits`.

    Args:
        pairs: int64[k, 4] (robot, other, row, column): on that cell, a claim of the robot comes after one of the other.
        cells: int64[n, 2] (row, column) that robots leave or stand on; -1 for none.
        targets: int64[n, 2] that they drive to.
        next_targets: int64[n, 2] that they drive to after that.
        docked: bool[n] robots on the grid.
        positions: float64[n, 2] where they were measured, m.
        centres: float64[R, C, 2] of the cells, m.
        body: m between the centres of two robots.
        tolerance: m from a cell's centre within which a robot may still give back its next cell and go back there.

    Returns:
        float64[n, 2] shares of the edge under way and of the next one that they may drive, 0 to 1.
    """
    limits = np.ones((len(cells), 2))
    for k in range(len(pairs)):
        i, j, row, column = pairs[k]
        # Its claim on the cell that it drives to, on the next one, or on one that it is leaving and may leave.
        if targets[i, 0] == row and targets[i, 1] == column:
            which, start = 0, cells[i]
        elif next_targets[i, 0] == row and next_targets[i, 1] == column:
            which, start = 1, targets[i]
        else:
            continue
        if start[0] == row and start[1] == column:
            continue
        if not docked[j]:  # pushed off its way: where it will be is not known
            limits[i, which] = 0.0
            continue
        limit = _limit_behind(
            i, j, start, row, column, cells, targets, next_targets, positions, centres, body, tolerance
        )
        limits[i, which] = min(limits[i, which], limit)
    return limits


@numba.njit(cache=True)
def _limit_behind(i, j, here, row, column, cells, targets, next_targets, positions, centres, body, tolerance):
    """Share of the edge from ``here`` to (row, column) that keeps ``body`` from all of robot j's way through that cell.

    The follower may be beside its edge, and the leader beside its own: both the lines that they should be on and
    those that they are on count. One that has hardly left the cell's centre may be back there at any time.
    """
    start, goal = centres[here[0], here[1]], centres[row, column]
    length = math.hypot(goal[0] - start[0], goal[1] - start[1])
    ux, uy = (goal[0] - start[0]) / length, (goal[1] - start[1]) / length
    aside = (positions[i, 1] - start[1]) * ux - (positions[i, 0] - start[0]) * uy
    if abs(aside) > 0.5 * length:
        aside = 0.0  # on its way to ``here`` round a corner
    leaves = cells[j, 0] == row and cells[j, 1] == column
    comes = targets[j, 0] == row and targets[j, 1] == column
    if not leaves and not comes:
        return 0.0
    end = centres[targets[j, 0], targets[j, 1]]
    origin = centres[cells[j, 0], cells[j, 1]]
    px, py = positions[j, 0], positions[j, 1]
    qx, qy = _nearest_on(px, py, origin, end)
    if leaves and math.hypot(px - goal[0], py - goal[1]) <= tolerance:
        qx, qy = goal[0], goal[1]
    least = np.inf
    for side in range(2):
        x, y = start[0] - side * aside * uy, start[1] + side * aside * ux
        least = min(least, until_near(x, y, ux, uy, px, py, end[0], end[1], body))
        least = min(least, until_near(x, y, ux, uy, qx, qy, end[0], end[1], body))
        if comes and not leaves and next_targets[j, 0] >= 0:
            beyond = centres[next_targets[j, 0], next_targets[j, 1]]
            least = min(least, until_near(x, y, ux, uy, end[0], end[1], beyond[0], beyond[1], body))
    return min(1.0, least / length)


@numba.njit(cache=True)
def _nearest_on(x, y, start, end):
    """The point of a segment that is nearest to (x, y)."""
    span_x, span_y = end[0] - start[0], end[1] - start[1]
    length = max(span_x * span_x + span_y * span_y, 1e-12)
    share = min(max(((x - start[0]) * span_x + (y - start[1]) * span_y) / length, 0.0), 1.0)
    return start[0] + share * span_x, start[1] + share * span_y

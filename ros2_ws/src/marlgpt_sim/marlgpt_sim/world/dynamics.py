"""One step of a fleet of discs: pushes, then driving along arcs cut into chords up to contacts; all compiled."""

from __future__ import annotations

import numpy as np
from numba import njit

from marlgpt_sim.world.collision import SKIN, least_gap, pair_impact, wall_distance, wall_impact

SAGITTA = 1e-5  # m, largest distance between a substep's arc and the chord that contacts are computed on
RELEASE = 1e-3  # m, a contact ends (and may be counted again) once the surfaces are this far apart
REACTION = 0.3  # s that a driving robot goes on as it does, when it is judged how near a push may come
_LAST = 1.0 - 2.0**-40  # share of a substep for a stop at its very end; 1 means moving


@njit(cache=True)
def separation(poses, radii, present):
    """Smallest gap between two present discs and the pair that has it; (inf, -1, -1) for fewer than two."""
    best, a, b = np.inf, -1, -1
    for i in range(len(poses)):
        if not present[i]:
            continue
        for j in range(i + 1, len(poses)):
            if not present[j]:
                continue
            gap = np.hypot(poses[j, 0] - poses[i, 0], poses[j, 1] - poses[i, 1]) - radii[i] - radii[j]
            if gap < best:
                best, a, b = gap, i, j
    return best, a, b


@njit(cache=True)
def step(poses, velocities, radii, drive, limits, present, commands, dt, least, touching, touching_wall,
         occupied, distance, resolution, frame):  # fmt: skip
    """Advance the arrays in place by dt; returns the least gap so far and events [time, a, b or -1, x, y]."""
    n = len(poses)
    pieces = 1
    for i in range(n):
        if not present[i]:
            velocities[i] = 0.0
            continue
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
            wall_time[i] = wall_impact(
                poses[i], moves[i], radii[i], occupied, distance, resolution, frame, wall_xy[i]
            )  # fmt: skip
        near = _near_pairs(poses, radii, present, moves, max(least, SKIN), pairs)
        count = _resolve(
            poses, radii, moves, until, wall_time, wall_xy, pairs[:near], touching, touching_wall,
            piece * h, h, events, count,
        )  # fmt: skip
        for k in range(near):
            i, j = pairs[k]
            both = radii[i] + radii[j]
            least = min(least, least_gap(poses[i], moves[i], until[i], poses[j], moves[j], until[j], both))
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
def push(poses, velocities, radii, limits, present, pushes, dt, margin, least,
         occupied, distance, resolution, frame):  # fmt: skip
    """Displace robots from outside, in place, short of everything they might touch; returns the least gap.

    One after the other moves straight by its push (map-frame vx, vy, yaw rate) while the others stand. It
    ends where its gap to a robot would fall below `margin` plus what both need to stop, and never reduces its
    least gap to the walls below that; a gap that is smaller already is not reduced.
    """
    stand, xy = np.zeros(2), np.empty(2)
    for i in range(len(poses)):
        if not present[i]:
            continue
        yaw = poses[i, 2] + pushes[i, 2] * dt
        poses[i, 2] = yaw - 2.0 * np.pi * np.floor((yaw + np.pi) / (2.0 * np.pi))
        move = pushes[i, :2] * dt
        if move[0] == 0.0 and move[1] == 0.0:
            continue
        keep = margin + _stopping(velocities[i], limits[i])
        gap = wall_distance(poses[i, 0], poses[i, 1], occupied, distance, resolution, frame) - SKIN
        wide = max(radii[i], min(radii[i] + keep, gap))
        share = min(wall_impact(poses[i], move, wide, occupied, distance, resolution, frame, xy), 1.0)
        for j in range(len(poses)):
            if j != i and present[j]:
                both = radii[i] + radii[j] + keep + _stopping(velocities[j], limits[j])
                share = min(share, pair_impact(poses[i], move, 1.0, poses[j], stand, 1.0, both, 0.0))
        for j in range(len(poses)):
            if j != i and present[j]:
                both = radii[i] + radii[j]
                least = min(least, least_gap(poses[i], move, share, poses[j], stand, 1.0, both))
        poses[i, 0] += share * move[0]
        poses[i, 1] += share * move[1]
    return least


@njit(cache=True)
def _stopping(velocity, limits):
    """Metres that a robot drives until it stands: `REACTION` at its speed, then braking."""
    speed = np.hypot(velocity[0], velocity[1])
    return speed * (REACTION + 0.5 * speed / limits[2])


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
def _near_pairs(poses, radii, present, moves, margin, pairs):
    """Write the pairs of present robots that may come within `margin` in this substep; returns how many."""
    n, count = len(poses), 0
    reach = np.empty(n)
    for i in range(n):
        reach[i] = radii[i] + np.hypot(moves[i, 0], moves[i, 1])
    for i in range(n):
        if not present[i]:
            continue
        for j in range(i + 1, n):
            if not present[j]:
                continue
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
            t = pair_impact(poses[i], moves[i], until[i], poses[j], moves[j], until[j], both, now)
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
def _release(poses, radii, touching, touching_wall, occupied, distance, resolution, frame):
    """End the contacts whose surfaces are RELEASE apart, in place."""
    for i in range(len(poses)):
        if touching_wall[i]:
            gap = wall_distance(poses[i, 0], poses[i, 1], occupied, distance, resolution, frame) - radii[i]
            touching_wall[i] = gap < RELEASE
        for j in range(i + 1, len(poses)):
            if touching[i, j]:
                gap = np.hypot(poses[j, 0] - poses[i, 0], poses[j, 1] - poses[i, 1]) - radii[i] - radii[j]
                touching[i, j] = gap < RELEASE

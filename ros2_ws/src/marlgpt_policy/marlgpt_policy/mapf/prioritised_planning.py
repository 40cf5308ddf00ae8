"""Prioritised planning in space-time: ways of several robots without conflicts, one robot after the other.

After Erdmann and Lozano-Perez 1987 and Silver 2005, within a window of time as in Li et al. 2021 (arXiv 2005.07371).
Cooperative A* (Silver 2005): robots are planned in an order of priority. Each path goes into a reservation table (here
``occupied``), and those that follow plan around it in space-time, where a node is a pair of step and cell. All plans
end at step T, so the search goes through time layer by layer instead of taking the cheapest node first. A layer has at
most as many nodes as the grid has cells, and no open list is needed.

The first one takes its shortest way. Whoever is left without a way, as in a dead end, is planned before the others
and told to get off the ways of the first ones.
"""

from __future__ import annotations

import numba
import numpy as np

HORIZON = 28
"""Moves that a plan looks ahead."""
ATTEMPTS = 12
"""Orders of planning that are tried."""
STEP, MOVE = 16, 1
"""Cost of a step in which a robot is not at its goal, and of one in which it moves."""
FAR = np.int32(2**30)
"""Cost of a node that was not reached."""


@numba.njit(cache=True, nogil=True)
def _one(start, weight, terminal, near, occupied, path, work):
    """Cheapest way of one robot past those planned before; False if there is none.

    Args:
        start: Flat cell.
        weight: int32[cells] cost of being in each cell for a step.
        terminal: int32[cells] cost of ending in each cell.
        near: int32[cells, 5], see ``lacam.neighbour_table``.
        occupied: int32[T + 1, cells] who is where then, -1 nobody; in row 0 all are entered.
        path: int32[T + 1], filled.
        work: int32[T + 1, cells] costs, all ``FAR`` before and after, and two arrays of that shape for notes.
    """
    cost, came, layers = work
    steps = occupied.shape[0]
    sizes = np.zeros(steps, dtype=np.int64)
    # Layer t holds the cells that can be reached in t steps; layer 0 is the start.
    layers[0, 0] = start
    sizes[0] = 1
    cost[0, start] = 0
    for t in range(steps - 1):
        count = 0
        for k in range(sizes[t]):
            here = layers[t, k]
            for m in range(5):
                u = near[here, m]
                if u < 0 or occupied[t + 1, u] >= 0:
                    continue  # no such move, or a vertex conflict
                if m > 0:
                    other = occupied[t, u]
                    if other >= 0 and occupied[t + 1, here] == other:
                        continue  # swap conflict: the other one goes from u to here in this step
                # g(t + 1, u): 16 for a step away from the goal, 1 more for a move, so that no path moves in vain.
                total = cost[t, here] + weight[u] + (MOVE if m > 0 else 0)
                if cost[t + 1, u] == FAR:
                    layers[t + 1, count] = u
                    count += 1
                if total < cost[t + 1, u]:
                    cost[t + 1, u] = total
                    came[t + 1, u] = here
        sizes[t + 1] = count
        if count == 0:
            break  # enclosed by paths of others: no way
    found = sizes[steps - 1] > 0
    if found:
        # The end with the smallest g + h: `terminal` is the cost-to-go beyond the window.
        best = layers[steps - 1, 0]
        for k in range(1, sizes[steps - 1]):
            u = layers[steps - 1, k]
            if cost[steps - 1, u] + terminal[u] < cost[steps - 1, best] + terminal[best]:
                best = u
        path[steps - 1] = best
        # Back along the parents.
        for t in range(steps - 1, 0, -1):
            path[t - 1] = came[t, path[t]]
    for t in range(steps):  # only what was touched: grids are large
        for k in range(sizes[t]):
            cost[t, layers[t, k]] = FAR
    return found


@numba.njit(cache=True, nogil=True)
def _all(start, weights, terminals, near, order, paths, work):
    """Prioritised planning: each robot of ``order`` around the paths of those before it.

    Args:
        start: int32[n] flat cells.
        weights: int32[n, cells] cost of a step in each cell, by robot.
        terminals: int32[n, cells] cost of ending in each cell, by robot.
        near: int32[cells, 5], see ``lacam.neighbour_table``.
        order: int64[n] robots by priority.
        paths: int32[T + 1, n], filled.
        work: As for ``_one``.

    Returns:
        -1, or the robot that has no way.
    """
    steps = paths.shape[0]
    occupied = np.full((steps, near.shape[0]), -1, dtype=np.int32)
    # Row 0 holds where everybody stands: with row 1 of those planned before it shows swaps in the first step.
    for i in range(start.shape[0]):
        occupied[0, start[i]] = i
    path = np.empty(steps, dtype=np.int32)
    for o in range(order.shape[0]):
        i = order[o]
        if not _one(start[i], weights[i], terminals[i], near, occupied, path, work):
            return i
        for t in range(steps):
            paths[t, i] = path[t]
            if t > 0:
                occupied[t, path[t]] = i
    return -1


@numba.njit(cache=True, nogil=True)
def connected(start: int, goal: int, near: np.ndarray) -> bool:
    """Whether moves of ``near`` int32[cells, 5] lead from one flat cell to another."""
    seen = np.zeros(near.shape[0], dtype=np.bool_)
    queue = np.empty(near.shape[0], dtype=np.int32)
    queue[0] = start
    seen[start] = True
    size, at = 1, 0
    while at < size and not seen[goal]:
        for m in range(1, 5):
            u = near[queue[at], m]
            if u >= 0 and not seen[u]:
                seen[u] = True
                queue[size] = u
                size += 1
        at += 1
    return seen[goal]


def way(start: int, field: np.ndarray, near: np.ndarray, most: int) -> list[int]:
    """Flat cells on a shortest way from ``start`` down ``field`` int32[cells], at most ``most`` steps of it."""
    cells = [start]
    while len(cells) <= most and field[cells[-1]] > 0:
        ahead = near[cells[-1]]
        ahead = ahead[ahead >= 0]
        best = int(ahead[field[ahead].argmin()])
        if field[best] >= field[cells[-1]]:
            break
        cells.append(best)
    return cells


def plan_window(
    start: np.ndarray, fields: np.ndarray, near: np.ndarray, served: int, horizon: int = HORIZON
) -> np.ndarray | None:
    """Ways without conflicts for robots, the first ones as short as can be.

    Args:
        start: int[n] flat cells, all different, ordered by who goes first.
        fields: int32[n, cells] cost-to-go.
        near: int32[cells, 5], see ``lacam.neighbour_table``.
        served: How many of them others get off the ways of, if need be.
        horizon: Steps.

    Returns:
        int32[horizon + 1, n] flat cells, or None where the first one would not get on.
    """
    n = len(start)
    start = np.ascontiguousarray(start, dtype=np.int32)
    away = np.minimum(fields, 2**20).astype(np.int32)
    weights, terminals = np.where(away > 0, STEP, 0).astype(np.int32), STEP * away
    # Those who are asked to make room pay for moves and for steps on a shortest way of the first ones, nothing else.
    busy = np.zeros(fields.shape[1], dtype=np.int32)
    for i in range(served):
        busy[way(int(start[i]), fields[i], near, horizon)] = STEP
    paths = np.empty((horizon + 1, n), dtype=np.int32)
    shape = (horizon + 1, fields.shape[1])
    work = np.full(shape, FAR), np.empty(shape, dtype=np.int32), np.empty(shape, dtype=np.int32)
    # Prioritised planning is incomplete: the order decides whether all find a way. So whoever found none goes first
    # in the next attempt.
    early: list[int] = []
    for _ in range(ATTEMPTS):
        order = np.array(early + [i for i in range(n) if i not in early])
        trapped = _all(start, weights, terminals, near, order, paths, work)
        if trapped < 0:
            # All have a path. It is of use only if the first one gets nearer to its goal, or began at it.
            along = away[0, paths[:, 0]]
            return paths if along[-1] < along[0] or along[0] == 0 else None
        if early[:1] == [trapped]:
            return None  # not even as the first of all
        if trapped in early:
            early.remove(trapped)
        early.insert(0, trapped)
        # A robot that stands in the way forgets its own goal and gets off the ways of the first ones.
        if trapped >= served:
            weights[trapped], terminals[trapped] = busy, 0
    return None

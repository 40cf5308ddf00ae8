"""PIBT as a planner of its own: every agent ranks its moves by its own cost-to-go (Okumura et al. 2022).

The algorithm itself is ``pibt_shield._pibt``; here are the preferences that the paper gives it. One call plans one
step; an episode of PIBT is one call after the other, with priorities that grow until an agent reaches its goal.
"""

from __future__ import annotations

import numba
import numpy as np

from marlgpt_policy.grid.moves import MOVE_OFFSETS as MOVES
from marlgpt_policy.mapf.lacam import TIE_ORDER
from marlgpt_policy.mapf.pibt_shield import _pibt

NO_EDGE = 2**40
"""Sort key of a move that does not exist: above every cost-to-go."""


@numba.njit(cache=True, nogil=True)
def rank_by_cost(cells, fields, field_of, moves, ranking):
    """Fill ``ranking`` with each agent's moves by the cost-to-go of the cell they lead to, cheapest first.

    Args:
        cells: int64[n, 2] row and column of each agent.
        fields: int32[f, R, C] cost-to-go in steps.
        field_of: int64[n] each agent's field.
        moves: bool[R, C, 5] edges of the grid.
        ranking: int8[n, 5], filled; -1 where there are fewer moves. Ties stand in the order of ``TIE_ORDER``.
    """
    for i in range(cells.shape[0]):
        r, c = cells[i, 0], cells[i, 1]
        field = fields[field_of[i]]
        cost = np.empty(5, dtype=np.int64)
        for k in range(5):
            m = TIE_ORDER[k]
            cost[k] = field[r + MOVES[m, 0], c + MOVES[m, 1]] if moves[r, c, m] else NO_EDGE
        # Selection sort: stable, so that ties keep the fixed order and a plan is a function of the state.
        done = np.zeros(5, dtype=np.bool_)
        for slot in range(5):
            best = -1
            for k in range(5):
                if not done[k] and (best < 0 or cost[k] < cost[best]):
                    best = k
            done[best] = True
            ranking[i, slot] = TIE_ORDER[best] if cost[best] < NO_EDGE else -1


@numba.njit(cache=True, nogil=True)
def pibt_actions(cells, fields, field_of, moves, priority):
    """One step of PIBT without fixed agents and closed cells.

    Args:
        cells: int64[n, 2] row and column of each agent, all different.
        fields: int32[f, R, C] cost-to-go in steps.
        field_of: int64[n] each agent's field.
        moves: bool[R, C, 5] edges of the grid.
        priority: float64[n], larger ones are served first.

    Returns:
        int8[n] moves without vertex or swap conflicts.
    """
    n = cells.shape[0]
    ranking = np.empty((n, 5), dtype=np.int8)
    rank_by_cost(cells, fields, field_of, moves, ranking)
    rows, cols = moves.shape[0], moves.shape[1]
    reserved = np.full((rows, cols), -1, dtype=np.int64)
    occupant = np.full((rows, cols), -1, dtype=np.int64)
    order = np.argsort(-priority)
    fixed = np.zeros(n, dtype=np.bool_)
    return _pibt(cells, ranking, order, fixed, moves, reserved, occupant, np.zeros(n, dtype=np.int8))

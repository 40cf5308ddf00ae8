"""PIBT expert: the shield, ranked by each agent's own cost-to-go (Okumura et al. 2022)."""

from __future__ import annotations

import numba
import numpy as np
from marlgpt_policy.encoders.pogema import MOVES
from marlgpt_policy.mapf.lacam import TIE_ORDER
from marlgpt_policy.mapf.pibt_shield import _pibt


@numba.njit(cache=True, nogil=True)
def rank_by_cost(cells, fields, field_of, moves, ranking):
    """Fill ``ranking`` int8[n, 5]: moves by cost-to-go of the cell they lead to, ties in a fixed order."""
    for i in range(cells.shape[0]):
        r, c = cells[i, 0], cells[i, 1]
        field = fields[field_of[i]]
        cost = np.empty(5, dtype=np.int64)
        for k in range(5):
            m = TIE_ORDER[k]
            cost[k] = field[r + MOVES[m, 0], c + MOVES[m, 1]] if moves[r, c, m] else 2**40
        done = np.zeros(5, dtype=np.bool_)
        for slot in range(5):
            best = -1
            for k in range(5):
                if not done[k] and (best < 0 or cost[k] < cost[best]):
                    best = k
            done[best] = True
            ranking[i, slot] = TIE_ORDER[best] if cost[best] < 2**40 else -1


@numba.njit(cache=True, nogil=True)
def pibt_actions(cells, fields, field_of, moves, priority):
    """One PIBT step: int8[n] moves without conflicts, larger ``priority`` first."""
    n = cells.shape[0]
    ranking = np.empty((n, 5), dtype=np.int8)
    rank_by_cost(cells, fields, field_of, moves, ranking)
    rows, cols = moves.shape[0], moves.shape[1]
    reserved = np.full((rows, cols), -1, dtype=np.int64)
    occupant = np.full((rows, cols), -1, dtype=np.int64)
    order = np.argsort(-priority)
    fixed = np.zeros(n, dtype=np.bool_)
    return _pibt(cells, ranking, order, fixed, moves, reserved, occupant, np.zeros(n, dtype=np.int8))


class Pibt:
    """PIBT over an episode; priorities grow with the steps since an agent's last goal."""

    def __init__(self, moves: np.ndarray, agents: int, seed: int = 0) -> None:
        """Start an episode on ``moves`` bool[R, C, 5] with ``agents`` agents."""
        self.moves = moves
        self.tie = np.random.default_rng(seed).permutation(agents) / max(agents, 1)
        self.waited = np.zeros(agents, dtype=np.int64)

    def act(
        self, cells: np.ndarray, fields: np.ndarray, field_of: np.ndarray, arrived: np.ndarray
    ) -> np.ndarray:
        """int8[n] moves for agents at ``cells`` int[n, 2]; ``arrived`` bool[n] reached a goal in the last step."""
        self.waited = np.where(arrived, 0, self.waited + 1)
        at_goal = fields[field_of, cells[:, 0], cells[:, 1]] == 0
        priority = np.where(at_goal, 0, self.waited) + self.tie
        return pibt_actions(cells.astype(np.int64), fields, field_of.astype(np.int64), self.moves, priority)

"""A fast multi-agent path-finding environment with POGEMA's rules (used for experts, data and DAgger).

Checked step by step against the ``pogema`` package in the tests; final evaluations run in ``pogema`` itself.
"""

from __future__ import annotations

import numba
import numpy as np
from marlgpt_policy.encoders.pogema import MOVES
from marlgpt_policy.grid.cost_to_go import CostToGo
from marlgpt_policy.grid.moves import HISTORY


def edges(free: np.ndarray) -> np.ndarray:
    """bool[R, C, 5] moves between 4-neighbouring free cells of ``free`` bool[R, C]; waiting is always allowed."""
    moves = np.zeros((*free.shape, 5), dtype=np.bool_)
    padded = np.pad(free, 1)
    for m, (dr, dc) in enumerate(MOVES):
        moves[..., m] = free & padded[1 + dr : 1 + dr + free.shape[0], 1 + dc : 1 + dc + free.shape[1]]
    return moves


@numba.njit(cache=True, nogil=True)
def soft_moves(cells, actions, moves, occupant):
    """Moves that really happen under POGEMA's ``soft`` collisions, in place in ``actions``.

    A move into a wall becomes a wait, agents that would swap stay, of those that want one cell only the
    first (lowest index) may go, and whoever wanted the cell of one that stays, stays too.
    """
    n = cells.shape[0]
    first = np.full((moves.shape[0], moves.shape[1]), n, dtype=np.int64)
    wanted = actions.copy()
    for i in range(n):
        occupant[cells[i, 0], cells[i, 1]] = i
        if not moves[cells[i, 0], cells[i, 1], wanted[i]]:
            wanted[i] = 0
            actions[i] = 0
    for i in range(n):
        if wanted[i] == 0:
            continue
        r, c = cells[i, 0] + MOVES[wanted[i], 0], cells[i, 1] + MOVES[wanted[i], 1]
        j = occupant[r, c]
        if j >= 0 and wanted[j] != 0:
            if r + MOVES[wanted[j], 0] == cells[i, 0] and c + MOVES[wanted[j], 1] == cells[i, 1]:
                actions[i] = 0
                continue
        if first[r, c] < n:
            actions[i] = 0
        first[r, c] = min(first[r, c], i)
    changed = True
    while changed:
        changed = False
        for i in range(n):
            if actions[i] == 0:
                continue
            j = occupant[cells[i, 0] + MOVES[actions[i], 0], cells[i, 1] + MOVES[actions[i], 1]]
            if j >= 0 and actions[j] == 0:
                actions[i] = 0
                changed = True
    for i in range(n):
        occupant[cells[i, 0], cells[i, 1]] = -1


class GridEnv:
    """One episode: agents on a grid, each with a goal; lifelong (a new goal on arrival) or one-shot."""

    def __init__(
        self, free: np.ndarray, starts: np.ndarray, goals: np.ndarray, lifelong: bool, seed: int
    ) -> None:
        """Begin with agents at ``starts`` int[n, 2] and ``goals`` int[n, 2] on ``free`` bool[R, C] (connected)."""
        self.free, self.moves = free, edges(free)
        self.costs = CostToGo(self.moves)
        self.lifelong = lifelong
        self.cells, self.goals = starts.astype(np.int64), goals.astype(np.int64)
        self.open = np.argwhere(free)
        self.random = np.random.default_rng(seed)
        self.history = np.full((len(starts), HISTORY), -1, dtype=np.int8)
        self.arrived = np.zeros(len(starts), dtype=np.bool_)
        self.reached = np.zeros(len(starts), dtype=np.int64)
        self._occupant = np.full(free.shape, -1, dtype=np.int64)
        self.fields = self.costs.fields(self.goals).copy()
        self.field_of = np.arange(len(starts))

    @classmethod
    def sample(cls, free: np.ndarray, agents: int, lifelong: bool, seed: int) -> GridEnv:
        """Random distinct starts and distinct goals (one-shot) or any goals (lifelong).

        Raises:
            ValueError: More agents than free cells.
        """
        rng = np.random.default_rng([seed, 1])
        open_cells = np.argwhere(free)
        if agents > len(open_cells):
            raise ValueError(f"{agents} agents do not fit into {len(open_cells)} free cells")
        starts = open_cells[rng.permutation(len(open_cells))[:agents]]
        goals = open_cells[rng.permutation(len(open_cells))[:agents]]
        return cls(free, starts, goals, lifelong, seed)

    def step(self, actions: np.ndarray) -> np.ndarray:
        """Execute ``actions`` int8[n] under soft collisions; the moves that really happened, int8[n]."""
        done = np.ascontiguousarray(actions, dtype=np.int8).copy()
        soft_moves(self.cells, done, self.moves, self._occupant)
        self.cells = self.cells + MOVES[done]
        self.history = np.concatenate([done[:, None], self.history[:, :-1]], axis=1)
        self.arrived = (self.cells == self.goals).all(axis=1)
        self.reached += self.arrived
        if self.lifelong and self.arrived.any():
            self.goals = self.goals.copy()
            for i in np.flatnonzero(self.arrived):
                while (self.goals[i] == self.cells[i]).all():
                    self.goals[i] = self.open[self.random.integers(len(self.open))]
                self.fields[i] = self.costs.field(self.goals[i])
        return done

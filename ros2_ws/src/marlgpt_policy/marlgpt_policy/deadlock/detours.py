"""Cost-to-go that leads around cells where robots stand that do not drive."""

from __future__ import annotations

import numpy as np

from marlgpt_policy.grid.cost_to_go import UNREACHABLE, CostToGo
from marlgpt_policy.grid.moves import MOVE_OFFSETS as MOVES

OBSTACLE_AFTER = 5.0
"""Seconds that a robot must be unfit to drive for the ways of others to lead around it."""


class Detours:
    """Cost-to-go that leads around cells where robots stand that do not drive.

    Attributes:
        closed: int64[k, 2] row and column of those cells, sorted.
    """

    def __init__(self, costs: CostToGo) -> None:
        """Start with no cell closed; ``costs`` are those of the whole grid."""
        self._plain = self._around = costs
        self.closed = np.zeros((0, 2), dtype=np.int64)

    def close(self, cells: np.ndarray) -> None:
        """Lead around ``cells`` int[k, 2] from now on."""
        cells = np.unique(np.asarray(cells, dtype=np.int64).reshape(-1, 2), axis=0)
        if np.array_equal(cells, self.closed):
            return
        self.closed = cells
        moves = self._plain.moves.copy()
        moves[cells[:, 0], cells[:, 1]] = False
        for move, (down, right) in enumerate(MOVES[1:], 1):
            rows, columns = cells[:, 0] - down, cells[:, 1] - right
            inside = (rows >= 0) & (rows < moves.shape[0]) & (columns >= 0) & (columns < moves.shape[1])
            moves[rows[inside], columns[inside], move] = False
        self._around = CostToGo(moves) if len(cells) else self._plain

    def reachable(self, goal: np.ndarray, cell: np.ndarray) -> bool:
        """Whether a way around leads from ``cell`` to ``goal``, int[2] each."""
        if (self.closed == goal).all(axis=1).any():
            return False
        return bool(self._around.field(goal)[tuple(cell)] < UNREACHABLE)

    def fields(self, goals: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """int32[m, R, C] cost-to-go to ``goals`` int[m, 2]; plain where there is no way around from ``cells``."""
        fields = self._plain.fields(goals)
        if len(self.closed):
            for k, (goal, cell) in enumerate(zip(goals, cells, strict=True)):
                if self.reachable(goal, cell):
                    fields[k] = self._around.field(goal)
        return fields

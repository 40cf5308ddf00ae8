"""Shortest-path distances to a goal over the edge set of a grid, computed once per goal and kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numba
import numpy as np

from marlgpt_policy.grid.moves import MOVE_OFFSETS

UNREACHABLE = np.int32(2**30)
"""Cost of a cell from which the goal cannot be reached; twice this value still fits an int32."""


@numba.njit(cache=True)
def _breadth_first(moves: np.ndarray, row: int, column: int) -> np.ndarray:
    rows, columns = moves.shape[0], moves.shape[1]
    cost = np.full((rows, columns), UNREACHABLE, dtype=np.int32)
    queue = np.empty(rows * columns, dtype=np.int32)  # of cells; there are fewer than 2**31
    cost[row, column] = 0
    queue[0] = row * columns + column
    head, tail = 0, 1
    while head < tail:
        r, c = queue[head] // columns, queue[head] % columns
        head += 1
        for move in range(1, 5):
            # Walk edges backwards: the neighbour must have the edge that leads here.
            near_r, near_c = r - MOVE_OFFSETS[move, 0], c - MOVE_OFFSETS[move, 1]
            if near_r < 0 or near_r >= rows or near_c < 0 or near_c >= columns:
                continue
            if moves[near_r, near_c, move] and cost[near_r, near_c] == UNREACHABLE:
                cost[near_r, near_c] = cost[r, c] + 1
                queue[tail] = near_r * columns + near_c
                tail += 1
    return cost


def _checked_moves(moves: np.ndarray) -> np.ndarray:
    array = np.asarray(moves)
    if array.ndim != 3 or array.shape[2] != 5 or array.dtype != np.bool_:
        raise ValueError(f"moves must be bool[R, C, 5], got {array.dtype}{list(array.shape)}")
    return np.ascontiguousarray(array)


def _checked_goal(moves: np.ndarray, goal: Sequence[int] | np.ndarray) -> tuple[int, int]:
    row, column = _integer_pair(goal)
    rows, columns = moves.shape[:2]
    if not (0 <= row < rows and 0 <= column < columns):
        raise ValueError(f"goal ({row}, {column}) lies outside the grid of {rows} x {columns} cells")
    if not moves[row, column, 0]:
        raise ValueError(f"goal ({row}, {column}) is a blocked cell; choose a free one")
    return row, column


def _integer_pair(goal: Sequence[int] | np.ndarray) -> tuple[int, int]:
    array = np.asarray(goal)
    if array.shape != (2,) or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"goal must be two integers (row, column), got {goal!r}")
    return int(array[0]), int(array[1])


def cost_to_go(moves: np.ndarray, goal: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the number of moves from every cell to one goal.

    Args:
        moves: bool[R, C, 5], the edges of the grid in the order wait, up, down, left, right.
        goal: (row, column) of a free cell.

    Returns:
        int32[R, C], 0 at the goal, `UNREACHABLE` at blocked cells and where no path exists.

    Raises:
        ValueError: if `moves` has another shape or type, or the goal is outside the grid or blocked.
    """
    moves = _checked_moves(moves)
    return _breadth_first(moves, *_checked_goal(moves, goal))


class CostToGo:
    """Cost-to-go fields of one grid, least recently used goals dropped first.

    Args:
        moves: bool[R, C, 5], the edges of the grid; copied unless read-only, so later changes have no effect.
        capacity: largest number of fields kept; one field takes `4 * R * C` bytes.

    Raises:
        ValueError: if `moves` has another shape or type, or `capacity` is below 1.
    """

    def __init__(self, moves: np.ndarray, capacity: int = 1024) -> None:
        """Copy the edge set and start with no field."""
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1 field, got {capacity}")
        moves = _checked_moves(moves)
        self._moves = moves.copy() if moves.flags.writeable else moves
        self._moves.flags.writeable = False  # one kind of array: of each kind a kernel is compiled
        self._capacity = int(capacity)
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    @property
    def moves(self) -> np.ndarray:
        """bool[R, C, 5] edges of the grid; do not change them."""
        return self._moves

    def __len__(self) -> int:
        """Return the number of fields kept now."""
        return len(self._kept)

    def field(self, goal: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return int32[R, C], the moves from every cell to `goal`; read-only, shared between callers.

        Raises:
            ValueError: if the goal is not two integers, lies outside the grid or is blocked.
        """
        key = _integer_pair(goal)
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return kept
        cost = _breadth_first(self._moves, *_checked_goal(self._moves, key))
        cost.flags.writeable = False
        self._kept[key] = cost
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
        return cost

    def fields(self, goals: np.ndarray) -> np.ndarray:
        """Return int32[n, R, C], a writable stack of the fields of n goals.

        Args:
            goals: int[n, 2], one (row, column) per robot; equal goals are computed once.

        Raises:
            ValueError: if `goals` is not int[n, 2] or any goal is outside the grid or blocked.
        """
        goals = np.asarray(goals)
        if goals.ndim != 2 or goals.shape[1] != 2:
            raise ValueError(f"goals must be int[n, 2], got shape {list(goals.shape)}")
        stack = np.empty((len(goals), *self._moves.shape[:2]), dtype=np.int32)
        for i, goal in enumerate(goals):
            stack[i] = self.field(goal)
        return stack

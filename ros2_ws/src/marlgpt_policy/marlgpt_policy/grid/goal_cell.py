"""Which cell a goal means, and why some goals are refused."""

from __future__ import annotations

import math

import numpy as np

from marlgpt_policy.grid.nav_grid import NavGrid

FARTHEST = 1e9
"""Metres beyond which no map reaches; larger numbers do not fit a cell's index."""


class GoalError(ValueError):
    """A goal cannot be accepted; the message names the robot, the goal and the reason."""


def goal_cell(grid: NavGrid, x: float, y: float, name: str, radius: float) -> np.ndarray:
    """The cell int64[2] that a goal at (x, y) m in the grid's frame means.

    Args:
        grid: The cells.
        x: m.
        y: m.
        name: Of the goal, for errors.
        radius: Of the robot, m.

    Raises:
        GoalError: Not finite, outside the map, or too far from any free cell.
    """
    if not (math.isfinite(x) and math.isfinite(y)):
        raise GoalError(f"{name} is not finite")
    cell = grid.cell_of(np.array([x, y])) if max(abs(x), abs(y)) <= FARTHEST else None
    if cell is None or not grid.inside(cell):
        raise GoalError(f"{name} lies outside the map or in its outer walls")
    if not grid.free[tuple(cell)]:
        cell = grid.nearest_free(np.array([x, y]), grid.cell_size / math.sqrt(2))
        if cell is None:
            raise GoalError(f"{name} lies in a wall or too close to one for a robot of {radius} m radius")
    return np.asarray(cell, dtype=np.int64)

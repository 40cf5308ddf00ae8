"""Which cells a robot needs that stands somewhere and wants to get to the centre of a cell."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from marlgpt_policy.grid.distance_field import DistanceField
from marlgpt_policy.grid.geometry import distance_to_segment
from marlgpt_policy.grid.nav_grid import Cell, NavGrid

DOCKING_GAP = 0.03
"""Metres between the discs of two robots, beyond touching, that are left where one stands off a cell's centre."""


def docking_cells(
    grid: NavGrid, distances: DistanceField | None, position: np.ndarray, radius: float, tolerance: float
) -> Iterator[np.ndarray]:
    """Free cells int[2], nearest first, whose centres a robot at ``position`` can drive to in a straight line.

    Args:
        grid: The cells.
        distances: Clearance of the map; without it only a robot at a centre has such a cell.
        position: float64[2], where the robot stands, grid's frame, m.
        radius: Of the robot, m.
        tolerance: Distance from a centre that counts as there, m.
    """
    nearest = grid.cell_of(position)
    around = [nearest + (dr, dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)]
    free = [cell for cell in around if grid.inside(cell) and grid.free[tuple(cell)]]
    free.sort(key=lambda cell: float(np.hypot(*(grid.centre(cell) - position))))
    for cell in free:
        centre = grid.centre(cell)
        distance = float(np.hypot(*(centre - position)))
        if distance > tolerance:
            if distances is None or distance > grid.cell_size:
                continue
            # A robot that stands too close to a wall for the map may still drive away from it.
            if distances.along(position, centre) < min(radius, float(distances.at(position))):
                continue
        yield cell


def docking_cell(
    grid: NavGrid, distances: DistanceField | None, position: np.ndarray, radius: float, tolerance: float
) -> Cell | None:
    """The first of :func:`docking_cells`; None if there is none."""
    cell = next(docking_cells(grid, distances, position, radius, tolerance), None)
    return None if cell is None else (int(cell[0]), int(cell[1]))


def touched(grid: NavGrid, position: np.ndarray, cell: Cell, radius: float) -> list[Cell]:
    """Free cells whose edges come too close to a robot on its way from ``position`` to the centre of ``cell``.

    An edge whose ends are both at least d from a point passes it at sqrt(d^2 - (cell size / 2)^2).
    """
    reach = math.hypot(2 * radius + DOCKING_GAP, grid.cell_size / 2)
    around = [(cell[0] + r, cell[1] + c) for r in range(-2, 3) for c in range(-2, 3)]
    around = [other for other in around if grid.inside(np.array(other)) and grid.free[other]]
    away = distance_to_segment(grid.centre(np.array(around)), position, grid.centre(np.array(cell)))
    return [other for other, gap in zip(around, away, strict=True) if gap < reach]

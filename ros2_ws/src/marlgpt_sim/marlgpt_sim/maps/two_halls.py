"""A site that shipped policies handle badly, drawn by this script: `python -m marlgpt_sim.maps.two_halls OUT.yaml`.

Two halls joined by two aisles, 12 cells long and one robot wide, which robots of radius 0.22 m drive on a grid of
5 x 22 cells. A robot at the mouth of an aisle sees five cells into it, not whether somebody comes from the other end.
"""

from __future__ import annotations

import sys

import numpy as np
from marlgpt_policy.grid.nav_grid import NavGrid
from marlgpt_policy.grid.occupancy_map import OccupancyMap

from marlgpt_sim.maps.map_writer import write_map

RESOLUTION = 0.05  # m per pixel
CELL = 14  # pixels, 0.7 m: what a robot of this radius needs
WALL = 4  # pixels around
RADIUS = 0.22  # m
HALL, AISLE = 5, 12  # cells along x
AISLE_ROWS = (1, 3)
ROWS, COLUMNS = 5, 2 * HALL + AISLE
LEFT, RIGHT = 3, 4  # moves


def cells() -> np.ndarray:
    """bool[5, 22] free cells, row 0 at the top."""
    free = np.zeros((ROWS, COLUMNS), np.bool_)
    free[:, :HALL] = free[:, -HALL:] = True
    free[list(AISLE_ROWS)] = True
    return free


def goal_cells() -> np.ndarray:
    """int[50, 2] cells of the halls, where goals lie: robots drive through the aisles and do not rest there."""
    halls = cells()
    halls[:, HALL:-HALL] = False
    return np.argwhere(halls)


def goal_areas() -> list[tuple[float, float, float, float]]:
    """The halls as rectangles (x, y, x, y) in m: lower left and upper right corner."""
    pixels = [(WALL, WALL + HALL * CELL), (WALL + (HALL + AISLE) * CELL, WALL + COLUMNS * CELL)]
    top = (WALL + ROWS * CELL) * RESOLUTION
    return [(left * RESOLUTION, 0.0, right * RESOLUTION, top) for left, right in pixels]


def two_halls_map() -> OccupancyMap:
    """The site as an occupancy map; always the same."""
    occupied = np.ones((ROWS * CELL + 2 * WALL, COLUMNS * CELL + 2 * WALL), np.bool_)
    inner = np.kron(~cells()[::-1], np.ones((CELL, CELL), np.bool_))  # pixel row 0 is at the bottom
    occupied[WALL:-WALL, WALL:-WALL] = inner
    return OccupancyMap(occupied, np.zeros_like(occupied), RESOLUTION, (0.0, 0.0, 0.0))


def one_way(grid: NavGrid) -> np.ndarray:
    """bool[R, C, 5] the moves of ``grid`` under the site's rule: the upper aisle leads right, the lower one left.

    Raises:
        ValueError: The grid is not that of this site.
    """
    if grid.free.shape != (ROWS, COLUMNS) or (grid.free != cells()).any():
        raise ValueError(
            f"the rule is for the {ROWS} x {COLUMNS} cells of two_halls, this grid has {grid.free.shape[0]} x "
            f"{grid.free.shape[1]} cells or other walls; use its map and a radius of {RADIUS} m"
        )
    moves = grid.moves.copy()
    upper, lower = AISLE_ROWS
    moves[upper, HALL : HALL + AISLE + 1, LEFT] = False
    moves[lower, HALL - 1 : HALL + AISLE, RIGHT] = False
    return moves


def main(args: list[str] | None = None) -> int:
    """Write the map where the command line says; returns the exit status."""
    return write_map("two_halls", "the site of two halls and two aisles", two_halls_map, args)


if __name__ == "__main__":
    sys.exit(main())

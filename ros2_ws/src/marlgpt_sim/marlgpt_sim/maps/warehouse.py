"""The project's own warehouse map, drawn by this script: `python -m marlgpt_sim.maps.warehouse OUT.yaml`.

Seven rows of shelves in three blocks, with aisles of 1.8 m and 1.1 m in turn (two lanes and one lane for a
robot of radius 0.22 m), cross aisles of 2.2 m, pick stations in the west, an office with a door in the north
east, charging bays in the south east, and pillars. 32.4 m x 20.25 m, origin in the middle.
"""

from __future__ import annotations

import sys

import numpy as np
from marlgpt_policy.grid.occupancy_map import OccupancyMap

from marlgpt_sim.maps.map_writer import write_map

RESOLUTION = 0.05  # m per pixel
WIDTH, HEIGHT = 648, 405  # pixels
WALL = 4  # pixels, thickness of the outer walls
SHELF_DEPTH = 20
SHELF_BLOCKS = ((92, 216), (260, 384), (428, 552))  # columns, from and to
SHELF_ROWS = (46, 102, 144, 200, 242, 298, 340)  # lowest row of each shelf
STATION_ROWS = (60, 130, 200, 270, 340)


def warehouse_map() -> OccupancyMap:
    """Return the warehouse, OccupancyMap of 405 x 648 pixels; always the same."""
    occupied = np.zeros((HEIGHT, WIDTH), np.bool_)
    occupied[:WALL] = occupied[-WALL:] = True
    occupied[:, :WALL] = occupied[:, -WALL:] = True
    for row in SHELF_ROWS:
        for left, right in SHELF_BLOCKS:
            occupied[row : row + SHELF_DEPTH, left:right] = True
    for row in STATION_ROWS:  # a conveyor at the wall and a table across its end
        occupied[row - 3 : row + 3, WALL:26] = True
        occupied[row - 10 : row + 10, 26:36] = True
    for row, column in ((98, 60), (238, 60), (72, 590), (170, 590)):  # pillars
        occupied[row : row + 8, column : column + 8] = True
    for row in range(40, 200, 40):  # charging bays: low fences from the east wall
        occupied[row : row + 2, WIDTH - 24 : -WALL] = True
    _office(occupied)
    return OccupancyMap(
        occupied,
        np.zeros_like(occupied),
        RESOLUTION,
        (-0.5 * WIDTH * RESOLUTION, -0.5 * HEIGHT * RESOLUTION, 0.0),
    )


def _office(occupied: np.ndarray) -> None:
    """Draw a room with a door of 1.4 m towards the shelves and two desks, in place."""
    bottom, left = 270, 588
    occupied[bottom : bottom + 3, left:] = True
    occupied[bottom:, left : left + 3] = True
    occupied[bottom + 14 : bottom + 42, left : left + 3] = False
    occupied[bottom + 70 : bottom + 84, WIDTH - 34 : -WALL] = True
    occupied[bottom + 112 : bottom + 121, left + 3 : left + 20] = True


def main(args: list[str] | None = None) -> int:
    """Write the map where the command line says; returns the exit status."""
    return write_map("warehouse", "the warehouse map", warehouse_map, args)


if __name__ == "__main__":
    sys.exit(main())

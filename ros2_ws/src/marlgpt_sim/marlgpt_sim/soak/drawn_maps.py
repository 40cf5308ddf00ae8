"""Maps that the soak draws: families of small worlds whose lattice fits a robot's cells exactly.

Each family is drawn as cells, bool[rows, columns], and then as pixels: a corridor is just as wide as the grid of cells
demands, so that walls are as near as they may be.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from marlgpt_policy.grid.nav_grid import smallest_cell_size
from marlgpt_policy.grid.occupancy_map import OccupancyMap

from marlgpt_sim.maps.warehouse import warehouse_map

Cells = np.ndarray


def hall(cells: int, random: np.random.Generator) -> Cells:
    """An open hall."""
    rows = max(2, round(math.sqrt(cells * random.uniform(0.3, 1.0))))
    return np.ones((rows, max(2, round(cells / rows))), bool)


def corridor(cells: int, random: np.random.Generator) -> Cells:
    """Straight corridors one cell wide, joined at their ends, with side branches of one to three cells."""
    length = max(6, min(cells // 2, 24))
    lanes = max(1, round(cells / (1.6 * length)))
    free = np.zeros((4 * lanes + 3, length), bool)
    for k in range(lanes):
        row = 3 + 4 * k
        free[row] = True
        for column in np.flatnonzero(random.random(length) < 0.25):
            depth = int(random.integers(1, 4))
            if random.random() < 0.5:
                free[row : row + depth, column] = True
            else:
                free[row - depth + 1 : row + 1, column] = True
        if k:
            free[row - 4 : row, 0 if k % 2 else -1] = True
    return free


def maze(cells: int, random: np.random.Generator, loops: tuple[float, float] = (0.0, 0.2)) -> Cells:
    """A maze one cell wide, a share of whose walls is opened again."""
    side = max(2, round(math.sqrt(cells / 2)))
    free = np.zeros((2 * side - 1, 2 * side - 1), bool)
    free[0, 0] = True
    stack = [(0, 0)]
    while stack:
        r, c = stack[-1]
        ways = [
            (r + a, c + b)
            for a, b in ((2, 0), (-2, 0), (0, 2), (0, -2))
            if 0 <= r + a < len(free) and 0 <= c + b < len(free) and not free[r + a, c + b]
        ]
        if not ways:
            stack.pop()
            continue
        a, b = ways[random.integers(len(ways))]
        free[a, b] = free[(a + r) // 2, (b + c) // 2] = True
        stack.append((a, b))
    share = random.uniform(*loops)
    for r, c in np.argwhere(~free):
        if (r + c) % 2 and random.random() < share:
            free[r, c] = True
    return free


def rings(cells: int, random: np.random.Generator) -> Cells:
    """One-wide loops side by side that share their walls: a ring, a figure of eight, a ladder."""
    loops = int(random.integers(1, 5))
    height = int(random.integers(3, 8))
    width = max(3, round((cells - height) / loops / 2) + 1)
    free = np.zeros((height, loops * (width - 1) + 1), bool)
    free[0] = free[-1] = True
    free[:, :: width - 1] = True
    return free


def comb(cells: int, random: np.random.Generator) -> Cells:
    """Dead-end aisles off a spine that is one or two cells wide."""
    depth, spine = int(random.integers(2, 7)), int(random.integers(1, 3))
    both = random.random() < 0.5
    teeth = max(2, round(cells / (depth * (1 + both) + 2 * spine)))
    free = np.zeros((depth * (1 + both) + spine, 2 * teeth - 1), bool)
    top = depth if both else 0
    free[top : top + spine] = True
    free[:, ::2] = True
    return free


def pillars(cells: int, random: np.random.Generator) -> Cells:
    """A hall with pillars, in rows or at random."""
    free = hall(round(cells * 1.25), random)
    if random.random() < 0.5:
        free[1::2, 1::2] = False
    else:
        free[random.random(free.shape) < random.uniform(0.05, 0.3)] = False
    return free


def rooms(cells: int, random: np.random.Generator) -> Cells:
    """Rooms of three to six cells behind doors one cell wide."""
    size = int(random.integers(3, 7))
    count = max(2, round(cells / (size * size + 1)))
    across = max(1, round(math.sqrt(count)))
    down = math.ceil(count / across)
    free = np.ones((down * (size + 1) - 1, across * (size + 1) - 1), bool)
    free[size :: size + 1] = False
    free[:, size :: size + 1] = False
    for r in range(down):
        for c in range(across):
            middle_r, middle_c = r * (size + 1), c * (size + 1)
            if r + 1 < down:
                free[middle_r + size, middle_c + random.integers(size)] = True
            if c + 1 < across:
                free[middle_r + random.integers(size), middle_c + size] = True
    return free


def shelves(cells: int, random: np.random.Generator) -> Cells:
    """A warehouse: shelves with aisles one and two cells wide, cross aisles two wide."""
    length = int(random.integers(4, 9))
    columns = max(2 + length, round(math.sqrt(1.8 * cells * 1.3)))
    rows = max(4, round(1.3 * cells / columns))
    free = np.ones((rows, columns), bool)
    row = 1
    while row + 1 < rows:
        for left in range(2, columns - length, length + 2):
            free[row, left : left + length] = False
        row += 2 + int(random.integers(2))
    return free


FAMILIES: dict[str, Callable[[int, np.random.Generator], Cells]] = {
    "hall": hall,
    "corridor": corridor,
    "maze": maze,
    "rings": rings,
    "comb": comb,
    "pillars": pillars,
    "rooms": rooms,
    "shelves": shelves,
}
"""Drawn as cells. Beside them there are ``boxes`` and ``warehouse``, drawn as pixels."""
PIXEL_FAMILIES = ("boxes", "warehouse")


def draw_map(
    family: str, cells: int, seed: int, radius: float, margin: float, tight: bool, origin: tuple[float, float, float]
) -> OccupancyMap:  # fmt: skip
    """Draw a map.

    Args:
        family: One of ``FAMILIES`` or ``PIXEL_FAMILIES``.
        cells: About how many free cells it has; the warehouse's size is what it is.
        seed: Of everything random.
        radius: Of the robots, m.
        margin: As in ``build_grid``, m.
        tight: Whether a cell's edge is the smallest that is allowed, or rounded up to pixels of 5 cm or less.
        origin: x, y (m) and yaw (rad) of the map.
    """
    random = np.random.default_rng((seed, 7))
    if family == "warehouse":
        map = warehouse_map()
        return OccupancyMap(map.occupied, map.unknown, map.resolution, origin)
    smallest = smallest_cell_size(radius, margin)
    steps = int(random.integers(10, 15))
    resolution = smallest / steps if tight else min(0.05, 0.01 * math.floor(smallest / 10 / 0.01))
    if family == "boxes":
        return boxes(cells, random, smallest, resolution, origin)
    free = FAMILIES[family](cells, random)
    cell = math.ceil(smallest / resolution - 1e-6)
    body = 2 * math.ceil((radius + margin / 2) / resolution - 1e-9)  # cells lie on the pixels' corners
    return pixels_of(free, cell, body, resolution, origin)


def pixels_of(
    free: Cells, cell: int, body: int, resolution: float, origin: tuple[float, float, float]
) -> OccupancyMap:
    """A map whose cells have edges of ``cell`` pixels, with corridors of ``body`` pixels."""
    rows, columns = free.shape
    occupied = np.ones(((rows - 1) * cell + body, (columns - 1) * cell + body), bool)
    for r, c in np.argwhere(free):
        below, right = r + 1 < rows and free[r + 1, c], c + 1 < columns and free[r, c + 1]
        top, left = r * cell, c * cell
        occupied[top : top + body, left : left + body] = False
        if below:
            occupied[top : top + cell, left : left + body] = False
        if right:
            occupied[top : top + body, left : left + cell] = False
        if below and right and free[r + 1, c + 1]:
            occupied[top : top + cell, left : left + cell] = False
    return OccupancyMap(occupied[::-1], np.zeros_like(occupied), resolution, origin)


def boxes(
    cells: int, random: np.random.Generator, smallest: float, resolution: float, origin: tuple[float, float, float]
) -> OccupancyMap:  # fmt: skip
    """A hall with boxes of any size at any place, not aligned to cells."""
    side = smallest / resolution * math.sqrt(1.6 * cells)
    shape = np.maximum((side * random.uniform(0.8, 1.2), side), 4 * smallest / resolution).astype(int)
    occupied = np.zeros(shape, bool)
    for _ in range(max(1, cells // 12)):
        height, width = (random.uniform(0.5, 2.5, 2) * smallest / resolution).astype(int)
        row, column = random.integers(0, shape[0]), random.integers(0, shape[1])
        occupied[row : row + height, column : column + width] = True
    return OccupancyMap(occupied, np.zeros_like(occupied), resolution, origin)

"""Generated grid worlds of the POGEMA families (random, maze, warehouse, rooms) and caves.

All maps are this project's own draws; the benchmark's own maps are never used for training or selection. Caves are for
evaluation alone: no training data holds any.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

FAMILIES = ("random", "maze", "warehouse", "rooms", "caves")
"""Their order is part of each map's seed: add new ones at the end."""


def random_map(
    rng: np.random.Generator, low: int = 17, high: int = 21, density: float | None = None
) -> np.ndarray:
    """bool[H, W] free cells, ``density`` (default uniform 0.05..0.25) of them walls."""
    rows, cols = rng.integers(low, high + 1, size=2)
    density = rng.uniform(0.05, 0.25) if density is None else density
    return rng.random((rows, cols)) >= density


def maze_map(rng: np.random.Generator, low: int = 15, high: int = 25) -> np.ndarray:
    """bool[H, W] free cells of a maze of short walls grown from grid posts, corridors one cell wide or more."""
    rows, cols = rng.integers(low, high + 1, size=2)
    free = np.ones((rows, cols), dtype=bool)
    walls = int(rng.uniform(0.25, 1.0) * (rows // 2) * (cols // 2) * 0.6)
    length = max(1, int(rng.uniform(0.1, 0.6) * 10))
    for _ in range(walls):
        r, c = 2 * rng.integers(0, (rows + 1) // 2), 2 * rng.integers(0, (cols + 1) // 2)
        free[min(r, rows - 1), min(c, cols - 1)] = False
        for _ in range(length):
            dr, dc = ((-2, 0), (2, 0), (0, -2), (0, 2))[rng.integers(4)]
            if 0 <= r + dr < rows and 0 <= c + dc < cols and free[r + dr, c + dc]:
                free[r + dr // 2, c + dc // 2] = False
                free[r + dr, c + dc] = False
                r, c = r + dr, c + dc
    return free


def warehouse_map(rng: np.random.Generator, scale: int = 1) -> np.ndarray:
    """bool[H, W] free cells: blocks of shelves, aisles one or two cells wide, open ends left and right.

    There are 3 to 7 blocks down and 1 to 3 across, times ``scale``.
    """
    shelf_length, shelf_rows = int(rng.integers(4, 11)), int(rng.integers(1, 3))
    aisle, cross = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    blocks_down, blocks_across = int(rng.integers(3, 8)), int(rng.integers(1, 4))
    blocks_down, blocks_across = scale * blocks_down, scale * blocks_across
    margin = int(rng.integers(2, 6))
    rows = blocks_down * (shelf_rows + aisle) + aisle
    cols = 2 * margin + blocks_across * (shelf_length + cross) - cross
    free = np.ones((rows, cols), dtype=bool)
    for i in range(blocks_down):
        for j in range(blocks_across):
            r, c = aisle + i * (shelf_rows + aisle), margin + j * (shelf_length + cross)
            free[r : r + shelf_rows, c : c + shelf_length] = False
    return free


def rooms_map(rng: np.random.Generator, low: int = 17, high: int = 32) -> np.ndarray:
    """bool[H, W] free cells: a lattice of rooms joined by doors one or two cells wide."""
    rows, cols = rng.integers(low, high + 1, size=2)
    size = int(rng.integers(4, 9))
    free = np.ones((rows, cols), dtype=bool)
    free[size :: size + 1, :] = False
    free[:, size :: size + 1] = False
    for r in range(0, rows, size + 1):
        for c in range(0, cols, size + 1):
            for dr, dc in ((1, 0), (0, 1)):
                wall_r, wall_c = r + dr * size, c + dc * size
                if wall_r >= rows or wall_c >= cols or rng.random() < 0.1:
                    continue
                door, width = int(rng.integers(0, size)), int(rng.integers(1, 3))
                if dr:
                    free[wall_r, min(c + door, cols - 1) : min(c + door + width, c + size)] = True
                else:
                    free[min(r + door, rows - 1) : min(r + door + width, r + size), wall_c] = True
    return free & (rng.random(free.shape) >= rng.choice([0.0, 0.03]))


def caves_map(rng: np.random.Generator, low: int = 17, high: int = 32) -> np.ndarray:
    """bool[H, W] free cells of caves: noise, 40 to 46 % of it walls, smoothed by a cellular automaton.

    In each of four rounds a cell becomes a wall if most of the nine cells around and including it are walls;
    everything outside is. Halls of irregular outline remain, joined by passages or not at all.
    """
    rows, cols = rng.integers(low, high + 1, size=2)
    walls = (rng.random((rows, cols)) < rng.uniform(0.40, 0.46)).astype(np.int8)
    for _ in range(4):
        around = ndimage.convolve(walls, np.ones((3, 3), dtype=np.int8), mode="constant", cval=1)
        walls = (around >= 5).astype(np.int8)
    return walls == 0


def largest_component(free: np.ndarray) -> np.ndarray:
    """bool[H, W]: only the largest 4-connected component of ``free`` stays free."""
    labels, count = ndimage.label(free)
    if count <= 1:
        return free
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax()


def generate(family: str, seed: int, **options) -> np.ndarray:
    """bool[H, W] free cells of one map of ``family`` (largest component only, at least 60 cells).

    Raises:
        ValueError: Unknown family.
    """
    makers = {
        "random": random_map,
        "maze": maze_map,
        "warehouse": warehouse_map,
        "rooms": rooms_map,
        "caves": caves_map,
    }
    if family not in makers:
        raise ValueError(f"unknown map family '{family}'; choose one of {', '.join(FAMILIES)}")
    rng = np.random.default_rng([FAMILIES.index(family), seed])
    while True:
        free = largest_component(makers[family](rng, **options))
        if free.sum() >= 60:
            return free

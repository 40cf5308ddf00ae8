"""Start poses for a fleet: those that are given, and cell centres spread over the main component of the grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from marlgpt_policy.grid.nav_grid import NavGrid

CANDIDATES = 8  # cells drawn per robot, of which the one farthest from the others is taken


def place_robots(grid: NavGrid, n: int, seed: int) -> np.ndarray:
    """Place robots on distinct cells of the largest connected component.

    Each robot takes, of a few random free cells, the one farthest from the robots before it: even, but not
    regular. Robots on cell centres are far enough apart by the grid's own rule.

    Args:
        grid: the drivable cells.
        n: number of robots.
        seed: the same seed gives the same poses.

    Returns:
        float64[n, 3]: x, y (metres, map frame) and a random yaw in [-pi, pi) radians.

    Raises:
        ValueError: if `n` is negative or more than the component has cells; it says how many fit.
    """
    cells = np.argwhere(grid.components == 0)
    if not 0 <= n <= len(cells):
        raise ValueError(f"cannot place {n} robots: {len(cells)} fit on the largest connected part of it")
    rng = np.random.default_rng(seed)
    centres = grid.centre(cells).reshape(-1, 2)
    left = np.arange(len(cells))
    gap = np.full(len(cells), np.inf)  # distance of every cell to the nearest robot placed so far
    poses = np.empty((n, 3))
    for i in range(n):
        draw = rng.integers(len(left), size=CANDIDATES)
        pick = draw[np.argmax(gap[left[draw]])]
        poses[i, :2] = centres[left[pick]]
        gap = np.minimum(gap, np.linalg.norm(centres - poses[i, :2], axis=1))
        left[pick] = left[-1]
        left = left[:-1]
    poses[:, 2] = rng.uniform(-np.pi, np.pi, n)
    return poses


def place_fleet(grid: NavGrid, known: Sequence[tuple[float, float, float] | None], seed: int) -> np.ndarray:
    """Place the robots whose start is not given among those whose start is.

    Args:
        grid: the drivable cells; a cell keeps robots on neighbouring centres apart.
        known: x, y (metres, map frame) and yaw (radians) of each robot, None to choose one.
        seed: the same seed gives the same poses.

    Returns:
        float64[n, 3]: x, y, yaw of every robot; chosen ones at least a cell from every given one.

    Raises:
        ValueError: if the cells that are left do not suffice.
    """
    given = np.array([pose for pose in known if pose is not None]).reshape(-1, 3)
    n = len(known) - len(given)
    if not len(given):
        return place_robots(grid, n, seed)
    # Each given robot is less than a cell away from at most nine centres.
    cells = int((grid.components == 0).sum())
    drawn = place_robots(grid, min(cells, n + 9 * len(given)) if n else 0, seed)
    gaps = np.linalg.norm(drawn[:, None, :2] - given[None, :, :2], axis=2)
    free = drawn[(gaps >= grid.cell_size - 1e-9).all(axis=1)][:n]
    if len(free) < n:
        raise ValueError(
            f"cannot place {n} robots: {len(free)} fit beside the {len(given)} whose start is given"
        )
    poses = np.empty((len(known), 3))
    chosen = np.array([pose is None for pose in known], bool)
    poses[chosen], poses[~chosen] = free, given
    return poses

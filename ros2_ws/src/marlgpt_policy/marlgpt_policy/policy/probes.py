"""Observations to try a policy out on before it drives: robots and goals drawn on the map that they will drive on."""

from __future__ import annotations

import numpy as np

from marlgpt_policy.encoders import pogema
from marlgpt_policy.grid.cost_to_go import UNREACHABLE, CostToGo
from marlgpt_policy.grid.moves import HISTORY, MOVE_OFFSETS
from marlgpt_policy.policy.policy_process import Observed

SIDE = 40
"""Cells of the edge of the square that robots are drawn in; several of their windows, and quick to search."""
WALLS = 0.15
"""Share of blocked cells where there is no map yet."""


def sample(moves: np.ndarray | None, robots: int, seed: int = 0) -> list[Observed]:
    """Observations of one robot and of ``robots`` robots, fewer where they take more than half of the free cells.

    Args:
        moves: bool[R, C, 5] edges of the grid, of which a square is looked at; None for a random map.
        robots: How many the policy will have to decide for.
        seed: Of everything drawn.

    Returns:
        Batches of values float32[n, 356], valid bool[n, 356], action_mask bool[n, 20]; none without free cells.
    """
    random = np.random.default_rng(seed)
    moves = _grid(random.random((SIDE, SIDE)) > WALLS) if moves is None else _square(moves, random)
    moves.flags.writeable = False  # as those of a grid: else kernels would be compiled for these alone
    free = np.argwhere(moves[..., 0])
    count = min(robots, len(free) // 2)
    if not count:
        return []
    drawn = random.permutation(len(free))
    cells, goals = free[drawn[:count]], free[drawn[count : 2 * count]]
    fields = CostToGo(moves, max(1, count)).fields(goals)
    stuck = fields[np.arange(count), cells[:, 0], cells[:, 1]] >= UNREACHABLE
    goals[stuck] = cells[stuck]  # as robots without a goal
    fields = CostToGo(moves, max(1, count)).fields(goals)
    history = random.integers(pogema.NO_ACTION, 5, (count, HISTORY)).astype(np.int8)
    return [
        pogema.encode(fields, cells, goals, history, moves, which)
        for which in (np.array([0]), np.arange(count))
    ]


def _square(moves: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """bool[<= SIDE, <= SIDE, 5] part of a grid around one of its free cells; nothing leads out of it."""
    free = np.flatnonzero(moves[..., 0])
    if not len(free):
        return moves[:0, :0].copy()
    rows, cols = moves.shape[:2]
    row, col = divmod(int(random.choice(free)), cols)
    top, left = (
        int(np.clip(at - SIDE // 2, 0, max(0, most - SIDE))) for at, most in ((row, rows), (col, cols))
    )
    part = moves[top : top + SIDE, left : left + SIDE].copy()
    part[0, :, 1] = part[-1, :, 2] = part[:, 0, 3] = part[:, -1, 4] = False
    return part


def _grid(free: np.ndarray) -> np.ndarray:
    """bool[R, C, 5] moves between all neighbouring free cells."""
    padded = np.pad(free, 1)
    rows, cols = free.shape
    ahead = [padded[1 + r : 1 + r + rows, 1 + c : 1 + c + cols] for r, c in MOVE_OFFSETS]
    return np.stack([free & to for to in ahead], axis=2)

"""Small grids on which robots get stuck, for the tests of plans."""

import numpy as np
from marlgpt_policy.grid.cost_to_go import UNREACHABLE, CostToGo
from marlgpt_policy.grid.moves import MOVE_OFFSETS
from marlgpt_policy.mapf.lacam import neighbour_table
from marlgpt_policy.mapf.prioritised_planning import HORIZON, plan_window


def grid(*lines):
    """Edges bool[R, C, 5] of a map drawn with # for walls."""
    free = np.array([[symbol != "#" for symbol in line] for line in lines])
    moves = np.zeros((*free.shape, 5), dtype=bool)
    padded = np.pad(free, 1)
    for m, (dr, dc) in enumerate(MOVE_OFFSETS):
        moves[..., m] = free & padded[1 + dr : 1 + dr + free.shape[0], 1 + dc : 1 + dc + free.shape[1]]
    return moves


DEAD_END = grid("....#", "....#", "#....", "....#")
MOUTH = [(2, 2), (2, 3)], [(2, 4), (2, 3)]


def flat(moves, cells):
    return np.array(cells) @ (moves.shape[1], 1)


def fields_of(moves, goals):
    return CostToGo(moves).fields(np.array(goals)).reshape(len(goals), -1)


def planned(moves, cells, goals, served=1, horizon=HORIZON):
    return plan_window(flat(moves, cells), fields_of(moves, goals), neighbour_table(moves), served, horizon)


def random_world(seed, n, share):
    rng = np.random.default_rng(seed)
    free = rng.random((8, 9)) >= share
    free[0] = True
    moves = grid(*("".join(".#"[not cell] for cell in row) for row in free))
    costs = CostToGo(moves)
    cells = np.argwhere(costs.field((0, 0)) < UNREACHABLE)
    n = min(n, len(cells))
    return rng, moves, rng.permutation(cells)[:n], rng.permutation(cells)[:n]

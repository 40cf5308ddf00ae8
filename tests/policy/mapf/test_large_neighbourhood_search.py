"""Large-neighbourhood search plans from a snapshot: paths without conflicts, never worse for more rounds."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.grid.cost_to_go import UNREACHABLE, cost_to_go
from marlgpt_policy.grid.nav_grid import NavGrid
from marlgpt_policy.mapf.large_neighbourhood_search import (
    LIFELONG,
    ONE_SHOT,
    LargeNeighbourhoodSearch,
    _plan_cost,
)


def snapshot(seed, size=(8, 8), agents=12, walls=0.2):
    """(moves, cells, goals, fields) of agents that all can reach their goals, different ones."""
    rng = np.random.default_rng(seed)
    moves = NavGrid.from_cells(rng.random(size) >= walls).moves
    spots = np.argwhere(moves[..., 0])
    field = cost_to_go(moves, spots[rng.integers(len(spots))])
    spots = np.argwhere(field < UNREACHABLE)  # one component
    n = min(agents, len(spots))
    cells, goals = rng.permutation(spots)[:n], rng.permutation(spots)[:n]
    return moves, cells, goals, np.stack([cost_to_go(moves, goal) for goal in goals])


def assert_valid(paths, moves, cells):
    """Paths int[T + 1, n] begin at ``cells``, follow edges, and never conflict."""
    columns = moves.shape[1]
    np.testing.assert_array_equal(paths[0], cells @ (columns, 1))
    for now, then in zip(paths[:-1].tolist(), paths[1:].tolist(), strict=True):
        assert len(set(then)) == len(then), "vertex conflict"
        at = {cell: i for i, cell in enumerate(now)}
        for i, (a, b) in enumerate(zip(now, then, strict=True)):
            move = {0: 0, -columns: 1, columns: 2, -1: 3, 1: 4}[b - a]
            assert moves[divmod(a, columns)][move], "no such edge"
            j = at.get(b, i)
            assert j == i or then[j] != a, "swap conflict"


def sum_of_costs(paths, fields, mode):
    """Sum of the costs of all paths int[T + 1, n] in steps."""
    flat = fields.reshape(len(fields), -1)
    return sum(_plan_cost(np.ascontiguousarray(paths[:, i]), flat[i], mode) for i in range(len(flat)))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    agents=st.sampled_from([1, 5, 20, 40]),
    mode=st.sampled_from([LIFELONG, ONE_SHOT]),
    astray=st.booleans(),
)
def test_paths_are_valid_from_call_to_call(seed, agents, mode, astray):
    moves, cells, goals, fields = snapshot(seed, agents=agents)
    own = np.arange(len(cells))
    search = LargeNeighbourhoodSearch(moves, len(cells), mode, seed=seed)
    columns = moves.shape[1]
    for step in range(6):
        paths = search.plan(cells, goals, fields, own)
        assert_valid(paths, moves, cells)
        if search.solved:
            np.testing.assert_array_equal(paths[-1], goals @ (columns, 1))
        then = np.stack(np.divmod(paths[1].astype(int), columns), axis=1)
        if astray and step == 2:  # all but the first stand: that may put two in one cell, then nobody moves
            then = np.concatenate([then[:1], cells[1:]])
            then = then if len(np.unique(then, axis=0)) == len(then) else cells
        cells = then


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), mode=st.sampled_from([LIFELONG, ONE_SHOT]))
def test_more_rounds_never_cost_more(seed, mode):
    moves, cells, goals, fields = snapshot(seed, agents=25)
    own = np.arange(len(cells))
    sums = []
    for rounds in (0, 20, 200):
        search = LargeNeighbourhoodSearch(moves, len(cells), mode, rounds=(rounds, 0), seed=seed)
        sums.append(sum_of_costs(search.plan(cells, goals, fields, own), fields, mode))
    least = int(fields[own, cells[:, 0], cells[:, 1]].sum())
    assert sums[0] >= sums[1] >= sums[2] >= least


def test_rounds_shorten_what_pibt_and_lacam_begin_with():
    for mode in (LIFELONG, ONE_SHOT):
        gained = 0
        for seed in range(10):
            moves, cells, goals, fields = snapshot(seed, agents=25)
            own = np.arange(len(cells))
            first, last = (
                LargeNeighbourhoodSearch(moves, len(cells), mode, rounds=(rounds, 0), seed=seed).plan(
                    cells, goals, fields, own
                )
                for rounds in (0, 200)
            )
            gained += sum_of_costs(first, fields, mode) - sum_of_costs(last, fields, mode)
        assert gained > 0


@pytest.mark.parametrize("mode", [LIFELONG, ONE_SHOT])
def test_a_lone_agent_goes_a_shortest_way(mode):
    for seed in range(5):
        moves, cells, goals, fields = snapshot(seed, agents=1)
        paths = LargeNeighbourhoodSearch(moves, 1, mode, window=40).plan(cells, goals, fields, np.arange(1))
        assert sum_of_costs(paths, fields, mode) == fields[0][tuple(cells[0])]


def test_a_plan_in_hand_does_not_change_with_the_next_call():
    moves, cells, goals, fields = snapshot(3)
    search = LargeNeighbourhoodSearch(moves, len(cells))
    paths = search.plan(cells, goals, fields, np.arange(len(cells)))
    kept = paths.copy()
    cells = np.stack(np.divmod(paths[1].astype(int), moves.shape[1]), axis=1)
    search.plan(cells, goals, fields, np.arange(len(cells)))
    np.testing.assert_array_equal(paths, kept)


def test_impossible_snapshots_are_refused():
    moves, cells, goals, fields = snapshot(1)
    own = np.arange(len(cells))
    search = LargeNeighbourhoodSearch(moves, len(cells))
    with pytest.raises(ValueError, match="two agents share a cell"):
        search.plan(np.repeat(cells[:1], len(cells), axis=0), goals, fields, own)
    with pytest.raises(ValueError, match="cannot reach its goal"):
        search.plan(cells, goals, np.full_like(fields, UNREACHABLE), own)


def test_it_needs_no_training():
    code = (
        "import sys, marlgpt_policy.mapf.large_neighbourhood_search;"
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'marlgpt_training', 'marlgpt_sim')])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert found.stdout.strip() == "[]"

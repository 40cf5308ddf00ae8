"""The fast shield against a short one in plain Python that follows the paper line by line."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.grid.moves import MOVE_OFFSETS
from marlgpt_policy.grid.nav_grid import NavGrid
from marlgpt_policy.mapf.pibt_shield import resolve
from reference_shield import reference_shield


@st.composite
def small_grids(draw):
    """Arguments of ``resolve`` on at most 5 x 5 cells: walls, fixed robots, closed cells, equal priorities."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = tuple(rng.integers(1, 6, 2))
    free = rng.random(shape) >= draw(st.sampled_from([0.0, 0.2, 0.4]))
    free[tuple(rng.integers(0, shape))] = True
    spots = np.argwhere(free)
    n = int(np.ceil(draw(st.sampled_from([0.3, 0.7, 1.0])) * len(spots)))
    cells = spots[rng.permutation(len(spots))[:n]]
    ranking = rng.permuted(np.tile(np.arange(5, dtype=np.int8), (n, 1)), axis=1)
    ranking[rng.random((n, 5)) < draw(st.sampled_from([0.0, 0.3]))] = -1
    priority = rng.integers(0, 4, n).astype(float)
    fixed = rng.random(n) < draw(st.sampled_from([0.0, 0.2]))
    closed = rng.random(shape) < draw(st.sampled_from([0.0, 0.2]))
    return cells, ranking, priority, NavGrid.from_cells(free).moves, fixed, closed


def assert_keeps_the_rules(chosen, cells, ranking, priority, moves, fixed, closed):
    """What every shield owes, whatever order it serves robots in."""
    now = [tuple(cell) for cell in cells.tolist()]
    then = [tuple(cell) for cell in (cells + MOVE_OFFSETS[chosen]).tolist()]
    assert len(set(then)) == len(then), "vertex conflict"
    for i in range(len(now)):
        for j in range(i):
            assert (then[i], then[j]) != (now[j], now[i]) or now[i] == then[i], "swap conflict"
        assert moves[now[i]][chosen[i]], "a move that does not exist"
        assert chosen[i] == 0 or chosen[i] in ranking[i], "a move that was not proposed"
        assert not fixed[i] or chosen[i] == 0, "a fixed robot moves"
        assert chosen[i] == 0 or not closed[then[i]], "a robot enters a closed cell"


def first_served(priority, fixed):
    """The robot of highest priority that may move, None if all are fixed."""
    return min(np.flatnonzero(~fixed), key=lambda i: (-priority[i], i), default=None)


@settings(max_examples=800, deadline=None)
@given(scene=small_grids())
def test_without_search_the_fast_shield_is_plain_pibt(scene):
    expected = reference_shield(*scene)
    assert resolve(*scene).tolist() == expected


@settings(max_examples=400, deadline=None)
@given(scene=small_grids(), seed=st.integers(0, 2**32 - 1))
def test_both_shields_keep_the_rules_and_serve_the_first_robot_alike(scene, seed):
    cells, ranking, priority, moves, fixed, closed = scene
    worth = np.log(np.random.default_rng(seed).uniform(0.01, 1.0, (len(cells), 5)))
    plain = np.array(reference_shield(*scene))
    searched = resolve(*scene, worth=worth, seed=seed)
    for chosen in (plain, searched):
        assert_keeps_the_rules(chosen, *scene)
    first = first_served(priority, fixed)
    if first is not None:
        assert searched[first] == plain[first]
    own = np.arange(len(cells))
    assert worth[own, searched].sum() >= worth[own, plain].sum() - 1e-9, "the search loses"


@settings(max_examples=200, deadline=None)
@given(
    shape=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    fill=st.floats(0.1, 1.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_first_robot_gets_its_first_choice_where_every_edge_lies_on_a_cycle(shape, fill, seed):
    """Lemma 1 of the paper: all neighbours on a simple cycle of three cells or more, nobody fixed, all moves ranked."""
    rng = np.random.default_rng(seed)
    spots = np.argwhere(np.ones(shape, bool))
    cells = spots[rng.permutation(len(spots))[: max(1, int(fill * len(spots)))]]
    n = len(cells)
    moves = NavGrid.from_cells(np.ones(shape, bool)).moves
    ranking = rng.permuted(np.tile(np.arange(5, dtype=np.int8), (n, 1)), axis=1)
    nobody, nowhere = np.zeros(n, bool), np.zeros(shape, bool)
    scene = cells, ranking, rng.random(n), moves, nobody, nowhere
    first = first_served(scene[2], nobody)
    wanted = next(move for move in ranking[first] if moves[tuple(cells[first])][move])
    worth = np.log(rng.uniform(0.01, 1.0, (n, 5)))
    assert reference_shield(*scene)[first] == wanted
    assert resolve(*scene)[first] == wanted
    assert resolve(*scene, worth=worth, seed=seed)[first] == wanted


@pytest.mark.parametrize("shield", [reference_shield, lambda *scene: resolve(*scene).tolist()])
def test_priority_inheritance_and_backtracking(shield):
    """A row of four cells: robot 0 pushes 1, which pushes 2; where 2 is fixed, all three stay."""
    moves = NavGrid.from_cells(np.ones((1, 4), bool)).moves
    cells = np.array([(0, 0), (0, 1), (0, 2)])
    ranking = np.array([[4, 0, -1, -1, -1], [0, 4, -1, -1, -1], [0, 4, 3, -1, -1]], np.int8)
    priority, nowhere = np.array([3.0, 2.0, 1.0]), np.zeros((1, 4), bool)
    free = np.zeros(3, bool)
    assert list(shield(cells, ranking, priority, moves, free, nowhere)) == [4, 4, 4]
    assert list(shield(cells, ranking, priority, moves, np.array([False, False, True]), nowhere)) == [0, 0, 0]
    closed = np.array([[False, False, False, True]])
    assert list(shield(cells, ranking, priority, moves, free, closed)) == [0, 0, 0]

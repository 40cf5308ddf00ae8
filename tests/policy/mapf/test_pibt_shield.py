"""The shield: no conflict whatever is proposed, no needless veto, and everybody gets there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from marlgpt_policy.encoders.pogema import MOVES
from marlgpt_policy.grid.cost_to_go import cost_to_go
from marlgpt_policy.grid.nav_grid import NavGrid
from marlgpt_policy.mapf.pibt_shield import LEAST_PROBABILITY, move_worth, rank_moves, resolve


@st.composite
def scenes(draw, cut_edges=True):
    """Moves, distinct cells, complete or partial rankings, priorities, fixed robots and blocked cells."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    free = draw(arrays(np.bool_, shape, elements=st.sampled_from([True, True, True, False])))
    free[draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))] = True
    moves = NavGrid.from_cells(free).moves.copy()
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if cut_edges and draw(st.booleans()):  # a wall thinner than a cell cuts an edge, in both directions
        down = random.random(shape)[:-1] < 0.2
        moves[:-1, :, 2] &= ~down
        moves[1:, :, 1] &= ~down
    spots = np.argwhere(free)
    n = draw(st.integers(1, len(spots)))
    cells = spots[random.permutation(len(spots))[:n]]
    ranking = np.array([random.permutation(5) for _ in range(n)], dtype=np.int8)
    exists = np.take_along_axis(moves[cells[:, 0], cells[:, 1]], ranking.astype(int), axis=1)
    if draw(st.booleans()):
        ranking = np.where(exists, ranking, -1).astype(np.int8)
    ranking[random.random((n, 5)) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = -1
    priority = random.integers(0, 3, n) + draw(st.sampled_from([0.0, 1.0])) * random.random(n)
    fixed = random.random(n) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    blocked = random.random(shape) < draw(st.sampled_from([0.0, 0.2]))
    return moves, cells, ranking, priority, fixed, blocked


def next_cells(cells, chosen):
    return cells + MOVES[chosen]


def assert_safe(cells, chosen, moves):
    """Moves exist, next cells are distinct, and nobody swaps."""
    assert moves[cells[:, 0], cells[:, 1], chosen].all(), "a move does not exist"
    after = [tuple(cell) for cell in next_cells(cells, chosen).tolist()]
    assert len(set(after)) == len(after), "vertex conflict"
    at = {tuple(cell): i for i, cell in enumerate(cells.tolist())}
    for i, cell in enumerate(after):
        j = at.get(cell, i)
        assert j == i or after[j] != tuple(cells[i].tolist()), f"robots {i} and {j} swap"


def random_worth(n, seed):
    """None (no search), or any worth of any move."""
    random = np.random.default_rng(seed)
    return None if seed % 2 else np.log(random.uniform(LEAST_PROBABILITY, 1.0, (n, 5)))


@settings(max_examples=600, deadline=None)
@given(scene=scenes(), seed=st.integers(0, 2**32 - 1))
def test_any_proposal_becomes_safe(scene, seed):
    moves, cells, ranking, priority, fixed, blocked = scene
    searched = {"worth": random_worth(len(cells), seed), "seed": seed}
    chosen = resolve(cells, ranking, priority, moves, fixed, blocked, **searched)
    assert (chosen.shape, chosen.dtype) == ((len(cells),), np.int8)
    assert_safe(cells, chosen, moves)
    assert (chosen[fixed] == 0).all(), "a fixed robot moves"
    moving = next_cells(cells, chosen)[chosen != 0]
    assert not blocked[moving[:, 0], moving[:, 1]].any(), "a robot enters a blocked cell"
    ranked = (ranking == chosen[:, None]).any(axis=1)
    assert (ranked | (chosen == 0)).all(), "a robot makes a move it did not rank"
    again = resolve(cells, ranking, priority, moves, fixed, blocked, **searched)
    np.testing.assert_array_equal(chosen, again)


@settings(max_examples=300, deadline=None)
@given(scene=scenes(), seed=st.integers(0, 2**31))
def test_the_search_never_loses_worth_and_never_robs_the_first_robot(scene, seed):
    moves, cells, ranking, priority, fixed, blocked = scene
    worth = random_worth(len(cells), 2 * seed)
    plain = resolve(cells, ranking, priority, moves, fixed, blocked)
    found = resolve(cells, ranking, priority, moves, fixed, blocked, worth, seed)
    own = np.arange(len(cells))
    assert worth[own, found].sum() >= worth[own, plain].sum() - 1e-9
    free = np.flatnonzero(~fixed)
    if len(free):
        first = free[np.argsort(-priority[free], kind="stable")[0]]
        assert found[first] == plain[first]


def test_the_search_lets_the_one_who_cares_less_give_way():
    """Robots 1 and 2 want the same cell; robot 1 comes first but nearly as gladly waits. Robot 0 stands aside."""
    moves = NavGrid.from_cells(np.array([[1, 1, 1], [0, 0, 0], [1, 1, 1]], dtype=bool)).moves
    cells = np.array([(2, 0), (0, 0), (0, 2)])
    ranking = np.array([[0, -1, -1, -1, -1], [4, 0, -1, -1, -1], [3, 0, -1, -1, -1]], dtype=np.int8)
    priority = np.array([3, 2, 1])
    worth = np.log([[1, 0.01, 0.01, 0.01, 0.01], [0.4, 0.01, 0.01, 0.01, 0.6], [0.1, 0.01, 0.01, 0.9, 0.01]])
    assert resolve(cells, ranking, priority, moves).tolist() == [0, 4, 0]
    assert resolve(cells, ranking, priority, moves, worth=worth).tolist() == [0, 0, 3]


@settings(max_examples=200, deadline=None)
@given(
    logits=arrays(np.float32, (4, 20), elements=st.floats(-50, 50, width=32)),
    mask=arrays(np.bool_, (4, 20)),
    proposed=arrays(np.int8, 4, elements=st.integers(0, 4)),
)
def test_worth_is_a_bounded_log_probability_and_zero_for_the_proposal(logits, mask, proposed):
    mask[:, 0] = True  # waiting is always possible
    worth = move_worth(logits, proposed, mask)
    assert worth.shape == (4, 5) and (worth <= 0).all() and (worth >= np.log(LEAST_PROBABILITY) - 1e-12).all()
    assert (worth[np.arange(4), proposed] == 0).all()
    others = np.arange(5) != proposed[:, None]
    assert (worth[others & ~mask[:, :5]] == np.log(LEAST_PROBABILITY)).all()


@settings(max_examples=300, deadline=None)
@given(scene=scenes(), seed=st.integers(0, 2**32 - 1))
def test_a_safe_proposal_is_executed_unchanged(scene, seed):
    """Whatever the priorities and whatever else is ranked.

    First choices are distinct cells, so a first choice is only ever reserved by the robot that proposed it,
    and no two proposals swap: by induction over the service order no first choice is refused. Fixed robots
    propose to wait and nobody proposes a blocked cell here, because those are vetoes by intention.
    """
    moves, cells, ranking, priority, fixed, blocked = scene
    safe = resolve(cells, ranking, np.random.default_rng(seed).random(len(cells)), moves, fixed, blocked)
    blocked = blocked.copy()
    blocked[tuple(next_cells(cells, safe).T)] = False
    logits = np.random.default_rng(seed).normal(size=(len(cells), 20))
    mask = np.zeros((len(cells), 20), dtype=bool)
    mask[:, :5] = moves[cells[:, 0], cells[:, 1]]
    worth = move_worth(logits, safe, mask)
    ranking = rank_moves(logits, safe, mask)
    executed = resolve(cells, ranking, priority, moves, fixed, blocked, worth, seed)
    np.testing.assert_array_equal(executed, resolve(cells, ranking, priority, moves, fixed, blocked))
    np.testing.assert_array_equal(executed, safe)


@settings(max_examples=200, deadline=None)
@given(scene=scenes())
def test_the_first_robot_gets_a_free_first_choice(scene):
    moves, cells, ranking, priority, fixed, blocked = scene
    first = int(np.argsort(-priority, kind="stable")[0])
    occupied = {tuple(cell) for cell in cells.tolist()}
    fixed[first] = False
    for move in range(1, 5):
        r, c = cells[first] + MOVES[move]
        if moves[tuple(cells[first])][move] and (r, c) not in occupied and not blocked[r, c]:
            ranking[first] = np.roll(np.arange(5), -move)
            assert resolve(cells, ranking, priority, moves, fixed, blocked)[first] == move


def test_four_robots_rotate_on_two_by_two():
    moves = NavGrid.from_cells(np.ones((2, 2), dtype=bool)).moves
    cells = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])
    clockwise = np.array([4, 2, 3, 1])
    for priority in ([3, 2, 1, 0], [0, 1, 2, 3], [0, 0, 0, 0]):
        ranking = np.stack([np.r_[m, 0, -1, -1, -1] for m in clockwise]).astype(np.int8)
        assert resolve(cells, ranking, np.array(priority), moves).tolist() == clockwise.tolist()


def test_a_chain_follows_and_a_swap_is_refused():
    moves = NavGrid.from_cells(np.ones((1, 4), dtype=bool)).moves
    right = np.array([[4, 0, 3, -1, -1]] * 3, dtype=np.int8)
    cells = np.array([(0, 0), (0, 1), (0, 2)])
    assert resolve(cells, right, np.array([2, 1, 0]), moves).tolist() == [4, 4, 4]
    assert resolve(cells + (0, 1), right, np.array([2, 1, 0]), moves).tolist() == [0, 0, 0]
    facing = np.array([[4, 0, -1, -1, -1], [3, 0, -1, -1, -1]], dtype=np.int8)
    assert resolve(cells[:2], facing, np.array([1, 0]), moves).tolist() == [0, 0]


def test_priority_pushes_an_idle_robot_out_of_the_way():
    moves = NavGrid.from_cells(np.ones((1, 3), dtype=bool)).moves
    ranking = np.array([[4, 0, -1, -1, -1], [0, 4, 3, -1, -1]], dtype=np.int8)
    cells = np.array([(0, 0), (0, 1)])
    assert resolve(cells, ranking, np.array([1, 0]), moves).tolist() == [4, 4]
    assert resolve(cells, ranking, np.array([0, 1]), moves).tolist() == [0, 0]


def test_no_robots():
    moves = NavGrid.from_cells(np.ones((2, 2), dtype=bool)).moves
    chosen = resolve(np.zeros((0, 2), int), np.zeros((0, 5), np.int8), np.zeros(0), moves)
    assert chosen.shape == (0,)


def ring():
    free = np.ones((4, 4), dtype=bool)
    free[1:3, 1:3] = False
    return free


@pytest.mark.parametrize("free", [*(np.ones(shape, bool) for shape in ((2, 2), (2, 5), (4, 4))), ring()])
@pytest.mark.parametrize("fill", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("searches", [False, True])
def test_every_robot_reaches_its_goal_on_biconnected_graphs(free, fill, searches):
    """PIBT's theorem: the robot that has waited longest gets its first choice until it arrives."""
    moves = NavGrid.from_cells(free).moves
    spots = np.argwhere(free)
    n = max(2, round(fill * len(spots)))
    for seed in range(5):
        random = np.random.default_rng(seed)
        cells = spots[random.permutation(len(spots))[:n]]
        fields = np.stack([cost_to_go(moves, goal) for goal in spots[random.permutation(len(spots))[:n]]])
        priority, reached = random.random(n), np.zeros(n, dtype=bool)
        diameter = int(max(field[free].max() for field in fields))
        for _ in range(n * (diameter + 1)):
            ahead = cells[:, None] + MOVES
            exists = moves[cells[:, 0], cells[:, 1]]
            inside = np.where(exists[..., None], ahead, cells[:, None])
            cost = fields[np.arange(n)[:, None], inside[..., 0], inside[..., 1]]
            logits = np.where(exists, -cost - 0.5 * random.random((n, 5)), -1e9)
            mask = np.pad(exists, ((0, 0), (0, 15)))
            best = logits.argmax(axis=1)
            worth = move_worth(logits, best, mask) if searches else None
            chosen = resolve(cells, rank_moves(logits, best, mask), priority, moves, worth=worth, seed=seed)
            assert_safe(cells, chosen, moves)
            cells = next_cells(cells, chosen)
            there = fields[np.arange(n), cells[:, 0], cells[:, 1]] == 0
            reached |= there
            priority = np.where(there, priority % 1.0, priority + 1.0)
            if reached.all():
                break
        assert reached.all(), f"robots {np.flatnonzero(~reached)} of {n} never arrived (seed {seed})"


@settings(max_examples=200, deadline=None)
@given(
    logits=arrays(np.float32, (4, 20), elements=st.floats(-50, 50, width=32)),
    mask=arrays(np.bool_, (4, 20)),
    proposed=arrays(np.int8, 4, elements=st.integers(0, 4)),
)
def test_ranking_puts_the_proposal_first_then_falling_logits_then_nothing(logits, mask, proposed):
    ranking = rank_moves(logits, proposed, mask)
    assert (ranking.shape, ranking.dtype) == ((4, 5), np.int8)
    for i, row in enumerate(ranking):
        listed = [int(move) for move in row if move >= 0]
        assert sorted(listed) == np.flatnonzero(mask[i, :5]).tolist()
        if mask[i, proposed[i]]:
            assert listed[0] == proposed[i]
        rest = [logits[i, move] for move in listed if move != proposed[i]]
        assert rest == sorted(rest, reverse=True)


@pytest.mark.parametrize(
    ("cells", "complaint"),
    [
        ([(0, 0), (0, 0)], "share a cell"),
        ([(0, 0), (2, 0)], "outside the 2 x 2"),
        ([(0, -1), (0, 0)], "outside"),
    ],
)
def test_impossible_positions_are_refused(cells, complaint):
    moves = NavGrid.from_cells(np.ones((2, 2), dtype=bool)).moves
    with pytest.raises(ValueError, match=complaint):
        resolve(np.array(cells), np.zeros((2, 5), np.int8), np.zeros(2), moves)

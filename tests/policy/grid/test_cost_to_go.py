"""Cost-to-go: distances against an independent search, cache behaviour, refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from marlgpt_policy.grid.cost_to_go import UNREACHABLE, CostToGo, cost_to_go
from marlgpt_policy.grid.moves import MOVE_OFFSETS
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import shortest_path


def moves_of(free: np.ndarray) -> np.ndarray:
    """Edges between all neighbouring free cells."""
    rows, columns = free.shape
    padded = np.pad(free, 1)
    near = [padded[1 + dr : 1 + dr + rows, 1 + dc : 1 + dc + columns] for dr, dc in MOVE_OFFSETS]
    return np.stack([free & n for n in near], axis=-1)


def reference(moves: np.ndarray, goal: tuple[int, int]) -> np.ndarray:
    """Distances by scipy's graph search over the same, possibly one-way, edges."""
    rows, columns = moves.shape[:2]
    tails, heads = [], []
    for r, c, m in np.argwhere(moves[..., 1:]):
        dr, dc = MOVE_OFFSETS[m + 1]
        if 0 <= r + dr < rows and 0 <= c + dc < columns:
            tails.append(r * columns + c)
            heads.append((r + dr) * columns + c + dc)
    graph = csr_matrix((np.ones(len(tails)), (heads, tails)), shape=(rows * columns,) * 2)
    cost = shortest_path(graph, unweighted=True, indices=goal[0] * columns + goal[1])
    return np.where(np.isinf(cost), UNREACHABLE, cost).astype(np.int32).reshape(rows, columns)


def test_straight_corridor_counts_moves():
    cost = cost_to_go(moves_of(np.ones((1, 6), dtype=bool)), (0, 2))
    assert cost.dtype == np.int32
    assert cost.tolist() == [[2, 1, 0, 1, 2, 3]]


def test_walls_force_detours_and_islands_are_unreachable():
    free = np.array([[1, 0, 1, 0], [1, 0, 1, 1], [1, 1, 1, 0], [0, 0, 0, 1]], dtype=bool)
    cost = cost_to_go(moves_of(free), (0, 2))
    assert cost[0, 0] == 6
    assert cost[3, 3] == UNREACHABLE
    assert cost[0, 1] == UNREACHABLE


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_equals_independent_search_also_with_one_way_edges(data):
    shape = data.draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    moves = data.draw(arrays(np.bool_, (*shape, 5)))
    goal = data.draw(st.tuples(st.integers(0, shape[0] - 1), st.integers(0, shape[1] - 1)))
    moves[goal][0] = True
    np.testing.assert_array_equal(cost_to_go(moves, goal), reference(moves, goal))


def test_cache_returns_the_same_read_only_field_and_drops_the_oldest():
    moves = moves_of(np.ones((4, 4), dtype=bool))
    cache = CostToGo(moves, capacity=2)
    first = cache.field((0, 0))
    assert cache.field(np.array([0, 0])) is first
    with pytest.raises(ValueError):
        first[0, 0] = 7
    cache.field((1, 1))
    cache.field((0, 0))
    cache.field((2, 2))
    assert len(cache) == 2
    assert cache.field((0, 0)) is first


def test_stack_has_one_writable_field_per_goal():
    moves = moves_of(np.ones((3, 5), dtype=bool))
    goals = np.array([[0, 0], [2, 4], [0, 0]])
    stack = CostToGo(moves, capacity=1).fields(goals)
    assert stack.shape == (3, 3, 5)
    for field, goal in zip(stack, goals, strict=True):
        np.testing.assert_array_equal(field, cost_to_go(moves, goal))
    stack[0] = -1
    assert CostToGo(moves).fields(np.zeros((0, 2), dtype=int)).shape == (0, 3, 5)


def test_cache_is_independent_of_later_changes_to_the_moves():
    moves = moves_of(np.ones((2, 2), dtype=bool))
    cache = CostToGo(moves)
    moves[:] = False
    assert cache.field((0, 0)).tolist() == [[0, 1], [1, 2]]


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        ((0, 1), r"\(0, 1\) is a blocked cell"),
        ((0, 9), r"\(0, 9\) lies outside the grid of 2 x 2"),
        ((-1, 0), r"\(-1, 0\) lies outside"),
        ((0.5, 0), "two integers"),
        ((1, 1, 1), "two integers"),
    ],
)
def test_bad_goals_are_named(goal, words):
    moves = moves_of(np.array([[1, 0], [1, 1]], dtype=bool))
    with pytest.raises(ValueError, match=words):
        cost_to_go(moves, goal)
    with pytest.raises(ValueError, match=words):
        CostToGo(moves).field(goal)


def test_bad_moves_and_capacity_are_refused():
    with pytest.raises(ValueError, match=r"bool\[R, C, 5\]"):
        cost_to_go(np.ones((3, 3, 4), dtype=bool), (0, 0))
    with pytest.raises(ValueError, match=r"bool\[R, C, 5\]"):
        CostToGo(np.ones((3, 3, 5)))
    with pytest.raises(ValueError, match="capacity"):
        CostToGo(np.ones((3, 3, 5), dtype=bool), capacity=0)
    with pytest.raises(ValueError, match=r"int\[n, 2\]"):
        CostToGo(np.ones((3, 3, 5), dtype=bool)).fields(np.zeros(2, dtype=int))

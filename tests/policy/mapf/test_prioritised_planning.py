"""Planning in space-time: no conflicts, and the first gets its shortest way."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.grid.cost_to_go import UNREACHABLE
from marlgpt_policy.mapf.lacam import neighbour_table
from marlgpt_policy.mapf.prioritised_planning import connected, way
from stuck_worlds import DEAD_END, MOUTH, fields_of, flat, grid, planned, random_world


def check(path, moves, start):
    """A plan starts where robots are, is made of moves of the grid, and has no vertex conflict and no swap."""
    near = neighbour_table(moves)
    assert path[0].tolist() == list(start)
    for before, after in zip(path, path[1:], strict=False):
        assert len(set(after.tolist())) == len(after)
        assert all(v in near[u] for u, v in zip(before, after, strict=True))
        stays = {(u, v) for u, v in zip(before.tolist(), after.tolist(), strict=True) if u != v}
        assert not any((v, u) in stays for u, v in stays)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 20), share=st.floats(0, 0.3), served=st.integers(1, 3))
def test_plans_have_no_conflicts(seed, n, share, served):
    _, moves, cells, goals = random_world(seed, n, share)
    path = planned(moves, cells, goals, min(served, len(cells)))
    if path is None:  # in a crowd without a free cell
        assert len(cells) > 0.5 * moves[..., 0].sum()
    else:
        check(path, moves, flat(moves, cells))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 8))
def test_in_the_open_the_first_takes_its_shortest_way(seed, n):
    _, moves, cells, goals = random_world(seed, n, 0.0)
    path = planned(moves, cells, goals)
    distance = fields_of(moves, goals)[0]
    assert distance[path[:, 0]].tolist() == [max(0, int(distance[path[0, 0]]) - t) for t in range(len(path))]


def test_who_is_in_the_way_in_a_dead_end_comes_out_first():
    path = planned(DEAD_END, *MOUTH)
    check(path, DEAD_END, flat(DEAD_END, MOUTH[0]))
    assert path[-1, 0] == flat(DEAD_END, [MOUTH[1][0]])[0]


def test_there_is_no_plan_where_there_is_no_room():
    assert planned(grid("..."), [(0, 0), (0, 1), (0, 2)], [(0, 2), (0, 1), (0, 0)]) is None


def test_a_way_ends_at_the_goal_or_after_the_moves_asked_for():
    moves = grid(".....")
    near, field = neighbour_table(moves), fields_of(moves, [(0, 4)])[0]
    assert way(0, field, near, 9) == [0, 1, 2, 3, 4] and way(0, field, near, 2) == [0, 1, 2]
    assert way(4, field, near, 9) == [4] and way(0, np.full(5, UNREACHABLE), near, 9) == [0]


def test_connected():
    near = neighbour_table(grid("..#.", "..#."))
    assert connected(0, 5, near) and connected(3, 3, near) and not connected(0, 3, near)

"""Temperatures rise for robots that get no nearer to their goals, and for nobody else."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from marlgpt_policy.deadlock.stagnation import PATIENCE, RISE, Stagnation

ALL = np.arange(2)
GOALS = np.array([(5, 5), (7, 7)])


def test_who_gets_nearer_keeps_the_base_and_who_does_not_reaches_one():
    stagnation = Stagnation(2)
    for step in range(PATIENCE + RISE + 1):
        stagnation.update(ALL, np.array([500 - step, 9 + step % 2]), GOALS)
        if step <= PATIENCE:
            assert stagnation.temperatures(ALL, 0.2).tolist() == [0.2, 0.2]
    np.testing.assert_allclose(stagnation.temperatures(ALL, 0.2), [0.2, 1.0])
    stagnation.update(ALL[1:], np.array([8]), GOALS[1:])
    assert stagnation.temperatures(ALL, 0.2).tolist() == [0.2, 0.2]


def test_a_new_goal_starts_anew_and_resting_at_the_goal_is_no_trouble():
    stagnation = Stagnation(2)
    for _ in range(200):
        stagnation.update(ALL, np.array([0, 9]), GOALS)
    assert stagnation.idle.tolist() == [0, 199]
    stagnation.update(ALL, np.array([0, 30]), GOALS + 1)
    assert stagnation.idle.tolist() == [0, 0]


def test_pushed_off_its_goal_a_robot_counts_up_and_back_at_it_down():
    stagnation = Stagnation(1)
    own = np.array([0])
    for distance in (2, 1, 0, 1, 2, 1):
        stagnation.update(own, np.array([distance]), GOALS[:1])
    assert stagnation.idle.tolist() == [3]
    for idle in (2, 1, 0, 0):
        stagnation.update(own, np.array([0]), GOALS[:1])
        assert stagnation.idle.tolist() == [idle]


def test_robots_that_push_each_other_off_their_goals_in_turn_are_stuck():
    stagnation = Stagnation(1)
    for step in range(3 * PATIENCE):
        stagnation.update(np.array([0]), np.array([(0, 1, 2)[step % 3]]), GOALS[:1])
    assert stagnation.idle[0] >= PATIENCE - 2


def test_robots_that_do_not_decide_are_not_counted():
    stagnation = Stagnation(2)
    for _ in range(5):
        stagnation.update(ALL[:1], np.array([3]), GOALS[:1])
    assert stagnation.idle.tolist() == [4, 0]


@given(
    base=st.floats(0, 5),
    distances=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=150),
)
def test_temperatures_lie_between_the_base_and_one(base, distances):
    stagnation = Stagnation(2)
    for pair in distances:
        stagnation.update(ALL, np.array(pair), GOALS)
    found = stagnation.temperatures(ALL, base)
    assert (found >= base).all() and (found <= max(base, 1.0) + 1e-12).all()

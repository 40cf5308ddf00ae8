"""Dead reckoning: which poses the commands explain."""

import math

import numpy as np
import pytest
from marlgpt_policy.motion.dead_reckoning import KEPT, DeadReckoning

PERIOD = 0.05


def driven(periods, step=(0.025, 0.0, 0.0), robots=1):
    """Reckoning of robots that moved by ``step`` in each period, believed at time 0; and the time now."""
    reckoning = DeadReckoning(robots)
    reckoning.note(np.zeros((robots, 3)), 0.0)
    for i in range(robots):
        reckoning.believe(i, 0.0)
    for k in range(1, periods + 1):
        reckoning.note(np.tile(step, (robots, 1)), k * PERIOD)
    return reckoning, periods * PERIOD


@pytest.mark.parametrize("periods", [1, 10, KEPT + 40])
def test_all_of_the_way_a_part_and_none_of_it_are_explained_but_nothing_else(periods):
    reckoning, now = driven(periods)
    way = 0.025 * periods
    for share in (0.0, 0.5, 1.0):
        assert reckoning.explains(0, np.zeros(3), np.array([share * way, 0.05, 0.0]), now, 0.1)
    aside = 0.1 + 0.3 * way + 0.05
    for x, y in ((0.0, aside), (way, -aside), (-aside, 0.0), (way + aside, 0.0)):
        assert not reckoning.explains(0, np.zeros(3), np.array([x, y, 0.0]), now, 0.1)


@pytest.mark.parametrize("yaw", [-3.1, 0.0, 3.1])
def test_turns_are_explained_up_to_what_was_commanded_also_across_pi(yaw):
    reckoning, now = driven(10, (0.0, 0.0, 0.1))
    before = np.array([0.0, 0.0, yaw])
    for turn in (0.0, 0.5, 1.0):
        wrapped = (yaw + turn + math.pi) % (2 * math.pi) - math.pi
        assert reckoning.explains(0, before, np.array([0.0, 0.0, wrapped]), now, 0.1)
    for turn in (-0.7, 1.8):
        assert not reckoning.explains(0, before, np.array([0.0, 0.0, yaw + turn]), now, 0.1)


def test_only_what_happened_until_the_pose_counts():
    reckoning, now = driven(20)
    early = now - 15 * PERIOD
    assert not reckoning.explains(0, np.zeros(3), np.array([0.5, 0.0, 0.0]), early, 0.1)
    assert reckoning.explains(0, np.zeros(3), np.array([0.5, 0.0, 0.0]), now, 0.1)


def test_robots_that_join_and_a_clock_that_is_set():
    reckoning, now = driven(10)
    reckoning.grow(2)
    reckoning.note(np.zeros((3, 3)), now + PERIOD)
    assert reckoning.explains(2, np.zeros(3), np.array([0.05, 0.0, 0.0]), now, 0.1)
    assert not reckoning.explains(2, np.zeros(3), np.array([0.5, 0.0, 0.0]), now, 0.1)
    reckoning.forget_times()
    reckoning.note(np.zeros((3, 3)), 0.0)
    assert reckoning.explains(0, np.zeros(3), np.array([0.25, 0.0, 0.0]), 0.0, 0.1)


def test_what_was_driven_since_a_time_is_interpolated_between_periods():
    reckoning, now = driven(20, robots=4)
    times = np.array([now, now - 2.5 * PERIOD, now - 100.0, now + 1.0])
    moved = reckoning.after(times)[:, 0]
    np.testing.assert_allclose(moved[[0, 1, 3]], [0.0, 2.5 * 0.025, 0.0], atol=1e-12)
    assert moved[2] >= 20 * 0.025 - 1e-9

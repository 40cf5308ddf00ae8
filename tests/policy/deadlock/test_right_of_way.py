"""Right of way: who gets it, for how long, who goes first of several, and how the others make way."""

from types import SimpleNamespace

import numpy as np
import pytest
from marlgpt_policy.deadlock.detours import Detours
from marlgpt_policy.deadlock.right_of_way import (
    FIRST_AFTER,
    IN_VAIN,
    LONGEST_FIRST,
    MOST_FIRST,
    PLANNED,
    WAY,
    RightOfWay,
)
from marlgpt_policy.deadlock.stagnation import Stagnation
from marlgpt_policy.grid.cost_to_go import CostToGo
from stuck_worlds import grid


class World:
    """Robots in a hall; ``idle`` says how long each has got no nearer to its goal."""

    def __init__(self, cells, goals, lines=("............",) * 3):
        moves = grid(*lines)
        costs = CostToGo(moves)
        n = len(cells)
        self.robots = SimpleNamespace(ends=np.array(cells), goals=np.array(goals), waited=np.zeros(n))
        self.stagnation, self.fit = Stagnation(n), np.ones(n, dtype=bool)
        self.way = RightOfWay(self.robots, self.stagnation, costs, Detours(costs))
        self.moves, self.now = moves, 0.0

    def choose(self, idle=None, seconds=0.0):
        self.now += seconds
        if idle is not None:
            self.stagnation.idle[:] = idle
        self.way.choose(self.fit, self.now)
        return list(self.way.firsts)

    def clear(self, members):
        members = np.array(members)
        anchors = self.robots.ends[members]
        mask = self.moves[anchors[:, 0], anchors[:, 1]].copy()
        return self.way.clear(members, anchors, mask), mask


def row(n):
    return [(0, k) for k in range(n)], [(2, 11 - k) for k in range(n)]


def test_who_waits_too_long_goes_first_and_the_longest_wait_first():
    world = World(*row(3))
    assert world.choose([FIRST_AFTER - 1, 0, 0]) == []
    assert world.choose([FIRST_AFTER, 0, FIRST_AFTER + 5]) == [2, 0]
    assert world.choose([FIRST_AFTER + 9, FIRST_AFTER + 50, FIRST_AFTER]) == [
        2,
        0,
        1,
    ]  # first come, first served
    assert world.way.count == 3
    precedence = world.way.precedence(np.array([0, 1, 2]))
    assert precedence[2] > precedence[0] > precedence[1] > PLANNED
    assert world.way.precedence(np.zeros(0, dtype=int)).shape == (0,)


def test_it_lasts_until_the_goal_changes_and_not_for_robots_that_cannot_drive():
    world = World(*row(3))
    world.choose([FIRST_AFTER] * 3)
    assert len(world.choose([0, 0, 0])) == 3  # they get on: that does not end it
    world.robots.goals[0] = (-1, -1)
    world.fit[1] = False
    assert world.choose() == [2]
    assert world.choose([FIRST_AFTER] * 3) == [2], "no goal, or not able to drive"


def test_there_are_never_more_than_so_many():
    world = World(*row(MOST_FIRST + 3))
    assert len(world.choose([FIRST_AFTER] * (MOST_FIRST + 3))) == MOST_FIRST


@pytest.mark.parametrize("nearer", [False, True])
def test_who_does_not_get_on_goes_last(nearer):
    world = World(*row(2))
    world.choose([FIRST_AFTER + 1, FIRST_AFTER])
    assert world.choose(seconds=1.0) == [0, 1]
    if nearer:
        world.robots.ends[0] = (1, 0)
        world.choose(seconds=IN_VAIN - 1)
    assert world.choose(seconds=IN_VAIN + 1 if not nearer else IN_VAIN - 1) == ([0, 1] if nearer else [1, 0])


def test_nobody_goes_first_for_ever():
    world = World([(0, 0), (2, 0)], [(0, 11), (2, 11)])
    world.choose([FIRST_AFTER + 1, FIRST_AFTER])
    world.choose()
    for step in range(1, 11):
        world.robots.ends[0] = (0, step)
        assert world.choose(seconds=LONGEST_FIRST / 11)[0] == 0
    assert world.choose(seconds=LONGEST_FIRST / 5) == [1, 0]


def test_the_second_is_not_blamed_for_the_time_of_the_first():
    world = World(*row(2))
    world.choose([FIRST_AFTER + 1, FIRST_AFTER])
    world.choose(seconds=0.1)
    world.robots.goals[0] = (-1, -1)
    world.stagnation.idle[0] = 0
    assert world.choose(seconds=IN_VAIN + 5) == [1]
    assert world.choose(seconds=IN_VAIN - 5) == [1] and world.way._leader.since > IN_VAIN


def test_a_clock_that_was_set_back_changes_the_order_at_worst():
    world = World(*row(2))
    world.now = 1000.0
    world.choose([FIRST_AFTER + 1, FIRST_AFTER])
    world.choose()
    assert sorted(world.choose(seconds=-900.0)) == [0, 1]


def test_without_a_plan_others_leave_the_way_and_enter_it_nowhere():
    world = World([(1, 0), (1, 2), (0, 4), (2, 11)], [(1, 11), (0, 2), (2, 4), (0, 0)])
    world.choose([FIRST_AFTER, 0, 0, 0])
    leave, mask = world.clear([0, 1, 2, 3])
    assert leave.tolist() == [False, True, False, False]
    assert (mask[0] == world.moves[1, 0]).all(), "the first one itself goes where it wants"
    assert mask[1, 4] and not mask[1, 3], "on along the way, not against it"
    assert mask[1, 1] and mask[1, 2]
    assert not mask[2, 2] and mask[2, 3] and mask[2, 4]
    assert mask[3, 1] == world.moves[2, 11, 1], "beyond the cells that are kept clear"
    assert (1, WAY) == tuple(np.argwhere(world.way._way(0) == WAY)[0])


def test_those_in_a_joint_plan_are_left_alone():
    world = World([(1, 0), (1, 2)], [(1, 11), (0, 2)])
    world.choose([FIRST_AFTER, 0])
    world.way.plans.plan = SimpleNamespace(robots=np.array([0, 1]))
    leave, mask = world.clear([0, 1])
    assert not leave.any() and mask[1, 3]


def test_counts_go_on_with_another_map():
    before, after = World(*row(2)), World(*row(2))
    before.choose([FIRST_AFTER] * 2)
    before.way.plans.count = 7
    after.way.take_over(before.way)
    assert (after.way.count, after.way.plans.count) == (2, 7) and not after.way.firsts


def test_who_has_no_way_around_robots_that_do_not_drive_does_not_go_first_until_it_has():
    world = World(*row(2), lines=("............", "#.##########", "............"))
    assert world.choose([FIRST_AFTER] * 2) == [0, 1]
    world.way.detours.close(np.array([(1, 1)]))
    assert world.choose([FIRST_AFTER] * 2) == []
    world.way.detours.close(np.zeros((0, 2), dtype=int))
    assert world.choose([FIRST_AFTER] * 2) == [0, 1]


def test_getting_on_along_a_detour_is_getting_on():
    world = World([(0, 0)], [(2, 0)], lines=("......", ".####.", "......"))
    world.way.detours.close(np.array([(1, 0)]))
    world.choose([FIRST_AFTER])
    world.choose()
    for k in range(1, 6):
        world.robots.ends[0] = (0, k)  # farther off by the short way, which is closed
        world.choose(seconds=IN_VAIN / 2)
    assert world.way._leader is not None and world.way._leader.gained == world.now

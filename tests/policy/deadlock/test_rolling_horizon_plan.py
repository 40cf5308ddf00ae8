"""Joint plans: nobody collides in any order of events, everybody gets through, and plans end when they should."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.deadlock.rolling_horizon_plan import (
    MOST,
    NEAR,
    PAUSE,
    RENEW,
    JointPlans,
    advance,
    compile_plans,
)
from marlgpt_policy.grid.cost_to_go import CostToGo
from marlgpt_policy.grid.moves import MOVE_OFFSETS
from marlgpt_policy.mapf.prioritised_planning import HORIZON, _all
from stuck_worlds import DEAD_END, MOUTH, grid, planned, random_world

# Following a plan ---------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 16), share=st.floats(0, 0.3), often=st.floats(0.2, 1))
def test_in_whatever_order_robots_are_ready_all_come_to_the_end_and_nobody_collides(seed, n, share, often):
    rng, moves, cells, goals = random_world(seed, n, share)
    path = planned(moves, cells, goals)
    if path is None:
        return
    n = len(cells)
    step = np.zeros(n, dtype=np.int64)
    for _ in range(200 * HORIZON):
        ready = rng.random(n) < often
        to = advance(path, step, ready)
        assert (to[~ready] == -1).all()
        here = path[step, np.arange(n)]
        step = np.where(to >= 0, to, step)
        there = path[step, np.arange(n)]
        assert len(set(there.tolist())) == n
        swaps = {(u, v) for u, v in zip(here.tolist(), there.tolist(), strict=True) if u != v}
        assert not any((v, u) in swaps for u, v in swaps)
        if (there == path[-1]).all() and (advance(path, step, np.ones(n, bool)) == -1).all():
            return
    raise AssertionError("some never got to the end of the plan")


def test_a_full_ring_turns_only_when_all_are_ready():
    path = np.array([[0, 1, 3, 2], [1, 3, 2, 0]], dtype=np.int32)  # round the four cells of 2 x 2
    step = np.zeros(4, dtype=np.int64)
    assert advance(path, step, np.ones(4, bool)).tolist() == [1, 1, 1, 1]
    assert advance(path, step, np.array([True, True, True, False])).tolist() == [-1] * 4


# A fleet's plan -----------------------------------------------------------------------------------------


class World:
    """Robots that do as the plan says, or stand."""

    def __init__(self, moves, cells, goals):
        self.costs = CostToGo(moves)
        self.cells, self.goals = np.array(cells), np.array(goals)
        self.joint = JointPlans(self.costs)
        self.closed = np.zeros(moves.shape[:2], dtype=bool)
        self.able = np.ones(len(cells), dtype=bool)
        self.now = 0.0

    def propose(self, served=(0,), ready=None, robots=None):
        robots = np.arange(len(self.cells)) if robots is None else np.array(robots)
        ready = np.ones(len(robots), bool) if ready is None else np.array(ready)
        fields = self.costs.fields(self.goals[robots])
        return self.joint.propose(
            list(served), robots, self.cells[robots], self.goals[robots], fields, self.able[robots], ready,
            self.closed, self.now,
        )  # fmt: skip

    def step(self, **arguments):
        found = self.propose(**arguments)
        self.cells = self.cells + MOVE_OFFSETS[np.maximum(found, 0)]
        self.now += 1.0
        return found


def test_the_first_gets_there_and_the_plan_ends_with_it():
    world = World(DEAD_END, *MOUTH)
    for _ in range(40):
        world.step()
        if tuple(world.cells[0]) == MOUTH[1][0]:
            break
    else:
        raise AssertionError(world.cells)
    assert world.propose(served=()).tolist() == [-1, -1] and world.joint.plan is None


def test_the_first_backs_out_for_one_that_is_deep_in_a_dead_end():
    moves = grid("....", "....", ".###", ".###")
    world = World(moves, [(2, 0), (3, 0)], [(3, 0), (3, 0)])
    for _ in range(40):
        world.step()
        if tuple(world.cells[0]) == (3, 0):
            return
    raise AssertionError(world.cells)


def test_without_anybody_who_goes_first_there_is_no_plan():
    world = World(DEAD_END, *MOUTH)
    assert world.propose(served=()).tolist() == [-1, -1] and world.joint.count == 0


def test_plans_are_made_anew_after_a_while_with_new_goals_and_for_another_first():
    world = World(grid("......", "......"), [(0, 0), (1, 5)], [(0, 5), (1, 0)])
    for change, made in (("nothing", 1), ("time", 2), ("goal", 3), ("first", 3), ("pause", 4)):
        served = (1, 0) if change in ("first", "pause") else (0,)
        world.now += {"nothing": 0.0, "time": RENEW}.get(change, PAUSE)
        if change == "goal":
            world.goals[1] = (1, 2)
        if change == "pause":
            world.goals[1] = (1, 1)
        world.propose(served)
        assert world.joint.count == made, change


def test_a_plan_ends_when_somebody_is_off_it_missing_or_unable():
    for change in ("off", "missing", "unable"):
        world = World(grid("......", "......"), [(0, 0), (1, 5)], [(0, 5), (1, 0)])
        assert (world.propose() >= 0).all()
        plan = world.joint.plan
        if change == "off":
            world.cells[1] = (1, 2)
        elif change == "unable":
            world.able[1] = False
        robots = [0] if change == "missing" else None
        world.now += PAUSE / 2  # too early for another one
        assert (world.propose(robots=robots) == -1).all() and world.joint.plan is not plan


def test_robots_that_cannot_drive_and_closed_cells_are_driven_around():
    world = World(grid("...", "...", "..."), [(0, 0), (0, 1)], [(0, 2), (0, 1)])
    world.able[1] = False
    world.closed[1, 1] = True
    found = world.propose()
    assert found[1] == -1
    visited = set(world.joint.plan.path[:, 0].tolist())
    assert not visited & {1, 4} and 2 in visited


def test_who_goes_first_but_cannot_drive_is_not_planned_for():
    world = World(grid("..."), [(0, 0), (0, 2)], [(0, 1), (0, 1)])
    world.able[:] = False
    assert (world.propose() == -1).all()
    world.able[:] = True
    world.closed[0, 1] = True
    world.now = PAUSE
    assert (world.propose() == -1).all() and world.joint.plan is None


def test_a_plan_that_cannot_be_made_anew_ends_and_the_next_try_comes_later():
    world = World(grid("...."), [(0, 0)], [(0, 3)])
    assert world.propose().tolist() == [4]
    world.now = RENEW
    world.closed[0, 2] = True
    assert world.propose().tolist() == [-1] and world.joint.plan is None
    world.closed[0, 2] = False
    world.now = RENEW + PAUSE
    assert world.propose().tolist() == [-1], "a pause after a failure is longer"
    world.now = RENEW + 2 * PAUSE
    assert world.propose().tolist() == [4] and world.joint.count == 2


def test_those_far_off_are_left_out_and_a_plan_is_never_too_large():
    world = World(grid("." * 60), [(0, 0), (0, 59)], [(0, 5), (0, 0)])
    assert world.propose().tolist()[1] == -1
    rows = NEAR
    cells = [(r, c) for r in range(rows) for c in range(10)]
    world = World(grid(*["." * 12] * rows), cells, cells[::-1])
    world.propose()
    assert len(world.joint.plan.robots) == MOST


def test_one_that_rests_at_the_goal_makes_way():
    world = World(grid("....", ".##.", "...."), [(1, 0), (0, 0)], [(0, 0), (0, 0)])
    for _ in range(60):
        world.step()
        if tuple(world.cells[0]) == (0, 0):
            return
    raise AssertionError(world.cells)


@pytest.mark.parametrize("back", [5.0, 1000.0])
def test_a_clock_that_was_set_back_does_not_end_planning(back):
    world = World(grid("......"), [(0, 0)], [(0, 5)])
    world.now = 2000.0
    world.propose()
    world.now -= back
    world.propose()
    assert world.joint.count == 2


def test_planning_is_compiled_for_the_types_that_fleets_use():
    compile_plans()
    known = [list(_all.signatures), list(advance.signatures)]
    world = World(DEAD_END, *MOUTH)
    world.propose()
    assert known == [list(_all.signatures), list(advance.signatures)]

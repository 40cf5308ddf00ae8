"""Plans for stuck robots: they solve what needs a step away from the goal, and stay proposals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.deadlock.rolling_horizon_plan import compile_plans
from marlgpt_policy.grid.cost_to_go import UNREACHABLE, CostToGo
from marlgpt_policy.grid.moves import MOVE_OFFSETS
from marlgpt_policy.mapf.lacam import _search
from marlgpt_training.evaluation.lockstep_recovery import AFTER, LONGEST, MOST, PAUSE, Rescue
from stuck_worlds import DEAD_END, MOUTH, grid


class World:
    """Robots that do as the rescue proposes, or stand."""

    def __init__(self, moves, cells, goals):
        self.costs = CostToGo(moves)
        self.cells, self.goals = np.array(cells), np.array(goals)
        self.rescue = Rescue(self.costs, len(cells))
        self.closed = np.zeros(moves.shape[:2], dtype=bool)

    def propose(self, idle, which=None):
        which = np.arange(len(self.cells)) if which is None else np.array(which)
        fields = self.costs.fields(self.goals[which])
        idle = np.array(idle)[which]
        return self.rescue.propose(which, self.cells[which], self.goals[which], fields, idle, self.closed)

    def drive(self, idle, steps):
        for _ in range(steps):
            planned = self.propose(idle)
            self.cells = self.cells + MOVE_OFFSETS[np.maximum(planned, 0)]
            assert len(set(map(tuple, self.cells.tolist()))) == len(self.cells), "two robots in a cell"
            if (self.cells == self.goals).all():
                return
        raise AssertionError(f"still at {self.cells.tolist()}")


# The first robot's goal is the dead end behind the cell where the second one has its goal.


def test_a_robot_parked_at_the_mouth_of_a_dead_end_is_asked_out_and_goes_back():
    world = World(DEAD_END, *MOUTH)
    world.drive([AFTER, 0], 30)
    assert world.rescue.count >= 1


def test_nobody_gets_a_plan_before_its_time_or_at_its_goal_or_without_a_way():
    world = World(DEAD_END, *MOUTH)
    assert world.propose([AFTER - 1, 0]).tolist() == [-1, -1]
    there = World(DEAD_END, [(2, 4)], [(2, 4)])
    assert there.propose([AFTER]).tolist() == [-1]
    apart = World(grid(".#."), [(0, 0)], [(0, 2)])
    assert apart.costs.field((0, 2))[0, 0] >= UNREACHABLE
    assert apart.propose([AFTER]).tolist() == [-1]


def test_what_cannot_be_solved_is_left_alone_for_a_while():
    world = World(grid("...."), [(0, 0), (0, 3)], [(0, 3), (0, 0)])  # a corridor without a place to pass
    for _ in range(PAUSE + 2):
        assert world.propose([AFTER, AFTER]).tolist() == [-1, -1]
    assert world.rescue.count == 0


def test_a_closed_goal_gets_no_plan_and_closed_cells_are_driven_around():
    world = World(grid("...", "...", "..."), [(1, 0)], [(1, 2)])
    world.closed[1, 1] = True
    assert world.propose([AFTER])[0] in (1, 2)
    world = World(grid("..."), [(0, 0)], [(0, 2)])
    world.closed[0, 2] = True
    assert world.propose([AFTER]).tolist() == [-1]


def test_a_plan_ends_when_somebody_is_missing_or_off_it_or_has_another_goal():
    for change in ("missing", "off", "goal"):
        world = World(DEAD_END, *MOUTH)
        assert (world.propose([AFTER, 0]) >= 0).all()
        which = None
        if change == "missing":
            which = [0]
        elif change == "off":
            world.cells = np.array([(3, 0), (2, 3)])
        else:
            world.goals = np.array([(0, 0), (2, 3)])
        assert (world.propose([0, 0], which) == -1).all()
        assert not world.rescue.plans


def test_a_plan_waits_for_robots_that_were_held():
    world = World(DEAD_END, *MOUTH)
    first = world.propose([AFTER, 0])
    assert world.propose([AFTER, 0]).tolist() == first.tolist()
    assert world.rescue.count == 1


def test_a_plan_ends_when_its_robot_gets_on():
    world = World(DEAD_END, *MOUTH)
    for _ in range(LONGEST):
        world.cells = world.cells + MOVE_OFFSETS[np.maximum(world.propose([AFTER, 0]), 0)]
        if tuple(world.cells[0]) == (2, 3):
            break
    assert (world.propose([0, 0]) == -1).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 30), share=st.floats(0, 0.3))
def test_plans_are_moves_of_the_grid_without_conflicts(seed, n, share):
    rng = np.random.default_rng(seed)
    free = rng.random((9, 11)) >= share
    moves = grid(*("".join(".#"[not cell] for cell in row) for row in free))
    cells = np.argwhere(free)
    n = min(n, len(cells))
    world = World(moves, rng.permutation(cells)[:n], cells[rng.integers(len(cells), size=n)])
    stuck = np.where(rng.random(n) < 0.3, AFTER, 0)
    planned = world.propose(stuck)
    rows = np.flatnonzero(planned >= 0)
    assert moves[world.cells[rows, 0], world.cells[rows, 1], planned[rows]].all()
    for plan in world.rescue.plans:
        assert len(plan.robots) <= MOST
        after = plan.path[1]
        assert len({tuple(cell) for cell in after.tolist()}) == len(after)
        for a in range(len(after)):
            for b in range(a):
                swapped = (plan.path[0][a] == after[b]).all() and (plan.path[0][b] == after[a]).all()
                assert not swapped
    members = [robot for plan in world.rescue.plans for robot in plan.robots]
    assert len(members) == len(set(members)) and set(members) == set(rows.tolist())


@pytest.mark.parametrize("n", [2, 5])
def test_equal_goals_are_no_obstacle(n):
    """Lifelong, several robots may have one goal; the stuck one gets it, the others go near."""
    world = World(grid("......", "......"), [(0, k) for k in range(n)], [(1, 5)] * n)
    assert (world.propose([AFTER] + [0] * (n - 1)) >= 0).all()


def test_the_search_is_compiled_for_the_types_that_plans_use():
    compile_plans()
    known = list(_search.signatures)
    world = World(DEAD_END, *MOUTH)
    assert (world.propose([AFTER, 0]) >= 0).all()
    assert _search.signatures == known

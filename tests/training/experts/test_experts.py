"""The experts: plans without conflicts, quality, determinism and errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.encoders.pogema import MOVES
from marlgpt_policy.mapf.lacam import lacam, neighbour_table
from marlgpt_policy.mapf.pibt import pibt_actions
from marlgpt_training.environments import map_families as maps
from marlgpt_training.environments.grid_env import GridEnv
from marlgpt_training.experts.lns import LIFELONG, ONE_SHOT, LnsExpert, window_of
from marlgpt_training.experts.pibt import Pibt
from marlgpt_training.seeds import HELD_OUT


def assert_no_conflict(before, after):
    """No two agents in one cell, none swapped."""
    cells = {tuple(c): i for i, c in enumerate(before.tolist())}
    assert len(np.unique(after, axis=0)) == len(after), "vertex conflict"
    for i, cell in enumerate(after.tolist()):
        j = cells.get(tuple(cell))
        assert j is None or j == i or after[j].tolist() != before[i].tolist(), "swap conflict"


def drive(expert, env, steps, check=True):
    """Let ``expert`` drive ``env``; every joint move must be executable as it is. Returns all moves."""
    moved = []
    for _ in range(steps):
        if isinstance(expert, Pibt):
            actions = expert.act(env.cells, env.fields, env.field_of, env.arrived)
        else:
            actions = expert.act(env.cells, env.goals, env.fields, env.field_of)
        before = env.cells
        if check:
            assert env.moves[before[:, 0], before[:, 1], actions].all(), "a move into a wall"
            assert_no_conflict(before, before + MOVES[actions])
        done = env.step(actions)
        assert (done == actions).all(), "the environment vetoed an expert move"
        moved.append(done)
        if not env.lifelong and env.arrived.all():
            break
    return np.array(moved)


def make(name, env, family="random", seed=0):
    if name == "pibt":
        return Pibt(env.moves, len(env.cells), seed)
    mode = LIFELONG if env.lifelong else ONE_SHOT
    return LnsExpert(env.moves, len(env.cells), mode, window_of(family), seed=seed)


@pytest.mark.parametrize("name", ["lns", "pibt"])
@given(
    seed=st.integers(0, 10**6),
    family=st.sampled_from(maps.FAMILIES),
    density=st.floats(0.02, 0.6),
    lifelong=st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_whole_episodes_without_conflicts(name, seed, family, density, lifelong):
    free = maps.generate(family, seed)
    agents = max(2, min(90, int(density * free.sum())))
    env = GridEnv.sample(free, agents, lifelong, seed)
    drive(make(name, env, family, seed), env, 30)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_lns_plans_stay_apart_over_the_window(seed):
    free = maps.generate("random", seed, low=10, high=13)
    env = GridEnv.sample(free, int(0.4 * free.sum()), True, seed)
    expert = make("lns", env, seed=seed)
    for _ in range(5):
        env.step(expert.act(env.cells, env.goals, env.fields, env.field_of))
        plans = np.stack(np.divmod(expert.search.plans.T, free.shape[1]), axis=2)  # [W + 1, n, 2]
        for now, then in zip(plans[:-1], plans[1:], strict=True):
            assert_no_conflict(now, then)
            assert (np.abs(now - then).sum(axis=1) <= 1).all() and free[then[:, 0], then[:, 1]].all()
        assert (expert.search._occ == -1).all(), "marks of the search were left behind"


def test_lns_beats_pibt_on_dense_held_out_maps():
    goals = {"lns": 0, "pibt": 0}
    for k in range(3):
        free = maps.generate("random", HELD_OUT + k)
        for name in goals:
            env = GridEnv.sample(free, 64, True, k)
            drive(make(name, env, seed=k), env, 128, check=False)
            goals[name] += env.reached.sum()
    assert goals["lns"] > 1.2 * goals["pibt"] > 0, goals


@pytest.mark.parametrize("name", ["lns", "pibt"])
def test_one_shot_reaches_all_goals_on_easy_maps(name):
    for seed in range(6):
        env = GridEnv.sample(maps.generate("random", HELD_OUT + seed, density=0.05), 12, False, seed)
        drive(make(name, env, seed=seed), env, 96)
        assert env.arrived.all(), f"map {seed}: {np.flatnonzero(~env.arrived)} not at their goals"


def puzzle(rows, starts, goals):
    """One-shot environment on ``rows`` of text, '#' is a wall."""
    free = np.array([[c != "#" for c in row] for row in rows])
    return GridEnv(free, np.array(starts), np.array(goals), False, 0)


def solve(env, **options):
    """LaCAM's plan int[T + 1, n, 2] of cells (None: none found) and whether it proved that there is none."""
    flat = env.cells[:, 0] * env.free.shape[1] + env.cells[:, 1]
    fields = env.fields.reshape(len(flat), -1)
    plan, impossible = lacam(flat, fields, env.field_of, neighbour_table(env.moves), **options)
    return (np.stack(np.divmod(plan, env.free.shape[1]), axis=2) if len(plan) else None), impossible


CORRIDOR_WITH_BAY = puzzle(["..........", "#####.####"], [[0, 0], [0, 9]], [[0, 9], [0, 0]])
# Agent 0 is at its goal, a gap in a wall, and the way round is closed: it has to leave and come back.
RESTING_AT_THE_GAP = puzzle(
    ["...#...", "...#...", ".......", "...#...", "...#..."],
    [[2, 3], [0, 0], [1, 0], [4, 6]],
    [[2, 3], [0, 6], [4, 5], [4, 0]],
)
THREE_TURN_IN_A_DEAD_END = puzzle(
    ["#####..", "......#", "#####.."], [[1, 0], [1, 1], [1, 2]], [[1, 2], [1, 1], [1, 0]]
)
SOLVABLE = [CORRIDOR_WITH_BAY, RESTING_AT_THE_GAP, THREE_TURN_IN_A_DEAD_END]
CORRIDOR = puzzle(["....."], [[0, 0], [0, 4]], [[0, 4], [0, 0]])


@given(seed=st.integers(0, 10**6), walls=st.floats(0, 0.4), density=st.floats(0.05, 0.6))
@settings(max_examples=60, deadline=None)
def test_lacam_plans_are_solutions_without_conflicts(seed, walls, density):
    rng = np.random.default_rng(seed)
    free = maps.largest_component(rng.random(rng.integers(3, 9, size=2)) >= walls)
    agents = max(1, int(density * free.sum()))
    env = GridEnv.sample(free, min(agents, free.sum()), False, seed)
    plan, impossible = solve(env, limits=(500, 500))
    if plan is None:
        assert impossible or agents > 1
        return
    assert (plan[0] == env.cells).all() and (plan[-1] == env.goals).all() and not impossible
    for now, then in zip(plan[:-1], plan[1:], strict=True):
        assert_no_conflict(now, then)
        assert (np.abs(now - then).sum(axis=1) <= 1).all() and free[then[:, 0], then[:, 1]].all()


@pytest.mark.parametrize("env", SOLVABLE)
def test_lacam_solves_what_needs_a_detour_from_the_goal(env):
    plan, _ = solve(env)
    assert (plan[-1] == env.goals).all()
    np.testing.assert_array_equal(plan, solve(env)[0])


def test_lacam_proves_that_a_swap_in_a_corridor_is_impossible():
    plan, impossible = solve(CORRIDOR)
    assert plan is None and impossible
    plan, impossible = solve(CORRIDOR, limits=(2,))
    assert plan is None and not impossible, "giving up is no proof"


@pytest.mark.parametrize("env", SOLVABLE)
def test_one_shot_lns_solves_what_needs_a_detour_from_the_goal(env):
    env = GridEnv(env.free, env.cells, env.goals, False, 0)
    drive(make("lns", env), env, 64)
    assert env.arrived.all()


def test_one_shot_lns_stays_feasible_where_there_is_no_solution():
    env = GridEnv(CORRIDOR.free, CORRIDOR.cells, CORRIDOR.goals, False, 0)
    drive(make("lns", env), env, 20)
    assert not env.arrived.all()
    same = np.array([[0, 4], [0, 4]])
    env = GridEnv(CORRIDOR.free, CORRIDOR.cells, same, False, 0)
    drive(make("lns", env), env, 20)
    assert env.reached.any()


@pytest.mark.parametrize("family,agents", [("random", 64), ("maze", 40), ("warehouse", 40), ("rooms", 40)])
def test_one_shot_lns_solves_dense_held_out_maps(family, agents):
    seed, solved = HELD_OUT + 555 * agents, 0
    while solved < 4:
        free = maps.generate(family, seed)
        seed += 1
        if family != "random" and agents > 0.3 * free.sum():
            continue
        env = GridEnv.sample(free, agents, False, seed)
        expert = make("lns", env, family, seed)
        left = None
        while not env.arrived.all():
            drive(expert, env, 1)
            assert expert.search.solved
            window = expert.search.plans.shape[1]
            assert left is None or window < left, "plans have to end one step earlier at every step"
            left = window
        solved += 1


def test_one_shot_lns_solves_while_somebody_else_drives_now_and_then():
    env, rng = GridEnv.sample(maps.generate("random", 5), 48, False, 5), np.random.default_rng(0)
    expert = make("lns", env)
    for _ in range(120):
        actions = expert.act(env.cells, env.goals, env.fields, env.field_of)
        assert_no_conflict(env.cells, env.cells + MOVES[actions])
        assert expert.search.solved and (expert.search._occ == -1).all()
        env.step(np.where(rng.random(48) < 0.02, rng.integers(0, 5, size=48), actions))
        if env.arrived.all():
            break
    assert env.arrived.all()


@pytest.mark.parametrize("lifelong", [True, False])
@pytest.mark.parametrize("name", ["lns", "pibt"])
def test_a_seed_gives_one_episode(name, lifelong):
    free = maps.generate("random", 4)
    runs = []
    for _ in range(2):
        env = GridEnv.sample(free, 60, lifelong, 4)
        np.random.seed(None)  # whatever numpy's global state is
        runs.append(drive(make(name, env, seed=9), env, 30))
    np.testing.assert_array_equal(*runs)


def test_a_lone_agent_takes_a_shortest_path():
    for seed in range(10):
        env = GridEnv.sample(maps.generate("maze", seed), 1, False, seed)
        distance = int(env.fields[0][tuple(env.cells[0])])
        assert len(drive(make("lns", env, "maze", seed), env, 500)) == max(1, distance)


def test_lns_recovers_when_somebody_else_drove():
    env = GridEnv.sample(maps.generate("random", 2), 50, True, 2)
    expert, rng = make("lns", env), np.random.default_rng(0)
    for _ in range(20):
        actions = expert.act(env.cells, env.goals, env.fields, env.field_of)
        assert_no_conflict(env.cells, env.cells + MOVES[actions])
        env.step(rng.integers(0, 5, size=50))


def test_pibt_serves_larger_priority_first():
    env = GridEnv(np.ones((1, 3), bool), np.array([[0, 0], [0, 2]]), np.array([[0, 2], [0, 0]]), True, 0)
    for first in (0, 1):
        priority = np.array([1.0, 0.0])[[first, 1 - first]]
        actions = pibt_actions(env.cells, env.fields, env.field_of, env.moves, priority)
        assert actions[first] == (4, 3)[first] and actions[1 - first] == 0


def test_lns_refuses_shared_cells_and_unreachable_goals():
    env = GridEnv.sample(maps.generate("random", 1), 5, True, 1)
    expert = make("lns", env)
    shared = env.cells.copy()
    shared[3] = shared[0]
    with pytest.raises(ValueError, match="two agents share a cell"):
        expert.act(shared, env.goals, env.fields, env.field_of)
    split = np.array([[1, 1, 0, 1]], dtype=bool)
    cut = GridEnv(split, np.array([[0, 0], [0, 1]]), np.array([[0, 3], [0, 0]]), True, 0)
    with pytest.raises(ValueError, match="cannot reach its goal"):
        make("lns", cut).act(cut.cells, cut.goals, cut.fields, cut.field_of)

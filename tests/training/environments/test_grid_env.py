"""The project's own environment against the real ``pogema`` package, and its own rules."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.encoders.pogema import MOVES
from marlgpt_training.environments import map_families as maps
from marlgpt_training.environments.grid_env import GridEnv, edges
from marlgpt_training.environments.pogema_package import import_pogema

try:
    pogema = import_pogema()
except ImportError as error:
    pogema = None
    WHY = str(error)
needs_pogema = pytest.mark.skipif(pogema is None, reason=f"real pogema is missing: {'' if pogema else WHY}")


def real(env, on_target, targets, steps):
    """The real package on the map and starts of ``env``."""
    config = pogema.GridConfig(
        map=(~env.free).astype(int).tolist(),
        agents_xy=env.cells.tolist(),
        targets_xy=targets,
        num_agents=len(env.cells),
        collision_system="soft",
        on_target=on_target,
        observation_type="MAPF",
        max_episode_steps=steps,
        seed=0,
    )
    world = pogema.pogema_v0(grid_config=config)
    return world, world.reset()[0]


def places(observations, key="global_xy"):
    """int[n, 2] cells in our coordinates (pogema pads by its observation radius, 5)."""
    return np.array([o[key] for o in observations]) - 5


def assert_same(free, starts, joint_actions):
    """Both environments, one-shot, step by step; returns ours."""
    goals = np.argwhere(free)[-len(starts) :]
    env = GridEnv(free, np.array(starts), goals, lifelong=False, seed=0)
    world, observed = real(env, "nothing", goals.tolist(), 10_000)
    np.testing.assert_array_equal(places(observed), env.cells)
    for step, actions in enumerate(joint_actions):
        before = env.cells
        done = env.step(np.array(actions, dtype=np.int8))
        observed, _, terminated, _, _ = world.step([int(a) for a in actions])
        np.testing.assert_array_equal(places(observed), env.cells, err_msg=f"step {step}, actions {actions}")
        np.testing.assert_array_equal(env.cells, before + MOVES[done])
        assert all(terminated) == bool(env.arrived.all())
    return env


CASES = {  # starts, moves, moves that happen
    "rotation of four": ([(0, 0), (0, 1), (1, 1), (1, 0)], [4, 2, 3, 1], [4, 2, 3, 1]),
    "swap": ([(0, 0), (0, 1)], [4, 3], [0, 0]),
    "swap with a third behind": ([(0, 0), (0, 1), (0, 2)], [4, 3, 3], [0, 0, 0]),
    "chain behind a free leader": ([(0, 0), (0, 1), (0, 2)], [4, 4, 4], [4, 4, 4]),
    "chain behind a wall": ([(0, 1), (0, 2), (0, 3)], [4, 4, 4], [0, 0, 0]),
    "two want one cell, first index wins": ([(0, 0), (0, 2)], [4, 3], [4, 0]),
    "chain behind the loser": ([(0, 0), (0, 2), (0, 3)], [4, 3, 3], [4, 0, 0]),
    "third into a swapping pair": ([(1, 1), (0, 1), (1, 2)], [3, 2, 3], [3, 2, 0]),
    "out of the map": ([(0, 0), (1, 0)], [1, 1], [0, 0]),
}


@pytest.mark.parametrize("name", CASES)
def test_soft_collision_rules(name):
    starts, moves, expected = CASES[name]
    free = np.ones((4, 4), dtype=bool)
    env = GridEnv(free, np.array(starts), np.argwhere(free)[-len(starts) :], lifelong=False, seed=0)
    assert env.step(np.array(moves, dtype=np.int8)).tolist() == expected
    if pogema is not None:
        assert_same(free, starts, [moves])


@needs_pogema
@pytest.mark.parametrize("family", maps.FAMILIES)
@pytest.mark.parametrize("density", [0.1, 0.5, 0.85])
def test_random_walks_equal_pogema(family, density):
    for seed in range(4):
        free = maps.generate(family, seed)
        rng = np.random.default_rng([seed, int(density * 100)])
        cells = np.argwhere(free)
        starts = cells[rng.permutation(len(cells))[: max(2, min(120, int(density * len(cells))))]]
        assert_same(free, starts, rng.integers(0, 5, size=(20, len(starts))))


@needs_pogema
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_crowded_tiny_maps_equal_pogema(data):
    """3 x 3 to 5 x 5 cells, up to all of them occupied: rotations, swaps and chains at every step."""
    rows, cols = data.draw(st.integers(2, 5)), data.draw(st.integers(2, 5))
    free = np.ones((rows, cols), dtype=bool)
    walls = data.draw(st.lists(st.integers(0, rows * cols - 1), max_size=4))
    free.ravel()[walls] = False
    cells = np.argwhere(free)
    if len(cells) < 2:
        return
    agents = data.draw(st.integers(1, len(cells)))
    order = data.draw(st.permutations(range(len(cells))))
    walk = data.draw(
        st.lists(st.lists(st.integers(0, 4), min_size=agents, max_size=agents), min_size=1, max_size=4)
    )
    env = assert_same(free, cells[order[:agents]], walk)
    assert len(np.unique(env.cells, axis=0)) == agents


@needs_pogema
def test_lifelong_goals_and_throughput_equal_pogema():
    """Our goals replayed in pogema: new ones appear in the same steps, and the same number is met."""
    steps = 150
    for seed in range(3):
        free = maps.generate("random", seed, low=8, high=9, density=0.1)
        env = GridEnv.sample(free, 20, lifelong=True, seed=seed)
        start = GridEnv.sample(free, 20, lifelong=True, seed=seed)
        walk = np.random.default_rng(seed).integers(0, 5, size=(steps, 20))
        sequences, goals = [[goal] for goal in env.goals.tolist()], []
        for actions in walk:
            env.step(actions)
            goals.append(env.goals)
            for i in np.flatnonzero(env.arrived):
                sequences[i].append(env.goals[i].tolist())
        for sequence in sequences:
            sequence.append(sequence[-1])  # pogema wants two goals at least
        world, _ = real(start, "restart", sequences, steps)
        for step, actions in enumerate(walk):
            observed, _, _, truncated, infos = world.step(actions.tolist())
            np.testing.assert_array_equal(places(observed, "global_target_xy"), goals[step])
        assert all(truncated) and env.reached.sum() > 0
        assert infos[0]["metrics"]["avg_throughput"] == pytest.approx(env.reached.sum() / steps)


@pytest.mark.parametrize("lifelong", [True, False])
def test_fields_history_and_counts_follow_the_episode(lifelong):
    free = maps.generate("random", 5)
    env = GridEnv.sample(free, 40, lifelong, seed=5)
    rng = np.random.default_rng(1)
    executed = []
    for _ in range(30):
        executed.append(env.step(rng.integers(0, 5, size=40)))
        np.testing.assert_array_equal(env.fields, env.costs.fields(env.goals))
    np.testing.assert_array_equal(env.history, np.stack(executed[:-6:-1], axis=1))
    assert (env.fields[np.arange(40), env.goals[:, 0], env.goals[:, 1]] == 0).all()


def test_edges_join_free_neighbours_both_ways():
    free = maps.generate("maze", 2)
    moves = edges(free)
    np.testing.assert_array_equal(moves[..., 0], free)
    np.testing.assert_array_equal(moves[1:, :, 1], moves[:-1, :, 2])
    np.testing.assert_array_equal(moves[:, 1:, 3], moves[:, :-1, 4])
    assert not moves[0, :, 1].any() and not moves[-1, :, 2].any()
    assert moves[..., 1:].any(axis=2).sum() == free.sum()  # connected: everybody has a neighbour


def test_sample_is_deterministic_distinct_and_refuses_too_many():
    free = maps.generate("random", 8)
    one, two = (GridEnv.sample(free, 50, False, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.cells, two.cells)
    np.testing.assert_array_equal(one.goals, two.goals)
    assert len(np.unique(one.cells, axis=0)) == len(np.unique(one.goals, axis=0)) == 50
    with pytest.raises(ValueError, match=f"{free.sum() + 1} agents do not fit into {free.sum()} free cells"):
        GridEnv.sample(free, int(free.sum()) + 1, False, seed=3)

"""SMAX: the real game through our interface, one game and many, and its experts."""

import os
import sys

import numpy as np
import pytest

# Compiling takes longer than playing here. Read once, when JAX is first used.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_multi_thread_eigen=false")

from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.encoders.smax import ALLY, ENEMY, OWN, STOP
from marlgpt_training.environments import base
from marlgpt_training.environments import smax as module
from marlgpt_training.environments.smax import Smax, SmaxBatch, import_smax

try:
    import_smax()
except base.MissingExtra as error:
    pytest.skip(f"{error}", allow_module_level=True)

SCENARIO, COUNT = "3v2", 8  # one for all tests: every other one is compiled anew
N, M = 3, 2


@pytest.fixture(scope="module")
def game():
    return base.make("smax", SCENARIO)


@pytest.fixture(scope="module")
def batch():
    return SmaxBatch(SCENARIO, COUNT)


def any_legal(mask, rng):
    """A random legal move for each agent, mostly an attack where there is one."""
    weight = np.where(np.arange(20) >= 5, 3.0, 1.0)
    return np.argmax(mask * weight * rng.random(mask.shape), axis=-1)


def record(game, seed, rng_seed, steps=100):
    """(moves, observations, steps) of an episode with random legal moves."""
    rng = np.random.default_rng(rng_seed)
    seen, taken, results = [game.reset(seed)], [], []
    while len(taken) < steps and not (results and results[-1].over):
        taken.append(any_legal(seen[-1].action_mask, rng))
        observation, step = game.step(taken[-1])
        seen.append(observation)
        results.append(step)
    return taken, seen, results


def same(one, other):
    for name in ("features", "visible", "action_mask", "active"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_an_episode_ends_and_its_numbers_agree(game):
    taken, seen, results = record(game, 3, 0)
    assert results[-1].over and not any(step.over for step in results[:-1])
    metrics = game.metrics()
    assert metrics["steps"] == len(taken)
    assert metrics["success"] == float(metrics["enemies_left"] == 0 and metrics["allies_left"] > 0)
    assert seen[-1].action_mask.shape == (N, 20) and seen[-1].features.shape == (N, game.encoder.features)
    assert seen[-1].features.dtype == np.float32 and results[0].rewards.dtype == np.float32
    total = sum(step.rewards for step in results)
    assert (total == total[0]).all() and 0 <= total[0] <= 2
    with pytest.raises(ValueError, match="the episode is over"):
        game.step(taken[-1])


@given(st.integers(0, 2**32 - 1), st.integers(0, 100))
@settings(deadline=None, max_examples=6)
def test_what_holds_in_every_episode(game, seed, rng_seed):
    taken, seen, results = record(game, seed, rng_seed)
    assert 0 <= sum(float(step.rewards[0]) for step in results) <= 2 + 1e-5
    history = base.History(game.encoder, game.agents)
    assert not seen[-1].active.any()  # nobody acts any more
    for observation in seen[:-1]:
        assert observation.action_mask.any(axis=1).all()
        for agent in np.flatnonzero(~observation.active):
            assert not observation.visible[agent].any() and not observation.features[agent].any()
            assert np.flatnonzero(observation.action_mask[agent]).tolist() == [STOP]
        assert not observation.features[~observation.visible].any()
        in_sight = observation.visible[:, len(OWN) + (N - 1) * len(ALLY) :].reshape(N, M, len(ENEMY))
        assert (in_sight.any(axis=2) == in_sight.all(axis=2)).all()
        attackable = observation.action_mask[:, 5 : 5 + M]
        assert not (
            attackable & ~in_sight.any(axis=2)
        ).any()  # every weapon reaches less far than its unit sees
        assert (np.abs(observation.features) <= 1.1).all()  # units may start 2 of 32 outside the map
        values, valid, _ = history.add(observation)
        assert np.isfinite(values).all() and valid[:, -1].all()


def test_equal_seeds_give_equal_episodes(game):
    taken, seen, _ = record(game, 5, 1, steps=8)
    again = [game.reset(5)]
    again += [game.step(moves)[0] for moves in taken]
    for one, other in zip(seen, again, strict=True):
        same(one, other)
    assert not np.array_equal(seen[0].features, game.reset(6).features)


def test_a_restored_game_goes_on_exactly_as_it_did(game):
    record(game, 8, 2, steps=3)
    kept, expected = game.snapshot(), []
    while not (expected and expected[-1][1].over):
        expected.append(game.step(np.full(N, STOP)))
    assert len(expected) > 5
    record(game, 11, 0, steps=3)
    game.restore(kept)
    frames = tuple(part.copy() for part in kept[1])
    for observation, step in expected:
        now, again = game.step(np.full(N, STOP))
        same(observation, now)
        np.testing.assert_array_equal(step.rewards, again.rewards)
        assert (step.ended, step.cut) == (again.ended, again.cut)
    for part, before in zip(kept[1], frames, strict=True):
        np.testing.assert_array_equal(part, before)  # playing on does not change what was kept


def test_the_batch_plays_the_same_games(game, batch):
    seeds = np.arange(21, 21 + COUNT)
    rng = np.random.default_rng(4)
    frames = batch.reset(seeds)
    moves, seen, over = [], [frames], []
    while not batch.over.all():
        moves.append(any_legal(frames.action_mask, rng))
        frames, rewards, ended, cut = batch.step(moves[-1])
        seen.append(frames)
        over.append((rewards, ended, cut))
    metrics = batch.metrics()
    for k, seed in list(enumerate(seeds))[:4]:
        observation = game.reset(int(seed))
        for t in range(int(metrics["steps"][k])):
            np.testing.assert_allclose(observation.features, seen[t].features[k], atol=1e-5)
            np.testing.assert_array_equal(observation.visible, seen[t].visible[k])
            np.testing.assert_array_equal(observation.action_mask, seen[t].action_mask[k])
            np.testing.assert_array_equal(observation.active, seen[t].active[k])
            observation, step = game.step(moves[t][k])
            np.testing.assert_allclose(step.rewards, over[t][0][k], atol=1e-5)
            assert (step.ended, step.cut) == (over[t][1][k], over[t][2][k])
        assert step.over
        assert {name: value[k] for name, value in metrics.items()} == game.metrics()


def test_a_finished_game_of_a_batch_stays_as_it_ended(batch):
    rng = np.random.default_rng(0)
    frames = batch.reset(np.arange(COUNT) + 50)
    while not batch.over.any():
        frames, _, _, _ = batch.step(any_legal(frames.action_mask, rng))
    first = int(np.flatnonzero(batch.over)[0])
    ended = {name: value[first] for name, value in batch.metrics().items()}
    for _ in range(3):
        frames, rewards, _, _ = batch.step(any_legal(frames.action_mask, rng))
        assert not rewards[first].any() and not frames.active[first].any()
    assert {name: value[first] for name, value in batch.metrics().items()} == ended


def test_features_are_those_of_the_game(game):
    """Against JaxMARL's own observation of the same state, unit by unit."""
    _, seen, _ = record(game, 1, 0, steps=2)
    rules, state = game.batch.rules, game.batch.state["games"]
    one = rules.jax.tree.map(lambda leaf: leaf[0], state)
    theirs = rules.env.get_obs(one["smax"])
    assert seen[-1].visible.all()
    shot_at = np.asarray(one["smax"].state.prev_attack_actions)
    for i, agent in enumerate(rules.env.agents):
        raw, ours = np.asarray(theirs[agent]), seen[-1].features[i]
        np.testing.assert_allclose(ours[: len(OWN)], raw[-len(OWN) :], atol=1e-6)
        allies, enemies = np.split(ours[len(OWN) :], [(N - 1) * len(ALLY)])
        allies, enemies = allies.reshape(N - 1, len(ALLY)), enemies.reshape(M, len(ENEMY))
        units = raw[: -len(OWN)].reshape(N - 1 + M, 13)
        keep = np.arange(13) != 5  # the last target, which is re-expressed
        np.testing.assert_allclose(allies[:, keep], units[: N - 1, keep], atol=1e-6)
        np.testing.assert_allclose(enemies[:, :13][:, keep], units[N - 1 :, keep], atol=1e-6)
        others = [a for a in range(N) if a != i]
        in_sight = [a for a, unit in zip(others, units, strict=False) if unit.any()]
        for j, a in enumerate(others):
            assert allies[j, 5] == (a in in_sight and shot_at[a] >= 5)
        for k, unit in enumerate(units[N - 1 :]):
            if unit.any():  # an enemy counts our units from the last one
                assert enemies[k, 5] == (shot_at[N + k] >= 5 and N - 1 - (shot_at[N + k] - 5) == i)
                assert round(enemies[k, 13] * 10) == sum(shot_at[a] == 5 + k for a in [i, *in_sight])


@pytest.mark.parametrize("move", [-1, 5, 7, 19, 20])
def test_refuses_moves_that_the_game_does_not_allow(game, move):
    observation = game.reset(8)
    assert observation.active.all() and not observation.action_mask[0, 5:].any()
    with pytest.raises(ValueError, match=f"game 0: agent 0 may not move {move}; allowed:"):
        game.step(np.array([move, STOP, STOP]))


def test_refuses_wrong_shapes_and_names(game, batch):
    game.reset(0)
    with pytest.raises(ValueError, match="expected"):
        game.step(np.zeros(N + 1, dtype=int))
    with pytest.raises(ValueError, match="expected"):
        batch.reset(np.arange(2))
    with pytest.raises(ValueError, match="at least 1"):
        SmaxBatch(SCENARIO, 0)
    with pytest.raises(ValueError, match="unknown SMAX scenario '5vs5'.*5v5, 5v6, 10v10"):
        Smax("5vs5")
    with pytest.raises(ValueError, match="each side needs 1 to 10 units"):
        Smax("5v11")


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxmarl.environments", None)
    with pytest.raises(base.MissingExtra) as caught:
        import_smax()
    assert "make envs" in str(caught.value) and "\n" not in str(caught.value)


def test_importing_prints_nothing_and_keeps_the_streams(capsys):
    before = sys.stdout, sys.stderr, sys.__stdout__
    with module._quiet():
        print("a note")
        sys.stdout = sys.__stdout__
    assert (sys.stdout, sys.stderr, sys.__stdout__) == before and capsys.readouterr().out == ""

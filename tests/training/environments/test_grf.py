"""Real football episodes: seeds, snapshots, masks, rewards, ends, and parity with gfootball's own wrapper."""

import copy

import numpy as np
import pytest
from marlgpt_policy.encoders import grf as layout
from marlgpt_training.environments import base
from marlgpt_training.environments.grf import (
    DRIBBLE,
    IDLE,
    RELEASE_DIRECTION,
    RELEASE_DRIBBLE,
    RELEASE_SPRINT,
    RIGHT,
    SCENARIOS,
    SHORT_PASS,
    SHOT,
    SPRINT,
    Grf,
    scenario_name,
)
from marlgpt_training.environments.grf_gym import import_gfootball

try:
    import_gfootball()
    WHY = ""
except base.MissingExtra as error:
    WHY = str(error)
needs_football = pytest.mark.skipif(bool(WHY), reason=WHY)


@pytest.fixture(scope="module")
def env():
    with base.make("grf", "pass_and_shoot") as made:
        yield made


def allowed(env, rng):
    """Any moves within the mask."""
    return np.array([rng.choice(np.flatnonzero(row)) for row in env.action_mask()])


def play(env, seed, steps, moves_seed=0):
    """Everything seen and paid in an episode of random moves."""
    rng = np.random.default_rng(moves_seed)
    trace = [env.reset(seed).features]
    for _ in range(steps):
        observation, step = env.step(allowed(env, rng))
        trace += [observation.features, step.rewards]
        if step.over:
            break
    return trace


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_names():
    assert scenario_name("corner") == scenario_name("academy_corner") == "corner"
    assert scenario_name("11_vs_11_easy_stochastic") == "11_vs_11_easy"
    with pytest.raises(ValueError, match="penalty.*pass_and_shoot, .*11_vs_11_easy"):
        Grf("penalty")
    with pytest.raises(ValueError, match="steps 0"):
        Grf("corner", steps=0)


@needs_football
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_plays(scenario):
    with Grf(scenario, steps=6) as env:
        first = env.reset(3)
        n = SCENARIOS[scenario][1]
        assert env.agents == n and env.encoder is layout.ENCODER
        assert first.features.shape == first.visible.shape == (n, 115) and first.action_mask.shape == (n, 20)
        assert first.features.dtype == np.float32 and first.active.all()
        own = len(env.raw["left_team"])
        foremost = list(range(own - n, own))
        assert env.controlled.tolist() == foremost and 0 not in foremost  # the keeper is nobody's agent
        players = {"pass_and_shoot": (3, 2), "run_pass_and_shoot": (3, 2), "3_vs_1": (4, 2)}
        np.testing.assert_array_equal(first.visible, [layout.present(*players.get(scenario, (11, 11)))] * n)
        history = base.History(env.encoder, n)
        values, valid, _ = history.add(first)
        assert values.shape == (n, 691) and valid.sum() == first.visible.sum() + n
        for _ in range(6):
            _, step = env.step(np.full(n, RIGHT))
            if step.over:
                break
            assert env.controlled.tolist() == foremost
        assert step.ended or (step.cut and env.metrics()["steps"] == 6)


@needs_football
def test_equal_seeds_give_equal_episodes(env):
    first = play(env, 5, 40)
    other = play(env, 6, 40)
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=False))
    assert_same(first, play(env, 5, 40))
    with Grf("pass_and_shoot") as fresh:
        assert_same(first, play(fresh, 5, 40))
    with Grf("corner", steps=3) as used:  # the engine is used again for another scenario
        play(used, 1, 3)
    with Grf("pass_and_shoot") as again:
        assert_same(first, play(again, 5, 40))


@needs_football
def test_the_observation_is_simple115v2():
    """Against gfootball's own environment and wrapper in the same configuration, step by step."""
    from gfootball.env.football_env import FootballEnv
    from gfootball.env.wrappers import Simple115StateWrapper

    with Grf("3_vs_1") as env:
        ours = env.reset(11)
        real = Simple115StateWrapper(FootballEnv(copy.copy(env._config)), True)
        theirs = real.reset()
        rng = np.random.default_rng(0)
        for _ in range(25):
            np.testing.assert_array_equal(ours.features, theirs[:, layout.ORDER])
            actions = allowed(env, rng)
            ours, step = env.step(actions)
            theirs, _, done, _ = real.step(actions.tolist())
            assert done == step.over
            if done:
                break
        real.close()


@needs_football
@pytest.mark.parametrize("scenario", ["pass_and_shoot", "counterattack_easy"])
def test_a_snapshot_goes_on_exactly(scenario):
    with Grf(scenario) as env, Grf(scenario) as other:
        play(env, 8, 12)
        state = env.snapshot()

        def go_on(where):
            rng = np.random.default_rng(1)
            observation = where.restore(state)
            trace = [observation.features, observation.action_mask]
            for _ in range(25):
                observation, step = where.step(allowed(where, rng))
                trace += [observation.features, observation.action_mask, step.rewards]
                if step.over:
                    break
            return trace + [np.array(list(where.metrics().values()))]

        first = go_on(env)
        assert_same(first, go_on(env))
        other.reset(77)  # neither seed nor place of its own matters
        assert_same(first, go_on(other))


@needs_football
def test_a_finished_episode_can_be_restored_to_an_earlier_state(env):
    env.reset(1)
    state = env.snapshot()
    while not env.step(np.full(2, RIGHT))[1].over:
        pass
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.full(2, RIGHT))
    env.restore(state)
    assert not env.step(np.full(2, RIGHT))[1].over and env.metrics()["steps"] == 1


@needs_football
def test_a_snapshot_of_another_scenario_is_refused(env):
    env.reset(0)
    state = env.snapshot()
    with Grf("corner") as other, pytest.raises(ValueError, match="pass_and_shoot.*corner"):
        other.restore(state)


@needs_football
def test_masked_moves_change_nothing_and_are_refused(env):
    env.reset(2)
    mask = env.action_mask()
    assert mask[:, SPRINT].all() and mask[:, DRIBBLE].all() and not mask[:, 19].any()
    assert not mask[:, [RELEASE_SPRINT, RELEASE_DRIBBLE, RELEASE_DIRECTION]].any()
    for moves in ([RIGHT, RIGHT], [SPRINT, DRIBBLE], [IDLE, IDLE]):
        env.step(np.array(moves))
    mask = env.action_mask()
    assert (
        mask[0, RELEASE_SPRINT] and not mask[0, SPRINT] and mask[1, RELEASE_DRIBBLE] and not mask[1, DRIBBLE]
    )
    assert mask[:, RELEASE_DIRECTION].all()
    state = env.snapshot()
    expected = env.step(np.array([IDLE, IDLE]))[0].features
    for agent, action in np.argwhere(~mask[:, :19]):
        env.restore(state)
        moves = np.array([IDLE, IDLE])
        moves[agent] = action
        with pytest.raises(ValueError, match=f"agent {agent}: move {action}"):
            env.step(moves)
        env._core.step(moves.tolist())  # past the check: the engine takes it for standing by
        env._read()
        np.testing.assert_array_equal(env.observation().features, expected)


@needs_football
@pytest.mark.parametrize("moves", [[0], [0, 0, 0], [0, 20], [-1, 0]])
def test_other_moves_are_refused(env, moves):
    env.reset(0)
    with pytest.raises(ValueError, match="0..18"):
        env.step(np.array(moves))


@needs_football
def test_a_goal_pays_one_and_a_half_in_all_and_ends_the_episode(env):
    """Shots from where the episode begins, over a few seeds: goals and misses."""
    outcomes = set()
    for seed in range(12):
        env.reset(seed)
        total, step = np.zeros(2), None
        moves = [[RIGHT, SHORT_PASS], [RIGHT, RIGHT], *[[RIGHT, RIGHT]] * 6, *[[SHOT, RIGHT]] * 60]
        for actions in moves:
            _, step = env.step(np.array(actions))
            total += step.rewards
            if step.over:
                break
        metrics = env.metrics()
        outcomes.add(metrics["success"])
        assert (total >= 0).all() and total[0] == total[1]
        if metrics["success"]:
            assert step.ended and not step.cut and metrics["score"] == 1
            np.testing.assert_allclose(total, 1.5, rtol=1e-5)
        else:
            assert (total <= 0.5 + 1e-5).all()
    assert outcomes == {0.0, 1.0}


@needs_football
def test_the_step_limit_cuts(env):
    with Grf("pass_and_shoot", steps=3) as short:
        short.reset(0)
        steps = [short.step(np.full(2, IDLE))[1] for _ in range(3)]
    assert [s.cut for s in steps] == [False, False, True] and not any(s.ended for s in steps)


@needs_football
def test_nothing_is_written_and_no_window_opens(env, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    play(env, 3, 400)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")

"""Football by search: plans lead to goals, leave the state alone, and replay exactly."""

import numpy as np
import pytest
from marlgpt_training.environments import base
from marlgpt_training.environments.grf import Grf
from marlgpt_training.environments.grf_gym import import_gfootball
from marlgpt_training.experts.grf_script import GrfScript, Style
from marlgpt_training.experts.grf_search import GrfSearch, vary, winning_episode

try:
    import_gfootball()
    WHY = ""
except base.MissingExtra as error:
    WHY = str(error)
needs_football = pytest.mark.skipif(bool(WHY), reason=WHY)


def test_variations_differ_and_repeat():
    one, other, again = (vary(Style(), np.random.default_rng(s), 0.3) for s in (1, 2, 1))
    assert one == again != other
    assert vary(Style(), np.random.default_rng(0), 0.0) == Style()
    assert isinstance(one.sprint, bool) and isinstance(one.shoot_range, float)


@pytest.mark.parametrize("option", ["tries", "horizon", "pause"])
def test_impossible_options_are_refused(option):
    with pytest.raises(ValueError, match=f"{option} 0"):
        GrfSearch(**{option: 0})


@pytest.fixture(scope="module")
def env():
    with Grf("pass_and_shoot") as made:
        yield made


@needs_football
def test_a_plan_leads_to_a_goal_and_leaves_the_state(env):
    first = env.reset(4)
    plan = GrfSearch(tries=24).plan(env)
    np.testing.assert_array_equal(env.observation().features, first.features)
    assert plan is not None and env.metrics() == {"success": 0, "score": 0, "goals": 0, "steps": 0}
    steps = [env.step(actions)[1] for actions in plan]
    assert steps[-1].ended and env.metrics()["success"] == 1


@needs_football
def test_a_search_that_finds_nothing_says_so_and_the_script_labels(env):
    env.reset(4)
    search = GrfSearch(tries=2, horizon=1)
    assert search.plan(env) is None
    np.testing.assert_array_equal(search.act(env), GrfScript().act(env))


@needs_football
def test_it_labels_states_that_others_reached(env):
    env.reset(4)
    for _ in range(3):
        env.step(np.array([5, 5]))
    search = GrfSearch(tries=4)
    labels = search.act(env)
    assert env.action_mask()[np.arange(2), labels].all() and env.metrics()["steps"] == 3
    np.testing.assert_array_equal(labels, GrfSearch(tries=4).act(env))  # equal seeds and states, equal labels


@needs_football
def test_whoever_follows_the_plan_needs_no_other(env, monkeypatch):
    env.reset(4)
    search = GrfSearch(tries=24)
    plan = search.plan(env)
    monkeypatch.setattr(search, "plan", lambda _: pytest.fail("searched again"))
    for actions in plan:
        np.testing.assert_array_equal(search.act(env), actions)
        env.step(actions)
    assert env.metrics()["success"] == 1
    env.reset(5)
    with pytest.raises(pytest.fail.Exception, match="searched again"):
        search.act(env)  # another episode: the old plan says nothing


@needs_football
def test_after_a_search_in_vain_the_script_has_a_pause(env):
    env.reset(4)
    search, calls = GrfSearch(tries=1, horizon=1, pause=3), []
    search.plan = lambda _: calls.append(env.steps)
    for _ in range(7):
        actions = search.act(env)
        np.testing.assert_array_equal(actions, GrfScript().act(env))
        env.step(actions)
    assert calls == [0, 3, 6]


@needs_football
@pytest.mark.parametrize("expert", [GrfScript(), GrfSearch(tries=24)], ids=["script", "search"])
def test_winning_episodes(env, expert):
    for seed in range(4):
        played = list(winning_episode(env, seed, expert))
        if played:
            break
    else:
        pytest.fail("no episode won")
    assert env.metrics()["success"] == 1 and played[-1].step.ended
    assert not any(p.step.over for p in played[:-1])
    observation = env.reset(seed)
    for p in played:  # what was recorded is what happens
        np.testing.assert_array_equal(p.observation.features, observation.features)
        np.testing.assert_array_equal(p.actions, p.labels)
        observation, step = env.step(p.actions)
        np.testing.assert_array_equal(step.rewards, p.step.rewards)

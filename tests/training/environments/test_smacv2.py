"""SMACv2: the unmodified package plays whole episodes against the test double of StarCraft II beside this file.

Who wins against the double means nothing; what counts is that every episode runs to its end and that what our side
reports agrees with the package. Skipped where the package is not installed; what needs no package is tested anyway.
"""

import importlib.util
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.encoders import starcraft
from marlgpt_training.environments import base, smacv2
from marlgpt_training.environments.base import History, MissingExtra, NoSnapshot


@pytest.fixture(scope="module")
def game(tmp_path_factory):
    """An installation of StarCraft II whose binary is the test server."""
    for package in ("smacv2", "pysc2", "websockets"):
        pytest.importorskip(package, reason=f"needs {package} for the real SMACv2 package: run 'make envs'")
    folder = importlib.import_module("sc2_test_server").install(
        tmp_path_factory.mktemp("sc2") / "StarCraftII"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SC2PATH", str(folder))
        yield folder


@pytest.fixture(scope="module")
def calm(game):
    """One running game whose enemy never fights."""
    with base.make("smacv2", "protoss_5v5", difficulty="1") as env:
        yield env


def towards(x, y, allowed, otherwise):
    """The move along the longer of two distances, if it is allowed."""
    way = (4 if x > 0 else 5) if abs(x) > abs(y) else (2 if y > 0 else 3)
    return way if way in allowed else otherwise


def charge(env, seen, rng):
    """Attack the weakest in range, else go towards the nearest in sight, else patrol: by the layout's ids alone."""
    layout, width = env.encoder.layout, env.encoder.frames
    attr, team, agent = (ids[:-1:width] for ids in (layout.attr, layout.team, layout.agent))
    moves = np.zeros(env.agents, dtype=int)
    for i in np.flatnonzero(seen.active):
        allowed = np.flatnonzero(seen.action_mask[i])
        moves[i] = rng.choice(allowed[allowed < 6])
        place = {int(attr[k]): float(seen.features[i, k]) for k in np.flatnonzero((team == 1) & (agent == 0))}
        corner = ((0.3, 0.3), (0.7, 0.3), (0.7, 0.7), (0.3, 0.7))[int(env.metrics()["steps"]) // 25 % 4]
        enemies = {}
        for k in np.flatnonzero((team == 2) & seen.visible[i]):
            enemies.setdefault(int(agent[k]), {})[int(attr[k])] = float(seen.features[i, k])
        targets = [k for k in enemies if seen.action_mask[i, 6 + k] and enemies[k][starcraft.ATTACKABLE]]
        if targets:
            moves[i] = 6 + min(targets, key=lambda k: enemies[k][starcraft.HEALTH])
        elif enemies:
            near = min(enemies.values(), key=lambda e: e[starcraft.DISTANCE])
            moves[i] = towards(near[starcraft.RELATIVE_X], near[starcraft.RELATIVE_Y], allowed, moves[i])
        elif (allowed >= 6).any():
            moves[i] = allowed[-1]  # a medivac
        elif rng.random() < 0.8:
            x, y = (
                c - place[a]
                for c, a in zip(corner, (starcraft.POSITION_X, starcraft.POSITION_Y), strict=True)
            )
            moves[i] = towards(x, y, allowed, moves[i])
    return moves


def stand(env, seen, rng):
    """Stop; the dead do nothing."""
    return np.where(seen.active, 1, 0)


def in_sight(inner, observer, unit):
    """Whether a living agent could see a living unit by distance alone."""
    own = inner.agents[observer]
    far = inner.distance(own.pos.x, own.pos.y, unit.pos.x, unit.pos.y)
    return own.health > 0 and unit.health > 0 and far < inner.unit_sight_range(observer)


def check(env, seen, history):
    """What must hold of every observation, seen from the package's side."""
    inner = env.wrapper.env
    allowed = np.array(inner.get_avail_actions(), dtype=bool)
    assert np.array_equal(seen.action_mask[:, : allowed.shape[1]], allowed)
    assert not seen.action_mask[:, allowed.shape[1] :].any()
    assert seen.action_mask.any(axis=1).all()
    assert seen.active.tolist() == [inner.agents[i].health > 0 for i in range(env.agents)]
    raw = np.stack(history.raw)
    assert raw.shape == seen.features.shape == (env.agents, inner.get_obs_size())
    assert np.array_equal(np.sort(raw), np.sort(seen.features))
    layout, width = env.encoder.layout, env.encoder.frames
    units = [*inner.agents.values(), *inner.enemies.values()]
    sight = np.array([[in_sight(inner, i, unit) for unit in units] for i in range(env.agents)])
    for team, agent in {(int(t), int(a)) for t, a in zip(layout.team[:-1], layout.agent[:-1], strict=True)}:
        shown = seen.visible[:, np.flatnonzero((layout.team == team) & (layout.agent == agent))[0] // width]
        if team == 2:  # the package hides some that are in sight, see the module
            assert not (shown & ~sight[:, env.agents + agent]).any()
        elif agent == 0:
            assert np.array_equal(shown, seen.active)
        else:
            others = [agent - 1 if agent <= i else agent for i in range(env.agents)]
            assert np.array_equal(shown, sight[np.arange(env.agents), others])
    values, valid, _ = history.add(seen)
    assert np.isfinite(values).all()
    assert (valid[seen.active].sum(axis=1) > 1).all() and (valid[~seen.active, -1]).all()
    assert np.abs(values).max() <= 1.0 + 1e-6


def play(env, seed, policy, rng_seed=0):
    """One whole episode: (steps, return, last step)."""
    rng = np.random.default_rng(rng_seed)
    history, total = History(env.encoder, env.agents), 0.0
    observe = type(env.wrapper).get_obs.__get__(env.wrapper)

    def recorded():  # asking the package twice may give another answer
        history.raw = observe()
        return history.raw

    env.wrapper.get_obs = recorded
    seen = env.reset(seed)
    while True:
        check(env, seen, history)
        seen, step = env.step(policy(env, seen, rng))
        assert step.rewards.shape == (env.agents,) and (step.rewards == step.rewards[0]).all()
        assert step.rewards[0] >= 0
        total += float(step.rewards[0])
        if step.over:
            check(env, seen, history)
            assert total <= 2 + 1e-5
            return env.metrics()["steps"], total, step


@pytest.mark.parametrize(
    "scenario, size", [("protoss_5v5", 92), ("terran_5v6", 90), ("zerg_10v10", 162), ("protoss_5v6", 101)]
)
def test_whole_episodes(game, scenario, size):
    with base.make("smacv2", scenario) as env:
        assert env.wrapper.get_obs_size() == env.encoder.features == size
        assert env.wrapper.get_total_actions() == env.encoder.layout.actions
        for seed in range(2):
            steps, total, step = play(env, seed, charge)
            assert step.ended and not step.cut and 0 < steps < 200
            inner, found = env.wrapper.env, env.metrics()
            assert found["success"] == inner.win_counted
            assert inner.win_counted or inner.defeat_counted
            full = sum(unit.health_max + unit.shield_max for unit in inner.enemies.values())
            lost = full - sum(unit.health + unit.shield for unit in inner.enemies.values() if unit.health > 0)
            earned = lost + 10 * found["dead_enemies"] + 200 * found["success"]
            if not scenario.startswith("terran"):  # whose medivacs heal
                assert total == pytest.approx(2 * earned / (full + 10 * env.enemies + 200), abs=1e-4)


@pytest.mark.parametrize("scenario, size", [("terran_5v5", 82), ("zerg_5v5", 82), ("protoss_10v11", 191)])
def test_sizes_agree_with_the_package(game, scenario, size):
    env = base.make("smacv2", scenario)  # the game starts with the first episode only
    assert env.wrapper.get_obs_size() == env.encoder.features == size
    assert env.wrapper.get_total_actions() == env.encoder.layout.actions
    env.close()


def test_win(calm):
    steps, total, step = play(calm, 3, charge)
    assert step.ended and not step.cut and steps < 200
    assert calm.metrics() == {"success": 1, "dead_allies": 0, "dead_enemies": 5, "steps": steps}
    assert total == pytest.approx(2.0, abs=1e-4)
    with pytest.raises(ValueError, match="no episode is running"):
        calm.step(np.ones(5, dtype=int))


def test_time_limit(calm):
    steps, total, step = play(calm, 1, stand)
    assert step.cut and not step.ended and steps == 200
    assert total == 0 and calm.metrics()["success"] == 0


def test_loss(game):
    with base.make("smacv2", "protoss_5v5", difficulty="A") as env:
        _, total, step = play(env, 0, stand)
        assert step.ended and not step.cut
        found = env.metrics()
        assert found["success"] == 0 and found["dead_allies"] == 5
        assert total < 2 * 450 / 650  # no bonus


def test_episodes_of_one_game_follow_their_seeds(calm):
    first = calm.reset(5)
    process = calm.wrapper.env._sc2_proc.pid
    other = calm.reset(6)
    again = calm.reset(5)  # both broken off
    assert np.array_equal(first.features, again.features)
    assert not np.array_equal(first.features, other.features)
    assert calm.wrapper.env._sc2_proc.pid == process


def test_exact_episodes_are_equal(game):
    def run(env):
        rng, seen, rows = np.random.default_rng(1), env.reset(9), []
        for _ in range(25):
            rows.append(seen.features)
            seen, step = env.step(charge(env, seen, rng))
            rows.append(step.rewards)
            if step.over:
                break
        return rows

    with base.make("smacv2", "zerg_5v5", exact=True) as env:
        one, two = run(env), run(env)
    assert len(one) == len(two) and all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_refuses_illegal_moves(calm):
    seen = calm.reset(0)
    assert seen.active.all()
    with pytest.raises(ValueError, match="agent 0 may not move 0; allowed"):
        calm.step(np.zeros(5, dtype=int))
    with pytest.raises(ValueError, match=r"expected \(5,\)"):
        calm.step(np.ones(4, dtype=int))
    with pytest.raises(ValueError, match="agent 2 may not move 40"):
        calm.step(np.array([1, 1, 40, 1, 1]))
    with pytest.raises(NoSnapshot):
        calm.snapshot()


def test_healed_health_pays_once(calm, monkeypatch):
    calm.reset(0)
    full = sum(u.health_max + u.shield_max for u in calm.wrapper.env.enemies.values()) + 50
    info = {"battle_won": False, "dead_allies": 0, "dead_enemies": 0}
    replies = [(full - 10, False, info), (500.0, False, info), (500.0, False, info)]
    replies.append((700.0, True, {**info, "battle_won": True}))
    monkeypatch.setattr(calm.wrapper, "step", lambda actions: replies.pop(0))
    paid = [calm.step(stand(calm, calm._observe(), None))[1] for _ in range(4)]
    rewards = [float(step.rewards[0]) for step in paid]
    assert rewards[1] == pytest.approx(10 * 2 / (full + 200), rel=1e-4) and rewards[2] == 0
    assert rewards[3] == pytest.approx(200 * 2 / (full + 200), rel=1e-4)
    assert sum(rewards) == pytest.approx(2.0)
    assert paid[3].ended


def test_game_that_dies_is_reported_and_started_anew(game):
    with base.make("smacv2", "protoss_5v5", difficulty="1") as env:
        seen = env.reset(0)
        env.wrapper.env._sc2_proc._proc.kill()
        with pytest.raises(ConnectionError, match="reset the environment"):
            for _ in range(3):
                env.step(stand(env, seen, None))
        assert env.reset(1).active.all()
        env.close()
        assert env.reset(2).active.all()


def test_says_what_starcraft_lacks(game, tmp_path, monkeypatch):
    monkeypatch.setenv("SC2PATH", str(tmp_path / "nowhere"))
    with pytest.raises(MissingExtra, match="SC2PATH.*Versions/Base") as error:
        base.make("smacv2", "protoss_5v5")
    assert "\n" not in str(error.value) and "nowhere" in str(error.value)
    (tmp_path / "Versions" / "Base75689").mkdir(parents=True)
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    with pytest.raises(MissingExtra, match="32x32_flat.SC2Map not found"):
        base.make("smacv2", "protoss_5v5")
    (tmp_path / "Maps" / "SMAC_Maps").mkdir(parents=True)
    (tmp_path / "Maps" / "SMAC_Maps" / "32x32_flat.SC2Map").touch()
    env = base.make("smacv2", "protoss_5v5")
    with pytest.raises(MissingExtra, match="No SC2 binary found"):
        env.reset(0)


def test_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "smacv2", None)
    monkeypatch.setitem(sys.modules, "smacv2.env", None)
    with pytest.raises(MissingExtra, match="make envs") as error:
        base.make("smacv2", "protoss_5v5")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scenario", ["protoss", "orc_5v5", "5v5", "zerg_5v5_extra", "zerg_av5"])
def test_unknown_scenario(scenario):
    with pytest.raises(ValueError, match=f"unknown SMACv2 scenario '{scenario}'"):
        base.make("smacv2", scenario)


def test_unknown_difficulty():
    with pytest.raises(ValueError, match="unknown difficulty '77'"):
        base.make("smacv2", "zerg_5v5", difficulty="77")


def test_teams_are_those_of_the_paper():
    for race, rare in (("protoss", "colossus"), ("terran", "medivac"), ("zerg", "baneling")):
        team = smacv2.options(race, 5, 6)["capability_config"]["team_gen"]
        weights = dict(zip(team["unit_types"], team["weights"], strict=True))
        assert weights.pop(rare) == 0.1 and set(weights.values()) == {0.45}
        assert team.get("exception_unit_types", []) == ([] if race == "protoss" else [rare])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.lists(st.sampled_from(range(9)), min_size=2, max_size=12))
def test_double_fights_to_an_end(seed, kinds):
    """The double itself: health never above full, nobody leaves the map, the dead are gone."""
    double = importlib.import_module("sc2_test_battle")
    rng, battle = np.random.default_rng(seed), double.Battle(seed)
    for n, kind in enumerate(kinds):
        unit_type = double.FIRST_OWN_TYPE + kind if n % 2 == 0 else double.KINDS[kind].game_type
        battle.create(unit_type, 1 + n % 2, *rng.uniform(-5, 40, 2))
    for _ in range(40):
        battle.step(8)
        for unit in battle.units.values():
            assert 0 < unit.health <= unit.kind.health and 0 <= unit.shield <= unit.kind.shield
            assert double.pathable(unit.x, unit.y)
    battle.kill(list(battle.units))
    battle.step(1)
    assert not battle.units

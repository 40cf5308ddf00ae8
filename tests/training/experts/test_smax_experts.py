"""SMAX's experts: legal in any state, better than chance, and what the learned one's network promises."""

import json
import os

import numpy as np
import pytest

# Compiling takes longer than playing here. Read once, when JAX is first used.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_multi_thread_eigen=false")

from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.encoders.smax import ALLY, ENEMY, OWN, STOP, smax_encoder
from marlgpt_training.environments.base import MissingExtra
from marlgpt_training.environments.smax import Smax, SmaxBatch, import_smax
from marlgpt_training.experts import smax_expert as experts
from marlgpt_training.experts import smax_focus, smax_net, smax_ppo
from marlgpt_training.experts.smax_expert import WEIGHTS, smax_expert

try:
    import_smax()
except MissingExtra as error:
    pytest.skip(f"{error}", allow_module_level=True)

SCENARIO, COUNT = "3v2", 8  # as in test_smax.py, so that it is compiled once


@pytest.fixture(scope="module")
def batch():
    return SmaxBatch(SCENARIO, COUNT)


def random_moves(batch, rng):
    mask = batch.observe().action_mask
    return np.argmax(mask * rng.random(mask.shape), axis=-1)


@pytest.mark.parametrize("kind", experts.KINDS)
def test_labels_are_legal_wherever_a_student_gets_to(batch, kind):
    """SmaxBatch.step refuses an illegal move, so playing the labels checks them."""
    expert, rng = smax_expert(kind), np.random.default_rng(0)
    batch.reset(np.arange(COUNT) + 70)
    for _ in range(25):
        labels = expert(batch)
        assert labels.shape == (COUNT, 3) and labels.dtype == np.int32
        frames = batch.observe()
        assert np.take_along_axis(frames.action_mask, labels[..., None], axis=2).all()
        assert (labels[~frames.active & ~batch.over[:, None]] == STOP).all()
        batch.step(np.where(rng.random((COUNT, 1)) < 0.5, labels, random_moves(batch, rng)))


@pytest.mark.parametrize("kind", ["ppo", "focus"])
def test_experts_win_where_chance_loses(kind):
    """Three against two that shoot back: 16 episodes."""
    seeds = np.arange(16) + 300
    rng = np.random.default_rng(0)
    chance = experts.measure(lambda batch: random_moves(batch, rng), SCENARIO, seeds, COUNT)["success"]
    found = experts.measure(smax_expert(kind), SCENARIO, seeds, COUNT)
    assert found["success"] >= 0.75 and chance <= 0.3
    assert found["allies_left"] > 0


def test_a_single_game_gets_the_moves_of_its_batch(batch):
    game = Smax(SCENARIO)
    batch.reset(np.arange(COUNT))
    game.reset(3)
    for _ in range(4):
        np.testing.assert_array_equal(smax_expert("ppo")(game), smax_expert("ppo")(batch)[3])
        labels = smax_expert("focus")(batch)
        np.testing.assert_array_equal(smax_expert("focus")(game), labels[3])
        batch.step(labels)
        game.step(labels[3])


def test_the_shipped_weights_are_small_and_plain():
    assert WEIGHTS.stat().st_size < 3e6
    arrays = smax_net.load(WEIGHTS)
    shapes = {name: a.shape for name, a in smax_net.initial(0).items() if name.startswith("p.")}
    assert {name: a.shape for name, a in arrays.items()} == shapes
    assert all(a.dtype == np.float32 and np.isfinite(a).all() for a in arrays.values())


def test_refuses_what_is_not_an_expert(tmp_path):
    with pytest.raises(ValueError, match="unknown SMAX expert 'qmix'; choose one of ppo, focus, heuristic"):
        smax_expert("qmix")
    with pytest.raises(FileNotFoundError, match="train it with"):
        smax_expert("ppo", tmp_path / "none.npz")
    path = tmp_path / "a.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="not a SMAX expert"):
        smax_expert("ppo", path)
    np.savez(path, version=1, pickled=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="not a SMAX expert"):
        smax_expert("ppo", path)
    np.savez(path, version=0)
    with pytest.raises(ValueError, match="another version"):
        smax_expert("ppo", path)


def frames_of(rng, allies, enemies):
    """A made-up history: some units out of sight in some frames."""
    encoder = smax_encoder(allies, enemies)
    entity = encoder.layout.entity[: -1 : encoder.frames]
    seen = rng.random((encoder.frames, allies + enemies)) < 0.6
    seen[:, 0] = True
    visible = seen[:, entity]
    frames = rng.uniform(-1, 1, visible.shape).astype(np.float32) * visible
    frames[:, 4:10] = np.eye(6)[rng.integers(6)]
    mask = np.concatenate([np.ones(5), rng.random(15) < 0.5]).astype(bool)
    return frames, visible, mask


def policy(seed):
    """Random weights, far enough from zero that errors show."""
    return {name: array * 5 if "attack" in name else array for name, array in smax_net.initial(seed).items()}


@given(st.integers(0, 1000), st.integers(1, 10), st.integers(1, 10))
@settings(deadline=None, max_examples=50)
def test_the_network_does_not_care_about_the_order_of_units(seed, allies, enemies):
    rng = np.random.default_rng(seed)
    frames, visible, mask = frames_of(rng, allies, enemies)
    weights = policy(seed)
    before = smax_net.logits(np, weights, smax_net.tokens(np, frames, visible, mask, allies, enemies), mask)
    ally, enemy = rng.permutation(allies - 1), rng.permutation(enemies)
    start, middle = len(OWN), len(OWN) + (allies - 1) * len(ALLY)
    order = np.concatenate([
        np.arange(start),
        (start + np.arange((allies - 1) * len(ALLY))).reshape(allies - 1, len(ALLY))[ally].ravel(),
        (middle + np.arange(enemies * len(ENEMY))).reshape(enemies, len(ENEMY))[enemy].ravel(),
    ]).astype(int)  # fmt: skip
    moved = mask.copy()
    moved[5 : 5 + enemies] = mask[5 : 5 + enemies][enemy]
    seen = smax_net.tokens(np, frames[:, order], visible[:, order], moved, allies, enemies)
    after = smax_net.logits(np, weights, seen, moved)
    np.testing.assert_allclose(after[:5], before[:5], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(after[5:], before[5:][enemy], rtol=1e-3, atol=1e-4)
    assert (before[~mask[: 5 + enemies]] == -1e9).all() and (before[mask[: 5 + enemies]] > -1e8).all()


def test_a_unit_out_of_sight_is_remembered_where_it_was():
    frames, visible = (np.zeros((4, smax_encoder(1, 1).features), dtype=t) for t in (np.float32, bool))
    visible[:, :10] = True
    visible[2:, 10:] = True
    frames[:, 4] = 1.0  # a marine: it sees 9 map units far
    frames[:, 1] = [0.5, 0.4, 0.3, 0.2]  # walks east, 3.2 of 32 map units a step
    frames[2:, 11] = [0.8, 0.9]  # last seen 7.2 east of where the observer was two steps ago
    _, _, foes, _, seen = smax_net.tokens(np, frames, visible, np.zeros(20, dtype=bool), 1, 1)
    assert seen.all()
    np.testing.assert_allclose(foes[0, 1], (7.2 - 2 * 3.2) / 10, atol=1e-6)
    np.testing.assert_allclose(foes[0, -2], 2 / 4)
    visible[:, 10:] = False
    assert not smax_net.tokens(np, frames, visible, np.zeros(20, dtype=bool), 1, 1)[4].any()


def test_advantages_are_the_sums_they_stand_for():
    """Generalised advantage estimation against its definition, term by term."""
    learner = smax_ppo.Learner(SCENARIO, smax_ppo.Settings(games=4), 0)
    rng = np.random.default_rng(0)
    steps, games, gamma, lam = 6, 2, 0.99, 0.95
    samples = {
        "reward": rng.random((steps, games)),
        "value": rng.random((steps, games)),
        "over": rng.random((steps, games)) < 0.3,
    }
    last = rng.random(games)
    found = learner._advantages(samples, last)
    following = np.concatenate([samples["value"][1:], last[None]])
    for t in range(steps):
        for g in range(games):
            total, weight = 0.0, 1.0
            for k in range(t, steps):
                going = 1.0 - samples["over"][k, g]
                surprise = samples["reward"][k, g] + gamma * going * following[k, g] - samples["value"][k, g]
                total += weight * surprise
                weight *= gamma * lam * going
            np.testing.assert_allclose(found["advantage"][t, g], total, rtol=1e-4)
            np.testing.assert_allclose(found["target"][t, g], total + samples["value"][t, g], rtol=1e-4)


def test_search_only_changes_the_weights_of_the_script(monkeypatch):
    """On a made-up task: whoever shoots more wins more, so the search must raise that weight."""
    monkeypatch.setattr(smax_focus, "wins", lambda _, seeds, w: w["shoot"] > 2.0)
    start = smax_focus.Weights(shoot=2.0)
    *_, (found, rate) = smax_focus.search(["5v5"], 20, start, 0, episodes=256)
    assert found.shoot > 2.2 and rate > 0.6
    assert found.balance != start.balance and all(np.isfinite(list(vars(found).values())))


@pytest.mark.slow  # compiling
def test_the_real_command_trains_saves_and_goes_on(tmp_path, monkeypatch):
    out = tmp_path / "runs" / "expert.npz"
    command = ["smax_ppo", "--out", str(out), "--minutes", "0.001", "--scenario", SCENARIO, "--games", "4"]
    monkeypatch.setattr(smax_ppo, "CHECK", 8)
    monkeypatch.setattr("sys.argv", [*command, "--rounds-cloning", "1"])
    smax_ppo.main()
    params, moments, step, rounds, best, spent = smax_ppo._open(out, seed=1)
    assert rounds == 1 and 0 <= best <= 1 and spent > 0
    assert step == smax_ppo.Settings.passes * smax_ppo.Settings.parts
    before = smax_net.initial(1)
    assert all(np.isfinite(a).all() for a in params.values())
    assert any((params[name] != before[name]).any() for name in before) and set(params) == set(before)
    assert all((part[name] != 0).any() for part in moments for name in ("p.trunk", "v.trunk"))
    kept = smax_net.load(out)
    np.testing.assert_array_equal(kept["p.move"], params["p.move"])
    assert not [name for name in kept if name.startswith("v.")]  # the critic stays behind
    lines = [json.loads(line) for line in out.with_suffix(".log.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 1] and set(lines[1]["check"]) == {SCENARIO}
    smax_ppo.main()  # its time is over: nothing happens
    assert smax_ppo._open(out, seed=1)[3] == 1


@pytest.mark.parametrize("bad", [["--minutes", "0"], ["--games", "2"]])
def test_the_command_refuses_nonsense(monkeypatch, capsys, tmp_path, bad):
    monkeypatch.setattr("sys.argv", ["smax_ppo", "--out", str(tmp_path / "a.npz"), *bad])
    with pytest.raises(SystemExit):
        smax_ppo.main()
    assert "--minutes must be above 0 and --games at least 4" in capsys.readouterr().err


def test_the_win_rate_command_prints_a_line_per_scenario(monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv", ["smax_expert", "--kind", "ppo", "--scenario", SCENARIO, "--episodes", "8"]
    )
    experts.main()
    line = capsys.readouterr().out.strip()
    assert line.startswith(f"{SCENARIO} ppo success ") and "allies_left" in line
    monkeypatch.setattr("sys.argv", ["smax_expert", "--weights", "nowhere.npz", "--scenario", SCENARIO])
    with pytest.raises(SystemExit):
        experts.main()
    assert "nowhere.npz is missing" in capsys.readouterr().err

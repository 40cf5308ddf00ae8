"""Collecting: expert episodes, student episodes with expert labels (DAgger), resuming."""

import numpy as np
import pytest
from marlgpt_policy.encoders import pogema
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.policy.onnx_policy import choose_from_logits
from marlgpt_training.collection.collect import Args, main
from marlgpt_training.collection.pogema_rollouts import FAMILY_WEIGHTS, Rollout, collect_shard, draw_scenario
from marlgpt_training.dataloader.episode_unrolling import UnrolledEpisode
from marlgpt_training.environments import map_families as maps
from marlgpt_training.model.checkpoint import torch_forward
from marlgpt_training.seeds import HELD_OUT
from marlgpt_training.store.shards import read_shard


@pytest.mark.parametrize("expert", ["lns", "pibt"])
def test_expert_drives_and_labels_its_own_moves(tmp_path, expert):
    path = tmp_path / "a.parquet"
    count = collect_shard(path, 3, 5, 24, expert)
    found = read_shard(path)
    assert len(found) == 5 and sum(e.actions.size for e in found) == count
    for episode in found:
        np.testing.assert_array_equal(episode.actions, episode.labels)
        assert episode.source == expert and episode.scenario in FAMILY_WEIGHTS
        assert len(episode.actions) == 24 or episode.ended
        replay = UnrolledEpisode(episode)
        arrived = (replay.cells[1:] == replay.goals[:-1]).all(axis=2)
        np.testing.assert_array_equal(episode.rewards, arrived)
        assert episode.ended == (not episode.spec["lifelong"] and bool(arrived[-1].all()))
    assert sum(e.rewards.sum() for e in found) > 0


def test_random_student_drives_and_the_expert_labels(tmp_path, small_model):
    path = tmp_path / "dagger-0-000000.parquet"
    collect_shard(path, 5, 6, 16, "lns", torch_forward(small_model()))
    found = read_shard(path)
    assert {e.source for e in found} == {"student+lns", "shielded+lns"}
    agreement = np.mean(np.concatenate([(e.actions == e.labels).ravel() for e in found]))
    assert 0.1 < agreement < 0.6  # a random student does not drive like the expert
    for episode in found:
        assert (episode.labels >= 0).all()
        replay = UnrolledEpisode(episode)  # what is stored are executed moves, which can be replayed
        for cells, label in zip(replay.cells, episode.labels, strict=False):
            target = cells + pogema.MOVES[label]
            assert len(np.unique(target, axis=0)) == len(target), "labels of the expert collide"


@pytest.mark.parametrize("student", [False, True])
def test_a_seed_gives_the_same_shard(tmp_path, small_model, student):
    forward = torch_forward(small_model()) if student else None
    for name in ("a", "b"):
        collect_shard(tmp_path / f"{name}.parquet", 11, 3, 10, "lns", forward)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    collect_shard(tmp_path / "c.parquet", 12, 3, 10, "lns", forward)
    assert (tmp_path / "c.parquet").read_bytes() != (tmp_path / "a.parquet").read_bytes()


def test_observations_handed_to_the_student_have_the_layout():
    rollout = Rollout(np.random.default_rng(0), "student", "lns", 8)
    values, valid, mask = rollout.observe()
    agents = len(rollout.env.cells)
    assert values.shape == valid.shape == (agents, len(POGEMA_LAYOUT)) and mask.shape == (agents, 20)


def test_scenarios_stay_below_the_held_out_seeds_and_fit(monkeypatch):
    seeds = []
    generate = maps.generate
    monkeypatch.setattr(maps, "generate", lambda f, s, **o: (seeds.append(s), generate(f, s, **o))[1])
    rng = np.random.default_rng(0)
    drawn = [draw_scenario(rng) for _ in range(300)]
    assert max(seeds) < HELD_OUT
    assert {d[0] for d in drawn} == set(FAMILY_WEIGHTS) and {d[3] for d in drawn} == {True, False}
    for _, free, agents, _ in drawn:
        assert 1 <= agents <= min(256, free.sum() // 2)
    many = [d for d in drawn if d[2] > 96]  # large maps are a minority, but each family has some
    assert {d[0] for d in many} == set(FAMILY_WEIGHTS) and max(d[2] for d in many) > 200
    assert 0.04 < len(many) / len(drawn) < 0.15


def test_sampling_follows_the_logits_and_never_takes_a_masked_move():
    logits = np.full((20_000, 20), -1e9, dtype=np.float32)
    logits[:, [0, 3]] = np.log([0.8, 0.2])
    logits[:, 7] = 9.0  # not one of the five moves
    counts = (
        np.bincount(choose_from_logits(logits[:, :5], 1.0, np.random.default_rng(0)), minlength=5) / 20_000
    )
    assert counts[0] == pytest.approx(0.8, abs=0.02) and counts[[1, 2, 4]].sum() == 0
    sharper = (
        np.bincount(choose_from_logits(logits[:, :5], 0.5, np.random.default_rng(0)), minlength=5) / 20_000
    )
    assert sharper[0] == pytest.approx(0.64 / 0.68, abs=0.02)


def test_main_fills_a_store_and_resumes(tmp_path, capsys):
    args = Args(out=tmp_path, shards=1, episodes=2, steps=6, expert="pibt", workers=1)
    assert main(args) == 0
    first = tmp_path / "pibt-0-00000.parquet"
    stamp, data = first.stat().st_mtime_ns, first.read_bytes()
    assert f"{tmp_path}: 1 shards" in capsys.readouterr().out
    args.shards = 2
    assert main(args) == 0
    assert first.stat().st_mtime_ns == stamp and first.read_bytes() == data
    names = ["CARD.md", "pibt-0-00000.parquet", "pibt-0-00001.parquet"]
    assert sorted(p.name for p in tmp_path.iterdir() if p.name[0] != ".") == names
    assert (tmp_path / "pibt-0-00001.parquet").read_bytes() != data
    assert main(args) == 0
    said = capsys.readouterr().out
    assert "2 shards" in said and " 0 new labelled agent steps\n" in said


def test_pogema_is_collected_as_pogema(tmp_path):
    with pytest.raises(ValueError, match="--game pogema/random_8: write pogema"):
        main(Args(out=tmp_path / "new", game="pogema/random_8"))


def test_wrong_expert_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="--expert cbs: choose lns or pibt for pogema"):
        main(Args(out=tmp_path / "new", expert="cbs"))
    assert not (tmp_path / "new").exists()

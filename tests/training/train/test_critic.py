"""The critic's targets and its training."""

import dataclasses

import numpy as np
import pytest
import torch
from marlgpt_policy.encoders.registry import layout_named
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_training import cli
from marlgpt_training.collection.pogema_rollouts import collect_shard
from marlgpt_training.model.checkpoint import load_checkpoint, save_checkpoint
from marlgpt_training.model.model import MarlGpt, ModelConfig
from marlgpt_training.store.sample_shards import SampleShard, write_samples
from marlgpt_training.store.shards import StoreError, read_shard, write_shard
from marlgpt_training.train import critic


def test_returns_are_discounted_sums():
    rewards = np.array([[0, 1], [1, 0], [0, 0], [1, 1]], dtype=np.float16)
    found = critic.returns(rewards, 0.5)
    assert np.allclose(found[:, 0], [0.5 + 0.125, 1 + 0.25, 0.5, 1])
    assert np.allclose(found[:, 1], [1 + 0.125, 0.25, 0.5, 1])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two shards of episodes of up to 80 steps."""
    folder = tmp_path_factory.mktemp("critic") / "store"
    for k in range(2):
        collect_shard(folder / f"pibt-{k}.parquet", 5 + k, 4, 80, "pibt")
    return folder


def policy(path, layouts=POGEMA_LAYOUT):
    torch.manual_seed(0)
    model = MarlGpt(ModelConfig(32, 2, 1, "entity"), layouts)
    save_checkpoint(path, model, layouts, {"step": 1})
    return model


@pytest.fixture
def args(store, tmp_path):
    policy(tmp_path / "policy.safetensors")
    return critic.Args(
        checkpoint=tmp_path / "policy.safetensors", out=tmp_path / "critic.safetensors", store=store, steps=3, batch=32
    )  # fmt: skip


def test_training_moves_only_the_critic(args):
    assert critic.main(args) == 0
    before = load_checkpoint(args.checkpoint, POGEMA_LAYOUT)[0].state_dict()
    trained, facts = load_checkpoint(args.out, POGEMA_LAYOUT)
    after = trained.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("critic") for name in changed)
    assert trained.config.value_range == (0.0, 2.0)
    assert np.isfinite(facts["critic"]["explained_variance"])


def test_a_joint_policy_learns_from_a_store_of_any_of_its_layouts(args, tmp_path, frame_episode):
    layouts = [POGEMA_LAYOUT, layout_named("smax-2v3-1")]
    policy(args.checkpoint, layouts)
    for k in range(2):
        episodes = [frame_episode(seed=10 * k + j, steps=8) for j in range(4)]
        write_shard(tmp_path / "smax" / f"{k}.parquet", episodes)
    assert critic.main(dataclasses.replace(args, store=tmp_path / "smax", batch=8)) == 0
    trained, _ = load_checkpoint(args.out, layouts)
    assert list(trained.layouts) == [layout.name for layout in layouts]


def test_a_store_of_another_layout_is_refused_in_one_line(args, tmp_path, frame_episode, capsys):
    for k in range(2):
        write_shard(tmp_path / "smax" / f"{k}.parquet", [frame_episode(seed=k)])
    command = ["critic", "--checkpoint", str(args.checkpoint), "--store", str(tmp_path / "smax")]
    assert cli.main(command) == 1
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1
        and "trained on pogema-1, but" in said
        and "holds observations of smax-2v3-1" in said
    )


def ended_early(episode):
    episode.actions, episode.labels = episode.actions[:30], episode.labels[:30]
    episode.rewards, episode.ended = episode.rewards[:30], False
    episode.goal_events = episode.goal_events[episode.goal_events[:, 0] <= 30]


def one_shot(episode):
    episode.spec = {**episode.spec, "lifelong": False}


@pytest.mark.parametrize("spoil", [ended_early, one_shot])
def test_a_store_without_usable_episodes_is_no_endless_search(args, store, tmp_path, spoil):
    for path in store.iterdir():
        episodes = read_shard(path)
        for episode in episodes:
            spoil(episode)
        write_shard(tmp_path / "useless" / path.name, episodes)
    with pytest.raises(
        ValueError, match=r"useless: no usable episode in 1 shards; returns need lifelong .* 59 steps"
    ):
        critic.main(dataclasses.replace(args, store=tmp_path / "useless"))
    assert not args.out.exists()


def test_torn_and_foreign_shards_are_skipped(args, store, tmp_path, capsys, frame_episode):
    for k, path in enumerate([*sorted(store.iterdir())] * 2):
        (tmp_path / "some").mkdir(exist_ok=True)
        (tmp_path / "some" / f"{k}.parquet").write_bytes(path.read_bytes())
    (tmp_path / "some" / "1.parquet").write_bytes(b"torn")
    write_shard(tmp_path / "some" / "3.parquet", [frame_episode()])
    some = critic.samples(sorted((tmp_path / "some").iterdir()), 0, 16, 0.95, "pogema-1")
    assert [len(part) for part in next(some)] == [16] * 4
    for _ in range(60):
        next(some)
    said = capsys.readouterr().out
    assert said.count("skipped: ") == 2
    assert "1.parquet: not a readable Parquet file" in said
    assert "3.parquet: holds observations of smax-2v3-1, the others are of pogema-1" in said


def test_only_unreadable_shards_end_with_the_reasons(tmp_path):
    for k in range(2):
        (tmp_path / f"{k}.parquet").write_bytes(b"torn")
    stream = critic.samples(sorted(tmp_path.iterdir()), 0, 16, 0.95, "pogema-1")
    with pytest.raises(ValueError, match="no usable episode in 2 shards; .*0.parquet: not a .*; .*1.parquet: not a|"
                       "no usable episode in 2 shards; .*1.parquet: not a .*; .*0.parquet: not a"):  # fmt: skip
        next(stream)


def test_single_observations_train_no_critic(tmp_path):
    layout = POGEMA_LAYOUT
    shard = SampleShard(
        np.zeros((3, len(layout)), np.int8), np.ones((3, 20), bool), np.zeros(3, np.int8), layout.name, layout.hash,
        "maze", "mapf-gpt",
    )  # fmt: skip
    write_samples(tmp_path / "a.parquet", shard)
    with pytest.raises(StoreError, match="holds single observations, without the rewards"):
        list(critic.shard_samples(tmp_path / "a.parquet", np.random.default_rng(0), 0.95, layout.name))


def test_moves_of_games_that_count_are_allowed_and_rewarded_as_played(tmp_path, frame_episode):
    """Dead agents whose move is unknown are left out; the others' returns are those of the rewards."""
    episode = frame_episode(steps=8)
    episode.actions[5:, -1] = -1
    write_shard(tmp_path / "a.parquet", [episode])
    expected = critic.returns(episode.rewards, 0.9)
    count = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        for _, valid, moves, found in critic.shard_samples(tmp_path / "a.parquet", rng, 0.9, "smax-2v3-1"):
            assert len(valid) == len(moves) == len(found) and (moves >= 0).all()
            assert all(np.isclose(value, expected).any() for value in found)
            count += len(found) == 1
    assert count > 5, "the dead agent's steps were drawn"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": 1.0}, "--gamma 1.0: choose a discount between 0 and 1"),
        ({"gamma": 0.0}, "--gamma 0.0"),
        ({"gamma": float("nan")}, "--gamma nan"),
        ({"steps": 0}, "--steps 0: at least 1"),
        ({"batch": 0}, "--batch 0: at least 1"),
        ({"threads": 0}, "--threads 0"),
        ({"learning_rate": 0.0}, "--learning-rate 0.0: choose a number above 0"),
        ({"highest": -1.0}, "--highest -1.0: choose a number above 0"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_impossible_options_are_refused(args, change, message):
    with pytest.raises(ValueError, match=message):
        critic.main(dataclasses.replace(args, **change))


def test_nothing_to_explain_is_no_division_by_zero(small_model):
    model = small_model()
    values, valid = np.zeros((4, 356), np.float32), np.ones((4, 356), bool)
    batch = (values, valid, np.zeros(4, np.int64), np.ones(4, np.float32))
    assert critic.explained_variance(model, "pogema-1", [batch]) == 0.0

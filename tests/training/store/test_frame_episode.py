"""Episodes of games with vector observations: exact round trip, and files that contradict themselves are refused."""

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_training.dataloader.episode_unrolling import unroll
from marlgpt_training.store.frame_episode import FrameEpisode
from marlgpt_training.store.shards import StoreError, layout_of, read_shard, write_shard

LAYOUTS = ("grf-1", "smacv2-terran-5v5-1", "smax-2v3-1")


def same(one, two):
    for field in dataclasses.fields(FrameEpisode):
        a, b = getattr(one, field.name), getattr(two, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype and np.array_equal(a, b), field.name
        else:
            assert a == b and type(a) is type(b), field.name


@given(
    layout=st.sampled_from(LAYOUTS), steps=st.integers(1, 9), agents=st.integers(1, 4),
    seed=st.integers(0, 10**6), ended=st.booleans(),
)  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_round_trip_is_exact(tmp_path_factory, frame_episode, layout, steps, agents, seed, ended):
    episodes = [frame_episode(layout, steps + k, agents, seed + k, ended) for k in range(2)]
    path = tmp_path_factory.mktemp("frames") / "a.parquet"
    write_shard(path, episodes)
    assert layout_of(path) == layout
    for one, two in zip(episodes, read_shard(path), strict=True):
        same(one, two)


def test_observations_are_those_of_the_encoder(frame_episode):
    episode = frame_episode("smax-2v3-1", steps=6)
    replay = unroll(episode)
    for step in (0, 2, 6):
        values, valid, mask = replay.encode(step)
        newest = slice(0, -1, replay.encoder.frames)  # feature by feature, each newest first
        np.testing.assert_array_equal(valid[:, newest], episode.visible[step])
        shown = np.where(episode.visible[step], episode.frames[step], 0).astype(np.float32)
        np.testing.assert_array_equal(values[:, newest], shown)
        np.testing.assert_array_equal(mask, episode.masks[step])
        before = slice(1, -1, replay.encoder.frames)
        known = episode.visible[step - 1] if step else np.zeros_like(episode.visible[0])
        np.testing.assert_array_equal(valid[:, before], known)


def test_a_shard_holds_one_layout(tmp_path, frame_episode):
    with pytest.raises(ValueError, match="episodes of one token layout, not of grf-1, smax-2v3-1"):
        write_shard(tmp_path / "a.parquet", [frame_episode("grf-1"), frame_episode("smax-2v3-1")])


def forbidden(episode):
    episode.masks[2, 0, episode.actions[2, 0]] = False


def unknown_action(episode):
    episode.actions[1, 0] = 20


def no_action(episode):
    episode.actions[1, 0] = -1


def forbidden_label(episode):
    episode.actions[3, 0] = 1
    episode.masks[3, 0] = False
    episode.masks[3, 0, 1] = True
    episode.labels[3, 0] = 4


def nan_reward(episode):
    episode.rewards[0, 0] = np.nan


def infinite_feature(episode):
    episode.frames[1][episode.visible[1]] = np.inf


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (forbidden, "action . of agent 0 at step 2 is not allowed"),
        (unknown_action, "action 20 of agent 0 at step 1 is not allowed"),
        (no_action, "action -1 of agent 0 at step 1 is not allowed"),
        (forbidden_label, "label 4 of agent 0 at step 3 is not allowed"),
        (nan_reward, "not finite"),
        (infinite_feature, "not finite"),
    ],
)
def test_impossible_episodes_are_refused(tmp_path, frame_episode, spoil, message):
    episode = frame_episode()
    spoil(episode)
    with pytest.raises(ValueError, match=message):
        episode.check()
    write_shard(tmp_path / "a.parquet", [episode])
    with pytest.raises(
        StoreError, match=f"a.parquet: an episode's fields contradict each other: .*{message}"
    ):
        read_shard(tmp_path / "a.parquet")


def test_what_does_not_count_is_not_checked(frame_episode):
    episode = frame_episode(steps=6)
    episode.actions[5, 1], episode.labels[5, 1] = -1, 19  # a dead agent
    episode.frames[3][~episode.visible[3]] = np.nan
    episode.check()


@pytest.mark.parametrize("name", ["frames", "visible", "masks", "active", "actions", "rewards"])
def test_torn_columns_are_refused(tmp_path, frame_episode, name):
    row = frame_episode().row()
    row[name] = row[name][:-2]
    with pytest.raises(StoreError, match="contradict each other"):
        FrameEpisode.from_row(row)
    with pytest.raises(StoreError, match="steps is -1, a size is not negative"):
        FrameEpisode.from_row({**row, "steps": -1})


def test_a_missing_column_is_named(tmp_path, frame_episode):
    path = tmp_path / "a.parquet"
    write_shard(path, [frame_episode()])
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["visible", "masks"]), path)
    with pytest.raises(StoreError, match="a.parquet: columns missing: visible, masks"):
        read_shard(path)


def test_frames_of_another_layout_are_refused(frame_episode):
    for name, message in (
        ("grf-1", "has 65 features, grf-1 has 115"),
        ("smax-2v3-9", "unknown token layout 'smax-2v3-9'"),
    ):
        with pytest.raises(StoreError, match=message):
            unroll(dataclasses.replace(frame_episode("smax-2v3-1"), layout=name))

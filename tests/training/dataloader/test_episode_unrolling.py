"""One episode unrolled: rows, rewards, transitions, and episodes that cannot have happened."""

import dataclasses

import numpy as np
import pytest
from marlgpt_training.dataloader.episode_unrolling import UnrolledEpisode, transition
from marlgpt_training.store.shards import StoreError, read_shard


def test_replay_of_some_agents_picks_their_rows(shard):
    replay = UnrolledEpisode(read_shard(shard)[0])
    which = np.array([2, 0])
    for part, whole in zip(replay.encode(3, which), replay.encode(3), strict=True):
        np.testing.assert_array_equal(part, whole[which])


def test_replay_refuses_moves_into_walls_and_out_of_the_map(shard):
    episode = read_shard(shard)[0]
    episode.actions = np.ones_like(episode.actions)  # everybody up, for ever
    with pytest.raises(StoreError, match="leave its free cells"):
        UnrolledEpisode(episode)


def test_replay_refuses_a_goal_in_a_wall(shard):
    episode = next(e for e in read_shard(shard) if not e.free.all())
    events = episode.goal_events.copy()
    events[0, 2:] = np.argwhere(~episode.free)[0]
    episode.goal_events = events
    with pytest.raises(StoreError, match="goal"):
        UnrolledEpisode(episode)


def one_shot(shard, ended):
    episode = next(e for e in read_shard(shard) if not e.spec["lifelong"])
    return dataclasses.replace(episode, ended=ended, rewards=np.ones_like(episode.rewards))


def test_lifelong_rewards_are_the_stored_ones(shard):
    episode = next(e for e in read_shard(shard) if e.spec["lifelong"])
    np.testing.assert_array_equal(UnrolledEpisode(episode).rewards(0.9), episode.rewards.astype(np.float32))


def test_resting_at_the_goal_for_ever_is_worth_one(shard):
    gamma = 0.9
    rewards = UnrolledEpisode(one_shot(shard, ended=True)).rewards(gamma)
    total = (gamma ** np.arange(len(rewards))[:, None] * rewards).sum(axis=0)
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)


def test_transitions_end_with_the_episode_and_go_on_after_a_step_limit(shard):
    for ended in (True, False):
        replay = UnrolledEpisode(one_shot(shard, ended))
        rewards, which = replay.rewards(0.5), np.array([1, 0])
        steps = len(rewards)
        total, bootstrap, last = transition(replay.episode, rewards, steps - 2, which, 3, 0.5)
        assert last == steps and bootstrap == (0.0 if ended else 0.25)
        np.testing.assert_allclose(total, rewards[-2, which] + 0.5 * rewards[-1, which])
        _, bootstrap, last = transition(replay.episode, rewards, 0, which, 1, 0.5)
        assert last == 1 and bootstrap == 0.5

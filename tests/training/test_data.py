"""From shards to batches: exact compression, exact replay, bad shards skipped."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.encoders import pogema
from marlgpt_policy.layout import POGEMA_LAYOUT
from marlgpt_training import maps
from marlgpt_training.data import Replay, SampleStream, compress, expand
from marlgpt_training.grid_env import GridEnv
from marlgpt_training.store import Episode, StoreError, read_shard, write_shard


def record(env, steps, rng):
    """Drive ``env`` at random: the episode, and the live observation before each move and after the last."""
    starts, events = env.cells, [(0, i, *goal) for i, goal in enumerate(env.goals)]
    actions, seen = [], []
    for step in range(steps):
        seen.append(pogema.encode(env.fields, env.cells, env.goals, env.history, env.moves))
        before = env.goals
        actions.append(env.step(rng.integers(0, 5, size=len(starts))))
        changed = np.flatnonzero((env.goals != before).any(axis=1))
        events += [(step + 1, i, *env.goals[i]) for i in changed]
    seen.append(pogema.encode(env.fields, env.cells, env.goals, env.history, env.moves))
    moved = np.array(actions)
    labels = rng.integers(-1, 5, size=moved.shape)
    rewards = np.zeros(moved.shape)
    return Episode(
        env.free, starts, np.array(events), moved, labels, rewards, False, "random", "random", 0
    ), seen


@given(seed=st.integers(0, 10**6), family=st.sampled_from(maps.FAMILIES), lifelong=st.booleans())
@settings(max_examples=15, deadline=None)
def test_replay_equals_the_live_environment_bit_for_bit(tmp_path_factory, seed, family, lifelong):
    free = maps.generate(family, seed)
    env = GridEnv.sample(free, int(free.sum() // 3), lifelong, seed)
    episode, seen = record(env, 25, np.random.default_rng(seed))
    path = tmp_path_factory.mktemp("replay") / "a.parquet"
    write_shard(path, [episode])
    replay = Replay(read_shard(path)[0])
    for step, live in enumerate(seen):
        for name, a, b in zip(("values", "valid", "mask"), live, replay.encode(step), strict=True):
            assert a.dtype == b.dtype and np.array_equal(a, b), f"{name} differ at step {step}"
        values, valid = expand(compress(live[0], live[1]))
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values.view(np.int32), live[0].view(np.int32))
        np.testing.assert_array_equal(valid, live[1])


def test_replay_of_some_agents_picks_their_rows(shard):
    replay = Replay(read_shard(shard)[0])
    which = np.array([2, 0])
    for part, whole in zip(replay.encode(3, which), replay.encode(3), strict=True):
        np.testing.assert_array_equal(part, whole[which])


def test_replay_refuses_moves_into_walls_and_out_of_the_map(shard):
    episode = read_shard(shard)[0]
    episode.actions = np.ones_like(episode.actions)  # everybody up, for ever
    with pytest.raises(StoreError, match="leave its free cells"):
        Replay(episode)


def test_replay_refuses_a_goal_in_a_wall(shard):
    episode = next(e for e in read_shard(shard) if not e.free.all())
    events = episode.goal_events.copy()
    events[0, 2:] = np.argwhere(~episode.free)[0]
    episode.goal_events = events
    with pytest.raises(StoreError, match="goal"):
        Replay(episode)


def take(stream, size, count=1):
    batches = stream.batches(size)
    return [tuple(a.copy() for a in next(batches)) for _ in range(count)]


def test_samples_are_the_observations_and_labels_of_the_store(shard):
    episode = read_shard(shard)[0]
    known = {}
    for other in read_shard(shard):
        replay = Replay(other)
        for step in range(len(other.actions)):
            values, valid, mask = replay.encode(step)
            for row, label, allowed in zip(
                compress(values, valid), other.labels[step], mask[:, :5], strict=True
            ):
                known.setdefault(row.tobytes(), set()).add((int(label), allowed.tobytes()))
    packed, labels, masks = take(SampleStream(shard.parent, 0, buffer=500), 256)[0]
    assert packed.shape == (256, len(POGEMA_LAYOUT)) and packed.dtype == np.int8
    assert labels.dtype == np.int64 and masks.shape == (256, 5) and masks.dtype == bool
    for row, label, allowed in zip(packed, labels, masks, strict=True):
        assert (int(label), allowed.tobytes()) in known[row.tobytes()]
        assert allowed[label], "a label that the mask forbids"
    assert episode.labels.min() >= 0


def test_unlabelled_steps_are_left_out(shard, tmp_path):
    some = read_shard(shard)[:2]
    for episode in some:
        episode.labels = episode.labels.copy()
        episode.labels[:, 1:] = -1
    write_shard(tmp_path / "a.parquet", some)
    for _, labels, _ in take(SampleStream(tmp_path, 0, buffer=60), 50, 4):
        assert (labels >= 0).all()


def test_a_seed_gives_the_same_batches(shard):
    one, two, other = (take(SampleStream(shard.parent, s, buffer=300), 64, 3) for s in (7, 7, 8))
    for a, b, c in zip(one, two, other, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
        assert not np.array_equal(a[0], c[0])


def test_fresh_share_chooses_between_expert_and_dagger_shards(shard, tmp_path):
    for name in ("lns-0-00000", "lns-0-00001", "dagger-0-000000", "dagger-0-000001", "dagger-1-000000"):
        shutil.copy(shard, tmp_path / f"{name}.parquet")
    for share in (0.0, 0.6, 1.0):
        stream = SampleStream(tmp_path, 0, share)
        fresh = np.mean([stream._choose().name.startswith("dagger") for _ in range(500)])
        assert fresh == pytest.approx(share, abs=0.07)


def test_new_shards_are_seen_while_running(shard, tmp_path):
    shutil.copy(shard, tmp_path / "lns-0-00000.parquet")
    stream = SampleStream(tmp_path, 0, 1.0)
    assert stream._choose().name == "lns-0-00000.parquet"  # no DAgger shard yet
    shutil.copy(shard, tmp_path / "dagger-0-000000.parquet")
    assert stream._choose().name == "dagger-0-000000.parquet"


def test_bad_shards_are_skipped_and_reported_once(shard, tmp_path, capsys):
    shutil.copy(shard, tmp_path / "lns-0-00000.parquet")
    (tmp_path / "lns-0-00001.parquet").write_bytes(shard.read_bytes()[:500])
    blocked = read_shard(shard)[:1]
    blocked[0].actions = np.ones_like(blocked[0].actions)
    write_shard(tmp_path / "lns-0-00002.parquet", blocked)
    stream = SampleStream(tmp_path, 0, buffer=2000)
    assert all(len(labels) == 128 for _, labels, _ in take(stream, 128, 30))
    assert {p.name for p in stream.bad} == {"lns-0-00001.parquet", "lns-0-00002.parquet"}
    said = capsys.readouterr().out
    for path, reason in stream.bad.items():
        assert str(path) in reason and said.count(reason) == 1


def test_empty_folder_and_only_bad_shards(tmp_path):
    with pytest.raises(StoreError, match="no readable shard. Run marlgpt collect first"):
        take(SampleStream(tmp_path, 0, buffer=100), 8)
    (tmp_path / "lns-0-00000.parquet").write_bytes(b"nothing")
    with pytest.raises(StoreError, match="lns-0-00000.parquet: not a readable Parquet file"):
        take(SampleStream(tmp_path, 0, buffer=100), 8)

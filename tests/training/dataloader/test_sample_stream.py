"""From shards to batches: exact compression, mixtures, exact resume, bad shards skipped."""

import shutil
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.encoders import pogema
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_training.dataloader.episode_unrolling import UnrolledEpisode
from marlgpt_training.dataloader.sample_stream import SampleStream, Source, parse_mixture
from marlgpt_training.dataloader.samples import Samples, compress, expand
from marlgpt_training.dataloader.sampling import SamplingConfig
from marlgpt_training.environments import map_families as maps
from marlgpt_training.environments.grid_env import GridEnv
from marlgpt_training.store.grid_episode import Episode
from marlgpt_training.store.shards import StoreError, read_shard, write_shard


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
    replay = UnrolledEpisode(read_shard(path)[0])
    for step, live in enumerate(seen):
        for name, a, b in zip(("values", "valid", "mask"), live, replay.encode(step), strict=True):
            assert a.dtype == b.dtype and np.array_equal(a, b), f"{name} differ at step {step}"
        values, valid = expand(compress(live[0], live[1]))
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values.view(np.int32), live[0].view(np.int32))
        np.testing.assert_array_equal(valid, live[1])


def equal(one: Samples, two: Samples) -> bool:
    a, b = one.arrays(), two.arrays()
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_samples_are_the_observations_and_labels_of_the_store(shard):
    known = {}
    for episode in read_shard(shard):
        replay = UnrolledEpisode(episode)
        for step in range(len(episode.actions)):
            values, valid, mask = replay.encode(step)
            for row, label, allowed in zip(
                compress(values, valid), episode.labels[step], mask[:, :5], strict=True
            ):
                known.setdefault(row.tobytes(), set()).add((int(label), allowed.tobytes()))
    found = SampleStream(shard.parent, 0).next(256)
    assert found.packed.shape == (256, len(POGEMA_LAYOUT)) and found.packed.dtype == np.int8
    assert found.labels.dtype == np.int64 and found.masks.shape == (256, 5) and found.masks.dtype == bool
    assert found.actions is None and found.next_packed is None
    for row, label, allowed in zip(found.packed, found.labels, found.masks, strict=True):
        assert (int(label), allowed.tobytes()) in known[row.tobytes()]
        assert allowed[label], "a label that the mask forbids"


@pytest.mark.parametrize("ahead", [1, 3])
def test_transitions_are_those_of_the_store(shard, ahead):
    gamma = 0.9
    known = {}
    for episode in read_shard(shard):
        replay = UnrolledEpisode(episode)
        rewards = replay.rewards(gamma)
        for step in range(len(episode.actions)):
            last = min(step + ahead, len(episode.actions))
            over = episode.ended and last == len(episode.actions)
            packed = compress(*replay.encode(step)[:2])
            following = compress(*replay.encode(last)[:2])
            for k in range(len(packed)):
                total = sum(gamma**j * float(rewards[step + j, k]) for j in range(last - step))
                entry = (
                    int(episode.actions[step, k]),
                    round(total, 4),
                    0.0 if over else gamma ** (last - step),
                )
                known.setdefault(packed[k].tobytes(), set()).add((*entry, following[k].tobytes()))
    drawing = SamplingConfig(transitions=True, gamma=gamma, td_steps=ahead)
    found = SampleStream(shard.parent, 0, drawing=drawing).next(200)
    assert found.rewards.dtype == found.bootstraps.dtype == np.float32
    for k in range(200):
        close = [
            entry for entry in known[found.packed[k].tobytes()]
            if entry[0] == found.actions[k] and entry[1] == pytest.approx(float(found.rewards[k]), abs=2e-3)
            and entry[2] == pytest.approx(float(found.bootstraps[k])) and entry[3] == found.next_packed[k].tobytes()
        ]  # fmt: skip
        assert close


def test_tensors_are_the_encoders_arrays(shard):
    found = SampleStream(shard.parent, 0, drawing=SamplingConfig(transitions=True)).next(16)
    tensors = found.tensors("cpu")
    values, valid = expand(found.packed)
    np.testing.assert_array_equal(tensors["values"].numpy(), values)
    np.testing.assert_array_equal(tensors["valid"].numpy(), valid)
    np.testing.assert_array_equal(tensors["mask"].numpy()[:, :5], found.masks)
    assert tensors["mask"].shape == (16, 20) and not tensors["mask"][:, 5:].any()
    np.testing.assert_array_equal(tensors["next_values"].numpy(), expand(found.next_packed)[0])


def test_unlabelled_steps_are_left_out_for_cloning_and_kept_for_the_critic(shard, tmp_path):
    some = read_shard(shard)[:2]
    for episode in some:
        episode.labels = episode.labels.copy()
        episode.labels[:, 1:] = -1
    write_shard(tmp_path / "a.parquet", some)
    assert (SampleStream(tmp_path, 0).next(50).labels >= 0).all()
    labels = SampleStream(tmp_path, 0, drawing=SamplingConfig(transitions=True)).next(200).labels
    assert (labels == -1).any() and (labels >= 0).any()


def test_a_seed_and_a_number_give_a_stream(shard):
    def three(seed, number):
        stream = SampleStream(shard.parent, seed, number)
        return Samples.concatenate([stream.next(64) for _ in range(3)])

    assert equal(three(7, 0), three(7, 0))
    assert not equal(three(7, 0), three(8, 0)) and not equal(three(7, 0), three(7, 1))


@given(before=st.integers(0, 9), size=st.sampled_from([7, 64, 900]), ahead=st.sampled_from([0, 1, 2]))
@settings(max_examples=12, deadline=None)
def test_a_restored_stream_goes_on_exactly(shard, before, size, ahead):
    drawing = SamplingConfig(shards=2, per_episode=24)
    with ThreadPoolExecutor(2) as pool:
        options = {"drawing": drawing, "executor": pool if ahead else None, "ahead": ahead}
        stream = SampleStream(shard.parent, 5, **options)
        for _ in range(before):
            stream.next(size)
        state = stream.state()
        expected = [stream.next(size) for _ in range(4)]
        other = SampleStream(shard.parent, 5, **options)
        other.restore(state)
        assert all(equal(one, other.next(size)) for one in expected)


def test_a_stream_prepared_ahead_gives_the_same_samples(shard):
    with ThreadPoolExecutor(2) as pool:
        plain, ahead = SampleStream(shard.parent, 5), SampleStream(shard.parent, 5, executor=pool, ahead=2)
        assert all(equal(plain.next(500), ahead.next(500)) for _ in range(6))


def test_restored_rounds_keep_their_shards_when_new_ones_arrive(shard, tmp_path):
    shutil.copy(shard, tmp_path / "a.parquet")
    stream = SampleStream(tmp_path, 0)
    stream.next(10)
    state, expected = stream.state(), stream.next(10)
    for k in range(9):
        shutil.copy(shard, tmp_path / f"b{k}.parquet")
    other = SampleStream(tmp_path, 0)
    other.restore(state)
    assert equal(other.next(10), expected)


def test_mixture_weights_choose_between_sources(shard, tmp_path):
    for name in ("a/1", "a/2", "b/1", "c/1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(shard, tmp_path / f"{name}.parquet")
    sources = parse_mixture([f"{tmp_path}/a=3", f"{tmp_path}/b", f"{tmp_path}/c=0"])
    stream = SampleStream(sources, 0)
    drawn = [path.parent.name for k in range(200) for path in stream.draw(k)]
    share = np.mean([name == "a" for name in drawn])
    assert share == pytest.approx(0.75, abs=0.04) and "c" not in drawn


def test_a_fresh_source_prefers_its_newest_half_and_may_be_empty(shard, tmp_path):
    shutil.copy(shard, tmp_path / "lns.parquet")
    fresh = tmp_path / "dagger"
    stream = SampleStream([Source(tmp_path, 0.25), Source(fresh, 0.75, fresh=True)], 0)
    assert {path.name for path in stream.draw(0)} == {"lns.parquet"}
    fresh.mkdir()
    for k in range(4):
        shutil.copy(shard, fresh / f"dagger-0-{k}.parquet")
    drawn = [path.name for k in range(200) for path in stream.draw(k)]
    assert np.mean([name != "lns.parquet" for name in drawn]) == pytest.approx(0.75, abs=0.04)
    newest = np.mean([name[-9] in "23" for name in drawn if name != "lns.parquet"])
    assert newest == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "the mixture is empty"),
        (["a=0", "b=0"], "sum to zero"),
        (["a=-1"], "must be 0 or more"),
        (["a=nan"], "must be 0 or more"),
        (["a=much"], "'much' is not a weight"),
    ],
)
def test_impossible_mixtures_are_refused(entries, message):
    with pytest.raises(ValueError, match=message):
        parse_mixture(entries)


def test_bad_shards_are_skipped_and_reported_once(shard, tmp_path, capsys):
    shutil.copy(shard, tmp_path / "lns-0-00000.parquet")
    (tmp_path / "lns-0-00001.parquet").write_bytes(shard.read_bytes()[:500])
    blocked = read_shard(shard)[:1]
    blocked[0].actions = np.ones_like(blocked[0].actions)
    write_shard(tmp_path / "lns-0-00002.parquet", blocked)
    stream = SampleStream(tmp_path, 0)
    for _ in range(60):
        assert len(stream.next(512)) == 512
    assert {p.name for p in stream.bad} == {"lns-0-00001.parquet", "lns-0-00002.parquet"}
    said = capsys.readouterr().out
    for path, reason in stream.bad.items():
        assert str(path) in reason and said.count(reason) == 1


def test_a_shard_deleted_after_it_was_drawn_is_no_error(shard, tmp_path, capsys):
    for name in "ab":
        shutil.copy(shard, tmp_path / f"{name}.parquet")
    with ThreadPoolExecutor(1) as pool:
        stream = SampleStream(tmp_path, 0, executor=pool)
        stream.next(8)
        state = stream.state()
        (tmp_path / "a.parquet").unlink()
        stream.restore(state)
        assert len(stream.next(8)) == 8
    assert not stream.bad and "skipped" not in capsys.readouterr().out


def test_empty_folder_and_only_bad_shards(tmp_path):
    with pytest.raises(StoreError, match="no readable shard. Run marlgpt collect first"):
        SampleStream(tmp_path, 0).next(8)
    (tmp_path / "lns-0-00000.parquet").write_bytes(b"nothing")
    with pytest.raises(StoreError, match="lns-0-00000.parquet: not a readable Parquet file"):
        SampleStream(tmp_path, 0).next(8)


def test_a_source_that_loses_its_shards_is_named(shard, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        shutil.copy(shard, tmp_path / name / "lns.parquet")
    stream = SampleStream(parse_mixture([f"{tmp_path}/a=9", f"{tmp_path}/b"]), 0)
    stream.next(8)
    (tmp_path / "b" / "lns.parquet").unlink()
    with pytest.raises(StoreError, match=f"^{tmp_path}/b: no readable shard"):
        for _ in range(50):
            stream.next(2048)


def test_a_source_that_has_only_bad_shards_left_is_named_with_the_reason(shard, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        shutil.copy(shard, tmp_path / name / "lns.parquet")
    (tmp_path / "b" / "lns.parquet").write_bytes(shard.read_bytes()[:900])
    stream = SampleStream(parse_mixture([f"{tmp_path}/a", f"{tmp_path}/b"]), 0)
    with pytest.raises(
        StoreError, match=f"^{tmp_path}/b: no readable shard. {tmp_path}/b/lns.parquet: not a re"
    ):
        for _ in range(50):
            stream.next(2048)


def test_a_store_without_labels_is_no_endless_search(shard, tmp_path):
    episode = read_shard(shard)[0]
    episode.labels = np.full_like(episode.labels, -1)
    write_shard(tmp_path / "bag.parquet", [episode])
    with pytest.raises(StoreError, match="no usable sample in 50 rounds; imitation needs"):
        SampleStream(tmp_path, 0, drawing=SamplingConfig(shards=1)).next(8)
    assert len(SampleStream(tmp_path, 0, drawing=SamplingConfig(transitions=True)).next(8)) == 8


class Dying(ThreadPoolExecutor):
    """An executor whose workers were killed."""

    def submit(self, *_):
        future = Future()
        future.set_exception(BrokenExecutor("a child process terminated abruptly"))
        return future


def test_killed_loaders_are_reported(shard):
    with Dying(1) as pool, pytest.raises(ChildProcessError, match="has died .*use fewer --loaders"):
        SampleStream(shard.parent, 0, executor=pool).next(8)


def test_a_store_smaller_than_a_batch_repeats_its_samples(shard, tmp_path):
    write_shard(tmp_path / "a.parquet", read_shard(shard)[:1])
    drawing = SamplingConfig(shards=1, per_episode=8)
    assert len(SampleStream(tmp_path, 0, drawing=drawing).next(300)) == 300

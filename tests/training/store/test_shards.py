"""Trajectory shards: exact round trips, and bad files that are named."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from marlgpt_training.store import shards as store
from marlgpt_training.store.grid_episode import Episode
from marlgpt_training.store.shards import StoreError, read_shard, shards, write_shard

ARRAYS = ("free", "starts", "goal_events", "actions", "labels", "rewards")


@st.composite
def episodes(draw):
    """Any episode whose numbers are in range (it need not be drivable)."""
    rows, cols = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    agents, steps = draw(st.integers(1, 9)), draw(st.integers(0, 12))
    cell = st.tuples(st.integers(0, rows - 1), st.integers(0, cols - 1))
    events = [(0, i, *draw(cell)) for i in range(agents)]
    events += sorted(
        (draw(st.integers(1, steps)), draw(st.integers(0, agents - 1)), *draw(cell))
        for _ in range(draw(st.integers(0, 3)) if steps else 0)
    )
    return Episode(
        free=draw(hnp.arrays(bool, (rows, cols))),
        starts=np.array([draw(cell) for _ in range(agents)], dtype=np.int16),
        goal_events=np.array(events, dtype=np.int16),
        actions=draw(hnp.arrays(np.int8, (steps, agents), elements=st.integers(0, 4))),
        labels=draw(hnp.arrays(np.int8, (steps, agents), elements=st.integers(-1, 4))),
        rewards=draw(hnp.arrays(np.float16, (steps, agents), elements=st.sampled_from([0.0, 1.0]))),
        ended=draw(st.booleans()),
        source=draw(st.text(max_size=8)),
        scenario=draw(st.text(max_size=8)),
        seed=draw(st.integers(-(2**63), 2**63 - 1)),
        spec=draw(st.dictionaries(st.text(max_size=4), st.integers() | st.booleans() | st.text(max_size=4))),
    )


def assert_equal(one, two):
    for name in ARRAYS:
        a, b = getattr(one, name), getattr(two, name)
        assert a.shape == b.shape and (a == b).all(), name
    for name in ("ended", "source", "scenario", "seed", "spec", "environment"):
        assert getattr(one, name) == getattr(two, name), name


@given(st.lists(episodes(), max_size=3))
@settings(max_examples=40, deadline=None)
def test_round_trip_is_exact(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("round") / "deep" / "a.parquet"
    write_shard(path, written)
    found = read_shard(path)
    assert len(found) == len(written)
    for one, two in zip(written, found, strict=True):
        assert_equal(one, two)
    assert [p.name for p in path.parent.iterdir()] == ["a.parquet"]


def test_real_shard_is_small(shard):
    agent_steps = sum(episode.actions.size for episode in read_shard(shard))
    assert agent_steps > 1000
    assert shard.stat().st_size / agent_steps <= 4.0


def test_shards_are_sorted_and_temporary_files_left_out(tmp_path):
    for name in ("b.parquet", "a.parquet", ".c.parquet.12.tmp", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in shards(tmp_path)] == ["a.parquet", "b.parquet"]
    assert shards(tmp_path / "none") == []


def refuses(path, *parts):
    with pytest.raises(StoreError) as caught:
        read_shard(path)
    for part in (str(path), *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.999])
def test_torn_file(shard, tmp_path, keep):
    data = shard.read_bytes()
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(data[: int(len(data) * keep)])
    refuses(torn, "not a readable Parquet file", "collect it again")


def test_missing_file_and_folder(tmp_path):
    refuses(tmp_path / "none.parquet", "not a readable Parquet file")
    (tmp_path / "folder.parquet").mkdir()
    refuses(tmp_path / "folder.parquet")


def test_damaged_bytes_inside(shard, tmp_path):
    data = bytearray(shard.read_bytes())
    for k in range(8, 400):
        data[k] ^= 0x5A
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(bytes(data))
    refuses(damaged)


def test_foreign_parquet(tmp_path):
    path = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"x": [1, 2]}), path)
    refuses(path, "not a trajectory store shard")


def test_other_version(shard, tmp_path):
    path = tmp_path / "later.parquet"
    pq.write_table(pq.read_table(shard).replace_schema_metadata({"marlgpt_store": "7"}), path)
    refuses(path, "store version 7, this code reads 1")


def test_missing_columns(shard, tmp_path):
    path = tmp_path / "narrow.parquet"
    pq.write_table(pq.read_table(shard).drop_columns(["labels", "starts"]), path)
    refuses(path, "columns missing: labels, starts")


def altered(shard, path, **changes):
    """A copy of ``shard`` whose second episode has other fields."""
    rows = pq.read_table(shard).to_pylist()
    for name, change in changes.items():
        rows[1][name] = change(rows[1][name])
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(shard)), path)
    return path


def cell(*numbers):
    return np.array(numbers, "<i2").tobytes()


BAD = {
    "fewer actions": {"actions": lambda b: b[:-1]},
    "more labels": {"labels": lambda b: b + b"\0"},
    "odd rewards": {"rewards": lambda b: b[:-1]},
    "other step count": {"steps": lambda n: n + 1},
    "negative step count": {"steps": lambda n: -1},
    "other agent count": {"agents": lambda n: n + 1},
    "truncated map": {"map_bits": lambda b: b[:-2]},
    "longer map": {"map_bits": lambda b: b + b"\xff"},
    "higher map": {"map_rows": lambda n: n + 1},
    "half a goal event": {"goal_events": lambda b: b[:-2]},
    "no goal events": {"goal_events": lambda b: b""},
    "goal of an agent that is not there": {"goal_events": lambda b: b + cell(9, 999, 1, 1)},
    "goal outside the map": {"goal_events": lambda b: b + cell(9, 0, -1, 1)},
    "goal events out of order": {"goal_events": lambda b: b + cell(9, 0, 1, 1, 0, 0, 1, 1)},
    "start outside the map": {"starts": lambda b: np.full(len(b) // 2, 999, "<i2").tobytes()},
    "unknown move": {"actions": lambda b: b"\x05" + b[1:]},
    "negative move": {"actions": lambda b: b"\xff" + b[1:]},
    "unknown label": {"labels": lambda b: b"\x05" + b[1:]},
    "null actions": {"actions": lambda b: None},
    "null spec": {"spec": lambda b: None},
    "spec that is not JSON": {"spec": lambda b: "{"},
}


@pytest.mark.parametrize("name", BAD)
def test_contradicting_fields(shard, tmp_path, name):
    refuses(altered(shard, tmp_path / "bad.parquet", **BAD[name]), "contradict")


def test_failing_write_leaves_the_old_file(shard, tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    kept = read_shard(shard)
    write_shard(path, kept)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_shard(path, kept[:1])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]

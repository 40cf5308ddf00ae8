"""Episodes of driving fleets in the store: exact round trips beside the older kinds, contradictions refused by name."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import damaged, fuzz  # noqa: E402
from hypothesis import given
from hypothesis import strategies as st
from marlgpt_training.dataloader.episode_unrolling import unroll
from marlgpt_training.environments.grid_env import edges
from marlgpt_training.store.data_card import card
from marlgpt_training.store.fleet_episode import FleetEpisode
from marlgpt_training.store.shards import StoreError, encode_shard, layout_of, read_shard, write_shard
from marlgpt_training.train.critic import shard_samples


def episode(steps=6, robots=3, seed=0, **changed):
    """Robots at random free cells of a small map, with everything that an episode can hold."""
    rng = np.random.default_rng(seed)
    free = np.ones((4, 5), bool)
    free[1, 1:3] = False
    moves = edges(free)
    places = np.argwhere(free)
    cells = np.stack([places[rng.permutation(len(places))[:robots]] for _ in range(steps)]).astype(np.int16)
    goals = places[rng.integers(len(places), size=(steps, robots))].astype(np.int16)
    goals[rng.random((steps, robots)) < 0.3] = -1
    masks = moves[cells[..., 0], cells[..., 1]]
    actions = np.argmax(masks * rng.random(masks.shape), axis=2).astype(np.int8)
    found = FleetEpisode(
        moves=moves, times=np.arange(steps) * 10**9 // 2, cells=cells, goals=goals,
        history=rng.integers(-1, 5, (steps, robots, 5)).astype(np.int8), present=np.ones((steps, robots), bool),
        masks=masks, detours=np.array([(1, 0, 0), (1, 2, 2), (4, -1, -1)], np.int16), actions=actions,
        labels=actions.copy(), rewards=rng.integers(0, 2, (steps, robots)).astype(np.float16), source="bag",
        scenario="hall", spec={"step_time": 0.9},
    )  # fmt: skip
    return dataclasses.replace(found, **changed)


def test_round_trip(tmp_path):
    """All fields come back; the shard tells its layout, the data card counts it, other kinds are untouched."""
    written = [episode(seed=k) for k in range(3)]
    write_shard(tmp_path / "a.parquet", written)
    for a, b in zip(written, read_shard(tmp_path / "a.parquet"), strict=True):
        for field in dataclasses.fields(FleetEpisode):
            assert np.array_equal(getattr(a, field.name), getattr(b, field.name)), field.name
    assert layout_of(tmp_path / "a.parquet") == written[0].layout
    assert "hall" in card(tmp_path)
    with pytest.raises(StoreError, match="a.parquet: holds recordings"):
        next(shard_samples(tmp_path / "a.parquet", np.random.default_rng(0), 0.9, written[0].layout))


def test_detours_hold_until_they_change():
    found = episode()
    assert [len(found.detours_at(step)) for step in range(6)] == [0, 2, 2, 2, 0, 0]


def test_transitions_count_time_in_steps():
    """A robot's next decision may be several of the others' away; discounts follow the clock."""
    actions = np.array([[0, 1], [-1, 2], [-1, 1], [0, -1], [0, 0], [0, 0]], np.int8)
    masks = np.ones((6, 2, 5), bool)
    rewards = np.array([[0, 0], [1, 0], [0, 0], [0, 0], [1, 0], [0, 0]], np.float16)
    found = episode(
        robots=2, actions=actions, labels=np.full((6, 2), -1, np.int8), masks=masks, rewards=rewards
    )
    replay = unroll(found)
    reward, bootstrap, last = replay.transition(0, 0, 1, 0.5)
    assert (
        last == 3
        and bootstrap == pytest.approx(0.5 ** (1.5 / 0.9))
        and reward == pytest.approx(0.5 ** (0.5 / 0.9))
    )
    assert replay.transition(0, 0, 2, 0.5)[2] == 4
    assert replay.transition(5, 0, 1, 0.5) is None


BAD = {
    "outside": {"cells": np.full((6, 3, 2), 9, np.int16)},
    "one cell": {"cells": np.zeros((6, 3, 2), np.int16)},
    "stands in no cell": {"cells": np.full((6, 3, 2), -1, np.int16)},
    "history outside": {"history": np.full((6, 3, 5), 7, np.int8)},
    "actions outside": {"actions": np.full((6, 3), 5, np.int8)},
    "not allowed": {"masks": np.zeros((6, 3, 5), bool)},
    "not sorted": {"detours": np.array([(2, 0, 0), (1, 0, 0)], np.int16)},
    "cell outside": {"detours": np.array([(0, 9, 0)], np.int16)},
}


@pytest.mark.parametrize("reason", BAD)
def test_contradictions_are_refused(tmp_path, reason):
    (tmp_path / "a.parquet").write_bytes(encode_shard([episode(**BAD[reason])]))
    with pytest.raises(StoreError, match=f"a.parquet: .*{reason}"):
        read_shard(tmp_path / "a.parquet")


def test_walls_are_refused():
    cells = episode().cells.copy()
    cells[0, 0] = (1, 1)
    with pytest.raises(StoreError, match="in a wall"):
        unroll(episode(cells=cells))


@fuzz(80)
@given(data=st.data())
def test_damaged_shards(tmp_path, data):
    """Whatever is in the file, it is read and encoded, or refused by name."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        pq.read_table(pa.BufferReader(encode_shard([episode(), episode(seed=1)]))), sink, compression="none"
    )
    path = tmp_path / "x.parquet"
    path.write_bytes(data.draw(damaged(sink.getvalue().to_pybytes())))
    try:
        for found in read_shard(path):
            replay = unroll(found)
            for step in range(len(found.actions)):
                which = np.flatnonzero((found.actions[step] >= 0) & found.present[step])
                replay.encode(step, which)
    except StoreError as error:
        assert "x.parquet" in str(error) or "in a wall" in str(error)

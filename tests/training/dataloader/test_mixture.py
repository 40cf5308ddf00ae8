"""Mixtures of token layouts: fixed shares of a batch, nothing lost silently, exact resume."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_training.dataloader.mixture import Mixture, by_layout, dagger_folder, sizes
from marlgpt_training.dataloader.sample_stream import SampleStream, parse_mixture
from marlgpt_training.dataloader.samples import Samples
from marlgpt_training.dataloader.sampling import SamplingConfig
from marlgpt_training.model.checkpoint import load_checkpoint
from marlgpt_training.model.losses import LossConfig
from marlgpt_training.store.shards import StoreError, read_shard, write_shard
from marlgpt_training.train import train
from marlgpt_training.train.distributed import World
from marlgpt_training.train.train import Args, Trainer, main, share_out


@given(
    weights=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8),
    spare=st.integers(0, 500),
)
def test_sizes_sum_to_the_part_with_at_least_one_each(weights, spare):
    total = len(weights) + spare
    found = sizes(weights, total)
    assert sum(found) == total and min(found) >= 1
    exact = np.array(weights) / sum(weights) * total
    if exact.min() >= 1:  # nobody needs more than the own share
        assert np.abs(np.array(found) - exact).max() < 1 + 1e-6
    order = np.argsort(weights, kind="stable")
    assert (np.diff(np.array(found)[order]) >= -1).all(), "more weight, no fewer samples (up to rounding)"


def test_sizes_by_largest_remainder_and_too_few_samples():
    assert sizes([1, 1, 1], 10) == [4, 3, 3] and sizes([3, 1], 8) == [6, 2] and sizes([1000, 1], 4) == [3, 1]
    with pytest.raises(ValueError, match="2 samples are too few for 3 token layouts; raise --batch"):
        sizes([1, 1, 1], 2)


@pytest.fixture
def stores(shard, tmp_path, frame_episode):
    """Folders with episodes of three layouts."""
    write_shard(tmp_path / "grid" / "lns-0-00000.parquet", read_shard(shard)[:1])
    write_shard(tmp_path / "grf" / "a.parquet", [frame_episode("grf-1", seed=k) for k in range(2)])
    write_shard(tmp_path / "smax" / "a.parquet", [frame_episode("smax-2v3-1", seed=k) for k in range(2)])
    return tmp_path


def test_sources_are_grouped_by_layout_in_order(stores, shard):
    shutil.copytree(stores / "smax", stores / "more")
    sources = parse_mixture([f"{stores}/smax", f"{stores}/grid=2", f"{stores}/more=3", f"{stores}/grf=0"])
    found = by_layout(sources)
    assert list(found) == ["smax-2v3-1", "pogema-1"]
    assert [source.folder.name for source in found["smax-2v3-1"]] == ["smax", "more"]


def test_a_source_without_shards_stops_before_the_first_step(stores):
    sources = parse_mixture([f"{stores}/grid=1", f"{stores}/doesnotexist=1"])
    with pytest.raises(
        StoreError, match=f"^{stores}/doesnotexist: no readable shard. Run marlgpt collect first"
    ):
        by_layout(sources)
    run = Args(out=stores / "run", store=[f"{s.folder}=1" for s in sources], device="cpu", dagger_workers=0)
    with pytest.raises(StoreError, match="doesnotexist"):
        main(run)
    assert not list(run.out.glob("*.safetensors"))


def test_torn_shards_and_unknown_layouts(stores, frame_episode):
    (stores / "grf" / "0.parquet").write_bytes(b"torn")
    assert list(by_layout(parse_mixture([f"{stores}/grf"]))) == ["grf-1"], "the next shard says it"
    for path in (stores / "grf").iterdir():
        path.write_bytes(b"torn")
    with pytest.raises(
        StoreError, match="grf: no readable shard. .*0.parquet: not a readable .*a.parquet: not a"
    ):
        by_layout(parse_mixture([f"{stores}/grf"]))
    write_shard(stores / "new" / "a.parquet", [dataclasses.replace(frame_episode(), layout="smax-2v3-9")])
    with pytest.raises(StoreError, match="new/a.parquet: unknown token layout 'smax-2v3-9'"):
        by_layout(parse_mixture([f"{stores}/new"]))


def same(one, two):
    """Whether two lots of samples are equal; NaN stands for invalid values."""
    a, b = one.arrays(), two.arrays()
    return a.keys() == b.keys() and all(
        np.array_equal(a[k], b[k], equal_nan=a[k].dtype.kind == "f") for k in a
    )


def mixture(stores, entries, size=16, parts=(0, 1), share=0.5, **options):
    sources = parse_mixture([f"{stores}/{entry}" for entry in entries])
    return Mixture(sources, stores / "run", share, size, list(parts), 3, SamplingConfig(**options))


def test_a_batch_has_the_share_of_every_layout_from_streams_of_its_own(stores):
    found = mixture(stores, ["grid=2", "grf", "smax"])
    assert found.sizes == [8, 4, 4] and [x.name for x in found.layouts] == ["pogema-1", "grf-1", "smax-2v3-1"]
    batch = found.batch()
    assert [(s.layout, len(s)) for s in batch] == [("pogema-1", 16), ("grf-1", 8), ("smax-2v3-1", 8)]
    assert len({stream.number for streams in found.streams for stream in streams}) == 6
    for samples in batch:
        lengths = (samples.tensors("cpu")["valid"]).sum(dim=1)
        assert (lengths.diff() >= 0).all(), "those with few tokens first"


def test_one_part_of_a_process_is_the_same_part_of_another(stores):
    both, second = mixture(stores, ["grid", "smax"]), mixture(stores, ["grid", "smax"], parts=(1,))
    for one, two in zip(both.streams[1], second.streams[0], strict=True):
        assert same(one.next(5), two.next(5))


def test_the_students_own_episodes_join_their_layout(stores, frame_episode):
    found = mixture(stores, ["grid", "smax"], share=0.75)
    assert dagger_folder(stores / "run", POGEMA_LAYOUT.name) == stores / "run" / "dagger"
    own = dagger_folder(stores / "run", "smax-2v3-1")
    assert {path.parent.name for k in range(20) for path in found.streams[0][1].draw(k)} == {"smax"}
    write_shard(own / "dagger-0-000000.parquet", [frame_episode("smax-2v3-1", seed=9)])
    drawn = [path.parent for k in range(100) for path in found.streams[0][1].draw(k)]
    assert np.mean([folder == own for folder in drawn]) == pytest.approx(0.75, abs=0.06)
    assert {path.parent.name for k in range(20) for path in found.streams[0][0].draw(k)} == {"grid"}


def test_a_shard_of_another_layout_in_the_folder_is_skipped(stores, frame_episode, capsys):
    write_shard(stores / "smax" / "b.parquet", [frame_episode("grf-1")])
    found = mixture(stores, ["grid", "smax"])
    for _ in range(20):
        assert [samples.layout for samples in found.batch()] == ["pogema-1", "smax-2v3-1"]
    assert "b.parquet: holds observations of grf-1" in capsys.readouterr().out


def test_a_state_is_restored_exactly_and_that_of_another_mixture_not_at_all(stores):
    one = mixture(stores, ["grid", "smax"], transitions=True)
    for _ in range(3):
        one.batch()
    state = json.loads(json.dumps(one.state()))
    expected = one.batch()
    other = mixture(stores, ["grid", "smax"], transitions=True)
    assert other.restore(state)
    assert all(same(a, b) for a, b in zip(expected, other.batch(), strict=True))
    fewer = mixture(stores, ["grid"])
    assert not fewer.restore(state) and fewer.streams[0][0].round == -1


@pytest.fixture
def run(stores, monkeypatch):
    """A run of seconds on two layouts."""
    monkeypatch.setattr(train, "LOG_EVERY", 2)
    return Args(
        out=stores / "run", store=[f"{stores}/grid", f"{stores}/smax=3"], batch=16, chunks=2, warmup=2, steps=6,
        dagger_workers=0, evaluate_every=0, save_every=3, device="cpu", learning_rate=2e-3,
        loss=LossConfig(td=0.5, conservative=0.1, advantage=0.1),
    )  # fmt: skip


def test_two_layouts_train_in_one_run_and_resume_exactly(run, capsys):
    whole, parts = (dataclasses.replace(run, out=run.out / name) for name in ("whole", "parts"))
    assert main(whole) == 0
    assert main(dataclasses.replace(parts, steps=3)) == 0  # the schedule differs, the state is what matters
    trainer = Trainer(share_out(parts, 1), World(0, 1, "cpu"))
    (parts.out / "state.pt").unlink()
    fresh = Trainer(share_out(parts, 1), World(0, 1, "cpu"))
    for _ in range(3):
        fresh.update(fresh.batch())
    fresh.save()
    assert fresh.mixture.state() == trainer.mixture.state()
    assert main(parts) == 0 and "resumed at step 3 (48 samples" in capsys.readouterr().out
    one, two = (torch.load(out.out / "state.pt", weights_only=True) for out in (whole, parts))
    for key in ("model", "average"):
        assert all(torch.equal(one[key][name], two[key][name]) for name in one[key])
    assert one["streams"] == two["streams"]

    entry = json.loads((whole.out / "log.jsonl").read_text().splitlines()[0])
    for name in ("loss", "bc", "td", "accuracy"):
        shares = {"pogema-1": 0.25, "smax-2v3-1": 0.75}
        assert {f"{name}/{layout}" for layout in shares} < set(entry)
        if name != "accuracy":
            mixed = sum(share * entry[f"{name}/{layout}"] for layout, share in shares.items())
            assert entry[name] == pytest.approx(mixed)
    student, _ = load_checkpoint(whole.out / "student.safetensors", trainer.mixture.layouts)
    assert student.config.tables == 4, "StarCraft and path finding have attribute tables of their own"


def test_both_layouts_are_learnt(run):
    run.store[1], run.batch = run.store[1].replace("=3", ""), 32
    run.steps, run.loss, run.learning_rate = 60, LossConfig(), 5e-3
    assert main(run) == 0
    lines = [json.loads(line) for line in (run.out / "log.jsonl").read_text().splitlines()]
    for layout in ("pogema-1", "smax-2v3-1"):
        first, last = (np.mean([e[f"bc/{layout}"] for e in part]) for part in (lines[:3], lines[-3:]))
        assert last < 0.9 * first, (layout, first, last)


def test_too_small_a_batch_for_the_layouts(run):
    with pytest.raises(ValueError, match="1 samples are too few for 2 token layouts"):
        main(dataclasses.replace(run, batch=1))


def test_samples_of_games_survive_compression(frame_episode, tmp_path):
    write_shard(tmp_path / "a.parquet", [frame_episode("grf-1")])
    found = SampleStream(tmp_path, 0, drawing=SamplingConfig(transitions=True)).next(8)
    assert isinstance(found, Samples) and found.packed.dtype == np.float16 and found.layout == "grf-1"
    tensors = found.tensors("cpu")
    assert tensors["values"].shape == (8, 691) and tensors["values"].isfinite().all()
    assert not tensors["values"][~tensors["valid"]].any() and tensors["valid"][:, -1].all()

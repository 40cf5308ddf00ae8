"""Training with the real command and a tiny budget; checkpoints; DAgger; validation rollouts."""

import dataclasses
import functools
import json
import multiprocessing
import time

import numpy as np
import pytest
import torch
from marlgpt_policy.layout import POGEMA_LAYOUT, LayoutError, TokenLayout
from marlgpt_training import checkpoint, dagger, rollout, train
from marlgpt_training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, torch_forward
from marlgpt_training.collect import sample
from marlgpt_training.data import SampleStream
from marlgpt_training.rollout import throughput
from marlgpt_training.store import read_shard, write_shard
from marlgpt_training.train import Args, Average, behaviour_cloning, learning_rate, main
from safetensors.torch import save_file


@pytest.fixture
def run(shard, tmp_path, monkeypatch):
    """Arguments of a run of seconds: one episode to learn, small buffer, small validation rollouts."""
    write_shard(tmp_path / "store" / "lns-0-00000.parquet", read_shard(shard)[:1])
    monkeypatch.setattr(train, "SampleStream", functools.partial(SampleStream, buffer=300))
    small = lambda forward, family, agents, *_: throughput(forward, family, 4, 1, 3, True)  # noqa: E731
    monkeypatch.setattr(train, "throughput", small)
    return Args(
        out=tmp_path / "run", store=tmp_path / "store", batch=32, chunks=2, learning_rate=2e-3, steps=10,
        warmup=3, dagger_workers=0, evaluate_every=5, device="cpu",
    )  # fmt: skip


def loss_of(model, store):
    packed, labels, masks = next(SampleStream(store, 99, buffer=300).batches(300))
    with torch.no_grad():
        return float(behaviour_cloning(model.eval(), packed, labels, masks, "cpu")[0])


def test_learns_a_tiny_store_by_heart(run):
    run.steps = run.evaluate_every = 40
    assert main(run) == 0
    initial, facts = load_checkpoint(run.out / "student.safetensors", POGEMA_LAYOUT)
    assert facts["step"] == 0
    final, facts = load_checkpoint(run.out / "best.safetensors", POGEMA_LAYOUT)
    assert facts["step"] == 40 and facts["samples"] == 40 * 32 and "score" in facts
    before, after = loss_of(initial, run.store), loss_of(final, run.store)
    assert before > 1.2 and after < 0.75 * before, (before, after)
    entry = json.loads((run.out / "log.jsonl").read_text().splitlines()[-1])
    assert entry["step"] == 40 and entry["score"] == facts["score"]
    assert not list(run.out.glob("*.tmp"))


def test_resumes_from_its_state(run, capsys):
    assert main(run) == 0
    state = torch.load(run.out / "state.pt", weights_only=True)
    assert state["step"] == 10 and state["samples"] == 320
    run.steps = 15
    assert main(run) == 0
    said = capsys.readouterr().out
    assert "resumed at step 10 (320 samples" in said and "stopped at step 15" in said
    later = torch.load(run.out / "state.pt", weights_only=True)
    assert later["step"] == 15 and later["samples"] == 480 and later["best"] >= state["best"]
    assert any(not torch.equal(later["model"][k], state["model"][k]) for k in state["model"])
    _, facts = load_checkpoint(run.out / "student.safetensors", POGEMA_LAYOUT)
    assert facts["step"] == 10  # published when it resumed


def test_a_seed_gives_one_run(run):
    run.steps = run.evaluate_every = 4
    states = []
    for name in ("a", "b"):
        main(dataclasses.replace(run, out=run.out / name))
        states.append(torch.load(run.out / name / "state.pt", weights_only=True)["model"])
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_stops_after_its_minutes(run, capsys):
    run.minutes = 0.0
    assert main(run) == 0
    assert "stopped at step 0" in capsys.readouterr().out


def test_nan_loss_stops_at_once_and_keeps_the_batch(run, monkeypatch):
    calls, seen = [], {}

    def poisoned(model, packed, labels, masks, device):
        loss, accuracy = behaviour_cloning(model, packed, labels, masks, device)
        calls.append(1)
        if len(calls) == 2 * 7:  # second part of the seventh step
            seen["rows"] = {row.tobytes() for row in packed}
            return loss * float("nan"), accuracy
        return loss, accuracy

    monkeypatch.setattr(train, "behaviour_cloning", poisoned)
    with pytest.raises(SystemExit, match="loss is nan at step 7; the batch is in .*bad_batch.npz"):
        main(run)
    bad = np.load(run.out / "bad_batch.npz")
    assert bad["packed"].shape == (32, 356) and bad["labels"].shape == (32,) and bad["masks"].shape == (32, 5)
    assert seen["rows"] <= {row.tobytes() for row in bad["packed"]}
    state = torch.load(run.out / "state.pt", weights_only=True)
    assert state["step"] == 5 and all(torch.isfinite(v).all() for v in state["model"].values())


def test_empty_store_says_what_to_do(run, tmp_path):
    run.store = tmp_path / "none"
    with pytest.raises(ValueError, match="no readable shard. Run marlgpt collect first"):
        main(run)


def test_dagger_worker_ends_with_the_trainer(run):
    run.dagger_workers, run.steps, run.evaluate_every = 1, 2, 2
    assert main(run) == 0
    deadline = time.time() + 20
    while multiprocessing.active_children() and time.time() < deadline:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


def test_dagger_adds_shards_of_the_student_and_drops_old_ones(tmp_path, small_model, monkeypatch):
    student = tmp_path / "student.safetensors"
    save_checkpoint(student, small_model(), POGEMA_LAYOUT, {})

    def rounds(count):
        left = iter([7] * (count + 1) + [1])  # the parent lives for that many rounds
        monkeypatch.setattr(dagger.os, "getppid", lambda: next(left))
        monkeypatch.setattr(dagger.os, "nice", lambda _: 0)
        dagger.run(tmp_path, student, 0, 3, episodes=1, steps=4, expert="pibt", keep=2)
        return sorted(p.name for p in tmp_path.glob("*.parquet"))

    assert rounds(3) == ["dagger-3-000001.parquet", "dagger-3-000002.parquet"]
    first = (tmp_path / "dagger-3-000002.parquet").read_bytes()
    assert rounds(1) == ["dagger-3-000002.parquet", "dagger-3-000003.parquet"]  # numbering goes on
    assert (tmp_path / "dagger-3-000002.parquet").read_bytes() == first
    assert read_shard(tmp_path / "dagger-3-000003.parquet")[0].source in ("student+pibt", "shielded+pibt")


def test_learning_rate_schedule():
    args = Args(learning_rate=1.0, warmup=10, steps=110)
    assert learning_rate(args, 0) == pytest.approx(0.1) and learning_rate(args, 9) == pytest.approx(1.0)
    assert learning_rate(args, 10) == pytest.approx(1.0) and learning_rate(args, 60) == pytest.approx(0.55)
    assert learning_rate(args, 110) == learning_rate(args, 500) == pytest.approx(0.1)
    rates = [learning_rate(args, k) for k in range(10, 111)]
    assert rates == sorted(rates, reverse=True)


def test_average_starts_near_the_weights_and_follows_slowly(small_model):
    model = small_model(seed=5)
    average = Average(model, decay=0.9)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    try:
        for parameter in model.parameters():
            parameter.data.add_(1.0)
        average.update(model, 0)
        name = "actor_head.weight"
        torch.testing.assert_close(average.weights[name], start[name] + 0.9, atol=1e-4, rtol=1e-4)
        average.update(model, 10**6)
        torch.testing.assert_close(average.weights[name], start[name] + 0.91, atol=1e-4, rtol=1e-4)
    finally:
        model.load_state_dict(start)


def test_masked_moves_get_no_probability_in_the_loss(small_model, shard):
    packed, labels, masks = next(SampleStream(shard.parent, 0, buffer=200).batches(64))
    loss, accuracy = behaviour_cloning(small_model(), packed, labels, masks, "cpu")
    assert 0 < float(loss.detach()) < 50 and 0 <= accuracy <= 1
    only = np.zeros_like(masks)
    only[np.arange(64), labels] = True
    loss, accuracy = behaviour_cloning(small_model(), packed, labels, only, "cpu")
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6) and accuracy == 1


@pytest.mark.parametrize("reading", ["entity", "scalar"])
def test_checkpoint_round_trip(tmp_path, small_model, reading):
    path, model = tmp_path / "deep" / "a.safetensors", small_model(reading)
    save_checkpoint(path, model, POGEMA_LAYOUT, {"step": 3, "note": "ä"})
    loaded, facts = load_checkpoint(path, POGEMA_LAYOUT)
    assert facts == {"step": 3, "note": "ä"} and loaded.config == model.config
    for (name, one), two in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


def test_torn_missing_and_foreign_checkpoints(tmp_path, small_model):
    path = tmp_path / "a.safetensors"
    with pytest.raises(CheckpointError, match="a.safetensors: not a readable checkpoint"):
        load_checkpoint(path, POGEMA_LAYOUT)
    save_checkpoint(path, small_model(), POGEMA_LAYOUT, {})
    data = path.read_bytes()
    for keep in (0, 4, 600, len(data) - 10):
        path.write_bytes(data[:keep])
        with pytest.raises(CheckpointError, match="a.safetensors: not a readable checkpoint"):
            load_checkpoint(path, POGEMA_LAYOUT)
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="not a MARL-GPT checkpoint"):
        load_checkpoint(path, POGEMA_LAYOUT)


def test_checkpoint_of_another_layout_or_with_other_weights(tmp_path, small_model):
    fields = {f.name: getattr(POGEMA_LAYOUT, f.name) for f in dataclasses.fields(TokenLayout)}
    other = TokenLayout(**{**fields, "name": "pogema-0"})
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, small_model(), other, {})
    with pytest.raises(
        LayoutError, match=f"trained on layout pogema-0 .*this code encodes {POGEMA_LAYOUT.name}"
    ):
        load_checkpoint(path, POGEMA_LAYOUT)
    weights = small_model().state_dict()
    weights.pop("actor_head.weight")
    config = json.dumps(small_model().config.to_dict())
    facts = {"config": config, "layout": "x", "layout_hash": POGEMA_LAYOUT.hash, "facts": "{}"}
    save_file(weights, path, facts)
    with pytest.raises(CheckpointError, match="weights do not fit its configuration"):
        load_checkpoint(path, POGEMA_LAYOUT)


def test_failing_save_leaves_the_old_checkpoint(tmp_path, small_model, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, small_model(), POGEMA_LAYOUT, {"step": 1})

    def half(weights, where, metadata):
        where.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", half)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, small_model(), POGEMA_LAYOUT, {"step": 2})
    assert load_checkpoint(path, POGEMA_LAYOUT)[1] == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_throughput_is_deterministic_and_ranks_drivers(small_model):
    forward = torch_forward(small_model())
    random = throughput(forward, "random", 16, 2, 48, True)
    assert random == throughput(forward, "random", 16, 2, 48, True)
    pibt = throughput(None, "random", 16, 2, 48, False)
    assert pibt > 2 * random and pibt > 0.5


def test_shield_follows_a_perfect_ranking(monkeypatch):
    """A student whose logits point down the cost-to-go does better with the shield than a random one."""

    def downhill(values, valid, mask):
        logits = np.full((len(values), 20), -1e9, dtype=np.float32)
        logits[:, 1:5] = 8 * values[:, 121 + 14 : 121 + 18]  # the self token's "closer" flags
        logits[:, 0] = 1
        return np.where(mask, logits, np.float32(-1e9))

    monkeypatch.setattr(rollout, "sample", lambda logits, *_: sample(logits, 0.1, np.random.default_rng(0)))
    shielded = throughput(downhill, "random", 24, 2, 64, True)
    assert shielded > 0.75 * throughput(None, "random", 24, 2, 64, False)

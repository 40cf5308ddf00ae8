"""Training with the real command and a tiny budget; checkpoints; DAgger; validation rollouts."""

import dataclasses
import errno
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT, LayoutError, TokenLayout
from marlgpt_training import cli
from marlgpt_training.collection import dagger
from marlgpt_training.dataloader.sample_stream import SampleStream
from marlgpt_training.model import checkpoint, losses
from marlgpt_training.model.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from marlgpt_training.model.losses import LossConfig, Objective
from marlgpt_training.model.model import MarlGpt, preset
from marlgpt_training.store.shards import read_shard, write_shard
from marlgpt_training.train import run_log as progress
from marlgpt_training.train import train, validation
from marlgpt_training.train.distributed import World
from marlgpt_training.train.run_log import RunLog
from marlgpt_training.train.run_state import RunStateError
from marlgpt_training.train.train import Args, Trainer, main, share_out
from marlgpt_training.train.validation import throughput
from safetensors.torch import save_file


@pytest.fixture
def run(shard, tmp_path, monkeypatch):
    """Arguments of a run of seconds: one episode to learn, small validation rollouts."""
    write_shard(tmp_path / "store" / "lns-0-00000.parquet", read_shard(shard)[:1])
    small = lambda forward, family, agents, *_: throughput(forward, family, 4, 1, 3, True)  # noqa: E731
    monkeypatch.setattr(validation, "throughput", small)
    return Args(
        out=tmp_path / "run", store=[str(tmp_path / "store")], batch=32, chunks=2, learning_rate=2e-3, steps=10,
        warmup=3, dagger_workers=0, evaluate_every=5, save_every=5, device="cpu",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(train, "LOG_EVERY", 2)


def loss_of(model, store):
    samples = SampleStream(store, 99).next(300)
    with torch.no_grad():
        return float(Objective(model.eval(), LossConfig())(samples.tensors("cpu"))[0]) / 300


def entries(folder, key="loss"):
    """(step, value) of the log entries that have ``key``."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line[key]) for line in lines if key in line]


def test_learns_a_tiny_store_by_heart(run):
    run.steps = run.evaluate_every = 80
    torch.manual_seed(run.seed)
    initial = MarlGpt(preset("tiny"), POGEMA_LAYOUT)
    assert main(run) == 0
    final, facts = load_checkpoint(run.out / "best.safetensors", POGEMA_LAYOUT)
    assert facts["step"] == 80 and facts["samples"] == 80 * 32 and "score" in facts
    before, after = loss_of(initial, run.store[0]), loss_of(final, run.store[0])
    assert before > 1.2 and after < 0.75 * before, (before, after)
    entry = json.loads((run.out / "log.jsonl").read_text().splitlines()[-1])
    assert entry["step"] == 80 and entry["score"] == facts["score"]
    assert {"loss", "bc", "accuracy", "rate", "data_wait"} <= set(
        json.loads((run.out / "log.jsonl").read_text().splitlines()[0])
    )
    assert list((run.out / "tensorboard").glob("events.*"))
    assert not list(run.out.glob("*.tmp"))


def test_all_terms_train_together(run):
    run.loss = LossConfig(bc=1.0, td=1.0, conservative=0.1, advantage=0.3, td_steps=3)
    run.steps = run.evaluate_every = 30
    assert main(run) == 0
    td = [value for _, value in entries(run.out, "td")]
    assert np.mean(td[-3:]) < 0.8 * td[0]
    assert all(np.isfinite(value) for name in losses.TERMS for _, value in entries(run.out, name))


def test_resumes_exactly(run, capsys):
    """A run in two goes has the losses and the weights of an unbroken one."""
    main(dataclasses.replace(run, out=run.out / "whole"))
    parts = dataclasses.replace(run, out=run.out / "parts")
    trainer = Trainer(share_out(parts, 1), World(0, 1, "cpu"))
    parts.out.mkdir(parents=True, exist_ok=True)
    log = RunLog(parts.out, 0, parts.steps)
    for _ in range(7):  # a run that dies in its seventh step, two after its last saved state
        trainer.update(trainer.batch())
        if trainer.step == 5:
            trainer.evaluate(log)
            trainer.save()
        if trainer.step % 2 == 0:
            log.write(trainer.step, 0, {"loss": -1.0})  # what was logged after the saved state goes away
    log.close()
    with open(parts.out / "log.jsonl", "a") as file:
        file.write('{"step": 7, "lo')  # torn
    assert main(parts) == 0
    assert "resumed at step 5 (160 samples" in capsys.readouterr().out
    states = [torch.load(run.out / n / "state.pt", weights_only=True) for n in ("whole", "parts")]
    for key in ("model", "average"):
        assert all(torch.equal(states[0][key][k], states[1][key][k]) for k in states[0][key])
    assert states[0]["streams"] == states[1]["streams"]
    assert entries(run.out / "whole")[3:] == entries(parts.out)[3:]
    assert [step for step, _ in entries(parts.out)] == [2, 4, 6, 8, 10]


def test_resume_after_sigkill_has_the_losses_of_an_unbroken_run(run):
    """The real command, killed while it trains; only its log is finer."""
    code = """import sys
from marlgpt_training import cli
from marlgpt_training.train import train
train.LOG_EVERY = 4
sys.exit(cli.main(["train", *sys.argv[1:]]))"""
    options = {
        "--store": run.store[0], "--batch": 32, "--steps": 24, "--evaluate-every": 0, "--save-every": 6,
        "--dagger-workers": 0, "--warmup": 3, "--device": "cpu",
    }  # fmt: skip
    command = [sys.executable, "-c", code, *(str(part) for pair in options.items() for part in pair), "--out"]
    process = subprocess.Popen([*command, str(run.out / "killed")], stdout=subprocess.DEVNULL)
    state = run.out / "killed" / "state.pt"
    deadline = time.time() + 120
    while not state.exists() and time.time() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    process.kill()
    process.wait()
    assert 0 < torch.load(state, weights_only=True)["step"] < 24
    for name in ("killed", "whole"):
        subprocess.run([*command, str(run.out / name)], check=True, timeout=200, stdout=subprocess.DEVNULL)
    assert entries(run.out / "killed") == entries(run.out / "whole")
    assert [step for step, _ in entries(run.out / "whole")] == [*range(4, 25, 4)]


def test_a_seed_gives_one_run(run):
    run.steps = run.evaluate_every = 4
    states = []
    for name in ("a", "b"):
        main(dataclasses.replace(run, out=run.out / name))
        states.append(torch.load(run.out / name / "state.pt", weights_only=True)["model"])
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_a_run_starts_from_a_checkpoint(run, small_model, tmp_path):
    save_checkpoint(tmp_path / "old.safetensors", small_model(), POGEMA_LAYOUT, {})
    run.init, run.steps = tmp_path / "old.safetensors", 0
    assert main(run) == 0
    student, _ = load_checkpoint(run.out / "student.safetensors", POGEMA_LAYOUT)
    assert all(
        torch.equal(a, b) for a, b in zip(student.parameters(), small_model().parameters(), strict=True)
    )


def test_a_run_keeps_the_value_bins_of_its_checkpoint(run, small_model, tmp_path):
    """Another --highest would change what the critic's bins mean, so it takes the term that trains them anew."""
    run.init, run.steps = tmp_path / "old.safetensors", 1
    save_checkpoint(run.init, small_model(), POGEMA_LAYOUT, {})  # its bins end at 1
    with pytest.raises(
        ValueError, match="--highest 3.0: the critic of .*old.safetensors has learnt .* up to 1; "
    ):
        main(dataclasses.replace(run, highest=3.0))
    for name, options, highest in (
        ("kept", {}, 1.0),
        ("named", {"highest": 1.0}, 1.0),
        ("anew", {"highest": 3.0, "loss": LossConfig(td=0.5)}, 3.0),
    ):
        out = run.out / name
        main(dataclasses.replace(run, out=out, **options))
        assert load_checkpoint(out / "student.safetensors", POGEMA_LAYOUT)[0].config.value_range == (
            0,
            highest,
        )
    with pytest.raises(RunStateError, match="value_range .*1.0.*asks for .*3.0.*--highest, or another --out"):
        main(dataclasses.replace(run, out=run.out / "kept", highest=3.0, loss=LossConfig(td=0.5)))
    main(dataclasses.replace(run, out=run.out / "new", init=None))
    new = load_checkpoint(run.out / "new" / "student.safetensors", POGEMA_LAYOUT)[0]
    assert new.config.value_range == (0.0, 2.0)


def test_the_logged_rate_leaves_out_saving_and_validation(run, monkeypatch):
    """Whatever the intervals are: 32 samples a second, a quarter of it waiting, by a clock that we turn."""
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], time=lambda: now[0])
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(train, "time", clock)

    def taking(seconds, method):
        def slow(*arguments):
            now[0] += seconds
            return method(*arguments)

        return slow

    for name, seconds in (("update", 0.75), ("batch", 0.25), ("save", 50.0), ("evaluate", 700.0)):
        monkeypatch.setattr(Trainer, name, taking(seconds, getattr(Trainer, name)))
    run.steps, run.save_every, run.evaluate_every = 12, 3, 5
    assert main(run) == 0
    assert [value for _, value in entries(run.out, "rate")] == [32.0] * 6
    assert [value for _, value in entries(run.out, "data_wait")] == [0.25] * 6


def test_stops_after_its_minutes(run, capsys):
    run.minutes = 0.0
    assert main(run) == 0
    assert "stopped at step 0" in capsys.readouterr().out


def test_an_interrupt_ends_after_a_whole_step_with_the_state_saved(run, monkeypatch):
    update = Trainer.update

    def interrupted(self, samples):
        if self.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return update(self, samples)

    monkeypatch.setattr(Trainer, "update", interrupted)
    assert main(run) == 0
    assert torch.load(run.out / "state.pt", weights_only=True)["step"] == 4


def test_divergence_stops_at_once_and_keeps_the_batch(run, monkeypatch):
    calls = []
    cloning = losses.behaviour_cloning

    def poisoned(logits, label, mask):
        calls.append(1)
        factor = float("nan") if len(calls) == 2 * 7 else 1.0  # second chunk of the seventh step
        return cloning(logits, label, mask) * factor

    monkeypatch.setattr(losses, "behaviour_cloning", poisoned)
    with pytest.raises(
        FloatingPointError, match="gradient is nan at step 7; the batch is in .*bad_batch_0.npz"
    ):
        main(run)
    bad = np.load(run.out / "bad_batch_0.npz")
    assert (
        bad["pogema-1/packed"].shape == (32, 356)
        and bad["pogema-1/labels"].shape == (32,)
        and bad["pogema-1/masks"].shape == (32, 5)
    )
    state = torch.load(run.out / "state.pt", weights_only=True)
    assert state["step"] == 5 and all(torch.isfinite(v).all() for v in state["model"].values())


def test_an_absurd_learning_rate_ends_in_one_line(run, capsys):
    options = ["--store", run.store[0], "--out", str(run.out), "--batch", "32", "--device", "cpu", "--warmup", "0",
               "--dagger-workers", "0", "--evaluate-every", "0", "--learning-rate", "1e30"]  # fmt: skip
    assert cli.main(["train", *options]) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("marlgpt train: ")]
    assert len(said) == 1 and re.search(r"gradient is (nan|inf) at step \d", said[0])
    assert "no state yet" in said[0] and "state.pt" not in said[0], "there is no such file"
    assert not (run.out / "state.pt").exists()


def test_full_disk_keeps_the_last_good_state(run, monkeypatch):
    assert main(run) == 0
    before = (run.out / "state.pt").read_bytes()
    real = torch.save

    def full(state, file):
        real(state, file)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="state.pt: could not be saved .*No space left.*previous one is intact"):
        main(dataclasses.replace(run, steps=12))
    assert (run.out / "state.pt").read_bytes() == before and not list(run.out.glob(".*.tmp"))
    monkeypatch.setattr(torch, "save", real)
    assert main(dataclasses.replace(run, steps=12)) == 0


def test_a_torn_state_says_how_to_go_on(run):
    assert main(run) == 0
    data = (run.out / "state.pt").read_bytes()
    for keep in (0, 100, len(data) // 2):
        (run.out / "state.pt").write_bytes(data[:keep])
        with pytest.raises(
            RunStateError, match="state.pt: not a readable state .* --init student.safetensors"
        ):
            main(run)


def test_a_state_of_another_model_is_refused(run):
    assert main(run) == 0
    with pytest.raises(
        RunStateError, match="holds a model with reading entity, this command asks for scalar"
    ):
        main(dataclasses.replace(run, reading="scalar"))


def test_bf16_and_compiled_training_stay_close_to_plain(run, monkeypatch):
    real = torch.nn.Module.compile
    traced = []  # tracing and autograd as in real use, without minutes of C++ compilation

    def quick(self, **options):
        traced.append(type(self))
        real(self, backend="aot_eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", quick)
    run.steps, run.evaluate_every = 2, 0
    found = {}
    for name, options in {"plain": {}, "bf16": {"precision": "bf16"}, "compiled": {"compile": True}}.items():
        main(dataclasses.replace(run, out=run.out / name, **options))
        found[name] = entries(run.out / name)[0][1]
    assert found["bf16"] == pytest.approx(found["plain"], rel=0.02) and traced == [Objective]
    assert found["compiled"] == pytest.approx(found["plain"], rel=1e-3)


@pytest.fixture
def killed_worker(run, monkeypatch):
    """A run whose DAgger worker is killed in its fourth step."""
    update = Trainer.update

    def and_kill(self, samples):
        if self.step == 3:
            (worker,) = multiprocessing.active_children()
            worker.kill()
            worker.join()
        return update(self, samples)

    monkeypatch.setattr(Trainer, "update", and_kill)
    run.dagger_workers, run.steps, run.evaluate_every, run.save_every = 1, 6, 0, 100
    return run


def gone():
    deadline = time.time() + 20
    while multiprocessing.active_children() and time.time() < deadline:
        time.sleep(0.05)
    return not multiprocessing.active_children()


def test_a_killed_dagger_worker_is_started_again_and_ends_with_the_trainer(killed_worker, capsys):
    assert main(killed_worker) == 0
    assert "DAgger worker 0 died (killed by SIGKILL); started again" in capsys.readouterr().out
    assert gone()


def test_dagger_workers_that_keep_dying_end_the_run_with_its_state_saved(killed_worker, capsys, monkeypatch):
    monkeypatch.setattr(dagger, "RESTARTS", 0)
    with pytest.raises(dagger.WorkerError, match="killed by SIGKILL.* 1 times .*saved at step 4: mend that"):
        main(killed_worker)
    assert torch.load(killed_worker.out / "state.pt", weights_only=True)["step"] == 4 and gone()
    monkeypatch.setattr(Trainer, "update", lambda *_: pytest.fail("the schedule is over"))
    assert main(dataclasses.replace(killed_worker, steps=4)) == 0  # and it goes on from there
    assert "resumed at step 4" in capsys.readouterr().out


def test_average_starts_near_the_weights_and_follows_slowly(run):
    trainer = Trainer(share_out(run, 1), World(0, 1, "cpu"))
    name, shown = "actor_head.weight", trainer.average.module
    start = shown.state_dict()[name].clone()
    for step, expected in ((0, 1.0), (10**6, 1.001)):  # the first update copies, the later ones blend
        trainer.step = step
        trainer.model.actor_head.weight.data.add_(1.0)
        trainer.average.update_parameters(trainer.model)
        torch.testing.assert_close(shown.state_dict()[name], start + expected, atol=1e-4, rtol=1e-4)


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
    facts = {"config": config, "layout": POGEMA_LAYOUT.name, "layout_hash": POGEMA_LAYOUT.hash, "facts": "{}"}
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

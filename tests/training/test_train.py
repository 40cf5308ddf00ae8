"""Training with the real command and a tiny budget; checkpoints; DAgger; validation rollouts."""

import dataclasses
import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from marlgpt_policy.layout import POGEMA_LAYOUT, LayoutError, TokenLayout
from marlgpt_policy.policy import choose_from_logits
from marlgpt_training import checkpoint, dagger, losses, rollout, train
from marlgpt_training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, torch_forward
from marlgpt_training.data import SampleStream
from marlgpt_training.distributed import World
from marlgpt_training.losses import LossConfig, Objective
from marlgpt_training.model import MarlGpt, preset
from marlgpt_training.progress import RunLog
from marlgpt_training.rollout import throughput
from marlgpt_training.run_state import RunStateError
from marlgpt_training.store import read_shard, write_shard
from marlgpt_training.train import Args, Trainer, check, learning_rate, main
from safetensors.torch import save_file


@pytest.fixture
def run(shard, tmp_path, monkeypatch):
    """Arguments of a run of seconds: one episode to learn, small validation rollouts."""
    write_shard(tmp_path / "store" / "lns-0-00000.parquet", read_shard(shard)[:1])
    small = lambda forward, family, agents, *_: throughput(forward, family, 4, 1, 3, True)  # noqa: E731
    monkeypatch.setattr(train, "throughput", small)
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
    trainer = Trainer(check(parts, World(0, 1, "cpu")), World(0, 1, "cpu"))
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
from marlgpt_training import cli, train
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


def torchrun(processes, out, run, *options):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "MASTER_ADDR": "127.0.0.1",
    }
    subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes),
            "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1",
            "-m", "marlgpt_training.cli", "train", "--store", run.store[0], "--out", str(out), "--batch", "32",
            "--parts", "2", "--chunks", "2", "--warmup", "3", "--dagger-workers", "0", "--device", "cpu",
            "--learning-rate", "0.002", "--evaluate-every", "0", *options,
        ],
        check=True, timeout=200, env=environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(run):
    """gloo, real torchrun: same weights and stream positions as one process; then one goes on from two's state."""
    terms = ("--loss.td", "0.5", "--loss.advantage", "0.2")
    main(dataclasses.replace(
        run, out=run.out / "one", parts=2, steps=6, loss=LossConfig(td=0.5, advantage=0.2), evaluate_every=0
    ))  # fmt: skip
    torchrun(2, run.out / "two", run, "--steps", "6", *terms)
    one, two = (torch.load(run.out / n / "state.pt", weights_only=True) for n in ("one", "two"))
    assert one["streams"] == two["streams"] and one["samples"] == two["samples"] == 192
    for key in one["model"]:
        torch.testing.assert_close(two["model"][key], one["model"][key], rtol=1e-4, atol=2e-5, msg=key)
    main(dataclasses.replace(
        run, out=run.out / "two", parts=2, steps=8, loss=LossConfig(td=0.5, advantage=0.2), evaluate_every=0
    ))  # fmt: skip
    assert torch.load(run.out / "two" / "state.pt", weights_only=True)["step"] == 8


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"store": ["nowhere"]}, "no readable shard. Run marlgpt collect first"),
        ({"store": []}, "the mixture is empty"),
        ({"store": ["a=0"]}, "sum to zero"),
        ({"expert": "me"}, "choose lns or pibt"),
        ({"precision": "fp8"}, "choose fp32 or bf16"),
        ({"batch": 33, "parts": 2}, "must be a multiple"),
        ({"dagger_share": 1.5}, "between 0 and 1"),
        ({"preset": "huge"}, "unknown preset"),
    ],
)
def test_bad_options_say_what_to_do(run, change, message):
    with pytest.raises(ValueError, match=message):
        main(dataclasses.replace(run, **change))


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
        dagger.run(tmp_path, student, 0, 3, [dagger.Task("pogema", "pibt")], episodes=1, steps=4, keep=2)
        return sorted(p.name for p in (tmp_path / "dagger").glob("*.parquet"))

    assert rounds(3) == ["dagger-3-000001.parquet", "dagger-3-000002.parquet"]
    first = (tmp_path / "dagger" / "dagger-3-000002.parquet").read_bytes()
    assert rounds(1) == ["dagger-3-000002.parquet", "dagger-3-000003.parquet"]  # numbering goes on
    assert (tmp_path / "dagger" / "dagger-3-000002.parquet").read_bytes() == first
    assert read_shard(tmp_path / "dagger" / "dagger-3-000003.parquet")[0].source in (
        "student+pibt",
        "shielded+pibt",
    )


def test_learning_rate_schedule():
    args = Args(learning_rate=1.0, warmup=10, steps=110)
    assert learning_rate(args, 0) == pytest.approx(0.1) and learning_rate(args, 9) == pytest.approx(1.0)
    assert learning_rate(args, 10) == pytest.approx(1.0) and learning_rate(args, 60) == pytest.approx(0.55)
    assert learning_rate(args, 110) == learning_rate(args, 500) == pytest.approx(0.1)
    rates = [learning_rate(args, k) for k in range(10, 111)]
    assert rates == sorted(rates, reverse=True)


def test_average_starts_near_the_weights_and_follows_slowly(run):
    trainer = Trainer(check(run, World(0, 1, "cpu")), World(0, 1, "cpu"))
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

    sharp = lambda logits, *_: choose_from_logits(logits, 0.1, np.random.default_rng(0))  # noqa: E731
    monkeypatch.setattr(rollout, "choose_from_logits", sharp)
    shielded = throughput(downhill, "random", 24, 2, 64, True)
    assert shielded > 0.75 * throughput(None, "random", 24, 2, 64, False)

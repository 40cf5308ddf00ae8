"""Several processes under the real torchrun train the model of one, and fail as cleanly."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from marlgpt_training.model.losses import LossConfig
from marlgpt_training.store.shards import read_shard, write_shard
from marlgpt_training.train.train import Args, main

pytestmark = pytest.mark.slow


@pytest.fixture
def run(shard, tmp_path):
    """Arguments of a run of seconds in this process."""
    write_shard(tmp_path / "store" / "lns-0-00000.parquet", read_shard(shard)[:1])
    return Args(
        out=tmp_path / "run", store=[str(tmp_path / "store")], batch=32, parts=2, chunks=2, learning_rate=2e-3,
        steps=6, warmup=3, dagger_workers=0, evaluate_every=0, device="cpu",
    )  # fmt: skip


def torchrun(out, store, *options, processes=2, check=True):
    """The real command on gloo, the batch in two parts."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "MASTER_ADDR": "127.0.0.1",
    }
    return subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes),
            "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1",
            "-m", "marlgpt_training.cli", "train", "--store", *store, "--out", str(out), "--batch", "32",
            "--parts", "2", "--chunks", "2", "--warmup", "3", "--dagger-workers", "0", "--device", "cpu",
            "--learning-rate", "0.002", "--evaluate-every", "0", *options,
        ],
        check=check, timeout=200, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def states(run):
    return (torch.load(run.out / name / "state.pt", weights_only=True) for name in ("one", "two"))


def test_two_processes_train_the_model_of_one(run):
    """gloo, real torchrun: same weights and stream positions as one process; then one goes on from two's state."""
    terms = ("--loss.td", "0.5", "--loss.advantage", "0.2")
    run.loss = LossConfig(td=0.5, advantage=0.2)
    main(dataclasses.replace(run, out=run.out / "one"))
    torchrun(run.out / "two", run.store, "--steps", "6", *terms)
    one, two = states(run)
    assert one["streams"] == two["streams"] and one["samples"] == two["samples"] == 192
    for key in one["model"]:
        torch.testing.assert_close(two["model"][key], one["model"][key], rtol=1e-4, atol=2e-5, msg=key)
    main(dataclasses.replace(run, out=run.out / "two", steps=8))
    assert torch.load(run.out / "two" / "state.pt", weights_only=True)["step"] == 8


def test_two_processes_train_the_model_of_one_on_two_layouts(run, tmp_path, frame_episode):
    write_shard(tmp_path / "smax" / "a.parquet", [frame_episode("smax-2v3-1", seed=k) for k in range(3)])
    run.store.append(f"{tmp_path}/smax=2")
    run.steps = 4
    main(dataclasses.replace(run, out=run.out / "one"))
    torchrun(run.out / "two", run.store, "--steps", "4")
    one, two = states(run)
    assert one["streams"] == two["streams"] and [len(part) for part in one["streams"]] == [2, 2]
    for key in one["model"]:
        torch.testing.assert_close(two["model"][key], one["model"][key], rtol=1e-4, atol=2e-5, msg=key)


def test_an_absurd_learning_rate_ends_torchrun_with_a_line_per_process(run):
    done = torchrun(run.out, run.store, "--learning-rate", "1e30", "--warmup", "0", check=False)
    said = [line for line in done.stderr.splitlines() if "marlgpt train: " in line]
    assert done.returncode != 0 and 1 <= len(said) <= 2
    assert all("the gradient is" in line for line in said)
    assert "marlgpt_training/" not in done.stderr.replace("marlgpt_training/cli.py FAILED", ""), "a traceback"

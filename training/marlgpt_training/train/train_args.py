"""What ``marlgpt train`` can be told, checked before anything is built."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import field
from pathlib import Path

import torch

from marlgpt_training.collection import dagger
from marlgpt_training.model.losses import LossConfig
from marlgpt_training.model.model import READINGS, preset


@dataclasses.dataclass
class Args:
    """Train a policy on trajectory stores."""

    out: Path = Path("out/train")
    """Folder of the run: checkpoints student (newest average) and best, state.pt to resume from, log.jsonl,
    TensorBoard files, and the store of the student's own episodes (dagger)."""
    store: list[str] = field(default_factory=lambda: ["out/store"])
    """Trajectory stores with their weights in the mixture: FOLDER or FOLDER=WEIGHT."""
    init: Path | None = None
    """Checkpoint whose weights a new run starts from; its preset and reading replace those below."""
    preset: str = "tiny"
    """Model size: tiny, small or paper."""
    reading: str = "entity"
    """Token reading: entity or scalar."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Weights and constants of the loss terms."""
    highest: float | None = None
    """Return of the critic's highest value bin; the lowest is 0. If not given: 2, or with --init what its critic was
    trained with. Another one than that moves the meaning of its bins, so it takes --loss.td, which trains it anew."""
    batch: int = 512
    """Samples in a batch, over all processes."""
    parts: int = 0
    """Independent streams that a batch is put together from, divided among the processes; 0: one per process.
    With equal parts, one process and several train the same model."""
    chunks: int = 4
    """Pieces in which a process computes its samples, sorted by number of tokens so that little padding is
    computed; gradients accumulate over them, so more chunks need less memory."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW, cosine decay to a tenth at the end."""
    weight_decay: float = 0.05
    """Weight decay of AdamW."""
    average: float = 0.999
    """Decay of the moving average of the weights, which is evaluated, exported and the critic's target network."""
    steps: int = 20_000
    """Optimiser steps of the whole schedule."""
    warmup: int = 300
    """Steps of linear warm-up."""
    dagger_workers: int = 1
    """Processes that roll out the student and label with the expert; 0 for stores alone."""
    dagger_episodes: int = 16
    """Episodes in a DAgger shard."""
    dagger_keep: int = 150
    """DAgger shards kept per worker; older ones are deleted."""
    dagger_share: float = 0.6
    """Share of the samples that come from DAgger shards once there are any."""
    dagger_games: list[str] = field(default_factory=lambda: ["pogema"])
    """Games whose student episodes are labelled: pogema, or GAME/SCENARIO:EXPERT such as smax/5v5:ppo. Checkpoints
    are chosen by what the student reaches in these. Those that --store has no samples of are left out."""
    dagger_device: str = "cpu"
    """Where the student's rollouts run: cpu or cuda."""
    expert: str = "lns"
    """Expert that labels POGEMA's DAgger states: lns or pibt."""
    loaders: int = 0
    """Processes that prepare samples; 0 prepares them in the trainer (best where every core trains)."""
    evaluate_every: int = 1000
    """Steps between validation rollouts; 0 for none, then no best checkpoint is chosen."""
    evaluate_episodes: int = 32
    """Episodes of each game other than pogema in a validation."""
    save_every: int = 500
    """Steps between saved states; a killed run repeats at most so many."""
    minutes: float = 1e9
    """Stop (resumable) after this many minutes."""
    threads: int = 1
    """CPU threads of the trainer."""
    seed: int = 0
    """Seed of weights, batches and rollouts."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """cuda or cpu."""
    precision: str = "bf16" if torch.cuda.is_available() else "fp32"
    """fp32, or bf16 (autocast), which is faster on GPUs and on CPUs with AMX only."""
    compile: bool = False
    """Compile the model with torch.compile. Meant for GPUs; on a CPU it gained nothing."""


def learning_rate(args: Args, step: int) -> float:
    """Linear warm-up, then cosine decay to a tenth."""
    if step < args.warmup:
        return args.learning_rate * (step + 1) / args.warmup
    done = min(1.0, (step - args.warmup) / max(1, args.steps - args.warmup))
    return args.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


AT_LEAST = {
    "batch": 1, "parts": 0, "chunks": 1, "steps": 0, "warmup": 0, "dagger_workers": 0, "dagger_episodes": 1,
    "dagger_keep": 1, "loaders": 0, "evaluate_every": 0, "evaluate_episodes": 1, "save_every": 1, "minutes": 0,
    "threads": 1, "seed": 0, "weight_decay": 0,
}  # fmt: skip
"""Smallest value of an option."""
CHOICES = {"expert": ("lns", "pibt"), "precision": ("fp32", "bf16"), "reading": READINGS}


def option(name: str) -> str:
    """An argument's name on the command line."""
    return "--" + name.replace("_", "-")


def check_device(name: str, device: str) -> None:
    """``ValueError`` if the option ``name`` asks for a device that is not there."""
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise ValueError(f"{option(name)} {device}: choose cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{option(name)} {device}: PyTorch finds no CUDA GPU on this machine; choose cpu")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ValueError(f"{option(name)} {device}: this machine has {torch.cuda.device_count()} CUDA GPUs")


def check(args: Args) -> None:
    """Refuse what cannot be, before processes are joined, stores opened or weights made.

    Raises:
        ValueError: Naming the option.
    """
    for name, allowed in CHOICES.items():
        if getattr(args, name) not in allowed:
            raise ValueError(f"{option(name)} {getattr(args, name)}: choose {' or '.join(allowed)}")
    preset(args.preset, args.reading)
    for name, least in AT_LEAST.items():
        if not getattr(args, name) >= least:
            raise ValueError(f"{option(name)} {getattr(args, name)}: at least {least} is needed")
    for name in ("learning_rate", "highest"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{option(name)} {value}: choose a number above 0")
    if not args.weight_decay < math.inf:
        raise ValueError(f"--weight-decay {args.weight_decay}: choose a number")
    if not 0 <= args.average < 1:
        raise ValueError(f"--average {args.average}: choose a decay from 0 up to, but not including, 1")
    if not 0 <= args.dagger_share <= 1:
        raise ValueError(f"--dagger-share {args.dagger_share}: choose a share between 0 and 1")
    check_device("device", args.device)
    if args.dagger_workers:
        check_device("dagger_device", args.dagger_device)
    for text in args.dagger_games:
        dagger.Task.parse(text, args.expert)
    loss = args.loss
    if loss.advantage > 0 and not (loss.td > 0 or loss.conservative > 0 or args.init):
        raise ValueError(
            "--loss.advantage weighs moves by the critic, which nothing trains here: give --loss.td a weight above 0, "
            "or --init a checkpoint whose critic is trained"
        )


def share_out(args: Args, processes: int) -> Args:
    """``args`` with ``parts`` filled in for that many processes.

    Raises:
        ValueError: The batch cannot be divided like that.
    """
    args = dataclasses.replace(args, parts=args.parts or processes)
    if args.parts % processes or args.batch % args.parts:
        raise ValueError(
            f"--parts {args.parts} must be a multiple of the {processes} processes, and --batch {args.batch} one of "
            "--parts"
        )
    return args

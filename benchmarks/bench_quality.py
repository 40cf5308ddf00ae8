"""Quality per compute of the two token readings: held-out loss and rollout throughput against CPU time of training.

Both readings have the same width, depth, data and warm-up and train in turns on one core, so that a busy machine slows
both alike; the clock is the CPU time of training alone. Each has the learning rate that suits it: several start, and
after a quarter of the time the one with the lowest held-out loss goes on. Draws ``--plot FILE``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bench_reading import BATCH, HEADS, SHARED, WIDTH, OurLoop
from common import finish
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_training.collection.pogema_rollouts import collect_shard
from marlgpt_training.dataloader.sample_stream import SampleStream
from marlgpt_training.dataloader.samples import Samples
from marlgpt_training.model.checkpoint import torch_forward
from marlgpt_training.model.losses import LossConfig, Objective
from marlgpt_training.model.model import MarlGpt, ModelConfig
from marlgpt_training.train.validation import throughput
from tqdm import tqdm

READINGS = ("entity", "scalar")
RATES = (1e-3, 3e-3)
WARMUP = 50
"""Steps of linear warm-up."""
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""When to measure, as shares of the CPU time."""
CHOICE = 2
"""Which of these measurements decides about the learning rate."""


def held_out_loss(model: MarlGpt, samples: Samples) -> float:
    """Mean cross entropy with the expert on samples that training never sees."""
    model.eval()
    with torch.no_grad():
        parts = np.array_split(np.arange(len(samples)), 16)
        total = sum(float(Objective(model, LossConfig())(samples.take(p).tensors("cpu"))[0]) for p in parts)
    model.train()
    return total / len(samples)


def rollout(model: MarlGpt) -> float:
    """Goals per step with shield, 16 agents on 3 held-out random maps."""
    found = throughput(torch_forward(model), "random", 16, 3, 64, True, 0.2)
    model.train()
    return found


class Runner:
    """One model in training, and what was measured of it."""

    def __init__(self, reading: str, rate: float, store: Path) -> None:
        torch.manual_seed(0)
        self.reading, self.rate, self.spent, self.found = reading, rate, 0.0, []
        self.model = MarlGpt(ModelConfig(WIDTH, HEADS, SHARED, reading), POGEMA_LAYOUT)
        self.loop = OurLoop(self.model, store, rate, WARMUP)

    def train_until(self, seconds: float, bar: tqdm) -> None:
        """Train for that many CPU seconds in all."""
        while self.spent < seconds:
            started = time.process_time()
            self.loop()
            spent = time.process_time() - started
            self.spent += spent
            bar.n = round(bar.n + spent, 1)
            bar.update(0)

    def measure(self, samples: Samples) -> None:
        """Note loss and throughput now."""
        entry = {"cpu_seconds": self.spent, "samples": BATCH * self.loop.steps}
        entry["loss"], entry["throughput"] = held_out_loss(self.model, samples), rollout(self.model)
        self.found.append(entry)


def train(
    store: Path, samples: Samples, marks: list[float], bar: tqdm
) -> tuple[dict[str, Runner], list[dict]]:
    """Train both readings in turns up to each of ``marks`` (CPU seconds); the best of each, and the sweep.

    All learning rates start; from mark number ``CHOICE`` on only the one with the lowest held-out loss goes on.
    """
    runners = [Runner(reading, rate, store) for reading in READINGS for rate in RATES]
    sweep = []
    for k, mark in enumerate(marks):
        for runner in runners:
            runner.train_until(mark, bar)
            runner.measure(samples)
        if k == CHOICE:
            sweep = [{"reading": r.reading, "rate": r.rate, **r.found[-1]} for r in runners]
            chosen = [
                min((r for r in runners if r.reading == name), key=lambda r: r.found[-1]["loss"])
                for name in READINGS
            ]
            runners = chosen
    return {runner.reading: runner for runner in runners}, sweep


def plot(found: dict[str, list[dict]], pibt: float, path: Path) -> None:
    """Loss and throughput against CPU time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    for reading, colour in zip(READINGS, ("#0072b2", "#d55e00"), strict=True):
        seconds = [entry["cpu_seconds"] for entry in found[reading]]
        for axis, key in zip(axes, ("loss", "throughput"), strict=True):
            axis.plot(seconds, [entry[key] for entry in found[reading]], "o-", color=colour, label=reading)
    axes[1].axhline(pibt, color="0.5", linestyle="--", label="PIBT")
    axes[0].set(ylabel="held-out cross entropy", title="Agreement with the expert")
    axes[1].set(ylabel="goals per step", title="16 agents, random maps, with shield", ylim=(0, None))
    for axis in axes:
        axis.set(xlabel="CPU seconds of training (one core)", xscale="log")
        axis.grid(alpha=0.3)
        axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="CPU seconds of training per reading")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="picture to draw")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results to this file as well")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print("expert episodes ...", file=sys.stderr)
        for k in range(4):
            collect_shard(Path(folder) / "train" / f"lns-{k}.parquet", k, 16, 96, "lns")
        collect_shard(Path(folder) / "test" / "lns.parquet", 99, 16, 96, "lns")
        samples = SampleStream(Path(folder) / "test", 0).next(1024)
        marks = [args.seconds * share for share in SHARES]
        total = len(READINGS) * (args.seconds + (len(RATES) - 1) * marks[CHOICE])
        with tqdm(total=round(total), unit="s", desc="CPU time", mininterval=5) as bar:
            best, sweep = train(Path(folder) / "train", samples, marks, bar)
    found = {reading: best[reading].found for reading in READINGS}
    pibt = throughput(None, "random", 16, 3, 64, True)
    print(
        f"width {WIDTH}, {SHARED + 1} blocks to the logits, batch {BATCH}, {WARMUP} steps of warm-up, one thread"
    )
    for entry in sweep:
        print(
            f"{entry['reading']:<6} learning rate {entry['rate']:g}: loss {entry['loss']:.3f} after "
            f"{entry['cpu_seconds']:.0f} CPU s"
        )
    for reading in READINGS:
        print(f"{reading} goes on with learning rate {best[reading].rate:g}")
        for entry in found[reading]:
            print(
                f"{reading:<6} {entry['cpu_seconds']:6.0f} CPU s {entry['samples']:8,} samples  "
                f"loss {entry['loss']:.3f}  throughput {entry['throughput']:.2f}"
            )
    entity, scalar = (found[reading][-1] for reading in READINGS)
    ratio = entity["throughput"] / max(scalar["throughput"], 1e-9)
    print(f"after equal CPU time entity reaches {ratio:.2f} times the throughput of scalar (PIBT {pibt:.2f})")
    if args.plot:
        plot(found, pibt, args.plot)
        print(f"drawn to {args.plot}")
    finish(args, "quality", {**found, "sweep": sweep, "pibt_throughput": pibt, "ratio": ratio})
    return 0


if __name__ == "__main__":
    sys.exit(main())

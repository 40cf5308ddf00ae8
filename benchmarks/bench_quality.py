"""Quality per compute of the two token readings: held-out loss and rollout throughput against CPU time of training.

Both readings have the same width, depth, data and learning rate and train in turns on one core, so that a busy
machine slows both alike; the clock is the CPU time of training alone. Draws ``--plot FILE``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bench_reading import our_loop
from common import finish
from marlgpt_policy.layout import POGEMA_LAYOUT
from marlgpt_training.checkpoint import torch_forward
from marlgpt_training.collect import collect_shard
from marlgpt_training.data import Samples, SampleStream
from marlgpt_training.losses import LossConfig, Objective
from marlgpt_training.model import MarlGpt, preset
from marlgpt_training.rollout import throughput
from tqdm import tqdm

READINGS = ("entity", "scalar")


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


def train(store: Path, samples: Samples, marks: list[float], bar: tqdm) -> dict[str, list[dict]]:
    """Train both readings up to each of ``marks`` (CPU seconds) in turn; what was measured there."""
    models, steps, spent, counts = {}, {}, dict.fromkeys(READINGS, 0.0), dict.fromkeys(READINGS, 0)
    for reading in READINGS:
        torch.manual_seed(0)
        models[reading] = MarlGpt(preset("tiny", reading), POGEMA_LAYOUT).train()
        steps[reading] = our_loop(models[reading], store, 1e-3)
    found: dict[str, list[dict]] = {reading: [] for reading in READINGS}
    for mark in marks:
        for reading in READINGS:
            while spent[reading] < mark:
                started = time.process_time()
                steps[reading]()
                spent[reading] += time.process_time() - started
                counts[reading] += 1
                bar.n = round(sum(spent.values()))
                bar.refresh()
            entry = {"cpu_seconds": spent[reading], "samples": 64 * counts[reading]}
            entry["loss"] = held_out_loss(models[reading], samples)
            entry["throughput"] = rollout(models[reading])
            found[reading].append(entry)
    return found


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
        marks = [args.seconds / 2**k for k in (4, 3, 2, 1, 0)]
        with tqdm(total=round(2 * args.seconds), unit="s", desc="CPU time", mininterval=5) as bar:
            found = train(Path(folder) / "train", samples, marks, bar)
    pibt = throughput(None, "random", 16, 3, 64, True)
    for reading in READINGS:
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
    finish(args, "quality", {**found, "pibt_throughput": pibt, "ratio": ratio})
    return 0


if __name__ == "__main__":
    sys.exit(main())

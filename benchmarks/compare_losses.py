"""What each loss term is worth: behaviour cloning alone, then with critic, conservative and advantage term.

Every variant trains the same new model on the same batches, without DAgger, for the same number of steps, and is then
played in every game: goals per step in POGEMA, success rates elsewhere. That is repeated with ``--repeats`` seeds of
weights and batches. The 95 % intervals are those of the pooled episodes (in POGEMA of the maps); they do not hold what
chance in training does. The single runs, printed and drawn as dots, show some of that. Needs the stores of the games
(docs/training.md says how to collect them). Draws ``--plot FILE``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import finish
from marlgpt_training.collection import dagger
from marlgpt_training.collection import game_rollouts as games
from marlgpt_training.dataloader.mixture import Mixture
from marlgpt_training.dataloader.sample_stream import parse_mixture
from marlgpt_training.dataloader.sampling import SamplingConfig
from marlgpt_training.evaluation.intervals import wilson
from marlgpt_training.model.checkpoint import torch_forward
from marlgpt_training.model.losses import LossConfig
from marlgpt_training.model.model import MarlGpt
from marlgpt_training.seeds import COMPARISON
from marlgpt_training.train import train
from marlgpt_training.train.distributed import World
from marlgpt_training.train.train_args import Args, check, share_out
from marlgpt_training.train.validation import throughputs
from scipy import stats
from tqdm import tqdm

TD_STEPS = 3
VARIANTS = {
    "cloning": LossConfig(),
    "+ critic": LossConfig(td=1.0, td_steps=TD_STEPS),
    "+ conservative": LossConfig(td=1.0, td_steps=TD_STEPS, conservative=0.1),
    "+ advantage": LossConfig(td=1.0, td_steps=TD_STEPS, conservative=0.1, advantage=0.3),
}
"""Each adds a term to the one before."""
MAPS = 16
"""Held-out random maps with 32 agents on which POGEMA is played, with the shield."""
SEED = COMPARISON
"""Episode seeds; no training and no other evaluation draws them."""


def options() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--store", nargs="+", default=["out/store"], help="FOLDER or FOLDER=WEIGHT, as in train"
    )
    parser.add_argument("--games", nargs="*", default=["pogema"], help="pogema or GAME/SCENARIO to play")
    parser.add_argument("--steps", type=int, default=1000, help="optimiser steps of every variant")
    parser.add_argument("--batch", type=int, default=256, help="samples in a step")
    parser.add_argument("--repeats", type=int, default=1, help="seeds with which every variant is trained")
    parser.add_argument(
        "--episodes", type=int, default=100, help="episodes of a run in a game other than pogema"
    )
    parser.add_argument(
        "--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS), help="which to train"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="picture to draw")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results to this file as well")
    return parser.parse_args()


def trained(args: argparse.Namespace, loss: LossConfig, seed: int, out: Path) -> MarlGpt:
    """The averaged model after the steps; ``seed`` decides its first weights and the batches."""
    wanted = Args(
        out=out, store=args.store, loss=loss, batch=args.batch, steps=args.steps, warmup=100, average=0.995,
        dagger_workers=0, evaluate_every=0, dagger_share=0.0, seed=seed, device="cpu",
    )  # fmt: skip
    world = World(0, 1, "cpu")
    check(wanted)
    trainer = train.Trainer(share_out(wanted, world.size), world)
    # Cloning alone would draw labelled samples only, and so other ones than the critic's variants.
    drawing = SamplingConfig(transitions=True, gamma=loss.gamma, td_steps=TD_STEPS)
    trainer.mixture = Mixture(parse_mixture(args.store), out, 0.0, args.batch, [0], seed, drawing)
    for _ in tqdm(range(args.steps), unit="step", mininterval=5):
        trainer.update(trainer.batch())
    return trainer.average.module


def played(model: MarlGpt, game: str, episodes: int) -> list[float]:
    """Goals per step on every map of POGEMA; 1 or 0 for success in every episode of another game."""
    task = dagger.Task.parse(game if game == "pogema" else f"{game}:random", "lns")
    forward = torch_forward(model, "cpu", task.layout.name)
    if game == "pogema":
        return throughputs(forward, "random", 32, MAPS, 256, True, 0.2)
    found = games.play(game, [SEED + k for k in range(episodes)], None, forward, 0.2)
    return [float(games.won(episode)) for episode in found]


def summary(game: str, runs: list[list[float]]) -> dict:
    """Mean of all ``runs`` with its interval as ``value``, ``low`` and ``high``; the means of the single ``runs``."""
    mean = float(np.mean(runs))
    if game == "pogema":
        maps = np.mean(runs, axis=0)
        half = float(stats.t.ppf(0.975, len(maps) - 1) * np.std(maps, ddof=1)) / len(maps) ** 0.5
        low, high = mean - half, mean + half
    else:
        low, high = wilson(mean, np.size(runs))
    return {"value": mean, "low": low, "high": high, "runs": [float(np.mean(run)) for run in runs]}


def plot(found: dict[str, dict], names: list[str], path: Path) -> None:
    """One panel per game, one bar per variant."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(names), figsize=(3.2 * len(names), 3.4), squeeze=False)
    for axis, game in zip(axes[0], names, strict=True):
        entries = [found[variant][game] for variant in found]
        values = [entry["value"] for entry in entries]
        errors = [[e["value"] - e["low"] for e in entries], [e["high"] - e["value"] for e in entries]]
        axis.bar(range(len(found)), values, yerr=errors, capsize=4, color="#0072b2")
        for k, entry in enumerate(entries):
            axis.plot([k] * len(entry["runs"]), entry["runs"], "o", color="#e69f00", markersize=4)
        axis.set_xticks(range(len(found)), list(found), rotation=30, ha="right")
        axis.set(title=game, ylabel="goals per step" if game == "pogema" else "success", ylim=(0, None))
        axis.grid(axis="y", alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> int:
    args = options()
    torch.set_num_threads(1)
    runs: dict[tuple[str, str], list[list[float]]] = {}
    for seed in range(args.repeats):
        for name in args.variants:
            print(f"{name}, seed {seed} ...", file=sys.stderr)
            with tempfile.TemporaryDirectory() as folder:
                model = trained(args, VARIANTS[name], seed, Path(folder))
            for game in args.games:
                values = played(model, game, args.episodes)
                runs.setdefault((name, game), []).append(values)
                print(f"seed {seed}: {name:<16} {game:<26} {np.mean(values):.3f}", flush=True)
    found = {name: {game: summary(game, runs[name, game]) for game in args.games} for name in args.variants}
    for name, entries in found.items():
        for game, entry in entries.items():
            print(f"{name:<16} {game:<26} {entry['value']:.3f}  [{entry['low']:.3f}, {entry['high']:.3f}]")
    if args.plot:
        plot(found, args.games, args.plot)
        print(f"drawn to {args.plot}")
    settings = {name: getattr(args, name) for name in ("steps", "batch", "repeats", "episodes")}
    finish(args, "losses", {**settings, **found})
    return 0


if __name__ == "__main__":
    sys.exit(main())

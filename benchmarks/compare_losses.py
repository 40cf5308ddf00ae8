"""What each loss term is worth: behaviour cloning alone, then with critic, conservative and advantage term.

Every variant trains the same model from the same weights on the same batches, without DAgger, for the same number of
steps, and is then played in every game: goals per step in POGEMA, success rates with 95 % intervals elsewhere. Needs
the stores of the games (docs/training.md says how to collect them). Draws ``--plot FILE``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import finish
from marlgpt_training import dagger, games, train
from marlgpt_training.checkpoint import torch_forward
from marlgpt_training.distributed import World
from marlgpt_training.evaluation.intervals import wilson
from marlgpt_training.losses import LossConfig
from marlgpt_training.rollout import throughputs
from marlgpt_training.train_args import Args, check, share_out
from scipy import stats
from tqdm import tqdm

VARIANTS = {
    "cloning": LossConfig(),
    "+ critic": LossConfig(td=1.0, td_steps=3),
    "+ conservative": LossConfig(td=1.0, td_steps=3, conservative=0.1),
    "+ advantage": LossConfig(td=1.0, td_steps=3, conservative=0.1, advantage=0.3),
}
"""Each adds a term to the one before."""
MAPS = 16
"""Held-out random maps with 32 agents on which POGEMA is played, with the shield."""
SEED = games.HELD_OUT + 20_000_000
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
    parser.add_argument("--episodes", type=int, default=100, help="episodes of a game other than pogema")
    parser.add_argument(
        "--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS), help="which to train"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="picture to draw")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results to this file as well")
    return parser.parse_args()


def trained(args: argparse.Namespace, loss: LossConfig, out: Path):
    """The averaged model after the steps."""
    wanted = Args(
        out=out, store=args.store, loss=loss, batch=args.batch, steps=args.steps, warmup=100, average=0.995,
        dagger_workers=0, evaluate_every=0, dagger_share=0.0, device="cpu",
    )  # fmt: skip
    world = World(0, 1, "cpu")
    check(wanted)
    trainer = train.Trainer(share_out(wanted, world.size), world)
    for _ in tqdm(range(args.steps), unit="step", mininterval=5):
        trainer.update(trainer.batch())
    return trainer.average.module


def played(model, game: str, episodes: int) -> dict:
    """How the model does in a game: ``value`` with ``low`` and ``high``."""
    task = dagger.Task.parse(game if game == "pogema" else f"{game}:random", "lns")
    forward = torch_forward(model, "cpu", task.layout.name)
    if game == "pogema":
        values = throughputs(forward, "random", 32, MAPS, 256, True, 0.2)
        half = float(stats.t.ppf(0.975, MAPS - 1) * np.std(values, ddof=1)) / MAPS**0.5
        mean = float(np.mean(values))
        return {"value": mean, "low": mean - half, "high": mean + half}
    found = games.play(game, [SEED + k for k in range(episodes)], None, forward, 0.2)
    wins = sum(games.won(episode) for episode in found)
    low, high = wilson(wins / episodes, episodes)
    return {"value": wins / episodes, "low": low, "high": high}


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
        axis.set_xticks(range(len(found)), list(found), rotation=30, ha="right")
        axis.set(title=game, ylabel="goals per step" if game == "pogema" else "success", ylim=(0, None))
        axis.grid(axis="y", alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> int:
    args = options()
    torch.set_num_threads(1)
    found: dict[str, dict] = {}
    for name in args.variants:
        print(f"{name} ...", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            model = trained(args, VARIANTS[name], Path(folder))
        found[name] = {game: played(model, game, args.episodes) for game in args.games}
        for game, entry in found[name].items():
            print(
                f"{name:<16} {game:<26} {entry['value']:.3f}  [{entry['low']:.3f}, {entry['high']:.3f}]",
                flush=True,
            )
    if args.plot:
        plot(found, args.games, args.plot)
        print(f"drawn to {args.plot}")
    finish(args, "losses", {"steps": args.steps, "batch": args.batch, "episodes": args.episodes, **found})
    return 0


if __name__ == "__main__":
    sys.exit(main())

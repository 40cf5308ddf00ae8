"""Draw the learning curve of one run or of several that followed each other."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from marlgpt_sim.runs.output_folder import PICTURE, SIGNATURE, check_output_file
from tyro.conf import Positional

ROLLOUTS = {
    "random32_shield": ("random, 32 agents, shield", "#0072b2"),
    "random64_shield": ("random, 64 agents, shield", "#d55e00"),
    "maze32_shield": ("mazes, 32 agents, shield", "#009e73"),
    "random32_sampled": ("random, 32 agents, sampled, no shield", "#cc79a7"),
}


@dataclasses.dataclass
class Args:
    """Draw the learning curve of training runs."""

    runs: Positional[list[Path]]
    """Folders of runs in the order in which one started from the other's weights."""
    out: Path = Path("out/curve.png")
    """Picture to draw."""
    samples_before: int = 0
    """Samples that the first run's --init checkpoint had seen."""


def read(runs: list[Path], before: int) -> tuple[list[dict], list[dict]]:
    """Entries of training and of rollouts, ``samples`` counted over all runs.

    Raises:
        ValueError: A folder without a readable log.
    """
    training, rollouts = [], []
    for run in runs:
        path, last = run / "log.jsonl", before
        try:
            entries = [json.loads(line) for line in path.read_text().splitlines()]
            for entry in entries:
                entry["samples"] += before
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{path}: not the log of a run ({error!r}); name folders made by marlgpt train"
            ) from error
        for entry in entries:
            last = max(last, entry["samples"])
            (rollouts if "score" in entry else training).append(entry)
        before = last
    if not training:
        raise ValueError(f"{', '.join(map(str, runs))}: nothing was logged yet; a run logs every 100 steps")
    return training, rollouts


def draw(training: list[dict], rollouts: list[dict], path: Path) -> None:
    """Loss, accuracy and held-out throughput against samples seen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)
    seen = [entry["samples"] / 1e6 for entry in training]
    axes[0].plot(seen, [entry["loss"] for entry in training], color="#0072b2", label="loss")
    axes[0].plot(
        seen, [entry["accuracy"] for entry in training], color="#d55e00", label="accuracy on its batches"
    )
    axes[0].set(title="Training", ylabel="loss, accuracy")
    for name, (label, colour) in ROLLOUTS.items():
        points = [(entry["samples"] / 1e6, entry[name]) for entry in rollouts if name in entry]
        axes[1].plot(
            *zip(*points, strict=True) if points else ([], []), "o-", ms=3, color=colour, label=label
        )
    axes[1].set(title="Rollouts on held-out maps", ylabel="goals per step", ylim=(0, None))
    for axis in axes:
        axis.set(xlabel="samples seen (millions)")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, format="png", metadata=SIGNATURE)
    pyplot.close(figure)


def main(args: Args) -> int:
    """Read, draw, say where."""
    check_output_file(args.out, PICTURE)
    training, rollouts = read(args.runs, args.samples_before)
    draw(training, rollouts, args.out)
    print(f"{args.out}: {training[-1]['samples']:,} samples, {len(rollouts)} rollouts")
    return 0

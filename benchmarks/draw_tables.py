"""Draw the figures of docs/results.md and docs/training.md from the tables in these pages, so that both say the same.

Usage: ``.venv/bin/python benchmarks/draw_tables.py --out docs/figures``
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import figure_style
from figure_style import COLOURS, FAINT, INK

DOCS = Path(__file__).resolve().parents[1] / "docs"
OURS, OTHER, EXPERT = COLOURS[0], COLOURS[5], COLOURS[1]
ESTIMATE = re.compile(r"\**(\d*\.\d+)\** \[(\d*\.\d+), (\d*\.\d+)\](?: \(`(\w+)`)?")


def table(page: str, heading: str) -> list[list[str]]:
    """Cells of the table in ``page`` whose first row begins with ``heading``; the row of dashes is left out.

    Raises:
        ValueError: There is no such table.
    """
    lines = (DOCS / page).read_text().splitlines()
    for k, line in enumerate(lines):
        if line.startswith(f"| {heading} |"):
            rows = []
            for row in lines[k:]:
                if not row.startswith("|"):
                    break
                rows.append([cell.strip() for cell in row.strip("|").split("|")])
            return [rows[0], *rows[2:]]
    raise ValueError(f"{page} has no table that begins with '{heading}'")


def bars(axis, title: str, entries: list[tuple[str, float, float, float, str]]) -> None:
    """Bars with intervals: (name, value, low, high, colour) each."""
    names, values, low, high, colours = zip(*entries, strict=True)
    errors = [
        [v - a for v, a in zip(values, low, strict=True)],
        [b - v for v, b in zip(values, high, strict=True)],
    ]
    errors = [[max(0.0, e) for e in side] for side in errors]
    axis.bar(range(len(values)), values, yerr=errors, capsize=3, color=colours, ecolor=INK, width=0.7)
    axis.set_xticks(range(len(values)), names, rotation=25, ha="right")
    axis.set_title(title, size=9)


def games(path: Path) -> None:
    """Success of the joint model, the specialists, experts and random moves in each scenario."""
    from matplotlib import pyplot

    tables = [table("results.md", "success"), table("results.md", "success | SMAX 5v6")]
    figure, axes = pyplot.subplots(2, 3, figsize=(9, 5), sharey=True, layout="constrained")
    for row, cells in zip(axes, tables, strict=True):
        for column, axis in enumerate(row, 1):
            entries = []
            for line in cells[2:]:
                found = ESTIMATE.match(line[column])
                if found is None:
                    continue
                label = line[0].strip("*`").replace("joint, zero-shot", "joint").replace("joint, ", "")
                name = found[4] or label
                colour = (
                    OURS if label == "joint" else OTHER if label in ("specialist", "fine-tuned") else EXPERT
                )
                entries.append(
                    (name, *(float(v) for v in found.groups()[:3]), FAINT if name == "random" else colour)
                )
            bars(axis, cells[0][column], entries)
            axis.set_ylim(0, 1.05)
    for axis in axes[:, 0]:
        axis.set_ylabel("success")
    figure.savefig(path)


def losses(path: Path) -> None:
    """Each variant's mean with its interval, and its two runs as dots."""
    from matplotlib import pyplot

    head, *rows = table("results.md", "variant")
    figure, axes = pyplot.subplots(1, 3, figsize=(9, 3.1), layout="constrained")
    for column, axis in enumerate(axes, 1):
        found = [ESTIMATE.match(row[column]) for row in rows]
        bars(axis, head[column].split(" (")[0].rsplit(", ", 1)[0], [
            (row[0], *(float(v) for v in match.groups()[:3]), OURS) for row, match in zip(rows, found, strict=True)
        ])  # fmt: skip
        for k, row in enumerate(rows):
            runs = [float(v) for v in row[column].rpartition("(")[2].rstrip(")").split(", ")]
            axis.plot([k] * len(runs), runs, "o", color=EXPERT, ms=4)
    axes[0].set_ylabel("goals per step")
    axes[1].set_ylabel("success")
    figure.savefig(path)


def quality(path: Path) -> None:
    """What both readings of an observation learn from a budget of computing time."""
    from matplotlib import pyplot

    _, *rows = table("training.md", "CPU seconds")
    seconds = [float(row[0]) for row in rows]
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.1), layout="constrained")
    for column, (name, colour) in enumerate((("entity", COLOURS[0]), ("scalar", COLOURS[3])), 1):
        values = [[float(v) for v in row[column].rsplit(", ", 2)[1:]] for row in rows]
        for axis, each in zip(axes, zip(*values, strict=True), strict=True):
            axis.plot(seconds, each, "o-", color=colour, label=name)
    for axis, label in zip(axes, ("held-out cross entropy", "goals per step"), strict=True):
        axis.set(xscale="log", xlabel="CPU seconds of training (one core)", ylabel=label, ylim=(0, None))
        axis.set_xticks(seconds, [f"{s:g}" for s in seconds], minor=False)
        axis.minorticks_off()
        axis.legend(frameon=False)
    figure.savefig(path)


def main() -> int:
    """Draw all three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DOCS / "figures", help="folder of the pictures")
    args = parser.parse_args()
    figure_style.apply()
    args.out.mkdir(parents=True, exist_ok=True)
    for draw, name in ((games, "games"), (losses, "losses"), (quality, "quality_per_compute")):
        draw(args.out / f"{name}.png")
        print(f"written to {args.out / name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())

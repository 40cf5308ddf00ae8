"""Draw the architecture: packages and their folders on floors, with the imports between them as found in the code.

Usage: ``.venv/bin/python benchmarks/draw_architecture.py --out docs/figures/architecture.png``
"""

from __future__ import annotations

import argparse
import configparser
import sys
from pathlib import Path

import figure_style
import grimp
from figure_style import COLOURS, FAINT, INK, PANEL, PAPER
from matplotlib import pyplot
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("marlgpt_policy", "marlgpt_sim", "marlgpt_training")
WORDS = {
    "nodes": "ROS 2 nodes, topics, services",
    "fleet": "all robots: snapshot, decisions, driving",
    "decentralised": "one robot: cells agreed by messages",
    "motion": "reservations, coupling, tracker",
    "deadlock": "stuck robots",
    "policy": "ONNX policy files",
    "robots": "bodies, robots.yaml",
    "encoders": "observation to tokens",
    "mapf": "conflict shield, LaCAM, LNS",
    "grid": "map to cells and moves",
}
"""What stands below the name of a folder."""
FLOWS = (
    ("marlgpt_training", ("environments", "experts", "store", "dataloader", "model", "train", "export")),
    ("marlgpt_sim", ("world", "maps", "gazebo", "bags", "view", "runs", "soak")),
)
"""Packages above the run time, with the folders that are named."""


def floors() -> list[list[str]]:
    """Folders of the run time by floor, the highest first, as .importlinter has them."""
    config = configparser.ConfigParser()
    config.read(ROOT / ".importlinter")
    lines = config["importlinter:contract:runtime"]["layers"].split("\n")
    return [
        [part.strip() for part in line.split("|")]
        for line in lines
        if line.strip() and line.strip() != "kernels"
    ]


def imports() -> dict[tuple[str, str], int]:
    """How many modules of one folder of the run time import from another one."""
    graph = grimp.build_graph(*PACKAGES)
    found: dict[tuple[str, str], int] = {}
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            a, b = module.split("."), other.split(".")
            if a[0] == b[0] == "marlgpt_policy" and len(a) > 2 and len(b) > 1 and a[1] != b[1]:
                found[a[1], b[1]] = found.get((a[1], b[1]), 0) + 1
    return found


def needed(arrows: dict[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """The arrows without those that follow from others: a to c where there is a way from a over b to c."""

    def reach(a: str, seen: frozenset[str] = frozenset()) -> set[str]:
        ahead = {b for (x, b) in arrows if x == a and b not in seen}
        return ahead | {c for b in ahead for c in reach(b, seen | {a, b})}

    return {
        (a, c): count
        for (a, c), count in arrows.items()
        if not any(c in reach(b) for (x, b) in arrows if x == a and b not in (a, c))
    }


def box(axes, x: float, y: float, width: float, height: float, title: str, below: str, colour: str) -> None:
    """A folder."""
    axes.add_patch(
        FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.08", fc=PAPER, ec=colour, lw=1.4, zorder=3
        )
    )  # fmt: skip
    axes.text(x + width / 2, y + height * 0.63, title, ha="center", va="center", weight="bold", zorder=4)
    axes.text(
        x + width / 2, y + height * 0.27, below, ha="center", va="center", size=7, color=FAINT, zorder=4
    )


def main() -> int:
    """Read the floors and the imports, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("docs/figures/architecture.png"), help="picture to write"
    )
    args = parser.parse_args()
    figure_style.apply()
    levels = floors()
    named = {name for names in levels for name in names}
    arrows = needed({(a, b): n for (a, b), n in imports().items() if a in named and b in named})
    figure, axes = pyplot.subplots(figsize=(9, 6.6))
    axes.set(xlim=(0, 9), ylim=(0, 6.6))
    axes.axis("off")
    for k, (package, parts) in enumerate(FLOWS):
        y = 5.85 - 0.72 * k
        missing = [p for p in parts if not any(ROOT.glob(f"**/{package}/{p}/__init__.py"))]
        if missing:
            print(f"{package} has no {', '.join(missing)}", file=sys.stderr)
            return 1
        axes.add_patch(FancyBboxPatch((0.1, y), 8.8, 0.6, boxstyle="round,pad=0", fc=PANEL, ec="none"))
        axes.text(0.25, y + 0.3, package, va="center", weight="bold", color=COLOURS[1 + k])
        axes.text(2.3, y + 0.3, "  ·  ".join(parts), va="center")
    axes.add_patch(
        FancyBboxPatch((0.1, 0.1), 8.8, 4.9, boxstyle="round,pad=0", fc=PANEL, ec="none", zorder=0)
    )
    axes.text(0.25, 4.8, "marlgpt_policy", va="center", weight="bold", color=COLOURS[0])
    axes.text(
        8.75,
        4.8,
        "arrows: imports, without those that follow from others",
        va="center",
        ha="right",
        size=7,
        color=FAINT,
    )
    place, height, gap = {}, 0.52, 0.24
    for k, names in enumerate(levels):
        y = 4.08 - k * (height + gap)
        width = 3.0
        left = 4.5 - (len(names) * width + (len(names) - 1) * 0.8) / 2
        for j, name in enumerate(names):
            x = left + j * (width + 0.8)
            place[name] = (x, y, width)
            box(axes, x, y, width, height, name, WORDS[name], COLOURS[0])
    for (a, b), count in arrows.items():
        if a in place and b in place:
            (xa, ya, width), (xb, yb, _) = place[a], place[b]
            shift = 0.25 * (xb - xa) / width
            axes.add_patch(
                FancyArrowPatch(
                    (xa + width / 2 + shift, ya), (xb + width / 2 - shift, yb + height), arrowstyle="-|>",
                    mutation_scale=7, lw=0.6 + min(count, 12) / 8, color=INK, alpha=0.6, zorder=2,
                    connectionstyle=f"arc3,rad={0.0 if abs(xa - xb) > 0.1 or ya - yb < 1 else 0.35}",
                )
            )  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, bbox_inches="tight", pad_inches=0.05)
    print(f"written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

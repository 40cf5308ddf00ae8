"""Tables of docs/results.md, and a picture, from the JSON files of ``marlgpt evaluate --game``.

    .venv/bin/python benchmarks/draw_results.py out/results/*.json --plot out/games.png

Files of one game and scenario are put together, so that a joint model, specialists and experts stand side by side.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import figure_style

COLOURS = {"joint": "#0072b2", "specialist": "#56b4e9", "fine": "#56b4e9", "random": "0.6"}
"""By the first word of a label; experts get one of their own."""
EXPERT = "#e69f00"
FIRST = ("joint", "fine", "specialist")
"""First words of labels that are shown before all others; random moves come last."""


def gathered(paths: list[Path], names: dict[str, str]) -> dict[str, dict[str, dict]]:
    """Game -> label -> entry: ours, experts, random moves.

    ``names`` replace the first word of labels; a key ``REPORT:WORD`` does so in one file, named without its ending.
    """
    found: dict[str, dict[str, dict]] = {}
    for path in paths:
        report = json.loads(path.read_text())
        if "game" not in report.get("protocol", {}):
            raise ValueError(f"{path}: not a report of 'marlgpt evaluate --game'")
        for label, entry in report["policies"].items():
            word, _, rest = label.partition(" ")
            shown = f"{names.get(f'{path.stem}:{word}') or names.get(word, word)} {rest}".strip()
            found.setdefault(report["protocol"]["game"], {})[shown] = entry
    return {
        game: dict(sorted(players.items(), key=lambda one: rank(one[0]))) for game, players in found.items()
    }


def rank(label: str) -> int:
    """Place of a player in a row of players; equal ones stay as they were."""
    word = label.split(" ")[0].split("-")[0]
    return FIRST.index(word) if word in FIRST else len(FIRST) + (word == "random")


def table(games: dict[str, dict[str, dict]]) -> str:
    """Markdown: a row per player, a column per game."""
    labels = sorted(dict.fromkeys(label for players in games.values() for label in players), key=rank)
    episodes = {game: next(iter(players.values()))["episodes"] for game, players in games.items()}
    lines = [
        "| success | " + " | ".join(games) + " |",
        "|---|" + "---|" * len(games),
        "| episodes | " + " | ".join(str(episodes[game]) for game in games) + " |",
    ]
    for label in labels:
        cells = []
        for players in games.values():
            entry = players.get(label)
            shown = (
                entry and f"{entry['success']:.3f} [{entry['success_low']:.2f}, {entry['success_high']:.2f}]"
            )
            cells.append(shown or "-")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(games: dict[str, dict[str, dict]], path: Path) -> None:
    """One panel per game."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure_style.apply()

    columns = min(3, len(games))
    rows = -(-len(games) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(3.6 * columns, 2.9 * rows), squeeze=False)
    for axis in axes.flat[len(games) :]:
        axis.set_visible(False)
    for axis, (game, players) in zip(axes.flat, games.items(), strict=False):
        values = [entry["success"] for entry in players.values()]
        low = [max(0.0, entry["success"] - entry["success_low"]) for entry in players.values()]
        high = [max(0.0, entry["success_high"] - entry["success"]) for entry in players.values()]
        colours = [COLOURS.get(label.split(" ")[0].split("-")[0], EXPERT) for label in players]
        axis.bar(range(len(players)), values, yerr=[low, high], capsize=3, color=colours)
        axis.set_xticks(
            range(len(players)), [label.split(" ")[0] for label in players], rotation=25, ha="right"
        )
        axis.set(title=game, ylim=(0, 1.05))
    for axis in axes[:, 0]:
        axis.set_ylabel("success")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reports", nargs="+", type=Path, help="JSON files of marlgpt evaluate --game")
    parser.add_argument(
        "--rename",
        nargs="*",
        default=[],
        metavar="OLD=NEW",
        help="names as they shall be shown; also REPORT:OLD=NEW",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="picture to draw")
    args = parser.parse_args()
    try:
        games = gathered(args.reports, dict(pair.split("=", 1) for pair in args.rename))
    except (OSError, ValueError) as error:
        print(f"draw_results: {error}", file=sys.stderr)
        return 1
    print(table(games))
    if args.plot:
        plot(games, args.plot)
        print(f"\ndrawn to {args.plot}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

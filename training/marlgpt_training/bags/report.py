"""The quality report of an import: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from marlgpt_policy.grid.nav_grid import NavGrid
from matplotlib import colormaps
from matplotlib.figure import Figure

from marlgpt_training.bags.summary import Summary

MOVE_NAMES = ("wait", "up", "down", "left", "right")
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:0;background:#f6f7f9;color:#20242b}
main{max-width:1080px;margin:0 auto;padding:24px 16px}
section{background:#fff;border:1px solid #dfe3e8;border-radius:8px;padding:16px 20px;margin:16px 0}
h1{font-size:24px;margin:8px 0}h2{font-size:19px;margin:4px 0;overflow-wrap:anywhere}
h3{font-size:15px;margin:18px 0 4px}
.cards{display:flex;flex-wrap:wrap;gap:8px;margin:12px 0}
.card{border:1px solid #dfe3e8;border-radius:6px;padding:8px 14px;min-width:96px}
.card b{display:block;font-size:20px}.card span{color:#5b6470;font-size:13px}
table{border-collapse:collapse;width:100%;font-size:14px}
td,th{padding:4px 8px;border-bottom:1px solid #e8ebef;text-align:left}td.n{text-align:right;width:90px}
.bad{background:#fdecea;border:1px solid #f3b7b1;border-radius:6px;padding:8px 12px}
.warn{background:#fff6e0;border:1px solid #ecd28a;border-radius:6px;padding:8px 12px}
img{max-width:100%;height:auto}.pictures{display:flex;flex-wrap:wrap;gap:12px}.pictures>div{flex:1 1 440px;min-width:0}
"""


TITLE = "<title>Imported bags</title>"
"""By which a report is known as one."""


def write_report(path: str | Path, summaries: list[Summary]) -> Path:
    """Write the report of an import.

    Args:
        path: The HTML file; its folder is made.
        summaries: One for each bag, in order.

    Raises:
        OSError: Not writable.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    taken = sum(summary.taken for summary in summaries)
    good = sum(not summary.error for summary in summaries)
    body = [
        f"<h1>Imported bags</h1><p>{taken} robot steps from {good} of {len(summaries)} bags.</p>",
        *map(_section, summaries),
    ]
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"{TITLE}<style>{_STYLE}</style><main>{''.join(body)}</main></html>\n"
    )
    path.write_text(page, encoding="utf-8", errors="replace")
    return path


def _section(summary: Summary) -> str:
    head = f"<h2>{_text(summary.name)}</h2><p>{_text(summary.path)}</p>"
    if summary.error:
        return f"<section>{head}<p class=bad>Not imported: {_text(summary.error)}</p></section>"
    parts = [head, _cards(summary)]
    if summary.damage:
        parts.append(f"<p class=warn>Damage: {'<br>'.join(map(_text, summary.damage))}</p>")
    if summary.grid is not None and summary.visits is not None:
        parts.append(
            "<div class=pictures>"
            f"<div><h3>Recovered paths</h3>{_image(_paths(summary), 'paths of the robots over the map')}</div>"
            f"<div><h3>Where decisions were taken</h3>{_image(_coverage(summary), 'decisions per cell')}</div></div>"
        )
    if summary.labelled:
        parts.append(f"<h3>Moves to imitate</h3>{_image(_balance(summary), 'share of each move')}")
    parts.append("<h3>Not taken</h3>" + _table(("reason", "count"), summary.dropped.most_common()))
    parts.append(
        "<h3>Topics</h3>"
        + _table(
            ("topic", "messages"), [(f"{topic.name} ({topic.type})", topic.count) for topic in summary.topics]
        )
    )
    return f"<section>{''.join(parts)}</section>"


def _cards(summary: Summary) -> str:
    share = f"{100 * summary.taken / summary.seen:.1f} %" if summary.seen else "-"
    cards = [
        (summary.mode, "taken from"),
        (len(summary.robots), "robots"),
        (f"{summary.seconds:.0f} s", "driven"),
        (summary.seen, "robot steps in the bag"),
        (share, "of them recovered"),
        (summary.labelled, "to imitate"),
        (summary.goals, "goals reached"),
        (f"{100 * summary.coverage:.0f} %", "of the free cells visited"),
        (f"{summary.step_time:.2f} s", "a step"),
        (summary.episodes, "episodes"),
    ]
    if summary.mode == "poses":
        cards += [
            (summary.poses, "poses"),
            (summary.rests, "goals by resting"),
            (summary.turns, "goals by turning away"),
            (summary.mended, "cells filled in"),
        ]
    each = "".join(
        f"<div class=card><b>{_text(value)}</b><span>{_text(name)}</span></div>" for value, name in cards
    )
    return f"<div class=cards>{each}</div>"


def _table(head: tuple[str, str], rows: Iterable[tuple[str, int]]) -> str:
    lines = [f"<tr><td>{_text(name)}<td class=n>{count}" for name, count in rows if count]
    if not lines:
        return "<p>Nothing.</p>"
    return f"<table><tr><th>{head[0]}<th style='text-align:right'>{head[1]}{''.join(lines)}</table>"


def _text(value: object) -> str:
    return html.escape(str(value))


def _image(figure: Figure, alt: str) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return f"<img alt='{alt}' src='data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}'>"


def _axes(grid: NavGrid):
    rows, cols = grid.shape
    figure = Figure(figsize=(6, float(np.clip(6 * rows / cols, 2, 9))), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-0.6, cols - 0.4), ylim=(rows - 0.4, -0.6), aspect="equal", xlabel="column", ylabel="row")
    return figure, axes


def _floor(axes, grid: NavGrid) -> None:
    axes.imshow(np.where(grid.free, 1.0, 0.35), cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def _paths(summary: Summary) -> Figure:
    figure, axes = _axes(summary.grid)
    _floor(axes, summary.grid)
    colours = colormaps["turbo"](np.linspace(0.05, 0.95, max(1, len(summary.paths))))
    for k, (colour, path) in enumerate(zip(colours, summary.paths.values(), strict=False)):
        aside = 0.28 * ((k * 0.618) % 1 - 0.5)  # so that robots on the same way can be told apart
        xy = np.array(
            [(np.nan, np.nan) if cell is None else (cell[1] + aside, cell[0] + aside) for cell in path]
        )
        if len(xy):
            axes.plot(*xy.T, color=colour, lw=1, alpha=0.8)
    return figure


def _coverage(summary: Summary) -> Figure:
    figure, axes = _axes(summary.grid)
    _floor(axes, summary.grid)
    if summary.visits.shape == summary.grid.shape:
        shown = np.ma.masked_equal(summary.visits, 0)
        picture = axes.imshow(shown, cmap="viridis", interpolation="nearest")
        figure.colorbar(picture, ax=axes, label="decisions", shrink=0.8)
    return figure


def _balance(summary: Summary) -> Figure:
    figure = Figure(figsize=(6, 2.2), layout="constrained")
    axes = figure.add_subplot()
    share = 100 * summary.actions / max(1, summary.actions.sum())
    bars = axes.bar(MOVE_NAMES, share, color="#1f77b4")
    axes.bar_label(bars, [f"{value:.1f} %" for value in share])
    axes.set(ylabel="share, %", ylim=(0, 1.15 * max(1.0, float(share.max()))))
    axes.spines[["top", "right"]].set_visible(False)
    return figure

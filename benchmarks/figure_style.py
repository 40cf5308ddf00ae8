"""What all figures of the documentation share: fonts, colours, line widths."""

from __future__ import annotations

INK, FAINT, PAPER, PANEL = "#1f2933", "#8a97a6", "#ffffff", "#eef1f5"
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#7a5195", "#8c6d31")
"""Told apart by people who see few colours, too (Okabe and Ito, with two more at the end)."""


def apply() -> None:
    """Set matplotlib's defaults."""
    from cycler import cycler
    from matplotlib import rcParams

    rcParams.update(
        {
            "font.family": "DejaVu Sans",
            "font.size": 9,
            "axes.edgecolor": FAINT,
            "axes.labelcolor": INK,
            "axes.prop_cycle": cycler(color=COLOURS),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "figure.facecolor": PAPER,
            "savefig.dpi": 150,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    )

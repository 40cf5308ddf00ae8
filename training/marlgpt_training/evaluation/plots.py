"""Pictures of a report: metrics against the number of agents, and the benchmark's normalised metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from marlgpt_training.evaluation.metrics import NAMES
from marlgpt_training.evaluation.report import rescued

# Okabe & Ito's colours, distinguishable with colour blindness; markers and lines change as well.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#b8a800")
MARKERS = "osD^vPX*"
LINES = ("-", "--", ":", "-.")
LIFELONG = {"avg_throughput": "throughput (goals per step)"}
ONE_SHOT = {
    "CSR": "CSR (episodes in which all agents arrived)",
    "ISR": "ISR (agents at their goal in the end)",
    "SoC": "sum of costs (steps)",
    "makespan": "makespan (steps)",
}
BOTH = {
    "decision_ms": "time of a joint decision (ms)",
    "coordination": "coordination",
    "congestion": "congestion",
    "rescued": "share of moves that came from plans for stuck robots",
}


def style(k: int) -> dict:
    """Colour, marker and line of the k-th policy; 32 differ."""
    return {"color": COLOURS[k % 8], "marker": MARKERS[k % 8], "linestyle": LINES[k // 8 % 4]}


def draw(report: dict, folder: Path) -> list[Path]:
    """Draw everything into ``folder``; the files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lifelong = report["protocol"]["mode"] == "lifelong"
    written = []
    for metric, label in {**(LIFELONG if lifelong else ONE_SHOT), **BOTH}.items():
        if metric == "rescued" and not any(map(rescued, report["policies"].values())):
            continue
        figure, axis = pyplot.subplots(figsize=(6.4, 4.2), constrained_layout=True)
        for k, (name, entry) in enumerate(report["policies"].items()):
            agents = [int(n) for n in entry["by_agents"]]
            points = [here[metric] for here in entry["by_agents"].values()]
            bars = np.array([_around(here, metric) for here in entry["by_agents"].values()]).T
            axis.errorbar(agents, points, yerr=bars, capsize=3, ms=4, lw=1.3, label=name, **style(k))
        if metric == "decision_ms":
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0)
        axis.set(xlabel="agents", ylabel=label, title=f"{_title(report)}, mean and 95 % interval")
        _finish(axis, len(report["policies"]))
        written.append(folder / f"{metric}.png")
        figure.savefig(written[-1], dpi=130)
        pyplot.close(figure)
    written.append(folder / "pogema.png")
    _bars(report, written[-1], pyplot)
    return written


def _around(entry: dict, name: str) -> tuple[float, float]:
    """How far the interval of a metric reaches below and above its mean; 0 where there is none."""
    if f"{name}_low" in entry:
        return entry[name] - entry[f"{name}_low"], entry[f"{name}_high"] - entry[name]
    half = entry.get(f"{name}_ci95") or 0.0
    return half, half


def _bars(report: dict, path: Path, pyplot) -> None:
    """The normalised metrics side by side; a missing one leaves a gap."""
    policies = report["policies"]
    figure, axis = pyplot.subplots(figsize=(8.5, 4.2), constrained_layout=True)
    width = 0.8 / len(policies)
    for k, (name, entry) in enumerate(policies.items()):
        values = [entry["pogema"][metric] or 0.0 for metric in NAMES]
        halves = [entry["pogema"].get(f"{metric}_ci95") or 0.0 for metric in NAMES]
        places = [slot + (k - (len(policies) - 1) / 2) * width for slot in range(len(NAMES))]
        axis.bar(
            places, values, width * 0.92, yerr=halves, label=name, color=style(k)["color"],
            hatch=("", "//", "..", "xx")[k // 8 % 4], error_kw={"lw": 0.8}, capsize=2,
        )  # fmt: skip
    axis.set_xticks(range(len(NAMES)), NAMES)
    axis.set(ylabel="score (higher is better)", ylim=(0, None), title=f"POGEMA metrics, {_title(report)}")
    _finish(axis, len(policies))
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _title(report: dict) -> str:
    protocol = report["protocol"]
    return f"{protocol['mode']}, {Path(protocol['maps']).stem} maps, {protocol['steps']} steps"


def _finish(axis, policies: int) -> None:
    axis.grid(alpha=0.3)
    axis.set_axisbelow(True)
    axis.legend(fontsize=7, ncols=1 if policies < 5 else 2)

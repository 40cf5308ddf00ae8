"""From finished episodes to the report: means with intervals, ratios, the benchmark's metrics, tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from marlgpt_training.evaluation.instances import Instance
from marlgpt_training.evaluation.intervals import Sample, mean_interval, proportion_interval, ratio_interval
from marlgpt_training.evaluation.metrics import NAMES, pathfinding, performance, scalability
from marlgpt_training.evaluation.players import Contestant

REFERENCES = ("pibt", "lns")
"""Baselines that the others are related to: ``ratio_to_pibt``, ``ratio_to_lns``."""
PROPORTIONS = ("CSR", "ISR")
"""Metrics with ``_low`` and ``_high`` instead of ``_ci95``: shares of episodes or agents."""


def headline(lifelong: bool) -> tuple[str, str]:
    """The metric that tables show, and the key of its mean over agent counts."""
    return ("avg_throughput", "mean_throughput") if lifelong else ("CSR", "mean_success")


def sample_of(values: Sequence[float], played: Sequence[Instance]) -> Sample:
    """``values`` of one policy on the instances ``played``."""
    return Sample(
        np.array(values, dtype=float), [one.map.name for one in played], [one.agents for one in played]
    )


def summarise(
    who: list[Contestant], played: list[Instance], results: dict[tuple[str, str], dict], lifelong: bool
) -> dict[str, dict]:
    """The report's ``policies``.

    Args:
        who: The contestants.
        played: The instances.
        results: (label, instance key) -> metrics, for every contestant and instance.
        lifelong: Goals for ever.
    """
    metric, mean_name = headline(lifelong)
    main = [one for one in played if one.kind == "main"]
    counts = sorted({one.agents for one in main})
    normalised = normalised_metrics(who, played, results, lifelong)
    report = {}
    for player in who:

        def values(name, on, label=player.label):
            return [results[label, one.key][name] for one in on]

        entry = _measured(mean_name, metric, values(metric, main), main)
        entry["by_agents"] = {}
        for agents in counts:
            on = [one for one in main if one.agents == agents]
            here = {"episodes": len(on), "maps": len({one.map.name for one in on})}
            for name in sorted(results[player.label, on[0].key]):
                here |= _measured(name, name, values(name, on), on)
            entry["by_agents"][str(agents)] = here
        for reference in REFERENCES:
            if any(other.label == reference for other in who):
                key = f"ratio_to_{reference}"
                for where, on in [(entry, main)] + [
                    (entry["by_agents"][str(n)], [one for one in main if one.agents == n]) for n in counts
                ]:
                    where[key] = _ratio(values(metric, on), values(metric, on, reference), on)
                    if player.label != reference and where[key]:
                        _unless_narrow(where[key])
        report[player.label] = {**entry, "pogema": normalised[player.label], **dataclasses.asdict(player)}
    return report


def _mean(values: list[float], played: list[Instance]) -> tuple[float, float | None]:
    return mean_interval(sample_of(values, played))


def _measured(key: str, metric: str, values: list[float], played: list[Instance]) -> dict:
    """The mean of ``metric`` as ``key``, with ``_low`` and ``_high`` for a proportion, ``_ci95`` otherwise."""
    if metric not in PROPORTIONS:
        return dict(zip((key, f"{key}_ci95"), _mean(values, played), strict=True))
    outcomes = len(played) if metric == "CSR" else sum(one.agents for one in played)
    found = proportion_interval(sample_of(values, played), outcomes)
    return dict(zip((key, f"{key}_low", f"{key}_high"), found, strict=True))


def _unless_narrow(ratio: dict) -> None:
    """Take away the bounds of ``ratio`` if they show no spread at all, as where two policies always succeed."""
    if ratio["low"] is not None and ratio["high"] - ratio["low"] < 1e-9:
        ratio["low"] = ratio["high"] = None


def _ratio(values: list[float], reference: list[float], played: list[Instance]) -> dict | None:
    found = ratio_interval(sample_of(values, played), np.array(reference, dtype=float))
    return None if found is None else dict(zip(("value", "low", "high"), found, strict=True))


def normalised_metrics(who, played, results, lifelong) -> dict[str, dict]:
    """Label -> the benchmark's normalised metrics with ``_ci95``; None where the run has nothing to say."""
    labels = [player.label for player in who]
    main = [one for one in played if one.kind == "main"]
    alone = [one for one in played if one.kind == "pathfinding"]
    most = [one for one in main if one.agents == max(one.agents for one in main)]
    scores = [(one, performance({x: results[x, one.key] for x in labels}, lifelong)) for one in main]
    scores = [(one, score) for one, score in scores if score is not None]
    found = {}
    for label in labels:
        columns = {
            "performance": ([score[label] for _, score in scores], [one for one, _ in scores]),
            "coordination": ([results[label, one.key]["coordination"] for one in main], main),
            "congestion": ([results[label, one.key]["congestion"] for one in most], most),
            "pathfinding": ([pathfinding(results[label, one.key]) for one in alone], alone),
        }
        entry: dict[str, float | None] = {}
        for name, (values, on) in columns.items():
            entry[name], entry[f"{name}_ci95"] = _mean(values, on) if values else (None, None)
        times = {
            agents: float(np.mean([results[label, o.key]["decision_ms"] for o in main if o.agents == agents]))
            for agents in {one.agents for one in main}
        }
        entry["scalability"] = scalability(times)
        found[label] = entry
    return found


def table(report: dict) -> str:
    """A Markdown table: policies by agent counts, the ratio to PIBT where PIBT played, the share of moves from plans.

    The last column is there where somebody's moves came from plans for stuck robots.
    """
    metric, mean = headline(report["protocol"]["mode"] == "lifelong")
    policies = report["policies"]
    counts = list(next(iter(policies.values()))["by_agents"])
    related = all("ratio_to_pibt" in entry for entry in policies.values())
    searched = {label: rescued(entry) for label, entry in policies.items()}
    heads = [metric, *counts, "mean", *(["ratio to PIBT"] if related else [])]
    heads += ["rescued"] if any(searched.values()) else []
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for label, entry in policies.items():
        cells = [_shown(entry["by_agents"][n], metric, 2) for n in counts] + [_shown(entry, mean, 3)]
        if related:
            cells.append(_shown_ratio(entry["ratio_to_pibt"]))
        if any(searched.values()):
            cells.append(f"{searched[label]:.2%}")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def normalised_table(report: dict) -> str:
    """A Markdown table of the benchmark's normalised metrics."""
    lines = ["| | " + " | ".join(NAMES) + " |", "|---" * (len(NAMES) + 1) + "|"]
    for label, entry in report["policies"].items():
        values = entry["pogema"]
        cells = [_shown(values, name, 3) for name in NAMES]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rescued(entry: dict) -> float:
    """Share of an agent's moves that came from a plan, mean over agent counts; 0 in reports of older versions."""
    return float(np.mean([here.get("rescued", 0.0) for here in entry["by_agents"].values()]))


def _shown(entry: dict, name: str, digits: int) -> str:
    value, half = entry.get(name), entry.get(f"{name}_ci95")
    if value is None:
        return "-"
    if entry.get(f"{name}_low") is not None:
        return f"{value:.{digits}f} [{entry[f'{name}_low']:.{digits}f}, {entry[f'{name}_high']:.{digits}f}]"
    # Reports of older versions hold NaN where there is no interval.
    return (
        f"{value:.{digits}f}" if half is None or half != half else f"{value:.{digits}f} ± {half:.{digits}f}"
    )


def _shown_ratio(ratio: dict | None) -> str:
    if ratio is None:
        return "-"
    bounds = "" if ratio["low"] is None else f" [{ratio['low']:.3f}, {ratio['high']:.3f}]"
    return f"{ratio['value']:.3f}{bounds}"

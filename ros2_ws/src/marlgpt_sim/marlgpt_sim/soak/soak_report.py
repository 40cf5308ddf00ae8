"""What a soak says at the end: totals, extremes, tables, and whether it passed."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from marlgpt_sim.soak.drawn_maps import FAMILIES, PIXEL_FAMILIES
from marlgpt_sim.soak.scenario import AIMS, OPERATOR_KINDS
from marlgpt_sim.soak.situations import SITUATIONS
from marlgpt_sim.world.fault_config import KINDS

Result = dict[str, Any]

CAMPAIGN = 50.0
"""Robot-hours from which on every kind of fault and every situation must have occurred."""
FILLS = (0.1, 0.25, 0.4, 0.6, 0.75, 1.0)
"""Upper ends of the classes of fill that are reported."""
FAILURES = {
    "contact": "contacts of robots",
    "wall": "contacts with walls",
    "rule": "rules broken",
    "disagreement": "disagreements of the two counters",
    "goal": "goals lost",
    "exception": "exceptions",
    "refusal": "wrong answers",
}
"""Kinds of failures in words; a run ends with its first one."""


def fill_class(fill: float) -> str:
    """The class of a share of cells, such as "25-40 %"."""
    low = 0.0
    for high in FILLS:
        if fill <= high:
            break
        low = high
    return f"{100 * low:.0f}-{100 * high:.0f} %"


def never_seen(results: list[Result]) -> list[str]:
    """Kinds of faults, aims, situations, maps, drives, modes and policies that did not occur."""
    events: Counter[str] = Counter()
    situations: Counter[str] = Counter()
    for result in results:
        events.update(result["events"])
        situations.update(result["situations"])
    missing = [f"event {kind}" for kind in (*KINDS, *OPERATOR_KINDS, "set_down") if not events[kind]]
    missing += [f"aim {aim}" for aim in AIMS if not events[f"aim_{aim}"]]
    missing += [f"situation {name}" for name in SITUATIONS if not situations[name]]
    for name, wanted in {
        "family": (*FAMILIES, *PIXEL_FAMILIES), "mode": ("centralised", "decentralised"),
        "policy": ("shipped", "random", "stampeding"), "execution": ("asynchronous", "synchronous"),
        "holonomic": (0.0, 0.5, 1.0),
    }.items():  # fmt: skip
        there = {result[name] for result in results}
        missing += [f"{name} {value}" for value in wanted if value not in there]
    return missing


def summarise(results: list[Result]) -> dict[str, Any]:
    """Totals and extremes over runs; ``never_seen`` is judged for campaigns of ``CAMPAIGN`` robot-hours only."""
    hours = sum(result["robot_hours"] for result in results)
    failures = Counter(result["failure"]["kind"] for result in results if result["failure"])
    goals, events, situations, remedies = Counter(), Counter(), Counter(), Counter()
    for result in results:
        goals.update(result["goals"])
        events.update(result["events"])
        situations.update(result["situations"])
        remedies.update(result["remedies"])
    gaps = [result["least_gap_m"] for result in results if result["least_gap_m"] is not None]
    return {
        "robot_hours": round(hours, 2),
        "runs": len(results),
        "robot_contacts": sum(
            max(r["robot_contacts"], r["touches"]) for r in results if _failed(r, "contact")
        ),
        "wall_contacts": failures["wall"],
        "walls_by_push": events["walls_by_push"],
        "least_gap_m": min(gaps, default=None),
        "failures": {kind: failures[kind] for kind in FAILURES},
        "failed_seeds": [result["seed"] for result in results if result["failure"]],
        "goals": dict(goals),
        "faults": {kind: events[kind] for kind in (*KINDS, *OPERATOR_KINDS, "set_down")},
        "aims": {aim: events[f"aim_{aim}"] for aim in AIMS},
        "situations": {name: situations[name] for name in SITUATIONS},
        "remedies": dict(remedies),
        "by_family": _table(results, lambda r: r["family"]),
        "by_fill": _table(results, lambda r: fill_class(r["fill"])),
        "by_fill_and_family": _table(results, lambda r: f"{fill_class(r['fill'])}, {r['family']}"),
        "by_mode": _table(results, lambda r: f"{r['mode']}, {r['execution']}"),
        "by_policy": _table(results, lambda r: r["policy"]),
        "never_seen": never_seen(results) if hours >= CAMPAIGN else [],
    }


def _failed(result: Result, kind: str) -> bool:
    return bool(result["failure"]) and result["failure"]["kind"] == kind


def _table(results: list[Result], key: Any) -> dict[str, dict[str, float]]:
    """Rows by a key of the runs."""
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        groups[key(result)].append(result)
    return {name: _row(groups[name]) for name in sorted(groups)}


def _row(results: list[Result]) -> dict[str, float]:
    robots = sum(result["robots"] for result in results)
    hours = sum(result["robot_hours"] for result in results)
    contacts = sum(_failed(result, "contact") or _failed(result, "wall") for result in results)
    return {
        "runs": len(results),
        "robot_hours": round(hours, 1),
        "faults": sum(
            n for r in results for kind, n in r["events"].items() if not kind.startswith(("aim_", "walls_"))
        ),
        "contacts": contacts,
        "failures": sum(bool(result["failure"]) for result in results),
        "goals_per_robot_hour": round(sum(r["goals"]["reached"] for r in results) / max(hours, 1e-9), 1),
        "unserved": round(sum(result["unserved_robots"] for result in results) / max(robots, 1), 3),
        "starved": round(sum(result["starved_robots"] for result in results) / max(robots, 1), 3),
        "longest_starved_s": round(max(result["longest_starved_s"] for result in results)),
    }


def passed(summary: dict[str, Any]) -> bool:
    """Whether nothing touched, no goal was lost, nothing else failed, and all was seen that had to be."""
    return not any(summary["failures"].values()) and not summary["never_seen"]


def in_words(summary: dict[str, Any]) -> str:
    """The summary as text: tables by map and by fill, what went wrong, what was never seen."""
    text = [_table_text("map", summary["by_family"]), _table_text("fill", summary["by_fill"])]
    faults = sum(summary["faults"].values())
    kinds = sum(count > 0 for count in summary["faults"].values())
    found = ", ".join(f"{summary['failures'][kind]} {words}" for kind, words in FAILURES.items())
    gap = summary["least_gap_m"]
    text.append(
        f"{summary['robot_hours']} robot-hours in {summary['runs']} runs, {faults} faults of {kinds} kinds, "
        f"{summary['goals']['given']} goals given, {summary['goals']['reached']} reached: {found}"
        + (f"; smallest gap {1e3 * gap:.1f} mm" if gap is not None else "")
        + f"; {summary['walls_by_push']} robots pushed into walls"
    )
    if summary["never_seen"]:
        text.append(
            "never exercised, so this campaign proves nothing about: " + ", ".join(summary["never_seen"])
        )
    return "\n".join(text)


def _table_text(name: str, rows: dict[str, dict[str, float]]) -> str:
    heads = [name, *next(iter(rows.values()))]
    lines = [heads] + [[key, *map(str, row.values())] for key, row in rows.items()]
    widths = [max(len(line[k]) for line in lines) for k in range(len(heads))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )

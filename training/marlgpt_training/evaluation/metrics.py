"""The normalised metrics of the POGEMA benchmark (Skrynnik et al. 2024, arXiv 2407.14931), higher is better.

Formulas are those of the scripts published with the benchmark where they say more than the paper. One formula
compares policies on three map sets there, as Performance (random maps and mazes), Out-of-Distribution (city
tiles) and Cooperation (puzzles); here it is ``performance`` on the maps of the run.
"""

from __future__ import annotations

import itertools

import numpy as np

NAMES = ("performance", "coordination", "congestion", "scalability", "pathfinding")


def performance(metrics: dict[str, dict], lifelong: bool) -> dict[str, float] | None:
    """Score of every policy on one instance, relative to the best of them.

    Lifelong: throughput / best throughput. One-shot: best SoC / SoC where all agents arrived, else 0.

    Args:
        metrics: Policy -> what its episode measured.
        lifelong: Which of the two.

    Returns:
        Policy -> score in 0..1; None where nobody achieved anything, which the benchmark leaves out.
    """
    if lifelong:
        best = max(entry["avg_throughput"] for entry in metrics.values())
        if best <= 0:
            return None
        return {label: entry["avg_throughput"] / best for label, entry in metrics.items()}
    solved = [entry["SoC"] for entry in metrics.values() if entry["CSR"] == 1]
    if not solved:
        return None
    return {
        label: min(solved) / entry["SoC"] if entry["CSR"] == 1 else 0.0 for label, entry in metrics.items()
    }


def pathfinding(entry: dict) -> float:
    """Shortest path / steps taken of an agent alone, 0 where it did not arrive.

    The benchmark divides the best of the compared policies; the shortest path does not depend on who took part.
    """
    return entry["shortest"] / entry["ep_length"] if entry["CSR"] == 1 else 0.0


def scalability(times: dict[int, float]) -> float | None:
    """Mean over pairs n1 < n2 of (t(n1) / n1) / (t(n2) / n2), at most 1; None with a single agent count.

    1: the time of a joint decision grows no faster than the number of agents.

    Args:
        times: Agents -> time of a joint decision. (The benchmark takes whole episodes, which is the same where
            they have equal length.)
    """
    if len(times) < 2:
        return None
    each = [times[agents] / agents for agents in sorted(times)]
    return min(1.0, float(np.mean([first / second for first, second in itertools.combinations(each, 2)])))

"""Search for robots that are stuck: a short joint plan for one of them and those around it.

A policy that sees eleven cells proposes moves one at a time; where two robots have to change places in a dead end, one
of them must first drive away from its goal, and step by step that never looks right. So for a robot that has got no
nearer to its goal for long, a LaCAM search (``mapf/lacam.py``) plans all robots around it to their goals, and they
propose the plan's moves until the robot gets on. A plan is made of proposals like the policy's: the shield decides.

This is for agents that step together, as in evaluation on grids; robots on their own clocks have
``deadlock/rolling_horizon_plan.py``.
"""

from __future__ import annotations

import numpy as np

from marlgpt_policy.grid.cost_to_go import UNREACHABLE, CostToGo
from marlgpt_policy.mapf.lacam import lacam

LIMITS = (500, 500, 2000)
"""Joint configurations that the searches for one plan may generate, one search after the other."""


def solve(
    costs: CostToGo, start: np.ndarray, goals: np.ndarray, near: np.ndarray, shut: np.ndarray
) -> np.ndarray | None:
    """Search joint ways of robots to their goals, or near them where these are taken; the first must reach its own.

    Args:
        costs: Of the grid.
        start: int[k] flat cells, all different.
        goals: int[k] flat cells.
        near: int32[cells, 5], see ``lacam.neighbour_table``.
        shut: bool[cells] that nobody may enter.

    Returns:
        int32[T + 1, k] flat cells, or None if none was found.
    """
    ends = _distinct_ends(goals, shut, near)
    if ends is None:
        return None
    columns = costs.moves.shape[1]
    fields = np.stack([costs.field(divmod(int(end), columns)) for end in ends]).reshape(len(ends), -1)
    if (fields[np.arange(len(ends)), start] >= UNREACHABLE).any():
        return None
    path, _ = lacam(start, fields, np.arange(len(ends)), near, LIMITS)
    return None if len(path) < 2 else path


def _distinct_ends(goals: np.ndarray, shut: np.ndarray, near: np.ndarray) -> np.ndarray | None:
    """Different open cells, the goals where possible and near them otherwise; None if the first goal is shut."""
    taken: set[int] = set()
    for k, goal in enumerate(goals.tolist()):
        seen, queue = {goal}, [goal]
        for cell in queue:  # grows while it is walked: breadth first
            if cell not in taken and not shut[cell]:
                taken.add(cell)
                goals[k] = cell
                break
            if k == 0:
                return None
            ahead = [int(u) for u in near[cell, 1:] if u >= 0 and int(u) not in seen]
            seen.update(ahead)
            queue += ahead
        else:
            return None
    return goals

"""The ladder of remedies for robots that get no nearer to their goals, from the cheapest rung to the surest.

Waiting is counted in steps without progress; a step is half the time that a robot takes for one cell: about 0.9 s at
0.5 m/s (``stagnation.py``). Joint plans are in ``rolling_horizon_plan.py``.

| rung | from | what is done |
|---|---|---|
| right of way | 24 steps | the robot goes first until it is at its goal; of several the one that has it for longest |
| plan | at once | it takes its shortest way and others plan around it, again every few seconds |
| PIBT | without a plan | it takes the shortest way and is served before all |
| sampling | 40 steps | others sample their moves, more and more as the policy was trained |

Where there is no plan, the next 8 cells of a robot that goes first are kept clear: others there leave or drive on
ahead of it, and nobody enters. That rung is what PIBT proves: on a grid where every cell lies on a cycle the robot
served first reaches its goal, since everybody in its way inherits its priority and leaves. Beside the ladder: robots
on an edge that its leader does not free turn back (``motion/edge_coupling.py``), robots that keep another one from
getting onto the grid make way for it (``motion/docking.py``), and the ways of all lead around robots that do not
drive.
"""

from __future__ import annotations

import numpy as np

from marlgpt_policy.deadlock.stagnation import PATIENCE
from marlgpt_policy.grid.cost_to_go import UNREACHABLE
from marlgpt_policy.grid.moves import MOVE_OFFSETS as MOVES

NONE, SAMPLING, PIBT, PLAN = range(4)
"""Values of ``marlgpt_msgs/RobotDecision.remedy``."""
REMEDY_NAMES = {SAMPLING: "sampling", PIBT: "pibt", PLAN: "plan"}
"""Names of the remedies in diagnostics and reports."""


def shortest(fields: np.ndarray, cells: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """int8[m] the move of each robot that leads closest to its goal; waiting where none gets nearer.

    Args:
        fields: int32[m, R, C] cost-to-go.
        cells: int[m, 2].
        mask: bool[m, >= 5] moves that exist.
    """
    ahead = np.clip(cells[:, None] + MOVES[None], 0, np.array(fields.shape[1:]) - 1)
    cost = fields[np.arange(len(cells))[:, None], ahead[..., 0], ahead[..., 1]].astype(np.int64)
    cost = np.where(mask[:, :5], cost, np.int64(UNREACHABLE) * 2)
    return cost.argmin(axis=1).astype(np.int8)


def rungs(idle: np.ndarray, planned: np.ndarray, first: np.ndarray, temperature: float) -> np.ndarray:
    """int8[m] the remedy for each robot; of several that apply the surest: going first, plan, sampling.

    Args:
        idle: float[m] steps without progress.
        planned: bool[m] robots that follow a joint plan.
        first: bool[m] robots that everybody makes way for.
        temperature: Of sampling; at 0 the sampling rung is left out.
    """
    hot = (idle > PATIENCE) & (temperature > 0)
    return np.select([first, planned, hot], [PIBT, PLAN, SAMPLING], NONE).astype(np.int8)

"""The strong POGEMA expert: labels from a rolling-horizon large-neighbourhood search.

The search itself is ``marlgpt_policy.mapf.large_neighbourhood_search``. It keeps a plan for every agent from step to
step; the label of a state is the first joint action of the plans. Lifelong episodes are planned within a window of
``window_of`` steps, one-shot episodes to their end.

What is deterministic: two experts with the same seed and the same history of ``act`` calls plan the same, and A* breaks
ties between equal plans by a fixed move order, so that labels agree more often. What is not: a label is no function of
the state alone. The search improves the plans of the steps before with random groups and stops after a number of
rounds, so that a running expert and one that begins in the same state differ: in 3, 6 and 12 % of the labels of 16, 32
and 64 agents on random maps, 9 % of 32 in mazes (lifelong, four maps of 60 steps each).
"""

from __future__ import annotations

import numpy as np
from marlgpt_policy.mapf.large_neighbourhood_search import LIFELONG, ONE_SHOT, LargeNeighbourhoodSearch

__all__ = ["LIFELONG", "ONE_SHOT", "LnsExpert", "window_of"]


class LnsExpert:
    """The expert over an episode. It also labels states that somebody else drove into (DAgger).

    Attributes:
        search: The search with the plans that it keeps.
    """

    def __init__(
        self,
        moves: np.ndarray,
        agents: int,
        mode: int = LIFELONG,
        window: int = 12,
        rounds: tuple[int, int] = (60, 4),
        seed: int = 0,
        nodes: tuple[int, int] = (20_000, 2_000),
    ) -> None:
        """Prepare an episode.

        Args:
            moves: bool[R, C, 5] edges of the grid.
            agents: Number of agents n.
            mode: ``LIFELONG`` (a new goal follows each one reached) or ``ONE_SHOT`` (agents stay at their goals).
            window: Planned steps, see :func:`window_of`.
            rounds: (a, b): a + b * n search rounds per step.
            seed: Seed of the search.
            nodes: (a, b): the rounds of a step of a one-shot episode also end after a + b * n A* nodes.
        """
        self.search = LargeNeighbourhoodSearch(moves, agents, mode, window, rounds, seed, nodes)

    def act(
        self, cells: np.ndarray, goals: np.ndarray, fields: np.ndarray, field_of: np.ndarray
    ) -> np.ndarray:
        """Label a state with the first moves of the best plans found.

        Args:
            cells: int[n, 2] row and column of each agent, all different.
            goals: int[n, 2] row and column of each agent's goal.
            fields: int32[f, R, C] cost-to-go in steps.
            field_of: int[n] each agent's field.

        Returns:
            int8[n] moves without vertex or swap conflicts.

        Raises:
            ValueError: Two agents share a cell, or an agent cannot reach its goal.
        """
        paths = self.search.plan(cells, goals, fields, field_of)
        displacement = paths[1].astype(np.int64) - paths[0]
        return np.argmax(displacement[:, None] == self.search.steps[None, :], axis=1).astype(np.int8)


def window_of(family: str) -> int:
    """Planning window of the expert in steps: longer where corridors are long.

    Measured at 64 agents, 32 random maps (16 mazes): 12 steps 4.29 goals per step, 14 4.34, 16 4.33 (20 3.45, 28 3.58).
    """
    return {"random": 14, "maze": 28}.get(family, 20)

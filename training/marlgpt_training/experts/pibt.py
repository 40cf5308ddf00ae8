"""The PIBT expert: priority inheritance with backtracking over whole episodes (Okumura et al. 2022)."""

from __future__ import annotations

import numpy as np
from marlgpt_policy.mapf.pibt import pibt_actions


class Pibt:
    """PIBT over an episode; priorities grow with the steps since an agent's last goal."""

    def __init__(self, moves: np.ndarray, agents: int, seed: int = 0) -> None:
        """Start an episode on ``moves`` bool[R, C, 5] with ``agents`` agents; ``seed`` orders equal priorities."""
        self.moves = moves
        self.tie = np.random.default_rng(seed).permutation(agents) / max(agents, 1)
        self.waited = np.zeros(agents, dtype=np.int64)

    def act(
        self, cells: np.ndarray, fields: np.ndarray, field_of: np.ndarray, arrived: np.ndarray
    ) -> np.ndarray:
        """Choose the next joint action.

        Args:
            cells: int[n, 2] row and column of each agent.
            fields: int32[f, R, C] cost-to-go in steps.
            field_of: int[n] each agent's field.
            arrived: bool[n] who reached a goal in the last step.

        Returns:
            int8[n] moves without vertex or swap conflicts.
        """
        self.waited = np.where(arrived, 0, self.waited + 1)
        at_goal = fields[field_of, cells[:, 0], cells[:, 1]] == 0
        priority = np.where(at_goal, 0, self.waited) + self.tie
        return pibt_actions(cells.astype(np.int64), fields, field_of.astype(np.int64), self.moves, priority)

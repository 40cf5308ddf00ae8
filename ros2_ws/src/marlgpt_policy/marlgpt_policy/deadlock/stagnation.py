"""Robots that get no nearer to their goals act more and more at random, which frees most that block each other.

A sharp policy jams where two robots each insist on the same way round: they repeat the same moves for ever. Sampling
from the policy as trained (temperature 1) resolves that, but costs throughput where nobody is stuck. So each robot's
temperature depends on how long it has made no progress.
"""

from __future__ import annotations

import numpy as np

PATIENCE = 40
"""Decisions without progress before a robot's temperature rises."""
RISE = 20
"""Decisions over which it rises to 1."""


class Stagnation:
    """Decisions that each of n robots has taken since it was last nearer to its goal than ever before.

    A decision at the goal takes one off again: robots that push each other off their goals in turn are stuck, too.

    Attributes:
        idle: float[n] those decisions.
    """

    def __init__(self, n: int) -> None:
        """Start with 0 decisions waited by each of ``n`` robots."""
        self.idle = np.zeros(n)
        self._nearest = np.full(n, np.iinfo(np.int64).max)
        self._goals = np.full((n, 2), -1, dtype=np.int64)

    def grow(self, count: int) -> None:
        """Add ``count`` robots that have not waited yet."""
        self.idle = np.append(self.idle, np.zeros(count))
        self._nearest = np.append(self._nearest, np.full(count, np.iinfo(np.int64).max))
        self._goals = np.vstack([self._goals, np.full((count, 2), -1, dtype=np.int64)])

    def update(
        self, robots: np.ndarray, distance: np.ndarray, goals: np.ndarray, steps: np.ndarray | float = 1.0
    ) -> None:
        """Count one decision of ``robots``.

        Args:
            robots: int[m] indices of the robots that decide now.
            distance: int[m] their steps to go.
            goals: int[m, 2] their goal cells.
            steps: float[m] what the decision counts as; less than one where robots decide several times in the time
                of one step.
        """
        fresh = (goals != self._goals[robots]).any(axis=1)
        nearest = np.where(fresh, np.iinfo(np.int64).max, self._nearest[robots])
        waited = self.idle[robots]
        waited = np.where(distance == 0, np.maximum(waited - steps, 0.0), waited + steps)
        self.idle[robots] = np.where(distance < nearest, 0, waited)
        self._nearest[robots] = np.minimum(nearest, distance)
        self._goals[robots] = goals

    def temperatures(self, robots: np.ndarray, base: float) -> np.ndarray:
        """float64[m] sampling temperatures of ``robots``: ``base`` for those that get on, up to 1 for stuck ones.

        A ``base`` of 0 stays: who asks for the most probable moves gets them.
        """
        if base <= 0:
            return np.zeros(len(robots))
        rise = np.clip((self.idle[robots] - PATIENCE) / RISE, 0.0, 1.0)
        return np.maximum(base, base + (1.0 - base) * rise)

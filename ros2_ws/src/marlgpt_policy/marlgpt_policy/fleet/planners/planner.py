"""The role of a planner: a snapshot of the fleet in, ranked proposals out. What is carried out the resolver decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from marlgpt_policy.fleet.snapshot import Snapshot


@dataclass(frozen=True)
class Proposal:
    """What a planner would have the k deciding robots of a snapshot do.

    Attributes:
        moves: int8[k] moves 0..4 proposed.
        logits: float32[k, >= 5] that rank the moves where the one proposed is not possible.
        probabilities: float32[k, 5] of the moves, for recordings and views.
        values: float32[k, >= 5] returns expected of each move; 0 where the planner has no critic.
        prepare_ms: Time to make its input, in ms.
        plan_ms: Time to plan, in ms.
    """

    moves: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    values: np.ndarray
    prepare_ms: float = 0.0
    plan_ms: float = 0.0


class Planner(Protocol):
    """Proposes moves for a fleet.

    Attributes:
        resolves_deadlocks: Robots that wait or go away from their goals do so for a reason: no remedy interferes.
    """

    resolves_deadlocks: bool

    def propose(self, snapshot: Snapshot, random: np.random.Generator) -> Proposal:
        """Propose a move for each robot that decides now; all randomness comes from ``random``."""

"""What decides for a policy that is late: every robot takes its shortest way, and the shield does the rest (PIBT)."""

from __future__ import annotations

import numpy as np

from marlgpt_policy.encoders.token_layout import MAX_ACTIONS, WINDOW
from marlgpt_policy.grid.moves import HISTORY
from marlgpt_policy.policy.onnx_policy import PolicyOutput

SHARPNESS = 30.0
"""Logit of a move that leads closer; the others have 0, so that at usual temperatures none of them is taken."""
_CLOSER = WINDOW * WINDOW + 4 + 2 * HISTORY
"""Where the observation says which of the four moves lead the observing robot closer to its goal."""


def shortest_ways(values: np.ndarray, valid: np.ndarray, action_mask: np.ndarray) -> PolicyOutput:
    """Prefer moves that lead closer to the goal, from POGEMA observations of n robots; called like a policy.

    Args:
        values: float32[n, 356].
        valid: bool[n, 356].
        action_mask: bool[n, 20].
    """
    logits = np.zeros((len(values), MAX_ACTIONS), dtype=np.float32)
    logits[:, 1:5] = SHARPNESS * values[:, _CLOSER : _CLOSER + 4]
    logits[~action_mask] = -1e9
    shown = np.exp(logits[:, :5].astype(np.float64) - logits[:, :5].max(axis=1, keepdims=True))
    probabilities = (shown / shown.sum(axis=1, keepdims=True)).astype(np.float32)
    return PolicyOutput(logits, np.zeros_like(logits), probabilities)

"""What one joint decision was made of, for recordings and views."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Decision:
    """One joint decision; arrays over all n robots.

    Attributes:
        step: Number of the decision, from 1.
        cells: int[n, 2] cells decided from (-1 for robots without one).
        goals: int[n, 2] goal cells, -1 for none.
        proposed: int8[n] the moves proposed: the policy's, or a remedy's.
        executed: int8[n] the shield's moves.
        probabilities: float32[n, 5] of the policy.
        value: float32[n] the critic's value of the executed move.
        held: bool[n] took no part (on its way, stale, stopped, lost).
        remedy: int8[n] what was done against getting stuck, see ``deadlock/remedies.py``.
        present: bool[n] robots that the others' observations showed.
        history: int8[n, 5] moves before this decision, newest first, -1 for none.
        mask: bool[n, 5] moves that the policy might choose; none for those held.
        detours: int[k, 2] cells that the ways of all led around.
        encode_ms: Time to encode, in ms.
        infer_ms: Time of ONNX Runtime, in ms.
        shield_ms: Time of the shield, in ms.
    """

    step: int
    cells: np.ndarray
    goals: np.ndarray
    proposed: np.ndarray
    executed: np.ndarray
    probabilities: np.ndarray
    value: np.ndarray
    held: np.ndarray
    remedy: np.ndarray
    present: np.ndarray
    history: np.ndarray
    mask: np.ndarray
    detours: np.ndarray
    encode_ms: float
    infer_ms: float
    shield_ms: float

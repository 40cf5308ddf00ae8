"""Observations as bytes: how samples lie in memory and in shards."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from marlgpt_policy.encoders.token_layout import MAX_ACTIONS, POGEMA_LAYOUT

INVALID = -128


_SCALE = 20.0


def compress(values: np.ndarray, valid: np.ndarray, layout: str = POGEMA_LAYOUT.name) -> np.ndarray:
    """Observations as they wait for training, in one array [n, L].

    POGEMA: int8, exact, since values are multiples of 1/20; -128 where not valid. Other layouts: float16, NaN where
    not valid.
    """
    if layout == POGEMA_LAYOUT.name:
        return np.where(valid, np.rint(values * _SCALE), INVALID).astype(np.int8)
    return np.where(valid, values, np.nan).astype(np.float16)


def expand(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of :func:`compress`: values float32[n, L], valid bool[n, L]."""
    valid = present(packed)
    plain = packed.astype(np.float32) / (_SCALE if packed.dtype == np.int8 else 1)
    return np.where(valid, plain, np.float32(0)), valid


def present(packed: np.ndarray) -> np.ndarray:
    """bool[n, L] valid values of compressed observations."""
    return packed != INVALID if packed.dtype == np.int8 else ~np.isnan(packed)


@dataclass
class Samples:
    """n samples of one layout. The last five arrays are there only for the critic's terms, otherwise None.

    Attributes:
        packed: int8 or float16[n, L] compressed observations.
        masks: bool[n, k] allowed moves, k at most 20.
        labels: int64[n] the expert's moves, -1 where it was not asked.
        actions: int64[n] executed moves.
        rewards: float32[n] discounted sum of the rewards up to the next observation.
        bootstraps: float32[n] discount of the next observation's value, 0 after an end.
        next_packed: [n, L] next observations.
        next_masks: bool[n, k] moves allowed there.
        layout: Name of the token layout.
    """

    packed: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    actions: np.ndarray | None = None
    rewards: np.ndarray | None = None
    bootstraps: np.ndarray | None = None
    next_packed: np.ndarray | None = None
    next_masks: np.ndarray | None = None
    layout: str = POGEMA_LAYOUT.name

    def __len__(self) -> int:
        return len(self.labels)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are there, by name."""
        names = (f.name for f in fields(self) if f.name != "layout")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def take(self, index: np.ndarray) -> Samples:
        """The samples at ``index``."""
        return Samples(layout=self.layout, **{name: array[index] for name, array in self.arrays().items()})

    @staticmethod
    def concatenate(parts: list[Samples]) -> Samples:
        """All samples of ``parts``, which are of one layout, in order."""
        names = parts[0].arrays()
        together = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return Samples(layout=parts[0].layout, **together)

    def shortest_first(self) -> Samples:
        """Sorted by the number of valid values, so that neighbours need little padding."""
        return self.take(np.argsort(present(self.packed).sum(axis=1), kind="stable"))

    def tensors(self, device: str) -> dict[str, torch.Tensor]:
        """What :class:`marlgpt_training.model.losses.Objective` takes, on ``device``."""

        def to(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array).to(device, non_blocking=True)

        def observation(packed: np.ndarray, allowed: np.ndarray, prefix: str) -> dict[str, torch.Tensor]:
            raw = to(packed)  # one byte per value crosses to the GPU, or two
            exact = raw.dtype == torch.int8
            valid = raw != INVALID if exact else ~raw.isnan()
            mask = torch.zeros(len(packed), MAX_ACTIONS, dtype=torch.bool, device=raw.device)
            mask[:, : allowed.shape[1]] = to(allowed)
            values = (raw.float() / (_SCALE if exact else 1)).masked_fill(~valid, 0.0)
            return {f"{prefix}values": values, f"{prefix}valid": valid, f"{prefix}mask": mask}

        found = {**observation(self.packed, self.masks, ""), "label": to(self.labels)}
        if self.actions is not None:
            found |= observation(self.next_packed, self.next_masks, "next_")
            found |= {
                "action": to(self.actions),
                "reward": to(self.rewards),
                "bootstrap": to(self.bootstraps),
            }
        return found

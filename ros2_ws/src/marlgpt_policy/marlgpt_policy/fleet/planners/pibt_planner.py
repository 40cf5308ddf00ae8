"""PIBT as a planner: every robot wants the move that leads closest to its goal (Okumura et al. 2022)."""

from __future__ import annotations

import numpy as np

from marlgpt_policy.encoders.token_layout import MAX_ACTIONS
from marlgpt_policy.fleet.planners.planner import Proposal
from marlgpt_policy.fleet.snapshot import Snapshot
from marlgpt_policy.grid.cost_to_go import UNREACHABLE
from marlgpt_policy.grid.moves import MOVE_OFFSETS


class PibtPlanner:
    """Ranks moves by cost-to-go; the resolver's priorities do the rest."""

    resolves_deadlocks = False

    def propose(self, snapshot: Snapshot, random: np.random.Generator) -> Proposal:
        """The move with the least cost-to-go, ties broken at random; waiting comes before going away."""
        cells, mask = snapshot.deciding_cells, snapshot.mask[:, :5]
        fields = snapshot.fields[snapshot.which]
        ahead = np.clip(cells[:, None] + MOVE_OFFSETS[None], 0, np.array(fields.shape[1:]) - 1)
        cost = fields[np.arange(len(cells))[:, None], ahead[..., 0], ahead[..., 1]].astype(np.float64)
        cost = np.where(cost >= UNREACHABLE, 1e6, cost) + random.random(cost.shape) * 0.5
        logits = np.full((len(cells), MAX_ACTIONS), -1e9, dtype=np.float32)
        logits[:, :5] = np.where(mask, -cost, -1e9)
        moves = logits[:, :5].argmax(axis=1).astype(np.int8)
        return Proposal(
            moves, logits, np.eye(5, dtype=np.float32)[moves], np.zeros((len(cells), MAX_ACTIONS), np.float32)
        )

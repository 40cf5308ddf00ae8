"""Situations that a soak must have seen: a rule that was never put to the test has not been tested."""

from __future__ import annotations

from collections import Counter

import numpy as np

from marlgpt_sim.soak.drivers import View

NEARBY = 0.3
"""m beside the way of a docking robot that count as beside it."""
SITUATIONS = (
    "docking_beside_another", "stalled_mid_edge_with_queue", "turned_back", "stopped_in_motion",
    "stopped_mid_edge_with_queue", "fleet_stopped_in_motion", "ring_rotation", "three_claims_on_a_cell",
    "closer_than_5_cm", "remedy_firsts", "remedy_plans",
)  # fmt: skip
"""Names of the situations; each is counted once when it begins."""


class Situations:
    """Counts situations in one run.

    Attributes:
        counts: how often each began.
    """

    def __init__(self, radius: float) -> None:
        """For robots of ``radius`` m."""
        self.radius = radius
        self.counts: Counter[str] = Counter()
        self._on: dict[str, np.ndarray] = {}

    def _begin(self, name: str, now: np.ndarray) -> None:
        """Count the robots bool[n] for whom something is so now and was not at the last look."""
        before = self._on.get(name)
        self.counts[name] += int((now if before is None or len(before) != len(now) else now & ~before).sum())
        self._on[name] = now.copy()

    def look(
        self, view: View, poses: np.ndarray, speed: np.ndarray, stalled: np.ndarray, stopped: np.ndarray,
        there: np.ndarray, queue: int,
    ) -> None:  # fmt: skip
        """Look at everybody once.

        Args:
            view: what robots are doing.
            poses: float[n, 3] true poses, m and rad.
            speed: float[n] true m/s.
            stalled: bool[n] robots that stall. ``stopped`` bool[n]: that an operator has stopped.
            stopped: see above.
            there: bool[n] robots in the world.
            queue: most claims on one cell.
        """
        n = len(poses)
        beside = np.zeros(n, bool)
        for d in np.flatnonzero(view.docking & there & (speed > 0.01)).tolist():
            others = there & (np.arange(n) != d)
            beside[d] = (_away(poses[others, :2], poses[d, :2], view.end[d]) < 2 * self.radius + NEARBY).any()
        self._begin("docking_beside_another", beside)
        middle = view.moving & (view.progress > 0.15) & (view.progress < 0.85)
        moving = np.flatnonzero(view.moving)
        follower_of = (view.targets[moving][None] == view.cells[:, None]).all(axis=2).any(axis=1)
        self._begin("stalled_mid_edge_with_queue", stalled & middle & follower_of)
        self._begin("stopped_mid_edge_with_queue", stopped & middle & follower_of)
        self._begin("turned_back", view.returning)
        moved = self._on.get("_fast", np.zeros(n, bool))
        self._begin("stopped_in_motion", stopped & (moved | self._on.get("stopped_in_motion", moved)))
        self._on["_fast"] = speed > 0.1
        whole = np.array([bool(stopped.all())])
        self._begin("fleet_stopped_in_motion", whole & bool(moved.any()) | whole & self._was_stopped())
        self._begin("ring_rotation", np.array([_has_ring(view)]))
        self._begin("three_claims_on_a_cell", np.array([queue >= 3]))

    def _was_stopped(self) -> bool:
        return bool(self._on.get("fleet_stopped_in_motion", np.zeros(1, bool))[0])


def _away(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """float[m] m from points float[m, 2] to the segment from start to end."""
    span = end - start
    share = np.clip(((points - start) @ span) / max(float(span @ span), 1e-12), 0.0, 1.0)
    return np.hypot(*(points - start - share[:, None] * span).T)


def _has_ring(view: View) -> bool:
    """Whether four or more robots drive round, each into the cell that the next one leaves."""
    moving = np.flatnonzero(view.moving).tolist()
    leaves = {tuple(view.cells[i].tolist()): i for i in moving}
    next_of = {i: leaves.get(tuple(view.targets[i].tolist())) for i in moving}
    done: set[int] = set()
    for first in moving:
        i, seen = first, {}
        while i is not None and i not in done and i not in seen:
            seen[i] = len(seen)
            i = next_of.get(i)
        if i in seen and len(seen) - seen[i] >= 4:
            return True
        done |= seen.keys()
    return False

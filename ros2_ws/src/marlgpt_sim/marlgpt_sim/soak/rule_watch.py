"""Rules of the argument in docs/motion.md, watched in every period with geometry of the soak's own.

A rule that others cover for is broken long before two robots touch: its breach fails the run by itself.
"""

from __future__ import annotations

import numpy as np
from marlgpt_policy.fleet.fleet import Fleet

TRACKING = 0.01
"""m of the reserve that is not for pose errors (docs/motion.md)."""


class SettlingWatch:
    """Watches that an edge ends only where everybody ahead keeps its distance from the cell that is reached."""

    def __init__(self, fleet: Fleet, radius: float, pose_error: float) -> None:
        """Watch a fleet of robots of ``radius`` m whose poses are up to ``pose_error`` m off."""
        self.fleet = fleet
        self.body = 2 * (radius + pose_error) + TRACKING
        self._before = self._state()

    def look(self) -> list[str]:
        """What is wrong after a control period; call it before the next poses come."""
        fleet, (docked, cells, targets) = self.fleet, self._before
        self._before = self._state()
        n = min(len(docked), len(fleet))
        arrived = docked[:n] & fleet.docked[:n] & (fleet.cells[:n] != cells[:n]).any(axis=1)
        # Who has just turned back has changed cells, too.
        arrived &= (fleet.cells[:n] == targets[:n]).all(axis=1) & ~fleet.returning[:n]
        breaches = []
        for i in np.flatnonzero(arrived).tolist():
            centre = fleet.grid.centre(fleet.cells[i])
            queue = fleet.reservations.queue(fleet.cells[i])
            for j in queue[: queue.index(i)] if i in queue else []:
                gap = self._gap(j, fleet.cells[i], centre)
                if gap < self.body - 1e-6:
                    breaches.append(
                        f"{fleet.names[i]} ended its edge although {fleet.names[j]} has still to pass "
                        f"{1e3 * gap:.0f} mm from that cell's centre; {1e3 * self.body:.0f} mm must be free"
                    )
        return breaches

    def _state(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        fleet = self.fleet
        return fleet.docked.copy(), fleet.cells.copy(), fleet.targets.copy()

    def _gap(self, j: int, cell: np.ndarray, centre: np.ndarray) -> float:
        """Metres between a cell's centre and the way that robot ``j`` has still to drive; 0 where that is not known."""
        fleet = self.fleet
        if not fleet.docked[j] or (fleet.cells[j] != cell).any():
            return 0.0
        here, end = fleet.poses[j, :2], fleet.grid.centre(fleet.targets[j])
        span = end - here
        share = np.clip((centre - here) @ span / max(float(span @ span), 1e-12), 0.0, 1.0)
        return float(np.hypot(*(here + share * span - centre)))

"""The distances that keep robots apart, added up in one place.

Cells of edge c leave two robots of radius r that turn behind each other c / sqrt(2) - 2 r: the *spare*. It is split:

- the *reserve* is what coupled robots keep between their discs as measured. Errors eat it: the position error of each
  of the two robots, and what a robot overshoots a limit of its motion by (``TRACKING_ERROR``);
- the rest (``PASSING`` at least) is what a ring of robots needs to be able to turn at all.

Nothing else may eat from it. A robot within the arrival tolerance of a cell's centre counts as there only if nobody
limits it, and distances are taken from where robots are measured, not from the centres that they should be at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

TRACKING_ERROR = 0.01
"""m by which a robot at most passes a limit of its motion: braking, one period of delay, creeping."""
PASSING = 0.01
"""m that must be left beside the reserve, or robots that follow each other round a corner never get on."""
SHARE = 0.5
"""Share of the spare that is the reserve where nobody says how far off poses are."""
ROUNDING = 1e-9
"""m; sums that differ by less are equal."""


@dataclass(frozen=True)
class SafetyMargins:
    """What the cells of a grid leave for errors, all in m.

    Attributes:
        spare: Room between two robots that turn behind each other.
        reserve: Gap that coupled robots keep as measured.
        body: Distance between the centres of two coupled robots: two radii and the reserve.
        pose_error: Bound on each robot's position error up to which no two robots touch.
    """

    spare: float
    reserve: float
    body: float
    pose_error: float

    @classmethod
    def of(cls, cell_size: float, radius: float, pose_error: float | None = None) -> SafetyMargins:
        """Split the room that cells of ``cell_size`` m leave between robots of ``radius`` m.

        Args:
            cell_size: Edge of a cell, m.
            radius: Of the largest robot, m.
            pose_error: Bound on each robot's position error, m; None takes what fits into half of the room.

        Raises:
            ValueError: The cells are too small; the message says how large they or the margin must be.
        """
        spare = cell_size / math.sqrt(2) - 2 * radius
        least = 2 * (pose_error or 0.0) + TRACKING_ERROR
        if spare < least + PASSING - ROUNDING:
            margin = smallest_margin(pose_error or 0.0)
            needed = 2 * math.sqrt(2) * radius + margin
            errors = "" if pose_error is None else f" whose poses are up to {pose_error} m off"
            raise ValueError(
                f"robots of radius {radius} m{errors} need cells of at least {needed:.3f} m "
                f"(a margin of {margin:.3f} m), the grid's are {cell_size:.3f} m: "
                "make margin or cell_size larger, or pose_error smaller"
            )
        reserve = SHARE * spare if pose_error is None else least
        return cls(spare, reserve, 2 * radius + reserve, (reserve - TRACKING_ERROR) / 2)


def smallest_margin(pose_error: float) -> float:
    """Smallest ``margin`` m of :func:`marlgpt_policy.grid.nav_grid.build_grid` for poses up to ``pose_error`` m off."""
    return math.sqrt(2) * (2 * pose_error + TRACKING_ERROR + PASSING)

"""The floor that a fleet drives on: its cells, who holds them, the ways between them, and the room that robots keep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marlgpt_policy.grid.cost_to_go import CostToGo
from marlgpt_policy.grid.distance_field import DistanceField
from marlgpt_policy.grid.nav_grid import NavGrid
from marlgpt_policy.motion.reservations import Reservations
from marlgpt_policy.motion.safety_margins import SafetyMargins


@dataclass(frozen=True)
class Floor:
    """Everything about one map that planning and motion share; a new map is a new floor.

    Attributes:
        grid: The cells.
        costs: Cost-to-go on them.
        reservations: Claims on them.
        distances: Clearance of the map; None where robots must start on cells' centres.
        margins: Distances between robots, m.
        radius: Of the largest robot, m.
        tolerance: Distance from a cell's centre that counts as there, m.
        pose_error: Bound on each robot's position error, m, as far as somebody has said it; 0 otherwise.
    """

    grid: NavGrid
    costs: CostToGo
    reservations: Reservations
    distances: DistanceField | None
    margins: SafetyMargins
    radius: float
    tolerance: float
    pose_error: float = 0.0

    @staticmethod
    def of(
        grid: NavGrid,
        distances: DistanceField | None,
        radius: float,
        pose_error: float | None,
        tolerance: float,
    ) -> Floor:
        """A floor on which nobody holds a cell.

        Args:
            grid: The cells.
            distances: Clearance of the map, or None.
            radius: Of the largest robot, m.
            pose_error: Bound on each robot's position error, m; None takes what fits.
            tolerance: Distance from a cell's centre that counts as there, m.

        Raises:
            ValueError: The cells are too small for such robots.
        """
        margins = SafetyMargins.of(grid.cell_size, radius, pose_error)
        return Floor(
            grid,
            CostToGo(grid.moves),
            Reservations(grid.free.shape),
            distances,
            margins,
            radius,
            tolerance,
            pose_error or 0.0,
        )

    @property
    def size(self) -> float:
        """Edge of a cell, m."""
        return self.grid.cell_size

    def centre(self, cells: np.ndarray) -> np.ndarray:
        """float64[..., 2] centres of ``cells`` int[..., 2], m."""
        return self.grid.centre(cells)

"""Floors with margins of a test's own choice."""

from marlgpt_policy.grid.cost_to_go import CostToGo
from marlgpt_policy.motion.floor import Floor
from marlgpt_policy.motion.reservations import Reservations
from marlgpt_policy.motion.safety_margins import SafetyMargins


def floor(grid, body, tolerance, distances=None, radius=0.22):
    """A floor whose coupled robots keep ``body`` m between their centres; nobody holds a cell."""
    margins = SafetyMargins(body - 2 * radius, body - 2 * radius, body, 0.0)
    return Floor(
        grid, CostToGo(grid.moves), Reservations(grid.free.shape), distances, margins, radius, tolerance
    )

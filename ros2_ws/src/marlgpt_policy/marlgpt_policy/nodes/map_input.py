"""One place where an OccupancyGrid message becomes a grid, for the fleet node and the robot node."""

from __future__ import annotations

from dataclasses import dataclass

from nav_msgs.msg import OccupancyGrid

from marlgpt_policy.grid.distance_field import DistanceField
from marlgpt_policy.grid.nav_grid import NavGrid, build_grid
from marlgpt_policy.grid.occupancy_map import from_occupancy_grid
from marlgpt_policy.nodes.messages import message_checks
from marlgpt_policy.nodes.parameters import Settings


@dataclass(frozen=True)
class MapInput:
    """What a map message says.

    Attributes:
        grid: Cells and moves.
        distances: Metres from any place to the nearest wall.
    """

    grid: NavGrid
    distances: DistanceField


def map_digest(message: OccupancyGrid, settings: Settings) -> bytes:
    """Digest of a map; equal ones are the same map sent again.

    Raises:
        ValueError: Another frame than ``map_frame``, more pixels than ``max_map_pixels``, or numbers out of range.
    """
    message_checks.check_map(message, settings.map_frame, settings.max_map_pixels)
    return message_checks.map_digest(message)


def read_map(message: OccupancyGrid, settings: Settings) -> MapInput:
    """Grid and distances of a map that :func:`map_digest` has let pass; may take seconds.

    Raises:
        ValueError: No grid can be made of it with these radius, margin and cell size.
    """
    map = from_occupancy_grid(message)
    grid = build_grid(
        map, settings.radius, settings.margin, settings.cell_size or None, settings.unknown_is_free
    )
    return MapInput(grid, DistanceField(map, settings.unknown_is_free))


def refusal(error: ValueError) -> str:
    """What the log says of a map that is refused."""
    return f"map refused: {error}"

"""What RViz shows of the fleet."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from marlgpt_policy.fleet.fleet import Fleet
from marlgpt_policy.robots.robot_config import Status

NAMESPACES = ("reserved", "moves", "goals", "vetoes", "robots", "stopped", "lost")
"""Of the markers; each can be switched off in RViz."""
STOPPED = {Status.STOPPED}
LOST = {Status.STALE, Status.OFF_GRID, Status.JUMPED}


def markers(fleet: Fleet, vetoed: set[int], header: Header, now: float) -> MarkerArray:
    """Held cells, moves, lines to the goals, vetoes, robots, and those that are stopped or lost; in the map frame.

    Args:
        fleet: Its present state.
        vetoed: Robots whose proposals were changed since the last markers.
        header: Of every marker.
        now: Time for the robots' status, s.
    """
    size, centre = float(fleet.grid.cell_size), fleet.grid.centre
    on = fleet.cells[:, 0] >= 0
    moving = np.flatnonzero(on & (fleet.cells != fleet.targets).any(axis=1))
    further = np.flatnonzero(fleet.next_targets[:, 0] >= 0)
    ways = np.concatenate([
        np.stack([fleet.cells[moving], fleet.targets[moving]], 1),
        np.stack([fleet.targets[further], fleet.next_targets[further]], 1),
    ])  # fmt: skip
    heading = np.flatnonzero(on & (fleet.goals[:, 0] >= 0))
    to_goals = np.stack([fleet.cells[heading], fleet.goals[heading]], 1)
    status = [status for status, _ in fleet.statuses(now)]
    seen = np.flatnonzero(np.isfinite(fleet.poses[:, 0]) & ~fleet.removed)
    body = 2 * float(fleet.radius)

    def where(kinds: set[Status]) -> np.ndarray:
        return fleet.poses[[i for i in seen if status[i] in kinds], :2]

    shapes = {  # type, scale in m, height in m, colour, points in m
        "reserved": (
            Marker.CUBE_LIST, 0.9 * size, 0.01, (0.2, 0.5, 1.0, 0.25),
            centre(np.argwhere(fleet.reservations.holder >= 0)),
        ),
        "moves": (Marker.LINE_LIST, 0.06, 0.05, (0.1, 0.8, 0.3, 1.0), centre(ways.reshape(-1, 2))),
        "goals": (Marker.LINE_LIST, 0.02, 0.03, (1.0, 0.6, 0.0, 0.6), centre(to_goals.reshape(-1, 2))),
        "vetoes": (
            Marker.SPHERE_LIST, 0.3 * size, 0.2, (1.0, 0.1, 0.1, 0.8),
            centre(fleet.cells[[i for i in sorted(vetoed) if on[i]]]),
        ),
        "robots": (Marker.SPHERE_LIST, body, 0.1, (0.3, 0.3, 0.35, 0.9), fleet.poses[seen, :2]),
        "stopped": (Marker.CUBE_LIST, body, 0.15, (0.9, 0.1, 0.1, 0.6), where(STOPPED)),
        "lost": (Marker.CUBE_LIST, body, 0.15, (0.9, 0.0, 0.9, 0.6), where(LOST)),
    }  # fmt: skip
    made = []
    for index, name in enumerate(NAMESPACES):
        kind, scale, height, (r, g, b, a), points = shapes[name]
        marker = Marker(header=header, ns=name, id=index, type=kind, color=ColorRGBA(r=r, g=g, b=b, a=a))
        marker.scale.x, marker.scale.y = scale, scale
        marker.scale.z = scale if kind == Marker.SPHERE_LIST else 0.02
        marker.pose.orientation.w = 1.0
        marker.points = [Point(x=x, y=y, z=height) for x, y in points.tolist()]
        # RViz complains about lists without points; removing what is not there is silent.
        marker.action = Marker.ADD if marker.points else Marker.DELETE
        made.append(marker)
    return MarkerArray(markers=made)

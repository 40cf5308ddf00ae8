"""Checks of what comes in from outside, before anything is computed from it."""

from __future__ import annotations

import hashlib
import math

from geometry_msgs.msg import Point, Pose, Vector3
from nav_msgs.msg import OccupancyGrid

from marlgpt_policy.grid.geometry import yaw_of
from marlgpt_policy.grid.occupancy_map import FARTHEST, RESOLUTIONS
from marlgpt_policy.nodes.event_log import short


def check_frame(frame: str, map_frame: str) -> None:
    """Raise ``ValueError`` unless ``frame`` is empty or the map's."""
    if frame not in ("", map_frame):
        raise ValueError(f"its frame is '{short(frame)}', parameter map_frame is '{map_frame}'")


def position(pose: Pose) -> tuple[float, float]:
    """(x, y) of a pose in m; ``ValueError`` if it is not finite or beyond ``FARTHEST``."""
    return coordinates(pose.position)


def coordinates(place: Point | Vector3) -> tuple[float, float]:
    """(x, y) of a place in m; ``ValueError`` if it is not finite or beyond ``FARTHEST``."""
    return on_earth(place.x, place.y)


def on_earth(x: float, y: float) -> tuple[float, float]:
    """(x, y) in m as they are; ``ValueError`` if they are not finite or beyond ``FARTHEST``."""
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"position is not finite: ({x}, {y})")
    if max(abs(x), abs(y)) > FARTHEST:
        raise ValueError(f"position ({x:.3g}, {y:.3g}) is more than {FARTHEST:.0f} m away")
    return x, y


def planar(pose: Pose) -> tuple[float, float, float]:
    """(x, y, yaw) of a pose in m and rad.

    Raises:
        ValueError: The position or the quaternion is not finite, the position is too far away, or the quaternion has
            no length.
    """
    x, y = position(pose)
    q = pose.orientation
    return x, y, yaw_of((q.x, q.y, q.z, q.w))


def check_map(message: OccupancyGrid, map_frame: str, most_pixels: int) -> None:
    """Refuse a map by its header, before its pixels are looked at.

    Raises:
        ValueError: Another frame, more than ``most_pixels``, or a resolution or origin out of range.
    """
    check_frame(message.header.frame_id, map_frame)
    info = message.info
    if info.width * info.height > most_pixels:
        raise ValueError(
            f"it has {info.width} x {info.height} pixels, parameter max_map_pixels is {most_pixels}"
        )
    low, high = RESOLUTIONS
    if not low <= info.resolution <= high:  # NaN fails as well
        raise ValueError(f"its resolution is {info.resolution:g} m; it must be {low:g} to {high:g}")
    try:
        position(info.origin)
    except ValueError as error:
        raise ValueError(f"its origin: {error}") from error


def map_digest(message: OccupancyGrid) -> bytes:
    """Hash of what the map says; the same map sent again, whenever, has the same."""
    info = message.info
    q, p = info.origin.orientation, info.origin.position
    geometry = (info.width, info.height, info.resolution, p.x, p.y, q.x, q.y, q.z, q.w)
    return hashlib.sha256(repr(geometry).encode() + memoryview(message.data).tobytes()).digest()

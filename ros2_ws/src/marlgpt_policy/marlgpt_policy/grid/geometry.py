"""Planar geometry: yaw, tilt (by transforms3d) and quaternions, rotation of points, wrapping of angles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from transforms3d.quaternions import quat2mat

SMALLEST_NORM = 1e-6
"""A quaternion shorter than this holds no direction worth trusting (usually a message left at zero)."""

NO_DIRECTION = "has no direction; the identity is (0, 0, 0, 1)"


def wrap_angle(angle: float | np.ndarray) -> float | np.ndarray:
    """Return `angle` (rad, any shape) moved into [-pi, pi)."""
    return (angle + math.pi) % (2.0 * math.pi) - math.pi


def rotate(xy: np.ndarray, yaw: float) -> np.ndarray:
    """Return float64[..., 2], the vectors `xy` turned counter-clockwise by `yaw` rad."""
    xy = np.asarray(xy, dtype=np.float64)
    cosine, sine = math.cos(yaw), math.sin(yaw)
    x, y = xy[..., 0], xy[..., 1]
    return np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=-1)


def _rotation_of(quaternion: Sequence[float] | np.ndarray) -> np.ndarray:
    xyzw = np.asarray(quaternion, dtype=np.float64)
    if xyzw.shape != (4,):
        raise ValueError(f"a quaternion has four numbers (x, y, z, w), got shape {list(xyzw.shape)}")
    if not np.all(np.isfinite(xyzw)):
        raise ValueError(f"quaternion (x, y, z, w) = {xyzw.tolist()} is not finite")
    largest = np.abs(xyzw).max()
    if largest < SMALLEST_NORM:
        raise ValueError(f"quaternion (x, y, z, w) = {xyzw.tolist()} {NO_DIRECTION}")
    xyzw = xyzw / largest  # so that squares neither overflow nor vanish inside transforms3d
    return quat2mat(xyzw[[3, 0, 1, 2]])


def yaw_of(quaternion: Sequence[float] | np.ndarray) -> float:
    """Return the rotation about z in rad, in (-pi, pi], of a quaternion in ROS order (x, y, z, w).

    The quaternion need not have unit norm. Roll and pitch are ignored; see `tilt_of`.

    Raises:
        ValueError: if there are not four numbers, one is not finite, or the norm is (almost) zero.
    """
    if len(quaternion) != 4:
        raise ValueError(f"a quaternion has four numbers (x, y, z, w), got {len(quaternion)}")
    x, y, z, w = map(float, quaternion)
    largest = max(abs(x), abs(y), abs(z), abs(w))
    if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z) and math.isfinite(w)):
        raise ValueError(f"quaternion (x, y, z, w) = {[x, y, z, w]} is not finite")
    if largest < SMALLEST_NORM:
        raise ValueError(f"quaternion (x, y, z, w) = {[x, y, z, w]} {NO_DIRECTION}")
    # As in transforms3d, which takes fifteen times as long: poses come by the thousand per second.
    x, y, z, w = x / largest, y / largest, z / largest, w / largest
    twice = 2.0 / (w * w + x * x + y * y + z * z)
    return math.atan2(x * (y * twice) + w * (z * twice), 1.0 - (y * (y * twice) + z * (z * twice)))


def tilt_of(quaternion: Sequence[float] | np.ndarray) -> float:
    """Return the angle in rad, in [0, pi], between the rotated z axis and z; 0 for a planar pose.

    Raises:
        ValueError: as `yaw_of`.
    """
    rotation = _rotation_of(quaternion)
    return math.atan2(math.hypot(rotation[0, 2], rotation[1, 2]), rotation[2, 2])


def quaternion_of(yaw: float) -> tuple[float, float, float, float]:
    """Return the unit quaternion (x, y, z, w) of a rotation about z by `yaw` rad.

    Raises:
        ValueError: if `yaw` is not finite.
    """
    if not math.isfinite(yaw):
        raise ValueError(f"yaw must be finite, got {yaw}")
    return 0.0, 0.0, math.sin(0.5 * yaw), math.cos(0.5 * yaw)


def along_ways(positions: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far along straight ways positions lie.

    Args:
        positions: float64[n, 2] m.
        starts: float64[n, 2] m, where the ways begin.
        ends: float64[n, 2] m, where they end.

    Returns:
        float64[n] m along each way, and float64[n] m its length, never quite 0.
    """
    span = ends - starts
    length = np.maximum(np.hypot(span[:, 0], span[:, 1]), 1e-6)
    return ((positions - starts) * span).sum(axis=1) / length, length


def distance_to_segment(points: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """float[...] distance from points float[..., 2] to segments from ``starts`` to ``ends`` float[..., 2]."""
    span = ends - starts
    length = np.maximum((span**2).sum(axis=-1), 1e-12)
    along = np.clip(((points - starts) * span).sum(axis=-1) / length, 0, 1)
    return np.hypot(*np.moveaxis(points - starts - along[..., None] * span, -1, 0))

"""Planar geometry: yaw and quaternions (by transforms3d), rotation of points, wrapping of angles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from transforms3d.euler import euler2quat
from transforms3d.quaternions import quat2mat

SMALLEST_NORM = 1e-6
"""A quaternion shorter than this holds no direction worth trusting (usually a message left at zero)."""


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
        raise ValueError(
            f"quaternion (x, y, z, w) = {xyzw.tolist()} has no direction; the identity is (0, 0, 0, 1)"
        )
    xyzw = xyzw / largest  # so that squares neither overflow nor vanish inside transforms3d
    return quat2mat(xyzw[[3, 0, 1, 2]])


def yaw_of(quaternion: Sequence[float] | np.ndarray) -> float:
    """Return the rotation about z in rad, in (-pi, pi], of a quaternion in ROS order (x, y, z, w).

    The quaternion need not have unit norm. Roll and pitch are ignored; see `tilt_of`.

    Raises:
        ValueError: if there are not four numbers, one is not finite, or the norm is (almost) zero.
    """
    rotation = _rotation_of(quaternion)
    return math.atan2(rotation[1, 0], rotation[0, 0])


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
    w, x, y, z = euler2quat(0.0, 0.0, yaw, axes="sxyz")
    return float(x), float(y), float(z), float(w)

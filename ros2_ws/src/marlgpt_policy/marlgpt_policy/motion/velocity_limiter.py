"""The last thing that happens to a command: no value out of the robot's limits leaves the fleet."""

from __future__ import annotations

import numpy as np


def limit(
    commands: np.ndarray, last: np.ndarray, limits: np.ndarray, dt: float, stop: np.ndarray
) -> np.ndarray:
    """Commands within the limits of speed, yaw rate and their change in one period.

    A command that is not finite counts as zero. A robot in ``stop`` gets zero at once: braking is left to its base,
    which knows how hard it can.

    Args:
        commands: float[n, 3] wanted (vx, vy, wz), body frame, m/s and rad/s.
        last: float[n, 3] the last ones; not finite counts as standing.
        limits: float[n, 4] rows of ``MotionLimits.as_row``: speed, yaw rate, acceleration, yaw acceleration.
        dt: Control period, s.
        stop: bool[n] robots that must stand.

    Returns:
        float64[n, 3].
    """
    wanted = np.where(np.isfinite(commands).all(axis=1, keepdims=True), commands, 0.0)
    last = within(np.where(np.isfinite(last).all(axis=1, keepdims=True), last, 0.0), limits)
    wanted = within(wanted, limits)
    change = wanted - last
    size = np.hypot(change[:, 0], change[:, 1])
    share = np.minimum(1.0, limits[:, 2] * dt / np.maximum(size, 1e-12))
    # Between two velocities within the limit of speed, hence within it too.
    wanted[:, :2] = last[:, :2] + change[:, :2] * share[:, None]
    wanted[:, 2] = last[:, 2] + np.clip(change[:, 2], -limits[:, 3] * dt, limits[:, 3] * dt)
    wanted[stop] = 0.0
    return wanted


def within(commands: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """The commands float[n, 3], scaled down to the speed and clipped to the yaw rate of ``limits`` float[n, 4]."""
    commands = np.array(commands, dtype=np.float64)
    biggest = np.abs(commands[:, :2]).max(axis=1, initial=0.0)
    scale = np.where(biggest > 1e6, 1e6 / np.maximum(biggest, 1.0), 1.0)  # so that squares below stay finite
    commands[:, :2] *= scale[:, None]
    speed = np.hypot(commands[:, 0], commands[:, 1])
    commands[:, :2] *= np.minimum(1.0, limits[:, 0] / np.maximum(speed, 1e-12))[:, None]
    commands[:, 2] = np.clip(commands[:, 2], -limits[:, 1], limits[:, 1])
    return commands

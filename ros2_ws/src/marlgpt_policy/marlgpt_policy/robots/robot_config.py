"""What a robot is: its body, its drive, the limits of its motion, and what it may be doing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np


def check_positive(config: object, *names: str) -> None:
    """Raise ``ValueError`` that names the first of the attributes ``names`` of ``config`` that is not above zero."""
    for name in names:
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive number of seconds or metres, got {value!r}")


class Drive(IntEnum):
    """How a robot's base moves."""

    DIFFERENTIAL = 0
    HOLONOMIC = 1


@dataclass(frozen=True)
class MotionLimits:
    """What a robot's base can do; every value above zero."""

    max_speed: float = 0.5
    """m/s."""
    max_yaw_rate: float = 2.0
    """rad/s."""
    max_acceleration: float = 2.5
    """m/s^2, also for braking."""
    max_yaw_acceleration: float = 3.5
    """rad/s^2, also for braking."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: naming the first value that is not a positive finite number.
        """
        for name, value in vars(self).items():
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0.0):
                raise ValueError(f"{name} must be a positive number, got {value!r}")

    def as_row(self) -> np.ndarray:
        """Return float64[4], one row of `track`'s `limits`, in the order of the fields."""
        values = (self.max_speed, self.max_yaw_rate, self.max_acceleration, self.max_yaw_acceleration)
        return np.array(values, dtype=np.float64)


class Status(IntEnum):
    """What a robot is doing; the values of ``marlgpt_msgs/RobotState``."""

    NO_POSE = 0
    IDLE = 1
    WAITING = 2
    MOVING = 3
    STALE = 4
    STOPPED = 5
    OFF_GRID = 6
    DOCKING = 7
    JUMPED = 8
    REMOVED = 9


@dataclass(frozen=True)
class RobotConfig:
    """One robot's body.

    Attributes:
        name: Unique name, also its topic prefix.
        radius: Radius of the disc that contains it, m.
        drive: Differential or holonomic.
        limits: Speeds and accelerations it may be commanded.
    """

    name: str
    radius: float = 0.22
    drive: Drive = Drive.DIFFERENTIAL
    limits: MotionLimits = field(default_factory=MotionLimits)

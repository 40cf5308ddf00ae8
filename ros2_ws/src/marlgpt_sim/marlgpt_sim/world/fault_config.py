"""What can go wrong with a simulated fleet, how often, how long and how badly."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

KINDS: dict[str, tuple[str, ...]] = {
    "pose_dropout": (),
    "pose_delay": ("lag",),
    "pose_jump": ("x", "y", "yaw"),
    "pose_noise": ("xy", "yaw"),
    "pose_bias": ("x", "y"),
    "pose_duplicate": ("lag",),
    "pose_reorder": ("share", "lag"),
    "cmd_loss": (),
    "cmd_duplicate": ("lag",),
    "cmd_reorder": ("share", "lag"),
    "stall": (),
    "slip": ("share", "yaw"),
    "slow": ("factor",),
    "push": ("x", "y", "yaw"),
    "removal": (),
    "join": (),
    "clock_jump": ("seconds",),
}
"""The kinds of faults and the names of their magnitudes: metres, radians (of slip: rad per metre), seconds,
or shares of 1; x and y are in the map frame."""


def _rate(what: str, per: str = "robot and hour") -> Any:
    text = f"{what}: faults per {per} of simulated time; 0: none."
    return field(default=0.0, metadata={"doc": text, "low": 0.0, "high": 1e6})


def _range(low: float, high: float, what: str, limit: float = 1e6) -> Any:
    text = f"{what}: least and most, drawn evenly."
    return field(default=(low, high), metadata={"doc": text, "low": 0.0, "high": limit})


def _metres(default: float, what: str) -> Any:
    return field(default=default, metadata={"doc": what, "low": 0.0, "high": 100.0})


@dataclass(frozen=True)
class FaultConfig:
    """Rates, durations and magnitudes of all kinds of faults; every field carries its own sentence.

    A rate is a number, the mean of a Poisson process. A duration or magnitude is a pair, least and most, from
    which each fault draws evenly; signs and directions are random.

    Raises:
        ValueError: naming the field that is not a number or pair within its bounds.
    """

    pose_dropout_rate: float = _rate("No pose arrives")
    pose_dropout_duration: tuple[float, float] = _range(0.2, 3.0, "Seconds without poses")
    pose_delay_rate: float = _rate("Poses arrive late, in order")
    pose_delay_duration: tuple[float, float] = _range(2.0, 10.0, "Seconds in which poses are late")
    pose_delay_lag: tuple[float, float] = _range(0.1, 0.6, "Seconds by which they are late")
    pose_jump_rate: float = _rate(
        "Measured poses are off, then right again: half of them in place, half in yaw"
    )
    pose_jump_duration: tuple[float, float] = _range(0.2, 3.0, "Seconds until they are right again")
    pose_jump_xy: tuple[float, float] = _range(0.3, 2.0, "Metres by which they are off")
    pose_jump_yaw: tuple[float, float] = _range(0.3, 3.1, "Radians by which they are off")
    pose_noise_rate: float = _rate("Measured poses are noisy")
    pose_noise_duration: tuple[float, float] = _range(2.0, 20.0, "Seconds of noise")
    pose_noise_xy: tuple[float, float] = _range(0.002, 0.01, "Largest error in x and in y, m")
    pose_noise_yaw: tuple[float, float] = _range(0.005, 0.02, "Largest error in yaw, rad")
    pose_bias_rate: float = _rate("Measured poses drift away and back")
    pose_bias_duration: tuple[float, float] = _range(30.0, 120.0, "Seconds of the drift and return")
    pose_bias_xy: tuple[float, float] = _range(0.005, 0.02, "Largest distance of the drift, m")
    pose_duplicate_rate: float = _rate("Every pose arrives a second time")
    pose_duplicate_duration: tuple[float, float] = _range(1.0, 5.0, "Seconds of double poses")
    pose_duplicate_lag: tuple[float, float] = _range(0.05, 0.3, "Seconds until the second time")
    pose_reorder_rate: float = _rate("Some poses arrive after newer ones")
    pose_reorder_duration: tuple[float, float] = _range(1.0, 5.0, "Seconds of disorder")
    pose_reorder_share: tuple[float, float] = _range(0.1, 0.5, "Share of the poses that are late", 1.0)
    pose_reorder_lag: tuple[float, float] = _range(0.06, 0.3, "Seconds by which they are late")
    cmd_loss_rate: float = _rate("No command arrives; the base stops by itself after its timeout")
    cmd_loss_duration: tuple[float, float] = _range(0.1, 2.0, "Seconds without commands")
    cmd_duplicate_rate: float = _rate("Every command arrives, and is obeyed, a second time")
    cmd_duplicate_duration: tuple[float, float] = _range(1.0, 5.0, "Seconds of double commands")
    cmd_duplicate_lag: tuple[float, float] = _range(0.02, 0.15, "Seconds until the second time")
    cmd_reorder_rate: float = _rate("Some commands arrive, and are obeyed, after newer ones")
    cmd_reorder_duration: tuple[float, float] = _range(1.0, 5.0, "Seconds of disorder")
    cmd_reorder_share: tuple[float, float] = _range(0.1, 0.5, "Share of the commands that are late", 1.0)
    cmd_reorder_lag: tuple[float, float] = _range(0.06, 0.15, "Seconds by which they are late")
    stall_rate: float = _rate("A robot brakes and stands, whatever is commanded")
    stall_duration: tuple[float, float] = _range(1.0, 10.0, "Seconds for which it stands")
    slip_rate: float = _rate("A robot moves only a share of its command along its way, and turns a little")
    slip_duration: tuple[float, float] = _range(1.0, 10.0, "Seconds for which it slips")
    slip_share: tuple[float, float] = _range(0.3, 0.9, "Share of the commanded speed", 1.0)
    slip_yaw: tuple[float, float] = _range(0.0, 0.3, "Radians turned per commanded metre, left or right")
    slow_rate: float = _rate("A robot runs at a fraction of its commands")
    slow_duration: tuple[float, float] = _range(5.0, 30.0, "Seconds for which it is slow")
    slow_factor: tuple[float, float] = _range(0.3, 0.8, "The fraction", 1.0)
    push_rate: float = _rate("An outside force displaces a robot, short of walls and other robots")
    push_duration: tuple[float, float] = _range(0.7, 1.3, "Seconds that a push lasts")
    push_distance: tuple[float, float] = _range(0.1, 0.5, "Metres of the push, in any direction")
    push_yaw: tuple[float, float] = _range(0.0, 0.3, "Radians turned by the push, left or right")
    removal_rate: float = _rate("A robot is taken out of the world and comes back elsewhere")
    removal_duration: tuple[float, float] = _range(
        10.0, 60.0, "Seconds until it comes back, if there is room"
    )
    join_rate: float = _rate("A robot that was not there at the start joins", "waiting robot and hour")
    clock_jump_rate: float = _rate("The clock, and all stamps with it, is set back or forward", "hour")
    clock_jump_seconds: tuple[float, float] = _range(0.5, 5.0, "Seconds by which it is set")
    place_gap: float = _metres(1.0, "Metres to other robots that a robot needs to come back or join.")
    place_wall: float = _metres(0.05, "Metres to walls that a robot needs to come back or join.")

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, low, high = getattr(self, entry.name), entry.metadata["low"], entry.metadata["high"]
            pair = isinstance(entry.default, tuple)
            numbers = tuple(float(v) for v in value) if pair else (float(value),)
            good = len(numbers) == 1 + pair and numbers == tuple(sorted(numbers))
            if not good or not all(math.isfinite(v) and low <= v <= high for v in numbers):
                wanted = "two numbers, least and most," if pair else "a number"
                raise ValueError(f"{entry.name} must be {wanted} from {low:g} to {high:g}, got {value!r}")
            object.__setattr__(self, entry.name, numbers if pair else numbers[0])

    @property
    def enabled(self) -> bool:
        """Whether any kind of fault has a rate above zero."""
        return any(self.rate(kind) > 0.0 for kind in KINDS)

    def rate(self, kind: str) -> float:
        """Faults of one kind per hour (and robot), see the fields."""
        return getattr(self, f"{kind}_rate")

    def range_of(self, kind: str, what: str) -> tuple[float, float]:
        """Least and most of a duration or magnitude of one kind, such as ("slip", "share")."""
        return getattr(self, f"{kind}_{what}")

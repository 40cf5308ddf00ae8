"""The keys of ``robots.yaml``: one table that gives each its default, its check and its template.

A check takes the key and the value that YAML gave and returns what the program uses; it raises ``ValueError`` with
key, value and what would be right. :mod:`marlgpt_policy.robots.robots_file` adds file and robot.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from marlgpt_policy.robots.robot_config import Drive, MotionLimits

LONGEST_NAME = 64
"""Characters of a robot's name."""
LONGEST_TOPIC = 200
"""Characters of a topic or frame; DDS cuts off at 255, and a namespace comes before it."""
FARTHEST = 1e6
"""Metres from the frame's origin beyond which a coordinate is a mistake."""
POSE_SOURCES = ("odom", "pose", "pose_stamped", "tf")
DRIVES = {"differential": Drive.DIFFERENTIAL, "holonomic": Drive.HOLONOMIC}
TEMPLATE = "{name}"
"""What stands for the robot's name in topics and frames."""
LIMITS = {
    "max_speed": (0.01, 20.0, "m/s"),
    "max_yaw_rate": (0.01, 50.0, "rad/s"),
    "max_acceleration": (0.01, 100.0, "m/s^2"),
    "max_yaw_acceleration": (0.01, 500.0, "rad/s^2"),
}
"""Lowest and highest value of each limit, and its unit."""
_TOPIC = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*\Z")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
_short.maxlevel, _short.maxlist, _short.maxdict = 2, 4, 3


def shown(value: object) -> str:
    """A value as it may stand in a message: short, whatever it is."""
    return "empty" if value is None else _short.repr(value)


@dataclass(frozen=True)
class Key:
    """One key: default, check, and whether ``{name}`` in it is filled in."""

    default: Any
    check: Callable[[str, Any], Any]
    template: bool = False


def check_name(name: Any) -> str:
    """Return a robot's name.

    Raises:
        ValueError: It cannot be the prefix of ROS topics, or is too long, or taken by the fleet.
    """
    if not isinstance(name, str):
        raise ValueError(f"name is {shown(name)}, which YAML does not read as text; put it in quotes")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"robot name '{name[:LONGEST_NAME]}...' is longer than {LONGEST_NAME} characters")
    if not _NAME.match(name) or "__" in name:
        raise ValueError(
            f"robot name '{name}' is not a ROS name: letters, digits and single '_', not a digit first"
        )
    if name == "fleet":
        raise ValueError("robot name 'fleet' is taken by the topics of the whole fleet")
    return name


def check_number(key: str, value: Any, low: float, high: float, unit: str) -> float:
    """Return a finite number within ``low`` to ``high``; ``ValueError`` otherwise."""
    wanted = f"it must be a number of {low:g} to {high:g} {unit}"
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            pass
        else:
            raise ValueError(
                f"{key} is '{shown(value)[1:-1]}', which YAML reads as text; write {float(value)!r}"
            )
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} is {shown(value)}; {wanted}")
    if not low <= value <= high:  # NaN fails as well
        raise ValueError(f"{key} is {shown(value)}; {wanted}")
    return float(value)


def check_limits(key: str, value: dict) -> MotionLimits:
    """Return the limits that a mapping of some of them gives; the others are the usual ones."""
    usual = {f.name: f.default for f in fields(MotionLimits)}
    merged = usual | value
    return MotionLimits(**{name: check_number(name, merged[name], *LIMITS[name]) for name in usual})


def read_limits(value: Any) -> dict:
    """The mapping under ``limits``, empty if there is none."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"limits is {shown(value)}; it must be lines such as 'max_speed: 0.5'")
    return value


def check_choice(*allowed: str) -> Callable[[str, Any], str]:
    """A check for one of some words."""

    def check(key: str, value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"{key} is {shown(value)}; it must be one of {', '.join(allowed)}")
        return value

    return check


def check_flag(key: str, value: Any) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{key} is {shown(value)}; it must be true or false")
    return value


def check_topic(key: str, value: Any) -> str:
    """Return a topic, relative or absolute, by the rules of ROS 2."""
    _check_text(key, value)
    if not _TOPIC.match(value) or "__" in value:
        raise ValueError(
            f"{key} is {shown(value)}, not a ROS topic: names of letters, digits and single '_' with '/' between them"
        )
    return value


def check_frame(key: str, value: Any) -> str:
    """Return a tf frame."""
    _check_text(key, value)
    if value.startswith("/"):
        raise ValueError(f"{key} is {shown(value)}; tf frames do not begin with '/'")
    if not value.isprintable() or any(c.isspace() for c in value):
        raise ValueError(f"{key} is {shown(value)}; a frame has no blanks in it")
    return value


def _check_text(key: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} is {shown(value)}; it must be text")
    if len(value) > LONGEST_TOPIC:
        raise ValueError(f"{key} is longer than {LONGEST_TOPIC} characters: {shown(value)}")
    if "{" in value or "}" in value:
        raise ValueError(f"{key} is {shown(value)}; only {TEMPLATE} is filled in")


def _check_pose_topic(key: str, value: Any) -> str:
    return "" if value == "" else check_topic(key, value)


def _check_drive(key: str, value: Any) -> Drive:
    return DRIVES[check_choice(*DRIVES)(key, value)]


def _check_pose(key: str, value: Any) -> tuple[float, float, float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 3:
        raise ValueError(f"{key} is {shown(value)}; it must be three numbers [x, y, yaw] in m and rad")
    x, y, yaw = value
    return (
        check_number(f"{key}'s x", x, -FARTHEST, FARTHEST, "m"),
        check_number(f"{key}'s y", y, -FARTHEST, FARTHEST, "m"),
        check_number(f"{key}'s yaw", yaw, -1e3, 1e3, "rad"),
    )


def _number(low: float, high: float, unit: str) -> Callable[[str, Any], float]:
    return lambda key, value: check_number(key, value, low, high, unit)


KEYS: dict[str, Key] = {
    "name": Key(None, lambda key, value: check_name(value)),
    "radius": Key(0.22, _number(0.01, 10.0, "m")),
    "drive": Key("differential", _check_drive),
    "limits": Key(None, check_limits),
    "pose_source": Key("odom", check_choice(*POSE_SOURCES)),
    "pose_topic": Key(None, _check_pose_topic, template=True),  # depends on pose_source
    "odom_through_tf": Key(False, check_flag),
    "base_frame": Key("{name}/base_link", check_frame, template=True),
    "odom_frame": Key("{name}/odom", check_frame, template=True),
    "tf_topic": Key("/tf", check_topic, template=True),
    "tf_timeout": Key(1.0, _number(0.05, 60.0, "s")),
    "cmd_vel_topic": Key("{name}/cmd_vel", check_topic, template=True),
    "stamped_cmd_vel": Key(False, check_flag),
    "goal_topic": Key("{name}/goal_pose", check_topic, template=True),
    "initial_pose": Key(None, _check_pose),
}

"""``robots.yaml``: which robots there are, how large and fast they are, and by which topics and frames to reach them.

One file for everything that must agree on it: the nodes, the launch files, the simulators and the recorder.
``config/robots.yaml`` is a complete example with a comment on each key; :data:`KEYS` is the table behind it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from marlgpt_policy.robots import yaml_io as robots_yaml
from marlgpt_policy.robots.robot_config import Drive, MotionLimits
from marlgpt_policy.robots.robot_entry import RobotEntry, RobotsFileError, check_fleet
from marlgpt_policy.robots.robots_keys import (
    KEYS,
    LIMITS,
    TEMPLATE,
    check_frame,
    check_name,
    read_limits,
    shown,
)

__all__ = ["FleetFile", "RobotEntry", "RobotsFileError", "check_name", "load_robots"]

TOP = ("map_frame", "defaults", "robots")
SOURCES_WITH_TOPIC = {"odom": "{name}/odom", "pose": "{name}/pose", "pose_stamped": "{name}/pose"}
"""Default topic of each source of poses that has one."""
MANY = 10_000
"""Robots; a file with more is no list of robots."""


@dataclass(frozen=True)
class FleetFile:
    """The robots of one fleet.

    Attributes:
        map_frame: Frame of the map, of poses and of goals.
        robots: The robots, in the file's order.
        defaults: Keys that hold for every robot that says nothing else, also for those that join later.
    """

    map_frame: str
    robots: tuple[RobotEntry, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what several robots share.

        Raises:
            RobotsFileError: A name or topic used twice, or overlapping initial poses.
        """
        check_fleet(self.robots)

    @classmethod
    def default(
        cls, names: list[str] | tuple[str, ...], map_frame: str = "map", **defaults: Any
    ) -> FleetFile:
        """Build a fleet without a file, also one without robots; ``defaults`` are keys of robots.yaml, for all.

        ``drive`` and ``limits`` may also be a :class:`Drive` and :class:`MotionLimits`.

        Raises:
            RobotsFileError: as :func:`load_robots`.
        """
        defaults = {key: _plain(value) for key, value in defaults.items()}
        return fleet_of({"map_frame": map_frame, "defaults": defaults, "robots": list(names)}, "robots")

    def __len__(self) -> int:
        """Number of robots."""
        return len(self.robots)

    def __contains__(self, name: str) -> bool:
        """Whether a robot has this name."""
        return name in self._by_name

    def __getitem__(self, name: str) -> RobotEntry:
        """The robot of that name; ``KeyError`` if there is none."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, RobotEntry]:
        return {robot.name: robot for robot in self.robots}

    @property
    def names(self) -> list[str]:
        """Their names, in order."""
        return [robot.name for robot in self.robots]

    @property
    def radius(self) -> float:
        """Largest radius, m: the grid is laid out for it."""
        return max((robot.radius for robot in self.robots), default=KEYS["radius"].default)

    @property
    def max_speed(self) -> float:
        """Largest speed of any robot, m/s."""
        return max((robot.limits.max_speed for robot in self.robots), default=MotionLimits().max_speed)

    def entry(self, name: str) -> RobotEntry:
        """The robot of that name or, for one that the file does not list, an entry made of the defaults.

        Raises:
            RobotsFileError: It would share a topic with another robot, or the name is no ROS name.
        """
        if name in self:
            return self[name]
        try:
            robot = _entry({"name": name}, self.defaults, f"robot {shown(name)}")
        except ValueError as error:
            raise RobotsFileError(str(error)) from error
        FleetFile(self.map_frame, (*self.robots, robot), self.defaults)  # checks what they would share
        return robot

    def dump(self, path: str | Path) -> None:
        """Write the fleet with every key; :func:`load_robots` reads an equal one back."""
        content: dict[str, Any] = {"map_frame": self.map_frame}
        if self.defaults:
            content["defaults"] = dict(self.defaults)
        content["robots"] = [robot.as_mapping() for robot in self.robots]
        robots_yaml.write(Path(path), content)


def load_robots(path: str | Path) -> FleetFile:
    """Read and check a robots file.

    Raises:
        RobotsFileError: It cannot be read, or says something that cannot be; the message names file, robot, key and
            value, and what would be right.
    """
    path = Path(path).expanduser()
    try:
        fleet = fleet_of(robots_yaml.read(path), str(path))
        if not fleet.robots:
            raise ValueError("'robots' is empty; list the robots: - name: alice")
        return fleet
    except RobotsFileError:
        raise
    except ValueError as error:  # of reading
        raise RobotsFileError(f"{path}: {error}") from error


def fleet_of(content: Any, source: str) -> FleetFile:
    """The fleet that a robots file's content describes; ``source`` begins every error message.

    Raises:
        RobotsFileError: as :func:`load_robots`.
    """
    try:
        if not isinstance(content, dict):
            raise ValueError("must hold 'key: value' lines: map_frame, defaults, robots")
        _known(content, TOP, "key")
        map_frame = check_frame("map_frame", content.get("map_frame", "map"))
        defaults = content.get("defaults")
        defaults = {} if defaults is None else defaults
        _check_defaults(defaults)
        robots = [_entry(own, defaults, where) for own, where in _listed(content.get("robots"))]
        return FleetFile(map_frame, tuple(robots), defaults)
    except ValueError as error:
        raise RobotsFileError(f"{source}: {error}") from error


def _plain(value: Any) -> Any:
    """A value as YAML would give it."""
    if isinstance(value, Drive):
        return value.name.lower()
    if isinstance(value, MotionLimits):
        return dict(vars(value))
    return float(value) if isinstance(value, float) else value  # NumPy's are written otherwise


def _known(content: dict, allowed: Mapping | tuple, what: str) -> None:
    """Refuse keys that mean nothing, with the one that was probably meant."""
    for key in content:
        if key not in allowed:
            close = difflib.get_close_matches(str(key), list(allowed), 1, 0.5)
            hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(allowed)}"
            raise ValueError(f"{what} {shown(key)} is unknown; {hint}")


def _listed(robots: Any) -> list[tuple[dict, str]]:
    """Each robot's own keys, name included, and what to call it in messages."""
    if isinstance(robots, dict):
        listed: list = [(name, own) for name, own in robots.items()]
    elif isinstance(robots, list):
        listed = [(None, own) for own in robots]
    else:
        raise ValueError(f"'robots' is {shown(robots)}; list the robots: - name: alice")
    if len(listed) > MANY:
        raise ValueError(f"'robots' has {len(listed)} entries; a fleet has at most {MANY}")
    found = []
    for number, (name, own) in enumerate(listed, 1):
        own = {"name": own} if name is None and not isinstance(own, dict) else {} if own is None else own
        if not isinstance(own, dict):
            raise ValueError(f"robot {shown(name)} is {shown(own)}; it must be 'key: value' lines")
        if name is not None and own.setdefault("name", name) != name:
            raise ValueError(f"robot {shown(name)}: name is {shown(own['name'])}; leave one of the two out")
        if "name" not in own:
            raise ValueError(f"robot number {number} has no 'name'")
        found.append((own, f"robot {shown(own['name'])}"))
    return found


def _check_defaults(defaults: Any) -> None:
    """Check the defaults by themselves, so that an error says that it is there."""
    if not isinstance(defaults, dict):
        raise ValueError(f"defaults is {shown(defaults)}; it must be 'key: value' lines")
    for key in ("name", "initial_pose"):
        if key in defaults:
            raise ValueError(f"defaults: {key} is each robot's own; write it under 'robots'")
    _entry({"name": "name"}, defaults, "defaults")


def _entry(own: dict, defaults: Mapping[str, Any], where: str) -> RobotEntry:
    """One robot from its own keys, the file's defaults and ours, in this order."""
    try:
        _known(own, KEYS, "key")
        _known(dict(defaults), KEYS, "key")
        name = check_name(own["name"])
        merged = {key: spec.default for key, spec in KEYS.items()} | dict(defaults) | own
        merged["limits"] = {**read_limits(defaults.get("limits")), **read_limits(own.get("limits"))}
        _known(merged["limits"], LIMITS, "limit")
        _fill_topic(merged, own, defaults)
        values = {}
        for key, spec in KEYS.items():
            value = merged[key]
            if isinstance(value, str) and spec.template:
                value = value.replace(TEMPLATE, name)
            values[key] = spec.check(key, value)
        entry = RobotEntry(**values)
        if entry.odom_through_tf and entry.pose_source != "odom":
            raise ValueError(f"odom_through_tf is true, but pose_source is '{entry.pose_source}', not odom")
        return entry
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _fill_topic(merged: dict, own: dict, defaults: Mapping[str, Any]) -> None:
    """Choose the topic of poses; a topic in the defaults holds for robots with the defaults' source of poses."""
    source = KEYS["pose_source"].check("pose_source", merged["pose_source"])
    usual = defaults.get("pose_source", KEYS["pose_source"].default)
    inherited = defaults.get("pose_topic") if source == usual else None
    topic = own.get("pose_topic", inherited)
    if source == "tf" and topic:
        raise ValueError(f"pose_topic is {shown(topic)}, but pose_source tf reads no topic; leave one out")
    if source != "tf" and topic == "":
        raise ValueError(
            f"pose_topic is empty, but pose_source is {source}; leave it out for the usual topic"
        )
    merged["pose_topic"] = SOURCES_WITH_TOPIC.get(source, "") if topic is None else topic

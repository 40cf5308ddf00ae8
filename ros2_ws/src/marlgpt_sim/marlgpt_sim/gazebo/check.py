"""Checks of a written world and bridge that need no Gazebo, against each other and against the fleet's parameters.

Gazebo itself is no judge: `gz sdf --check` passes unknown elements and wrong system names, the server goes on without
a system it cannot load, and the bridge skips entries it does not understand.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from marlgpt_policy.robots.robots_file import FleetFile, RobotEntry

from marlgpt_sim.gazebo.bridge import TO_ROS, entry_problems
from marlgpt_sim.gazebo.names import (
    BASE_LINK,
    BODY,
    CASTERS,
    CLOCK,
    MAP_MODEL,
    is_differential,
    links_of,
    names_of,
)
from marlgpt_sim.gazebo.schema import structure_problems
from marlgpt_sim.gazebo.sdf import PLUGINS
from marlgpt_sim.gazebo.world import WORLD_SYSTEMS

TOLERANCE = 1e-6
"""m, rad and so on: numbers are written with nine digits."""


class WorldError(ValueError):
    """World, bridge and fleet do not fit together; the message lists what is wrong."""


def check_files(world: str | Path, bridge: str | Path, fleet: FleetFile) -> None:
    """Check a world file and a bridge file against the robots they are for.

    Args:
        world: SDF file.
        bridge: YAML file of ros_gz_bridge.
        fleet: The robots as the fleet node has them.

    Raises:
        WorldError: naming every contradiction.
    """
    problems = world_problems(Path(world).read_text(encoding="utf-8"), fleet)
    problems += bridge_problems(Path(bridge).read_text(encoding="utf-8"), fleet)
    if problems:
        lines = "\n  ".join(problems[:20])
        raise WorldError(f"{world} and {bridge} cannot be used, {len(problems)} problems:\n  {lines}")


def world_problems(text: str, fleet: FleetFile) -> list[str]:
    """What is wrong with a world, by itself and for these robots; empty if all is well."""
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        return [f"world is not XML: {error}"]
    found = structure_problems(root)
    world = root.find("world")
    if found or world is None:
        return found
    systems = [plugin.get("filename") for plugin in world.findall("plugin")]
    wanted = [PLUGINS[key].file for key in WORLD_SYSTEMS]
    if sorted(systems) != sorted(wanted):
        found.append(f"world has the systems {sorted(systems)}, not {sorted(wanted)}")
    models = {model.get("name"): model for model in world.findall("model")}
    static = [name for name, model in models.items() if model.findtext("static") == "true"]
    if static != [MAP_MODEL]:
        found.append(f"static models are {static}, not just ['{MAP_MODEL}']")
    for name in sorted(set(models) - {MAP_MODEL} - set(fleet.names)):
        found.append(f"model '{name}' is no robot of the fleet")
    for robot in fleet.robots:
        if names_of(robot).model not in models:
            found.append(f"robot '{robot.name}' has no model")
        else:
            found += _robot_problems(models[names_of(robot).model], robot, fleet.map_frame)
    return found


def _robot_problems(model: ET.Element, robot: RobotEntry, map_frame: str) -> list[str]:
    """What of a robot's model contradicts its entry."""
    found = []
    links = {link.get("name"): link for link in model.findall("link")}
    if robot.initial_pose is not None:
        x, y, yaw = robot.initial_pose
        pose = _numbers(model.findtext("pose"))
        off = [abs(a - b) for a, b in zip(pose, (x, y, 0.0, 0.0, 0.0, yaw), strict=True)]
        if max(off) > 1e-5:
            found.append(f"stands at {pose}, starts at {robot.initial_pose}")
    reach = max(_reach(link) for link in links.values())
    if abs(reach - robot.radius) > TOLERANCE:
        found.append(f"reaches {reach:.4f} m from its middle, its radius is {robot.radius} m")
    if BASE_LINK not in links:
        return [f"robot '{robot.name}': link '{BASE_LINK}' is missing"]
    collisions = [part.get("name") for part in links[BASE_LINK].findall("collision")]
    supports = CASTERS[: 2 if is_differential(robot) else 4]
    found += [f"would tip over without '{name}'" for name in supports if name not in collisions]
    sensor = links[BASE_LINK].find("sensor/contact")
    if sensor is None or sensor.findtext("collision") not in collisions or BODY not in collisions:
        found.append(f"contacts of its collision '{BODY}' are not measured")
    elif sensor.findtext("topic") != names_of(robot).contacts:
        found.append(f"contacts are on {sensor.findtext('topic')}, not {names_of(robot).contacts}")
    for link in links.values():
        found += _inertia_problems(link)
    found += _joint_problems(model, set(links))
    found += _system_problems(model, robot, map_frame)
    return [f"robot '{robot.name}': {problem}" for problem in found]


def _reach(link: ET.Element) -> float:
    """Largest distance from the robot's middle of any of the link's collisions, in the plane."""
    base = _numbers(link.findtext("pose") or "0 0 0 0 0 0")
    reach = 0.0
    for part in link.findall("collision"):
        pose = _numbers(part.findtext("pose") or "0 0 0 0 0 0")
        radius = part.findtext("geometry/cylinder/radius") or part.findtext("geometry/sphere/radius")
        if radius is None:
            return math.inf
        reach = max(reach, math.hypot(base[0] + pose[0], base[1] + pose[1]) + float(radius))
    return reach


def _inertia_problems(link: ET.Element) -> list[str]:
    """Why a link's inertia is none that a body can have."""
    inertia = link.find("inertial/inertia")
    if inertia is None:
        return [f"link '{link.get('name')}' has no inertia"]
    a, b, c = sorted(float(inertia.findtext(name)) for name in ("ixx", "iyy", "izz"))
    if a <= 0.0 or a + b < c * (1.0 - 1e-9):
        return [f"link '{link.get('name')}' has moments of inertia {a}, {b}, {c}, which no body has"]
    return []


def _joint_problems(model: ET.Element, links: set[str | None]) -> list[str]:
    """Joints that hang in the air."""
    return [
        f"joint '{joint.get('name')}' has no link '{joint.findtext(end)}'"
        for joint in model.findall("joint")
        for end in ("parent", "child")
        if joint.findtext(end) not in links
    ]


def _system_problems(model: ET.Element, robot: RobotEntry, map_frame: str) -> list[str]:
    """Systems of a robot that are missing, or whose topics, frames, joints, sizes and limits are not the fleet's."""
    names, limits, found = names_of(robot), robot.limits, []
    systems = {plugin.get("filename"): plugin for plugin in model.findall("plugin")}
    drive = PLUGINS["diff_drive" if is_differential(robot) else "velocity"].file
    odometry = PLUGINS["odometry"].file
    if sorted(systems) != sorted((drive, odometry)):
        return [f"has the systems {sorted(systems)}, not {sorted((drive, odometry))}"]
    wanted: dict[str, dict[str, Any]] = {
        drive: {"topic": names.cmd_vel},
        odometry: {
            "odom_topic": names.odometry,
            "tf_topic": names.transforms,
            "odom_frame": map_frame,
            "robot_base_frame": robot.base_frame,
        },
    }
    if is_differential(robot):
        wanted[drive] |= {"odom_topic": names.wheel_odometry, **_wheel_numbers(model)}
        for end, sign in (("min", -1.0), ("max", 1.0)):
            wanted[drive] |= {
                f"{end}_linear_velocity": sign * limits.max_speed,
                f"{end}_angular_velocity": sign * limits.max_yaw_rate,
                f"{end}_linear_acceleration": sign * limits.max_acceleration,
                f"{end}_angular_acceleration": sign * limits.max_yaw_acceleration,
            }
        joints = [joint.get("name") for joint in model.findall("joint")]
        for tag in ("left_joint", "right_joint"):
            if systems[drive].findtext(tag) not in joints:
                found.append(f"{tag} '{systems[drive].findtext(tag)}' is none of {joints}")
    for file, values in wanted.items():
        for tag, value in values.items():
            text = systems[file].findtext(tag) or ""
            same = text == value if isinstance(value, str) else abs(float(text) - value) <= TOLERANCE
            if not same:
                found.append(f"{tag} of {file} is '{text}', not '{value}'")
    return found


def _wheel_numbers(model: ET.Element) -> dict[str, float]:
    """Distance and radius of the wheels as they stand in the model."""
    children = [joint.findtext("child") for joint in model.findall("joint")]
    wheels = [link for link in model.findall("link") if link.get("name") in children]
    offsets = [_numbers(link.findtext("pose") or "0 0")[1] for link in wheels]
    radii = [float(link.findtext("collision/geometry/sphere/radius") or "nan") for link in wheels]
    if not wheels:
        return {}
    radius = radii[0] if len(set(radii)) == 1 else math.nan  # which equals nothing
    return {"wheel_separation": max(offsets) - min(offsets), "wheel_radius": radius}


def bridge_problems(text: str, fleet: FleetFile) -> list[str]:
    """What is wrong with a bridge's configuration, by itself and for these robots; empty if all is well."""
    try:
        entries = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return [f"bridge is not YAML: {error}"]
    if not isinstance(entries, list):
        return ["bridge is not a list of entries"]
    found = [
        f"bridge entry {i}: {text}" for i, entry in enumerate(entries, 1) for text in entry_problems(entry)
    ]
    if found:
        return found
    there = Counter(_key(entry) for entry in entries)
    found += [f"bridge carries {key[0]} {count} times" for key, count in there.items() if count > 1]
    optional = {_link_key(link) for robot in fleet.robots for link in links_of(robot, contacts=True)}
    needed = {_link_key(CLOCK)} | {_link_key(link) for robot in fleet.robots for link in links_of(robot)}
    found += [f"bridge does not carry {' '.join(key)}" for key in sorted(needed - set(there))]
    extra = set(there) - needed - optional
    return found + [f"bridge carries {' '.join(key)}, which nobody needs" for key in sorted(extra)]


def _key(entry: Mapping[str, str]) -> tuple[str, ...]:
    """An entry as something to compare."""
    return (
        entry["ros_topic_name"],
        entry["ros_type_name"],
        entry["gz_topic_name"],
        entry["gz_type_name"],
        "to ROS" if entry["direction"] == TO_ROS else "to Gazebo",
    )


def _link_key(link: Any) -> tuple[str, ...]:
    """A line of the bridge, likewise."""
    way = "to ROS" if link.to_ros else "to Gazebo"
    return link.ros_topic, link.ros_type, link.gz_topic, link.gz_type, way


def _numbers(text: str | None) -> list[float]:
    """Numbers with spaces between them."""
    return [float(part) for part in (text or "").split()]

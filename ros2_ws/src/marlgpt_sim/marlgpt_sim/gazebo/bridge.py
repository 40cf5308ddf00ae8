"""The configuration of ros_gz_bridge: one entry per line of :func:`marlgpt_sim.gazebo.names.links_of`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from marlgpt_sim.gazebo.names import CLOCK, Link, links_of
from marlgpt_sim.gazebo.plan import GazeboPlan

TO_ROS, TO_GZ = "GZ_TO_ROS", "ROS_TO_GZ"
KEYS = ("ros_topic_name", "gz_topic_name", "ros_type_name", "gz_type_name", "direction")
"""Keys of an entry; every one is written. ``topic_name``, which the bridge knows too, excludes the first two."""
TYPES = {
    "rosgraph_msgs/msg/Clock": "gz.msgs.Clock",
    "geometry_msgs/msg/Twist": "gz.msgs.Twist",
    "geometry_msgs/msg/TwistStamped": "gz.msgs.Twist",
    "nav_msgs/msg/Odometry": "gz.msgs.Odometry",
    "tf2_msgs/msg/TFMessage": "gz.msgs.Pose_V",
    "ros_gz_interfaces/msg/Contacts": "gz.msgs.Contacts",
}
"""The type on Gazebo's side that the bridge converts each ROS type of ours from or to."""


def bridge_links(plan: GazeboPlan, contacts: bool = False) -> list[Link]:
    """Everything the bridge carries: the clock, then robot by robot."""
    return [CLOCK, *(link for robot in plan.fleet.robots for link in links_of(robot, contacts))]


def bridge_yaml(plan: GazeboPlan, contacts: bool = False) -> str:
    """Return the configuration as YAML text.

    Args:
        plan: The robots.
        contacts: Also carry contacts; ros_gz_interfaces must then be installed where they are recorded.
    """
    entries = [
        {
            "ros_topic_name": link.ros_topic,
            "gz_topic_name": link.gz_topic,
            "ros_type_name": link.ros_type,
            "gz_type_name": link.gz_type,
            "direction": TO_ROS if link.to_ros else TO_GZ,
        }
        for link in bridge_links(plan, contacts)
    ]
    return yaml.safe_dump(entries, sort_keys=False)


def entry_problems(entry: Any) -> list[str]:
    """What the bridge would refuse about one entry, or skip with a line in its log."""
    if not isinstance(entry, Mapping):
        return [f"entry {entry!r} is not a mapping"]
    found = [f"key '{key}' is unknown" for key in entry if key not in KEYS]
    found += [f"key '{key}' is missing" for key in KEYS if not isinstance(entry.get(key), str)]
    if found:
        return found
    if entry["direction"] not in (TO_ROS, TO_GZ):
        found.append(f"direction '{entry['direction']}' is not {TO_ROS} or {TO_GZ}")
    wanted = TYPES.get(entry["ros_type_name"])
    if wanted is None:
        found.append(f"ROS type '{entry['ros_type_name']}' is none of ours")
    elif wanted != entry["gz_type_name"]:
        found.append(f"'{entry['ros_type_name']}' is converted to {wanted}, not '{entry['gz_type_name']}'")
    if not entry["gz_topic_name"].startswith("/"):
        found.append(f"Gazebo topic '{entry['gz_topic_name']}' is not absolute")
    return found

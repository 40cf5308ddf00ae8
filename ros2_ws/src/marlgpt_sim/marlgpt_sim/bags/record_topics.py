"""Which topics of a fleet belong in a bag, so that it can become training data later."""

from __future__ import annotations

from marlgpt_policy.robots.robots_file import FleetFile, RobotEntry

FLEET = ("map", "fleet/grid", "fleet/state", "fleet/decisions")
"""Topics of the whole fleet."""


def robot_topics(robot: RobotEntry) -> list[str]:
    """Topics of one robot: poses, commands, goals."""
    poses = [] if robot.pose_source == "tf" else [robot.pose_topic]
    tf = [robot.tf_topic, f"{robot.tf_topic}_static"] if robot.needs_tf else []
    return [*poses, robot.cmd_vel_topic, robot.goal_topic, *tf]


def topics_of(fleet: FleetFile, sim_time: bool = False, extra: list[str] | tuple[str, ...] = ()) -> list[str]:
    """Names of all topics to record, relative ones in the fleet's namespace; each once.

    Args:
        fleet: The robots.
        sim_time: Whether there is a ``/clock`` to record, too.
        extra: More topics.
    """
    found = [*FLEET, "/tf", "/tf_static"]
    for robot in fleet.robots:
        found += robot_topics(robot)
    if sim_time:
        found.append("/clock")
    return list(dict.fromkeys([*found, *extra]))


def absolute(topic: str, namespace: str) -> str:
    """The full name of a topic for programs that run in no namespace."""
    return topic if topic.startswith("/") else "/" + "/".join(filter(None, [namespace.strip("/"), topic]))

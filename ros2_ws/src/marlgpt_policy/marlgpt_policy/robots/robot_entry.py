"""One robot of ``robots.yaml``, and what cannot be of the robots of one fleet together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from marlgpt_policy.robots.robot_config import Drive, MotionLimits, RobotConfig
from marlgpt_policy.robots.robots_keys import TEMPLATE

OWN_TOPICS = ("map", "clock", "diagnostics", "tf", "tf_static")
"""Topics that are the whole fleet's, as are all that begin with ``fleet/``."""


class RobotsFileError(ValueError):
    """A robots file cannot be used; the message names file, robot, key and value, and what to do about it."""


@dataclass(frozen=True)
class RobotEntry:
    """One robot; made by ``robots_file``, which check it.

    Attributes:
        name: Unique name; default prefix of its topics and frames.
        radius: Of the disc that contains it, m.
        drive: Differential or holonomic.
        limits: Speeds and accelerations it may be commanded.
        pose_source: ``odom`` (nav_msgs/Odometry), ``pose`` (geometry_msgs/PoseWithCovarianceStamped),
            ``pose_stamped`` (geometry_msgs/PoseStamped) or ``tf`` (map frame to ``base_frame``).
        pose_topic: Topic of these poses, in the nodes' namespace unless it begins with ``/``; empty for ``tf``.
        odom_through_tf: ``odom`` only: its poses are in ``odom_frame``, and tf says where in the map that frame is.
        base_frame: Frame of the robot's body, also of stamped commands.
        odom_frame: Frame of its odometry.
        tf_topic: Topic of its transforms; those that never change are on ``<tf_topic>_static``.
        tf_timeout: Age in s at which a transform that should be renewed is not believed any more.
        cmd_vel_topic: Topic of its velocity commands.
        stamped_cmd_vel: They are geometry_msgs/TwistStamped, not Twist.
        goal_topic: Topic of its goals, geometry_msgs/PoseStamped.
        initial_pose: (x, y, yaw) where it starts, map frame, m and rad; None if not known. For simulations and checks.
    """

    name: str
    radius: float
    drive: Drive
    limits: MotionLimits
    pose_source: str
    pose_topic: str
    odom_through_tf: bool
    base_frame: str
    odom_frame: str
    tf_topic: str
    tf_timeout: float
    cmd_vel_topic: str
    stamped_cmd_vel: bool
    goal_topic: str
    initial_pose: tuple[float, float, float] | None

    @property
    def needs_tf(self) -> bool:
        """Whether its poses cannot be had without tf."""
        return self.pose_source == "tf" or self.odom_through_tf

    @property
    def config(self) -> RobotConfig:
        """Its body, as the fleet's core wants it."""
        return RobotConfig(self.name, self.radius, self.drive, self.limits)

    def as_mapping(self) -> dict[str, Any]:
        """The entry as keys of a robots file, every one written out."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["drive"] = self.drive.name.lower()
        values["limits"] = dict(vars(self.limits))
        values["initial_pose"] = None if self.initial_pose is None else list(self.initial_pose)
        if self.pose_source == "tf":
            del values["pose_topic"]
        return values


def check_fleet(robots: Sequence[RobotEntry]) -> None:
    """Check what the robots of a fleet share.

    Raises:
        RobotsFileError: A name or topic used twice, a topic of the whole fleet, or overlapping initial poses.
    """
    names: set[str] = set()
    topics: dict[str, tuple[str, str]] = {}
    for robot in robots:
        if robot.name in names:
            raise RobotsFileError(f"two robots are named '{robot.name}'; every robot needs a name of its own")
        names.add(robot.name)
        used = {"cmd_vel_topic": robot.cmd_vel_topic, "goal_topic": robot.goal_topic}
        if robot.pose_source == "tf":
            used["base_frame"] = robot.base_frame
        else:
            used["pose_topic"] = robot.pose_topic
        for key, topic in used.items():
            plain = f"{robot.tf_topic} {topic}" if key == "base_frame" else topic.lstrip("/")
            if plain in OWN_TOPICS or plain.startswith("fleet/"):
                raise RobotsFileError(
                    f"robot '{robot.name}': {key} is '{topic}', a topic of the whole fleet; give it its own"
                )
            other, other_key = topics.setdefault(plain, (robot.name, key))
            if (other, other_key) != (robot.name, key):
                raise RobotsFileError(
                    f"robot '{robot.name}': {key} is '{topic}', and so is {other_key} of '{other}'; "
                    f"each needs its own (in defaults, write {TEMPLATE} where the robot's name belongs)"
                )
    _check_starts(robots)


def _check_starts(robots: Sequence[RobotEntry]) -> None:
    """Refuse robots that would start inside each other."""
    placed = [robot for robot in robots if robot.initial_pose is not None]
    placed.sort(key=lambda robot: robot.initial_pose[0])
    reach = max((robot.radius for robot in placed), default=0.0)
    for i, a in enumerate(placed):
        for b in placed[i + 1 :]:
            (ax, ay, _), (bx, by, _) = a.initial_pose, b.initial_pose
            if bx - ax > a.radius + reach:
                break
            distance = math.hypot(bx - ax, by - ay)
            if distance < a.radius + b.radius:
                raise RobotsFileError(
                    f"robots '{a.name}' and '{b.name}' overlap: their initial_pose are {distance:.2f} m apart, "
                    f"their radii need {a.radius + b.radius:.2f} m"
                )

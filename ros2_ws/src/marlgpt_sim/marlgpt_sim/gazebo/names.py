"""What world, bridge and fleet call things: the one place for the names of models, links, topics, types and frames.

Names on Gazebo's side follow its own habit, ``/model/<robot>/...``; names on the ROS side are those of the robots
file. Whoever needs a name takes it from here, so that the three cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass

from marlgpt_policy.robots.robot_config import Drive
from marlgpt_policy.robots.robots_file import FleetFile, RobotEntry

WORLD = "fleet"
"""Name of the world."""
MAP_MODEL = "fleet_map"
"""Name of the one static model that holds floor and walls; no robot may have it."""
BASE_LINK, BODY = "base", "body"
"""Link of a robot's body, and the collision on it whose contacts are measured."""
CASTERS = ("caster_front", "caster_back", "caster_left", "caster_right")
"""Collisions that slide; a differential drive has the first two."""
SIDES = ("left", "right")
CONTACT_SENSOR = "contacts"
CLOCK_TOPIC = "/clock"


@dataclass(frozen=True)
class RobotNames:
    """Names of one robot.

    Attributes:
        model: Of its model.
        cmd_vel: Gazebo topic of its commands, gz.msgs.Twist.
        odometry: Gazebo topic of its true pose in the map frame, gz.msgs.Odometry.
        transforms: Gazebo topic of the same as transforms, gz.msgs.Pose_V.
        wheel_odometry: Gazebo topic of what its wheels count, which drifts and which nobody here uses.
        wheel_transforms: Gazebo topic of the same as transforms.
        contacts: Gazebo topic of its body's contacts, gz.msgs.Contacts; silent while it touches nothing.
    """

    model: str
    cmd_vel: str
    odometry: str
    transforms: str
    wheel_odometry: str
    wheel_transforms: str
    contacts: str


def names_of(robot: RobotEntry) -> RobotNames:
    """The names of a robot on Gazebo's side."""
    prefix = f"/model/{robot.name}"
    return RobotNames(
        model=robot.name,
        cmd_vel=f"{prefix}/cmd_vel",
        odometry=f"{prefix}/odometry",
        transforms=f"{prefix}/pose",
        wheel_odometry=f"{prefix}/wheel_odometry",
        wheel_transforms=f"{prefix}/wheel_tf",
        contacts=f"{prefix}/contacts",
    )


def wheel(side: str) -> str:
    """Name of the wheel's link on one side, ``left`` or ``right``."""
    return f"{side}_wheel"


def joint(side: str) -> str:
    """Name of the joint of that wheel."""
    return f"{side}_wheel_joint"


@dataclass(frozen=True)
class Link:
    """One line of the bridge: a ROS topic and type, a Gazebo topic and type, and which way messages go.

    Relative ROS topics are in the bridge's namespace.
    """

    ros_topic: str
    ros_type: str
    gz_topic: str
    gz_type: str
    to_ros: bool


CLOCK = Link(CLOCK_TOPIC, "rosgraph_msgs/msg/Clock", CLOCK_TOPIC, "gz.msgs.Clock", to_ros=True)


def links_of(robot: RobotEntry, contacts: bool = False) -> list[Link]:
    """What the bridge carries for one robot: commands, poses and, if wanted, contacts.

    Args:
        robot: One whose poses Gazebo can give, see :func:`as_gazebo_plays`.
        contacts: Also its contacts, whose ROS type is in ros_gz_interfaces.

    Raises:
        ValueError: Gazebo cannot give poses of the robot's kind.
    """
    names = names_of(robot)
    twist = "geometry_msgs/msg/TwistStamped" if robot.stamped_cmd_vel else "geometry_msgs/msg/Twist"
    found = [Link(robot.cmd_vel_topic, twist, names.cmd_vel, "gz.msgs.Twist", to_ros=False)]
    if robot.pose_source == "tf":
        kind = "tf2_msgs/msg/TFMessage"
        found.append(Link(robot.tf_topic, kind, names.transforms, "gz.msgs.Pose_V", to_ros=True))
    elif robot.pose_source == "odom" and not robot.odom_through_tf:
        kind = "nav_msgs/msg/Odometry"
        found.append(Link(robot.pose_topic, kind, names.odometry, "gz.msgs.Odometry", to_ros=True))
    else:
        raise ValueError(f"robot '{robot.name}': Gazebo gives true poses as odom or tf, not as it wants them")
    if contacts:
        kind = "ros_gz_interfaces/msg/Contacts"
        topic = contacts_topic(robot)
        found.append(Link(topic, kind, names.contacts, "gz.msgs.Contacts", to_ros=True))
    return found


def contacts_topic(robot: RobotEntry) -> str:
    """ROS topic of a robot's contacts."""
    return f"{robot.name}/contacts"


def is_differential(robot: RobotEntry) -> bool:
    """Whether the robot stands on two driven wheels."""
    return robot.drive == Drive.DIFFERENTIAL


def check_names(fleet: FleetFile) -> None:
    """Refuse a robot whose name the world needs itself; ``ValueError`` naming it."""
    if MAP_MODEL in fleet.names:
        raise ValueError(f"robot name '{MAP_MODEL}' is taken by the map's model; choose another")

"""What the simulated robots' localisation sends: Odometry, poses or tf, as each robot's entry in robots.yaml says."""

from __future__ import annotations

from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped, TransformStamped
from marlgpt_policy.robots.robots_file import RobotEntry
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from marlgpt_sim.nodes.sim_messages import OdometryBytes, PoseBytes

RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
TF = QoSProfile(
    depth=100, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE
)  # as tf's own broadcasters

Stamp = tuple[int, int]
"""Seconds and nanoseconds."""


def make_outputs(
    node: Node,
    robots: tuple[RobotEntry, ...],
    map_frame: str,
    starts: np.ndarray,
    noise: tuple[float, float],
) -> list[PoseOutput]:
    """One output per robot.

    Args:
        node: Publishes.
        robots: How each robot's poses are sent.
        map_frame: Frame of the map.
        starts: float[n, 3] x, y, yaw in m and rad where the robots start: there their odometry frames lie.
        noise: Standard deviations of x and y, m, and of yaw, rad, for the covariances.

    Raises:
        ValueError: A robot needs tf, and tf2_msgs is not installed.
    """
    broadcasters: dict[str, Any] = {}
    outputs: list[PoseOutput] = []
    for robot, start in zip(robots, starts, strict=True):
        if robot.needs_tf and robot.tf_topic not in broadcasters:
            try:
                from tf2_msgs.msg import TFMessage
            except ImportError as error:
                raise ValueError(
                    f"robot '{robot.name}' needs tf, and the ROS 2 package tf2_msgs is not installed ({error}); "
                    f"install it, or use pose_source odom, pose or pose_stamped"
                ) from error
            broadcasters[robot.tf_topic] = node.create_publisher(TFMessage, robot.tf_topic, TF)
        if robot.needs_tf:
            outputs.append(TfOutput(node, robot, map_frame, start, noise, broadcasters[robot.tf_topic]))
        else:
            outputs.append(MessageOutput(node, robot, map_frame, noise))
    return outputs


class PoseOutput:
    """Sends one robot's measured poses."""

    def send(self, stamp: Stamp, row: list[float]) -> None:
        """Publish x, y, quaternion z and w in the map frame, and vx, vy, yaw rate in the body's; m, m/s, rad/s."""
        raise NotImplementedError


class MessageOutput(PoseOutput):
    """Poses in the map frame as Odometry, PoseWithCovarianceStamped or PoseStamped."""

    def __init__(self, node: Node, robot: RobotEntry, map_frame: str, noise: tuple[float, float]) -> None:
        """Publish on the robot's pose topic."""
        if robot.pose_source == "odom":
            kind: type = Odometry
            self._bytes = OdometryBytes(map_frame, robot.base_frame, *noise)
        else:
            kind = PoseStamped if robot.pose_source == "pose_stamped" else PoseWithCovarianceStamped
            self._bytes = PoseBytes(kind, map_frame, *noise)
        self._publisher = node.create_publisher(kind, robot.pose_topic, RELIABLE)

    def send(self, stamp: Stamp, row: list[float]) -> None:
        """Publish one message."""
        self._publisher.publish(self._bytes.write(stamp, row))


class TfOutput(PoseOutput):
    """Localisation by tf: map to odometry frame, and the pose in it as tf or, with odom_through_tf, as Odometry."""

    def __init__(
        self, node: Node, robot: RobotEntry, map_frame: str, start: np.ndarray, noise: tuple[float, float],
        broadcaster: Any,
    ) -> None:  # fmt: skip
        """Publish with ``broadcaster`` on the robot's tf topic."""
        self._start, self._broadcaster = start, broadcaster
        half = 0.5 * start[2]
        place = [float(start[0]), float(start[1]), float(np.sin(half)), float(np.cos(half))]
        self._transforms = [_transform(map_frame, robot.odom_frame, place)]
        self._odometry = None
        if robot.odom_through_tf:
            self._odometry = node.create_publisher(Odometry, robot.pose_topic, RELIABLE)
            self._bytes = OdometryBytes(robot.odom_frame, robot.base_frame, *noise)
        else:
            self._transforms.append(_transform(robot.odom_frame, robot.base_frame, place))

    def send(self, stamp: Stamp, row: list[float]) -> None:
        """Publish the transforms, then the odometry."""
        x, y, yaw = self._start
        cos, sin = np.cos(yaw), np.sin(yaw)
        dx, dy = row[0] - x, row[1] - y
        half = np.arctan2(row[2], row[3]) - 0.5 * yaw
        place = [float(v) for v in (cos * dx + sin * dy, cos * dy - sin * dx, np.sin(half), np.cos(half))]
        for transform in self._transforms:
            transform.header.stamp.sec, transform.header.stamp.nanosec = stamp
        if self._odometry is None:
            _place(self._transforms[1], place)
        from tf2_msgs.msg import TFMessage

        self._broadcaster.publish(TFMessage(transforms=self._transforms))
        if self._odometry is not None:
            self._odometry.publish(self._bytes.write(stamp, [*place, *row[4:]]))


def _transform(frame: str, child: str, place: list[float]) -> TransformStamped:
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id = frame
    _place(message, place)
    return message


def _place(message: TransformStamped, place: list[float]) -> None:
    """Write x, y and the quaternion's z and w."""
    move, turn = message.transform.translation, message.transform.rotation
    move.x, move.y, turn.z, turn.w = place

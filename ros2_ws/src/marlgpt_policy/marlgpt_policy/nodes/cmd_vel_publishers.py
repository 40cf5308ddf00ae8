"""Velocity commands to robots, as the fleet node and the watchdog send them."""

from __future__ import annotations

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Twist, TwistStamped
from rclpy.duration import Duration
from rclpy.node import Node

from marlgpt_policy.nodes.messages.cdr import TwistWriter
from marlgpt_policy.nodes.qos import LAST
from marlgpt_policy.robots.robots_file import RobotEntry


class CmdVelPublishers:
    """The publishers of robots' commands: created when a robot is first named, since discovery takes time."""

    def __init__(self, node: Node, marked: bool = False) -> None:
        """Publish from ``node``, for each robot on its topic: TwistStamped or Twist, as its entry says.

        ``marked`` commands are told from others by :func:`marlgpt_policy.nodes.messages.cdr.is_marked`.
        """
        self._node, self._marked = node, marked
        self._publishers: dict = {}
        self._writers: dict[str, TwistWriter] = {}

    def add(self, robot: RobotEntry) -> None:
        """Create the robot's publisher, unless there is one."""
        if robot.name not in self._publishers:
            kind = TwistStamped if robot.stamped_cmd_vel else Twist
            self._publishers[robot.name] = self._node.create_publisher(kind, robot.cmd_vel_topic, LAST)
            self._writers[robot.name] = TwistWriter(
                robot.base_frame if robot.stamped_cmd_vel else None, self._marked
            )

    def remove(self, robot: str) -> None:
        """Send the robot nothing any more."""
        if robot in self._publishers:
            self._node.destroy_publisher(self._publishers.pop(robot))
            del self._writers[robot]

    def clear(self) -> None:
        """Remove every robot."""
        for robot in list(self._publishers):
            self.remove(robot)

    def send(self, robot: str, stamp: Time, vx: float = 0.0, vy: float = 0.0, wz: float = 0.0) -> None:
        """Command body-frame velocities, m/s and rad/s; standstill by default. Unknown robots are left out."""
        publisher = self._publishers.get(robot)
        if publisher is not None:
            publisher.publish(self._writers[robot].write((stamp.sec, stamp.nanosec), vx, vy, wz))

    def stand(self, stamp: Time) -> None:
        """Command standstill to every robot."""
        for robot in self._publishers:
            self.send(robot, stamp)

    def flush(self, seconds: float) -> None:
        """Wait until what was sent has arrived; at most ``seconds``, and not for many robots that are gone."""
        for publisher in self._publishers.values():
            if not publisher.wait_for_all_acked(Duration(seconds=seconds)):
                break

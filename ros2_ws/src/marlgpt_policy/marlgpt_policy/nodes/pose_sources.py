"""Where robots are, whatever says so: Odometry, PoseWithCovarianceStamped, PoseStamped or tf, for each its own.

A node makes one :class:`Poses`, names robots with :meth:`Poses.add` and calls :meth:`Poses.poll` in every control
period: tf sends no message per robot, so it is looked up. It needs the package tf2_ros; all else works without.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped, Transform
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from rclpy.time import Time

from marlgpt_policy.grid.geometry import yaw_of
from marlgpt_policy.nodes.event_log import short
from marlgpt_policy.nodes.messages import cdr
from marlgpt_policy.nodes.messages import message_checks as intake
from marlgpt_policy.nodes.qos import BEST_EFFORT
from marlgpt_policy.robots.robots_file import RobotEntry

KINDS = {"odom": Odometry, "pose": PoseWithCovarianceStamped, "pose_stamped": PoseStamped}
"""Type of the messages of each source of poses."""
TF = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
TF_STATIC = QoSProfile(
    depth=100, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)

Take = Callable[[int, float, float, float], None]
"""Takes a stamp in ns (0: none) and x, y, yaw in the map frame, m and rad; refuses with ``ValueError``."""


class NoPose(ValueError):
    """tf gives no pose of a robot (yet); no message was refused."""


def require_tf(robot: RobotEntry) -> None:
    """Raise ``ValueError``, which says what to install, if a robot needs tf and tf2_ros is not there."""
    if not robot.needs_tf:
        return
    try:
        import tf2_msgs.msg  # noqa: F401
        import tf2_ros  # noqa: F401
    except ImportError as error:
        what = "odom_through_tf is true" if robot.odom_through_tf else "pose_source is tf"
        raise ValueError(
            f"robot '{robot.name}': {what}, which needs the ROS 2 package tf2_ros ({error}). Install "
            f"ros-$ROS_DISTRO-tf2-ros-py, or use pose_source odom, pose or pose_stamped with poses in the map frame"
        ) from error


@dataclass
class _Tree:
    """The transforms of one tf topic.

    Attributes:
        buffer: ``tf2_ros.Buffer``.
        subscriptions: To the topic and to its static transforms.
        users: Names of the robots that it is for.
    """

    buffer: Any
    subscriptions: list
    users: set[str] = field(default_factory=set)


class Poses:
    """The sources of poses of one node's robots."""

    def __init__(
        self,
        node: Node,
        listen: Callable[..., Subscription],
        map_frame: str,
        refuse: Callable[[str, ValueError], None],
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """Hear on ``node``.

        Args:
            node: Its clock and subscriptions.
            listen: Subscribes; arguments as ``node.create_subscription``.
            map_frame: Frame that poses are wanted in.
            refuse: Told a robot's name and why its pose is not used; :class:`NoPose` where it was looked up by tf.
            ready: Poses are not looked at while it says no.
        """
        self._node, self.listen = node, listen
        self._map_frame, self._refuse, self._ready = map_frame, refuse, ready
        self._robots: dict[str, tuple[RobotEntry, Take, list]] = {}
        self._trees: dict[str, _Tree] = {}
        self._newest: dict[str, int] = {}  # ns, stamp of the newest pose by tf

    def add(self, robot: RobotEntry, take: Take) -> None:
        """Hear where a robot is from now on.

        Raises:
            ValueError: It needs tf, and tf2_ros is not installed.
        """
        subscriptions = []
        if robot.needs_tf:
            self._tree(robot).users.add(robot.name)
        if robot.pose_source in KINDS:
            callback = partial(self._on_pose, robot, take, cdr.PoseReader(robot.pose_source))
            kind = KINDS[robot.pose_source]
            subscriptions.append(self.listen(kind, robot.pose_topic, callback, BEST_EFFORT, raw=True))
        self._robots[robot.name] = (robot, take, subscriptions)

    def remove(self, name: str) -> None:
        """Hear of a robot no more."""
        if name not in self._robots:
            return
        robot, _, subscriptions = self._robots.pop(name)
        self._newest.pop(name, None)
        tree = self._trees.get(robot.tf_topic)
        if tree is not None:
            tree.users.discard(name)
            if not tree.users:
                subscriptions += self._trees.pop(robot.tf_topic).subscriptions
        for subscription in subscriptions:
            self._node.destroy_subscription(subscription)

    def clear(self) -> None:
        """Remove every robot."""
        for name in list(self._robots):
            self.remove(name)

    def forget_times(self) -> None:
        """The clock was set back: what tf said before says nothing about now."""
        self._newest.clear()
        for tree in self._trees.values():
            tree.buffer.clear()

    def poll(self) -> None:
        """Look up the robots whose poses come by tf; those that have moved on are taken."""
        if not self._ready():
            return
        for name, (robot, take, _) in self._robots.items():
            if robot.pose_source != "tf":
                continue
            try:
                stamp, x, y, yaw = self._look_up(robot, robot.base_frame)
                if not stamp:
                    raise ValueError(
                        f"all transforms from '{self._map_frame}' to '{robot.base_frame}' are static: no measurement"
                    )
                if stamp != self._newest.get(name):
                    self._newest[name] = stamp
                    take(stamp, x, y, yaw)
            except ValueError as error:
                self._refuse(name, NoPose(str(error)))

    # Messages -------------------------------------------------------------------------------------------

    def _on_pose(self, robot: RobotEntry, take: Take, reader: cdr.PoseReader, data: bytes) -> None:
        if not self._ready():
            return
        try:
            try:
                stamp, frame, x, y, *quaternion = reader.read(data)
            except cdr.CdrError:
                stamp, frame, x, y, *quaternion = _deserialized(KINDS[robot.pose_source], data)
            if frame != self._map_frame or robot.odom_through_tf:
                self._check_frame(robot, frame)
            place = *intake.on_earth(x, y), yaw_of(quaternion)
            if robot.odom_through_tf:
                place = _compose(self._odom_in_map(robot, stamp), place)
            take(stamp, *place)
        except ValueError as error:
            self._refuse(robot.name, error)

    def _check_frame(self, robot: RobotEntry, frame: str) -> None:
        """Raise ``ValueError``, which says what to write in robots.yaml, for a pose in a frame of its own."""
        if robot.odom_through_tf:
            if frame != robot.odom_frame:
                raise ValueError(
                    f"its frame is '{short(frame)}', odom_frame in robots.yaml is '{robot.odom_frame}'"
                )
        elif frame not in ("", self._map_frame):
            fix = f"map_frame: {short(frame)}, if that is the frame of the map"
            if robot.pose_source == "odom":
                fix += f", or odom_through_tf: true and odom_frame: {short(frame)}, if tf says where in the map it is"
            raise ValueError(
                f"its frame is '{short(frame)}', not '{self._map_frame}'; set in robots.yaml {fix}"
            )

    # tf -------------------------------------------------------------------------------------------------

    def _odom_in_map(self, robot: RobotEntry, stamp: int) -> tuple[float, float, float]:
        """Where the odometry's frame was at ``stamp`` ns: then, if tf knows it, or last, if that is recent enough."""
        latest, *place = self._look_up(robot, robot.odom_frame)
        if not latest:  # static
            return tuple(place)
        if stamp and stamp <= latest:
            try:
                return self._look_up(robot, robot.odom_frame, stamp)[1:]
            except ValueError:  # older than anything tf remembers
                return tuple(place)
        now = stamp or self._node.get_clock().now().nanoseconds
        if now - latest > robot.tf_timeout * 1e9:
            raise ValueError(
                f"tf last said {(now - latest) * 1e-9:.2f} s before where '{robot.odom_frame}' is in "
                f"'{self._map_frame}'; tf_timeout in robots.yaml is {robot.tf_timeout} s. Does localisation run?"
            )
        return tuple(place)

    def _look_up(self, robot: RobotEntry, frame: str, stamp: int = 0) -> tuple[int, float, float, float]:
        """Stamp in ns and x, y, yaw of ``frame`` in the map, at ``stamp`` or as late as tf knows it (0)."""
        from tf2_ros import TransformException

        buffer = self._trees[robot.tf_topic].buffer
        try:
            found = buffer.lookup_transform_core(self._map_frame, frame, Time(nanoseconds=stamp))
        except TransformException as error:
            raise ValueError(f"{robot.tf_topic} does not say where '{frame}' is: {short(error)}") from error
        return Time.from_msg(found.header.stamp).nanoseconds, *_planar(found.transform)

    def _tree(self, robot: RobotEntry) -> _Tree:
        """The transforms of a robot's tf topic, heard from now on."""
        require_tf(robot)
        from tf2_msgs.msg import TFMessage
        from tf2_ros import Buffer

        topic = robot.tf_topic
        if topic in self._trees:
            return self._trees[topic]
        buffer = Buffer()
        heard, static = partial(self._on_tf, buffer), partial(self._on_tf_static, buffer)
        self._trees[topic] = _Tree(
            buffer,
            [
                self.listen(TFMessage, topic, heard, TF),
                self.listen(TFMessage, f"{topic}_static", static, TF_STATIC),
            ],
        )
        return self._trees[topic]

    @staticmethod
    def _on_tf(buffer: Any, message: Any) -> None:
        for transform in message.transforms:
            buffer.set_transform(transform, "tf")

    @staticmethod
    def _on_tf_static(buffer: Any, message: Any) -> None:
        for transform in message.transforms:
            buffer.set_transform_static(transform, "tf_static")


def _deserialized(kind: type, data: bytes) -> cdr.Pose:
    """What a message says that is not laid out as usual; ``ValueError`` if it is none."""
    try:
        message: Any = deserialize_message(data, kind)
    except Exception as error:  # which one depends on the middleware
        raise ValueError(f"{len(data)} bytes are no {kind.__name__}: {short(error)}") from error
    pose = message.pose if kind is PoseStamped else message.pose.pose
    stamp, q = Time.from_msg(message.header.stamp).nanoseconds, pose.orientation
    return stamp, message.header.frame_id, pose.position.x, pose.position.y, q.x, q.y, q.z, q.w


def _planar(transform: Transform) -> tuple[float, float, float]:
    """(x, y, yaw) of a transform in m and rad; ``ValueError`` where it is not finite or too far."""
    x, y = intake.coordinates(transform.translation)
    q = transform.rotation
    return x, y, yaw_of((q.x, q.y, q.z, q.w))


def _compose(
    frame: tuple[float, float, float], pose: tuple[float, float, float]
) -> tuple[float, float, float]:
    """A pose in the map, given in a frame that lies at ``frame`` in the map; each (x, y, yaw) in m and rad."""
    (x, y, yaw), (px, py, turn) = frame, pose
    cos, sin = math.cos(yaw), math.sin(yaw)
    total = math.remainder(yaw + turn, 2 * math.pi)
    return x + cos * px - sin * py, y + sin * px + cos * py, total

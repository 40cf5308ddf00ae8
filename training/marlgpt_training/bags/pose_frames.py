"""Poses of robots in the map frame from a bag's messages: which topics hold them, and tf where it is needed."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from marlgpt_training.bags.bag_reader import BagError, Topic

ODOMETRY, POSE, STAMPED = (
    "nav_msgs/msg/Odometry",
    "geometry_msgs/msg/PoseWithCovarianceStamped",
    "geometry_msgs/msg/PoseStamped",
)
POSES = (POSE, STAMPED, ODOMETRY)
TF = "tf2_msgs/msg/TFMessage"
_NO_POSES = ("goal", "plan", "target", "initialpose", "initial_pose", "clicked")
_BASES = ("base_link", "base_footprint")
_HOPS = 20


def plain_frame(frame: str) -> str:
    """A frame's name without the slash of old versions."""
    return frame.lstrip("/")


def planar(pose: Any) -> tuple[float, float, float]:
    """x, y in m and yaw in rad of a pose; NaN where its quaternion is none."""
    return float(pose.position.x), float(pose.position.y), _yaw(pose.orientation)


def _yaw(q: Any) -> float:
    """Yaw of a quaternion in rad, NaN where it is none; as ``geometry.yaw_of``, many times faster for one."""
    x, y, z, w = q.x, q.y, q.z, q.w
    if not 0.9 < x * x + y * y + z * z + w * w < 1.1:
        return math.nan
    return math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


@dataclass
class Transforms:
    """The newest transform to every frame from its parent."""

    parents: dict[str, tuple[str, float, float, float]] = field(default_factory=dict)

    def take(self, message: Any) -> None:
        """Take a ``tf2_msgs/TFMessage``; transforms that are not finite are left out."""
        for one in message.transforms:
            q, t = one.transform.rotation, one.transform.translation
            yaw = _yaw(q)
            child, parent = plain_frame(one.child_frame_id), plain_frame(one.header.frame_id)
            if child != parent and math.isfinite(t.x + t.y + yaw):
                self.parents[child] = parent, float(t.x), float(t.y), yaw

    def find(self, frame: str, target: str) -> tuple[float, float, float] | None:
        """The pose of ``frame`` in ``target``; None if no transforms lead there."""
        x = y = yaw = 0.0
        for _ in range(_HOPS):
            if frame == target:
                return x, y, yaw
            if frame not in self.parents:
                return None
            frame, px, py, pyaw = self.parents[frame]
            x, y = px + math.cos(pyaw) * x - math.sin(pyaw) * y, py + math.sin(pyaw) * x + math.cos(pyaw) * y
            yaw += pyaw
        return None


@dataclass(frozen=True)
class Source:
    """Where the poses of a robot come from: a topic, or a frame that tf knows."""

    topic: str = ""
    frame: str = ""


def robot_names(topics: list[str]) -> dict[str, str]:
    """The robot of each topic: the first part of the name in which the topics differ."""
    parts = {topic: topic.strip("/").split("/") for topic in topics}
    common = 0
    if len(topics) > 1:
        for same in zip(*parts.values(), strict=False):
            if len(set(same)) > 1:
                break
            common += 1
    found = {}
    for topic, names in parts.items():
        at = min(common, len(names) - 1)
        if at == len(names) - 1:  # the last part says what is published, not who does
            at -= 1
        found[topic] = names[at] if at >= 0 else "robot"
    return found


def find_sources(
    topics: dict[str, Topic],
    frames: dict[str, str],
    children: set[str],
    map_frame: str,
    named: dict[str, str],
    wanted: tuple[str, ...],
) -> dict[str, Source]:
    """Where the poses of each robot come from.

    Args:
        topics: Of the bag.
        frames: Frame of the first message of each topic with poses.
        children: Frames that tf knows.
        map_frame: The map's frame.
        named: Topics that the user named, by robot.
        wanted: Robots that the user named; empty for all.

    Raises:
        BagError: A named topic or robot is not in the bag.
    """
    for robot, topic in named.items():
        if topic not in topics or topics[topic].type not in POSES:
            known = (
                ", ".join(sorted(name for name, kind in topics.items() if kind.type in POSES)[:8]) or "none"
            )
            raise BagError(f"--topics {robot}={topic}: the bag has no such topic of poses; it has {known}")
    found = {robot: Source(topic) for robot, topic in named.items()}
    open_topics = [
        name
        for name, topic in topics.items()
        if topic.type in POSES
        and topic.count
        and name not in named.values()
        and not any(word in name.rsplit("/", 1)[-1].lower() for word in _NO_POSES)
    ]
    best: dict[str, tuple] = {}
    for topic, robot in robot_names(open_topics).items():
        there = plain_frame(frames.get(topic, "")) == map_frame
        known = there or plain_frame(frames.get(topic, "")) in children
        rank = (there, known, -POSES.index(topics[topic].type), topics[topic].count, topic)
        if robot not in best or rank > best[robot]:
            best[robot] = rank
    for robot, rank in best.items():
        found.setdefault(robot, Source(rank[-1]))
    if not found:
        bases = sorted(child for child in children if child.rsplit("/", 1)[-1] in _BASES)
        by_robot: dict[str, str] = {}
        for child in bases:
            by_robot.setdefault(child.rsplit("/", 1)[0].replace("/", "_") if "/" in child else "robot", child)
        found = {robot: Source(frame=child) for robot, child in by_robot.items()}
    if wanted:
        missing = [robot for robot in wanted if robot not in found]
        if missing:
            raise BagError(
                f"--robots {' '.join(missing)}: the bag has no poses of them; it has poses of "
                f"{', '.join(sorted(found)[:12]) or 'nobody'}; name topics with --topics ROBOT=TOPIC"
            )
        found = {robot: found[robot] for robot in wanted}
    return found


class Poses:
    """Turns messages into (robot, s, x, y, yaw) in the map frame.

    Attributes:
        dropped: Poses that could not be used, by reason [count].
        tf: The transforms so far.
    """

    def __init__(self, sources: dict[str, Source], map_frame: str, by_header: bool, trust: bool) -> None:
        """Prepare.

        Args:
            sources: By robot.
            map_frame: The map's frame.
            by_header: Times are those of the messages' stamps, otherwise those of their reception.
            trust: Take poses in frames that tf does not connect with the map as if they were in the map's.
        """
        self.map_frame, self.by_header, self.trust = map_frame, by_header, trust
        self.by_topic: dict[str, list[str]] = {}
        for robot, source in sources.items():
            if source.topic:
                self.by_topic.setdefault(source.topic, []).append(robot)
        self.by_frame = {source.frame: robot for robot, source in sources.items() if source.frame}
        self.tf = Transforms()
        self.dropped: Counter[str] = Counter()

    def take(self, topic: str, kind: str, message: Any, received: int) -> list[tuple]:
        """Poses that a message gives; none for most."""
        if kind == TF:
            self.tf.take(message)
            return self._from_tf(message, received) if self.by_frame else []
        robots = self.by_topic.get(topic, [])
        if not robots:
            return []
        pose = message.pose if kind == STAMPED else message.pose.pose
        x, y, yaw = planar(pose)
        frame = plain_frame(message.header.frame_id)
        if frame != self.map_frame:
            place = self.tf.find(frame, self.map_frame)
            if place is not None:
                px, py, pyaw = place
                x, y = (
                    px + math.cos(pyaw) * x - math.sin(pyaw) * y,
                    py + math.sin(pyaw) * x + math.cos(pyaw) * y,
                )
                yaw += pyaw
            elif not self.trust:
                self.dropped[f"pose is in a frame that no tf connects with {self.map_frame!r}"] += 1
                return []
        return [(robot, self.time(message.header, received), x, y, yaw) for robot in robots]

    def time(self, header: Any, received: int) -> float:
        """Seconds: a message's stamp or, where it has none, when it was received."""
        stamp = int(header.stamp.sec) * 10**9 + int(header.stamp.nanosec)
        return (stamp if self.by_header and stamp else received) * 1e-9

    def _from_tf(self, message: Any, received: int) -> list[tuple]:
        """Poses of robots of which one of the frames between map and body has moved."""
        moved = {plain_frame(one.child_frame_id): one.header for one in message.transforms}
        found = []
        for frame, robot in self.by_frame.items():
            if frame in moved:
                place = self.tf.find(frame, self.map_frame)
                if place is None:
                    self.dropped[f"tf does not lead from {self.map_frame!r} to the robot yet"] += 1
                else:
                    found.append((robot, self.time(moved[frame], received), *place))
        return found

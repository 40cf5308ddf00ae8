"""Bags for tests: a simulated fleet recorded as its node would, and bags of others written message by message."""

from pathlib import Path

import numpy as np
from marlgpt_policy.grid.occupancy_map import to_occupancy_data
from marlgpt_sim.bags.bag_types import load_types
from marlgpt_sim.bags.bag_writer import BagWriter
from marlgpt_sim.world.closed_loop import ClosedLoop
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

ODOM, MAP = "nav_msgs/msg/Odometry", "nav_msgs/msg/OccupancyGrid"
DECISION, GRID = "marlgpt_msgs/msg/FleetDecision", "marlgpt_msgs/msg/Grid"


class Messages:
    """Messages of one distribution, made without ROS."""

    def __init__(self, store=Stores.ROS2_KILTED):
        self.types = get_typestore(store)

    def new(self, name, **fields):
        return self.types.types[name](**fields)

    def cdr(self, message):
        return bytes(self.types.serialize_cdr(message, message.__msgtype__))

    def header(self, stamp, frame):
        time = self.new("builtin_interfaces/msg/Time", sec=int(stamp // 10**9), nanosec=int(stamp % 10**9))
        if "seq" in self.types.types["std_msgs/msg/Header"].__dataclass_fields__:
            return self.new("std_msgs/msg/Header", seq=0, stamp=time, frame_id=frame)
        return self.new("std_msgs/msg/Header", stamp=time, frame_id=frame)

    def vector(self, x=0.0, y=0.0, z=0.0):
        return self.new("geometry_msgs/msg/Vector3", x=float(x), y=float(y), z=float(z))

    def quaternion(self, yaw):
        return self.new(
            "geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=float(np.sin(yaw / 2)), w=float(np.cos(yaw / 2))
        )

    def pose(self, x, y, yaw):
        point = self.new("geometry_msgs/msg/Point", x=float(x), y=float(y), z=0.0)
        return self.new("geometry_msgs/msg/Pose", position=point, orientation=self.quaternion(yaw))

    def with_covariance(self, x, y, yaw):
        return self.new(
            "geometry_msgs/msg/PoseWithCovariance", pose=self.pose(x, y, yaw), covariance=np.zeros(36)
        )

    def odometry(self, stamp, frame, x, y, yaw):
        twist = self.new("geometry_msgs/msg/Twist", linear=self.vector(), angular=self.vector())
        twist = self.new("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=np.zeros(36))
        return self.new(
            ODOM, header=self.header(stamp, frame), child_frame_id="base_link",
            pose=self.with_covariance(x, y, yaw), twist=twist,
        )  # fmt: skip

    def amcl(self, stamp, frame, x, y, yaw):
        return self.new(
            "geometry_msgs/msg/PoseWithCovarianceStamped", header=self.header(stamp, frame),
            pose=self.with_covariance(x, y, yaw),
        )  # fmt: skip

    def stamped(self, stamp, frame, x, y, yaw):
        return self.new(
            "geometry_msgs/msg/PoseStamped", header=self.header(stamp, frame), pose=self.pose(x, y, yaw)
        )

    def transforms(self, stamp, *found):
        """``found``: (parent, child, x, y, yaw)."""
        each = [
            self.new(
                "geometry_msgs/msg/TransformStamped", header=self.header(stamp, parent), child_frame_id=child,
                transform=self.new(
                    "geometry_msgs/msg/Transform", translation=self.vector(x, y), rotation=self.quaternion(yaw)
                ),
            )
            for parent, child, x, y, yaw in found
        ]  # fmt: skip
        return self.new("tf2_msgs/msg/TFMessage", transforms=each)

    def map(self, plan, frame="map", stamp=0):
        info = self.new(
            "nav_msgs/msg/MapMetaData", map_load_time=self.header(0, "").stamp, resolution=plan.resolution,
            width=plan.shape[1], height=plan.shape[0], origin=self.pose(*plan.origin),
        )  # fmt: skip
        data = to_occupancy_data(plan).astype(np.int8)
        return self.new(MAP, header=self.header(stamp, frame), info=info, data=data)


class AnyBag:
    """A bag that is written as the release of a distribution would, in either storage."""

    def __init__(self, path, messages, plugin=StoragePlugin.MCAP, compression=None, version=9):
        self.messages, self.writer = messages, Writer(path, version=version, storage_plugin=plugin)
        if compression is not None:
            self.writer.set_compression(*compression)
        self.writer.open()
        self.connections = {}

    def write(self, topic, message, stamp):
        kind = message.__msgtype__
        if topic not in self.connections:
            self.connections[topic] = self.writer.add_connection(topic, kind, typestore=self.messages.types)
        self.writer.write(self.connections[topic], int(stamp), self.messages.cdr(message))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.writer.close()


class Truth:
    """What the robots of a run really did: (cell, move) of every move, and of a wait for each step of waiting."""

    def __init__(self, robots):
        self.steps = [[] for _ in range(robots)]
        self.recorded = np.full(robots, -np.inf)

    def note(self, decision, now, step_time, moving):
        for i in np.flatnonzero(~decision.held):
            move = int(decision.executed[i])
            if move or (not moving[i] and now - self.recorded[i] >= step_time):
                self.recorded[i] = now
                self.steps[i].append((*decision.cells[i].tolist(), move))


def record_run(path: Path, loop: ClosedLoop, plan, seconds: float, decisions: bool = True) -> Truth:
    """Drive and record: map, grid, every robot's odometry and, unless left out, the decisions."""
    from marlgpt_policy.nodes.messages import conversions
    from rclpy.serialization import serialize_message
    from rclpy.time import Time
    from std_msgs.msg import Header

    messages, truth = Messages(), Truth(len(loop.fleet))
    with BagWriter(path, ["marlgpt_msgs"]) as bag:
        bag.add_topic("/map", MAP, [])
        bag.write("/map", MAP, messages.cdr(messages.map(plan)), 1)
        if decisions:
            bag.add_topic("/fleet/grid", GRID, [])
            bag.add_topic("/fleet/decisions", DECISION, [])
            bag.write("/fleet/grid", GRID, serialize_message(conversions.grid_message(loop.grid)), 2)
        for name in loop.fleet.names:
            bag.add_topic(f"/{name}/odom", ODOM, [])
        for _ in range(round(seconds / loop.fleet.config.control_period)):
            now = loop.time
            stamp = round(now * 1e9) + 10**9
            moving = loop.fleet.moving.copy()
            result = loop.tick()
            for name, pose in zip(loop.fleet.names, loop.fleet.poses, strict=True):
                bag.write(f"/{name}/odom", ODOM, messages.cdr(messages.odometry(stamp, "map", *pose)), stamp)
            if result.decision is not None:
                truth.note(result.decision, now, loop.fleet.step_time, moving)
                if decisions:
                    header = Header(frame_id="map", stamp=Time(nanoseconds=stamp).to_msg())
                    message = conversions.decision_message(loop.fleet, result.decision, header)
                    bag.write("/fleet/decisions", DECISION, serialize_message(message), stamp)
    return truth


def recovered_share(truth, found) -> tuple[float, float]:
    """Share of the true steps, and of the true moves alone, that the longest common subsequences contain."""
    both, moves = [0, 0], [0, 0]
    for true, mine in zip(truth, found, strict=True):
        for total, keep in ((both, lambda step: True), (moves, lambda step: step[2] > 0)):
            a, b = list(filter(keep, true)), list(filter(keep, mine))
            total[0] += common(a, b)
            total[1] += len(a)
    return both[0] / max(1, both[1]), moves[0] / max(1, moves[1])


def common(a, b) -> int:
    """Length of the longest common subsequence."""
    codes = {step: k for k, step in enumerate({*a, *b})}
    a, b = np.array([codes[s] for s in a], int), np.array([codes[s] for s in b], int)
    row = np.zeros(len(b) + 1, dtype=np.int64)
    for step in a:
        extended = np.where(b == step, row[:-1] + 1, 0)
        row[1:] = np.maximum.accumulate(np.maximum(row[1:], extended))
    return int(row[-1])


def steps_of(episodes, names) -> list[list[tuple[int, int, int]]]:
    """Per robot (cell, move) of all steps in ``episodes``."""
    found = {name: [] for name in names}
    for episode in episodes:
        for step, i in np.argwhere(episode.actions >= 0):
            found[episode.spec["robots"][i]].append(
                (*episode.cells[step, i].tolist(), int(episode.actions[step, i]))
            )
    return [found[name] for name in names]


def our_types():
    """Types of this project's messages, without ROS."""
    return load_types(["marlgpt_msgs"])

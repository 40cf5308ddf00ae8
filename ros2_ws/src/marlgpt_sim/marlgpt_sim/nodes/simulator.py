"""Node `simulator`: drives a fleet of disc robots on a map and publishes what real robots would.

Subscribes to ``<robot>/cmd_vel`` (Twist or TwistStamped); publishes ``<robot>/odom`` (nav_msgs/Odometry,
pose in the map frame with noise), ``/clock``, ``sim/ground_truth`` (PoseArray without noise, robots in the
order of ``robots``) and ``sim/status`` (marlgpt_msgs/SimStatus). `PARAMETERS` lists the parameters.

Time runs in ticks of ``1 / publish_rate`` s: a tick publishes every odom, then the truth, then the clock, and
then takes the physics steps up to the next tick. With ``lockstep`` it waits, before those steps, for a
command of each robot stamped with the tick's time; all stand until each was heard once. From then on a run is
reproducible, and as fast as the slower of both sides. The first tick is at one period, because time 0 means
"no time" in ROS.

Thousands of messages per second pass here, so they are written and read as CDR bytes: the layout of a message
comes from ROS's own serialization, once, and only the numbers in it change.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from struct import Struct, pack
from typing import Any

import numpy as np
from geometry_msgs.msg import Pose, PoseArray, Twist, TwistStamped
from marlgpt_msgs.msg import SimStatus
from marlgpt_policy.grid import build_grid
from marlgpt_policy.nodes.parameters import Spec, declare
from marlgpt_policy.occupancy import load_map_yaml
from nav_msgs.msg import Odometry
from rclpy.experimental import EventsExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from rosgraph_msgs.msg import Clock

from marlgpt_sim.nodes.running import run

from ..spawn import place_robots
from ..world import DIFFERENTIAL, HOLONOMIC, FleetWorld

DRIVES = {"differential": DIFFERENTIAL, "holonomic": HOLONOMIC}
STATUS_RATE = 5.0  # Hz of simulated time
REPEAT_AFTER = 0.5  # s of wall time without an answer, after which a lockstep tick is published again
STAMP_SLACK = 1000  # ns by which a command's stamp may miss the tick: stamps pass through floats
LARGEST_LAG = 0.1  # s of wall time behind schedule that are caught up; more is given up and counted
LOGGED_CONTACTS = 20

_TWIST, _STAMP, _LENGTH, _NUMBER = Struct("=6d"), Struct("=iI"), Struct("=I"), Struct("=d")
_NATIVE = b"\x00\x01" if sys.byteorder == "little" else b"\x00\x00"  # CDR in this machine's byte order

RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
LAST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)


PARAMETERS: dict[str, Spec] = {
    "robots": Spec(Parameter.Type.STRING_ARRAY, "Names of the robots, each also the prefix of its topics."),
    "initial_poses": Spec(
        Parameter.Type.DOUBLE_ARRAY,
        "Start x, y (m) and yaw (rad) of each robot, one after the other; unset: spread over the map.",
    ),
    "radius": Spec(0.22, "Radius in m of the disc that is the robot.", 0.01, 10.0),
    "drive": Spec("differential", "How the robots move: differential or holonomic."),
    "max_speed": Spec(0.5, "Largest speed of a robot, m/s.", 0.01, 20.0),
    "max_yaw_rate": Spec(2.0, "Largest yaw rate of a robot, rad/s.", 0.01, 50.0),
    "max_acceleration": Spec(3.0, "Largest acceleration of a robot, m/s^2, also for braking.", 0.01, 100.0),
    "max_yaw_acceleration": Spec(6.0, "Largest yaw acceleration of a robot, rad/s^2.", 0.01, 500.0),
    "map_yaml": Spec("", "Map in map_server's YAML format."),
    "unknown_is_wall": Spec(False, "Whether unknown pixels of the map stop robots."),
    "rate": Spec(100.0, "Physics steps per simulated second; a multiple of publish_rate.", 1.0, 10000.0),
    "publish_rate": Spec(20.0, "Ticks, that is odom of every robot, per simulated second.", 0.1, 1000.0),
    "real_time_factor": Spec(1.0, "Simulated seconds per wall second; 0: as fast as possible.", 0.0, 1000.0),
    "pose_noise_xy": Spec(0.0, "Standard deviation of x and of y in odom, m.", 0.0, 10.0),
    "pose_noise_yaw": Spec(0.0, "Standard deviation of the yaw in odom, rad.", 0.0, 3.2),
    "seed": Spec(0, "Of the noise, and of start poses that are not given.", 0, 2**31 - 1),
    "cmd_timeout": Spec(0.5, "Simulated seconds without a command until a robot stops.", 0.01, 3600.0),
    "stamped_cmd_vel": Spec(False, "Read geometry_msgs/TwistStamped instead of Twist."),
    "lockstep": Spec(False, "Wait in every tick for a command of each robot; needs stamped_cmd_vel."),
    "lockstep_timeout": Spec(1.0, "Wall seconds to wait for commands until a tick is late.", 0.01, 600.0),
}


def _layout(message: object, marks: list[float]) -> tuple[bytearray, list[int]]:
    """Return a message's CDR bytes and where in them the unique float64 numbers `marks` lie."""
    data = bytearray(serialize_message(message))
    at = [data.find(pack("=d", mark)) for mark in marks]
    if min(at) < 0:
        raise RuntimeError(f"{type(message).__name__} is not laid out as expected")
    return data, at


class OdometryBytes:
    """Odometry of one robot as CDR bytes: laid out by ROS once, then only its numbers change.

    Args:
        frame: frame of the pose.
        robot: name of the robot; its twist is in ``<robot>/base_link``.
        noise_xy: standard deviation of x and y, m, for the covariance.
        noise_yaw: standard deviation of the yaw, rad, for the covariance.
    """

    def __init__(self, frame: str, robot: str, noise_xy: float, noise_yaw: float) -> None:
        message, marks = Odometry(), [k + 1.25e100 * k for k in range(1, 8)]
        message.header.frame_id, message.child_frame_id = frame, f"{robot}/base_link"
        pose, twist = message.pose.pose, message.twist.twist
        pose.position.x, pose.position.y, pose.orientation.z, pose.orientation.w = marks[:4]
        twist.linear.x, twist.linear.y, twist.angular.z = marks[4:]
        covariance = np.zeros(36)
        covariance[[0, 7, 35]] = noise_xy**2, noise_xy**2, noise_yaw**2
        message.pose.covariance = covariance
        self._data, self._at = _layout(message, marks)

    def write(self, stamp: tuple[int, int], row: list[float]) -> bytes:
        """Return the bytes for a stamp (s, ns) and x, y, quaternion z and w, vx, vy, yaw rate."""
        _STAMP.pack_into(self._data, 4, *stamp)  # after the 4 bytes that name the encoding
        for at, value in zip(self._at, row, strict=True):
            _NUMBER.pack_into(self._data, at, value)
        return bytes(self._data)


class TruthBytes:
    """PoseArray of a fleet of n >= 1 robots as CDR bytes."""

    def __init__(self, frame: str, n: int) -> None:
        message = PoseArray()
        message.header.frame_id = frame
        message.poses = [Pose() for _ in range(n)]
        message.poses[0].position.x = 1.25e100
        self._data, (self._at,) = _layout(message, [1.25e100])
        self._rows = np.zeros((n, 7))

    def write(self, stamp: tuple[int, int], xy: np.ndarray, zw: np.ndarray) -> bytes:
        """Return the bytes for positions float[n, 2] and the quaternions' z and w float[n, 2]."""
        self._rows[:, :2], self._rows[:, 5:] = xy, zw
        _STAMP.pack_into(self._data, 4, *stamp)
        self._data[self._at : self._at + self._rows.nbytes] = self._rows.tobytes()
        return bytes(self._data)


def read_twist(data: bytes) -> tuple[int, float, float, float]:
    """Return 0 and vx, vy, yaw rate of a serialized Twist."""
    if data[:2] != _NATIVE:
        twist = deserialize_message(data, Twist)
        return 0, twist.linear.x, twist.linear.y, twist.angular.z
    values = _TWIST.unpack_from(data, 4)
    return 0, values[0], values[1], values[5]


def read_twist_stamped(data: bytes) -> tuple[int, float, float, float]:
    """Return the stamp in nanoseconds and vx, vy, yaw rate of a serialized TwistStamped."""
    if data[:2] != _NATIVE:
        message = deserialize_message(data, TwistStamped)
        twist, stamp = message.twist, message.header.stamp
        return stamp.sec * 10**9 + stamp.nanosec, twist.linear.x, twist.linear.y, twist.angular.z
    seconds, nanoseconds = _STAMP.unpack_from(data, 4)
    end = 12 + _LENGTH.unpack_from(data, 12)[0]  # of the frame name, counted after the 4 bytes of CDR header
    values = _TWIST.unpack_from(data, 4 + (end + 7) // 8 * 8)
    return seconds * 10**9 + nanoseconds, values[0], values[1], values[5]


class Simulator(Node):
    """The world, its topics, and the loop that advances it."""

    def __init__(self, **options: object) -> None:
        """Read the parameters, load the map, place the robots.

        Raises:
            ValueError: naming the parameter or robot that is wrong.
        """
        super().__init__("simulator", **options)
        declare(self, PARAMETERS, read_only=True)
        p = self.settings = _read(self)
        names = p["robots"]
        map_ = load_map_yaml(Path(p["map_yaml"]))
        poses = p["initial_poses"]
        if poses is None:
            poses = place_robots(build_grid(map_, p["radius"]), len(names), p["seed"])
        limits = [p["max_speed"], p["max_yaw_rate"], p["max_acceleration"], p["max_yaw_acceleration"]]
        self.world = FleetWorld(
            map_, np.reshape(poses, (-1, 3)), p["radius"], DRIVES[p["drive"]], limits, p["seed"],
            p["pose_noise_xy"], p["pose_noise_yaw"], names, p["unknown_is_wall"],
        )  # fmt: skip
        self.frame = map_.frame_id
        self.late_ticks = 0
        self.handled = 0  # messages so far, to see whether any are left
        self._dt = 1.0 / p["rate"]
        self._steps = round(p["rate"] / p["publish_rate"])
        self._period = round(1e9 / p["publish_rate"])  # ns
        self.now = self._period  # ns of simulated time
        n = len(names)
        self._inbox, self._commands = np.zeros((n, 3)), np.zeros((n, 3))
        self._received = np.full(n, -(2**62))  # ns of simulated time at which the newest command came
        self._stamps = np.full(n, -1)
        self._joined = np.zeros(n, bool)  # robots whose commands a lockstep tick waits for in earnest
        self._begun = not p["lockstep"]  # a lockstep run begins once every robot was heard
        self._waiting: set[int] = set()
        self._logged = 0
        self._connect()

    def run(self, executor: EventsExecutor) -> None:
        """Advance the world until the context is shut down; the executor handles messages in between."""
        p = self.settings
        self.world.step(np.zeros_like(self._commands), self._dt)  # compiles before time counts
        self._deadline = self._status_wall = time.monotonic()
        self._status_sim = self.now
        status_every, tick = max(1, round(p["publish_rate"] / STATUS_RATE)), 0
        while self.context.ok():
            self.world.time = self.now * 1e-9
            if not self._begun:
                self.world.ticks = 0  # the noise starts with the run, too
            self._publish_tick()
            if tick % status_every == 0:
                self._publish_status()
            tick += 1
            if p["lockstep"]:
                self._await_commands(executor)
                self._take_commands()
                self._begin()
            for _ in range(self._steps):
                self._pace(executor, self._dt)
                if not p["lockstep"]:
                    self._take_commands()
                self.world.step(self._commands, self._dt)
            self.now += self._period
            self._log_contacts()

    def _connect(self) -> None:
        """Create the publishers and subscriptions."""
        p, names = self.settings, self.settings["robots"]
        noise = p["pose_noise_xy"], p["pose_noise_yaw"]
        self._odom = [self.create_publisher(Odometry, f"{name}/odom", RELIABLE) for name in names]
        self._odom_bytes = [OdometryBytes(self.frame, name, *noise) for name in names]
        self._truth = self.create_publisher(PoseArray, "sim/ground_truth", RELIABLE)
        self._truth_bytes = TruthBytes(self.frame, len(names))
        self._clock_out = self.create_publisher(Clock, "/clock", RELIABLE)
        self._status = self.create_publisher(SimStatus, "sim/status", RELIABLE)
        kind, reader = (TwistStamped, read_twist_stamped) if p["stamped_cmd_vel"] else (Twist, read_twist)
        for i, name in enumerate(names):
            self.create_subscription(kind, f"{name}/cmd_vel", self._listener(i, reader), LAST, raw=True)

    def _listener(self, robot: int, reader: Any) -> Any:
        """Return the callback for the commands of one robot."""

        def listen(data: bytes) -> None:
            self.handled += 1
            stamp, vx, vy, wz = reader(data)
            if not np.isfinite(vx + vy + wz):
                name = self.settings["robots"][robot]
                text = f"command of '{name}' is not finite; it stops"
                self.get_logger().warning(text, throttle_duration_sec=5.0)
                vx = vy = wz = 0.0
            self._inbox[robot] = vx, vy, wz
            self._received[robot] = self.now
            self._stamps[robot] = stamp
            if abs(stamp - self.now) <= STAMP_SLACK:
                self._waiting.discard(robot)

        return listen

    def _take_commands(self) -> None:
        """Apply the newest commands; robots that have not heard one for too long stop."""
        silent = self.now - self._received > self.settings["cmd_timeout"] * 1e9
        np.copyto(self._commands, self._inbox)
        self._commands[silent] = 0.0

    def _await_commands(self, executor: EventsExecutor) -> None:
        """Handle messages until every robot has a command for this tick, or too long.

        While some robot has not sent any yet, or fell silent, ticks come at real time at most: its driver
        may be starting up. A tick is late, once, when a robot that was in step misses it.
        """
        fresh = np.abs(self._stamps - self.now) <= STAMP_SLACK
        self._waiting = set(np.flatnonzero(~fresh).tolist())
        start = repeated = time.monotonic()
        in_step = bool(self._joined.all())
        end = start + (self.settings["lockstep_timeout"] if in_step else self._period * 1e-9)
        while self._waiting and self.context.ok():
            wall = time.monotonic()
            if wall >= end:
                break
            if wall - repeated > REPEAT_AFTER:
                self._publish_tick()
                repeated = wall
            executor.spin_once(min(end - wall, REPEAT_AFTER))
        self._joined[:] = True
        self._joined[list(self._waiting)] = False
        if self._waiting and in_step and self.context.ok():
            self.late_ticks += 1
            names = ", ".join(self.settings["robots"][i] for i in sorted(self._waiting)[:5])
            self.get_logger().warning(f"no command for t = {self.now * 1e-9:.3f} s from {names}")
        self._waiting = set()

    def _begin(self) -> None:
        """Hold the fleet until every robot was heard in one tick: all start at once, in every run."""
        self._begun = self._begun or bool(self._joined.all())
        if not self._begun:
            self._commands[:] = 0.0

    def _pace(self, executor: EventsExecutor, dt: float) -> None:
        """Handle messages until the wall time of the next physics step."""
        factor = self.settings["real_time_factor"]
        if factor == 0.0:
            if self.settings["lockstep"]:
                return
            for _ in range(4 * len(self._inbox) + 1):
                before = self.handled
                executor.spin_once(0.0)
                if self.handled == before:
                    return
        self._deadline += dt / factor
        while self.context.ok():
            left = self._deadline - time.monotonic()
            if left <= 0.0:
                if -left > LARGEST_LAG:
                    self.late_ticks += not self.settings["lockstep"]
                    self._deadline = time.monotonic()
                return
            executor.spin_once(left)

    def _publish_tick(self) -> None:
        """Publish every odom, then the truth, then the clock."""
        stamp = divmod(self.now, 10**9)
        world = self.world
        measured = world.measured_poses()
        rows = np.empty((len(world), 7))
        rows[:, :2] = measured[:, :2]
        rows[:, 2], rows[:, 3] = np.sin(0.5 * measured[:, 2]), np.cos(0.5 * measured[:, 2])
        rows[:, 4:] = world.velocities
        for publisher, template, row in zip(self._odom, self._odom_bytes, rows.tolist(), strict=True):
            publisher.publish(template.write(stamp, row))
        half = 0.5 * world.poses[:, 2]
        zw = np.stack([np.sin(half), np.cos(half)], axis=1)
        self._truth.publish(self._truth_bytes.write(stamp, world.poses[:, :2], zw))
        clock = Clock()
        clock.clock.sec, clock.clock.nanosec = stamp
        self._clock_out.publish(clock)

    def _publish_status(self) -> None:
        """Publish what the world knows about contacts and time."""
        wall = time.monotonic()
        message = SimStatus()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(self.now, 10**9)
        message.header.frame_id = self.frame
        message.robot_contacts, message.wall_contacts = self.world.robot_contacts, self.world.wall_contacts
        message.min_separation, message.separation = self.world.min_separation, self.world.separation
        message.late_ticks = self.late_ticks
        message.real_time_factor = (self.now - self._status_sim) * 1e-9 / max(wall - self._status_wall, 1e-9)
        self._status_wall, self._status_sim = wall, self.now
        self._status.publish(message)

    def _log_contacts(self) -> None:
        """Say the first contacts in words; the counts go on in the status."""
        for contact in self.world.contacts[self._logged : LOGGED_CONTACTS]:
            x, y = contact.xy
            text = f"contact: {contact.a} with {contact.b} at ({x:.2f}, {y:.2f}), t = {contact.time:.2f} s"
            self.get_logger().warning(text)
        self._logged = max(self._logged, min(len(self.world.contacts), LOGGED_CONTACTS))


def _read(node: Node) -> dict[str, Any]:
    """Return the values of all parameters by name; those that are not set are None.

    Raises:
        ValueError: naming the parameter and what it may be.
    """
    p: dict[str, Any] = {}
    for name in PARAMETERS:
        parameter = node.get_parameter_or(name, None)
        p[name] = None if parameter is None else parameter.value
    if not p["robots"]:
        raise ValueError("parameter 'robots' is not set; give the names of the robots")
    p["robots"] = list(p["robots"])
    poses = p["initial_poses"]
    if poses is not None and len(poses) != 3 * len(p["robots"]):
        raise ValueError(
            f"parameter 'initial_poses' has {len(poses)} numbers; {len(p['robots'])} robots need "
            f"{3 * len(p['robots'])} (x, y, yaw of each)"
        )
    if p["drive"] not in DRIVES:
        raise ValueError(f"parameter 'drive' is '{p['drive']}'; it must be one of {', '.join(DRIVES)}")
    if not p["map_yaml"]:
        raise ValueError("parameter 'map_yaml' is not set; give the YAML file of a map")
    steps = p["rate"] / p["publish_rate"]
    if steps < 1.0 or abs(steps - round(steps)) > 1e-9:
        raise ValueError(
            f"parameter 'rate' ({p['rate']}) must be a multiple of 'publish_rate' ({p['publish_rate']})"
        )
    if p["lockstep"] and not p["stamped_cmd_vel"]:
        raise ValueError("parameter 'lockstep' needs 'stamped_cmd_vel': without stamps no command has a time")
    return p


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; returns the exit status."""

    def spin(node: Simulator) -> None:
        executor = EventsExecutor()
        executor.add_node(node)
        node.run(executor)

    return run("simulator", Simulator, args, spin)


if __name__ == "__main__":
    sys.exit(main())

"""Node `simulator`: drives a fleet of disc robots on a map and publishes what real robots would.

Subscribes to ``<robot>/cmd_vel`` (Twist or TwistStamped); publishes ``<robot>/odom`` (nav_msgs/Odometry,
pose in the map frame with noise), ``/clock``, ``sim/ground_truth`` (PoseArray without noise, robots in the
order of ``robots``) and ``sim/status`` (marlgpt_msgs/SimStatus). `PARAMETERS` lists the parameters. With a
``robots_file`` each robot has the body, topics, kind of poses and start that the file gives it.

Time runs in ticks of ``1 / publish_rate`` s: a tick publishes every odom, then the truth, then the clock, and
then takes the physics steps up to the next tick. With ``lockstep`` it waits, before those steps, for a
command of each robot stamped with the tick's time; all stand until each was heard once. From then on a run is
reproducible, and as fast as the slower of both sides. The first tick is at one period, because time 0 means
"no time" in ROS. With ``system_time`` stamps are the system clock's and there is no ``/clock``.

With a ``fault_..._rate`` above 0, things go wrong (see ``world/faults.py``), and what did is published on
``sim/faults`` (marlgpt_msgs/FaultCounts). A tick in which a fault keeps a pose back waits for commands in real
time at most and is never late. Absent robots have no odom, and NaN for a position in the truth.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseArray, Twist, TwistStamped
from marlgpt_msgs.msg import FaultCounts, SimStatus
from marlgpt_policy.grid.nav_grid import build_grid
from marlgpt_policy.grid.occupancy_map import load_map_yaml
from marlgpt_policy.nodes.parameters import Spec, declare, robots_of
from marlgpt_policy.robots.robots_keys import DRIVES
from rclpy.experimental import EventsExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from rosgraph_msgs.msg import Clock

from marlgpt_sim.nodes.pose_outputs import make_outputs
from marlgpt_sim.nodes.run_node import run
from marlgpt_sim.nodes.sim_messages import TruthBytes, read_twist, read_twist_stamped
from marlgpt_sim.world.fault_config import FaultConfig
from marlgpt_sim.world.faults import Faults
from marlgpt_sim.world.fleet_world import FleetWorld
from marlgpt_sim.world.spawn import place_fleet

STATUS_RATE = 5.0  # Hz of simulated time
REPEAT_AFTER = 0.5  # s of wall time without an answer, after which a lockstep tick is published again
STAMP_SLACK = 1000  # ns by which a command's stamp may miss the tick: stamps pass through floats
LARGEST_LAG = 0.1  # s of wall time behind schedule that are caught up; more is given up and counted
LOGGED_CONTACTS = 20

RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
LAST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)


PARAMETERS: dict[str, Spec] = {
    "robots_file": Spec(
        "", "YAML file that describes each robot, instead of the parameters on names and bodies."
    ),
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
    "system_time": Spec(
        False,
        "Stamp with the system's clock, as robots do, and publish no /clock; real time without faults only.",
    ),
    "lockstep": Spec(False, "Wait in every tick for a command of each robot; needs stamped_cmd_vel."),
    "lockstep_timeout": Spec(1.0, "Wall seconds to wait for commands until a tick is late.", 0.01, 600.0),
    "absent": Spec(
        Parameter.Type.STRING_ARRAY, "Robots that are not there at the start; they join at fault_join_rate."
    ),
    "push_margin": Spec(0.05, "Metres that a push leaves to walls and robots.", 0.01, 10.0),
}
for _field in fields(FaultConfig):
    if isinstance(_field.default, tuple):
        _spec = Spec(list(_field.default), _field.metadata["doc"])
    else:
        _spec = Spec(_field.default, *(_field.metadata[key] for key in ("doc", "low", "high")))
    PARAMETERS[f"fault_{_field.name}"] = _spec


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
        names, robots = p["robots"], p["fleet"].robots
        self._map = map_ = load_map_yaml(Path(p["map_yaml"]))
        poses = p["initial_poses"]
        if poses is None:
            known = [robot.initial_pose for robot in robots]
            poses = place_fleet(build_grid(map_, p["radius"]), known, p["seed"])
        self.world = FleetWorld(
            map_, np.reshape(poses, (-1, 3)), [robot.radius for robot in robots],
            [robot.drive for robot in robots], [robot.limits.as_row() for robot in robots], p["seed"],
            p["pose_noise_xy"], p["pose_noise_yaw"], names, p["unknown_is_wall"],
            [name not in p["absent"] for name in names], p["push_margin"],
        )  # fmt: skip
        self.frame = p["fleet"].map_frame if p["robots_file"] else map_.frame_id
        self.late_ticks = 0
        self.handled = 0  # messages so far, to see whether any are left
        self._dt = 1.0 / p["rate"]
        self._steps = round(p["rate"] / p["publish_rate"])
        self._period = round(1e9 / p["publish_rate"])  # ns
        self.now = self._period  # ns of simulated time
        self.stamp = self.now  # ns on the clock of the tick, which faults may have set back or forward
        n = len(names)
        self._inbox, self._commands = np.zeros((n, 3)), np.zeros((n, 3))
        self._received = np.full(n, -(2**62))  # ns of simulated time at which the newest command came
        self._stamps = np.full(n, -1)
        self._new = np.zeros(n, bool)  # robots with a command that the faults have not seen
        self._joined = np.zeros(n, bool)  # robots whose commands a lockstep tick waits for in earnest
        self._begun = not p["lockstep"]  # a lockstep run begins once every robot was heard
        self._waiting: set[int] = set()
        self._logged = 0
        self._odometry: list[
            tuple[int, int, list[float]]
        ] = []  # robot, stamp and numbers of this tick's odom
        self._whole = True  # every robot's odom of this tick is among them
        self.faults: Faults | None = None
        if self._begun:
            self.faults = self._make_faults()
        self._connect()

    def run(self, executor: EventsExecutor) -> None:
        """Advance the world until the context is shut down; the executor handles messages in between."""
        p = self.settings
        none = np.zeros_like(self._commands)
        self.world.step(none, self._dt, none if p["faults"].enabled else None)  # compiles before time counts
        self._deadline = self._status_wall = time.monotonic()
        self._status_sim = self.now
        status_every, tick = max(1, round(p["publish_rate"] / STATUS_RATE)), 0
        while self.context.ok():
            self.world.time = self.now * 1e-9
            if not self._begun:
                self.world.ticks = 0  # the noise starts with the run, too
            self._measure()
            self._publish_tick()
            if tick % status_every == 0:
                self._publish_status()
            tick += 1
            if p["lockstep"]:
                self._await_commands(executor)
                self._begin()
                self._take_commands()
            for _ in range(self._steps):
                self._pace(executor, self._dt)
                if not p["lockstep"]:
                    self._take_commands()
                if self.faults is None:
                    self.world.step(self._commands, self._dt)
                else:
                    self.faults.step(self._dt)
            self.now += self._period
            self._log_contacts()

    def _connect(self) -> None:
        """Create the publishers and subscriptions."""
        p, robots = self.settings, self.settings["fleet"].robots
        noise = p["pose_noise_xy"], p["pose_noise_yaw"]
        self._outputs = make_outputs(self, robots, self.frame, self.world.poses.copy(), noise)
        self._truth = self.create_publisher(PoseArray, "sim/ground_truth", RELIABLE)
        self._truth_bytes = TruthBytes(self.frame, len(robots))
        self._clock_out = self.create_publisher(Clock, "/clock", RELIABLE)
        self._status = self.create_publisher(SimStatus, "sim/status", RELIABLE)
        if p["faults"].enabled:
            self._counts = self.create_publisher(FaultCounts, "sim/faults", RELIABLE)
        for i, robot in enumerate(robots):
            stamped = robot.stamped_cmd_vel
            kind, reader = (TwistStamped, read_twist_stamped) if stamped else (Twist, read_twist)
            self.create_subscription(kind, robot.cmd_vel_topic, self._listener(i, reader), LAST, raw=True)

    def _listener(self, robot: int, reader: Any) -> Any:
        """Return the callback for the commands of one robot."""

        def listen(data: bytes) -> None:
            self.handled += 1
            try:
                stamp, vx, vy, wz = reader(data)
            except Exception as error:  # whatever it is that came, it is no command
                text = f"command of '{self.settings['robots'][robot]}' cannot be read: {error}"
                self.get_logger().warning(text, throttle_duration_sec=5.0)
                return
            if not math.isfinite(vx + vy + wz):
                name = self.settings["robots"][robot]
                text = f"command of '{name}' is not finite; it stops"
                self.get_logger().warning(text, throttle_duration_sec=5.0)
                vx = vy = wz = 0.0
            self._inbox[robot] = vx, vy, wz
            self._received[robot] = self.now
            self._stamps[robot] = stamp
            self._new[robot] = True
            if abs(stamp - self.stamp) <= STAMP_SLACK:
                self._waiting.discard(robot)

        return listen

    def _make_faults(self) -> Faults | None:
        """Return the faults that the parameters ask for, None for none."""
        p = self.settings
        config, places = p["faults"], None
        if not config.enabled:
            return None
        if config.removal_rate > 0.0 or config.join_rate > 0.0:
            grid = build_grid(self._map, p["radius"])
            places = grid.centre(np.argwhere(grid.components == 0))
        return Faults(self.world, config, p["seed"], p["cmd_timeout"], places)

    def _take_commands(self) -> None:
        """Apply the newest commands; robots that have not heard one for too long stop."""
        if self.faults is not None:
            self.faults.send(self._inbox, self._new)
            self._new[:] = False
            return
        silent = self.now - self._received > self.settings["cmd_timeout"] * 1e9
        np.copyto(self._commands, self._inbox)
        self._commands[silent] = 0.0
        if not self._begun:
            self._commands[:] = 0.0

    def _await_commands(self, executor: EventsExecutor) -> None:
        """Handle messages until every robot has a command for this tick, or too long.

        While some robot has not sent any yet, or fell silent, or a fault keeps its pose back, ticks come at
        real time at most: its driver may be starting up. A tick is late, once, when a robot that was in step
        misses it. Nobody waits for absent robots.
        """
        fresh = np.abs(self._stamps - self.stamp) <= STAMP_SLACK
        self._waiting = set(np.flatnonzero(~fresh & self.world.present).tolist())
        start = repeated = time.monotonic()
        in_step = bool(self._joined.all()) and self._whole
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
            self.get_logger().warning(f"no command for t = {self.stamp * 1e-9:.3f} s from {names}")
        self._waiting = set()

    def _begin(self) -> None:
        """Hold the fleet until every robot was heard in one tick: all start at once, in every run."""
        if not self._begun and self._joined.all():
            self._begun = True
            self.faults = self._make_faults()

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
            executor.spin_until_future_complete(Future(), left)  # not back here after each message

    def _measure(self) -> None:
        """Measure this tick's poses, once: a tick that is published again is the same."""
        world = self.world
        if self.faults is None:
            self.stamp = time.time_ns() if self.settings["system_time"] else self.now
            robots = np.flatnonzero(world.present).tolist()
            stamps = [self.stamp] * len(robots)
            measured, twists = world.measured_poses()[robots], world.velocities[robots]
        else:
            last, self.stamp = self.stamp, round(self.faults.clock * 1e9)
            if self.stamp != last + self._period:
                self._stamps[:] = -1  # a command for an earlier tick may bear the same time
            arrived = self.faults.poses()
            robots, stamps = [pose.robot for pose in arrived], [round(pose.stamp * 1e9) for pose in arrived]
            measured = np.array([pose[1:4] for pose in arrived]).reshape(-1, 3)
            twists = np.array([pose.twist for pose in arrived]).reshape(-1, 3)
            seen = {robot for robot, stamp in zip(robots, stamps, strict=True) if stamp == self.stamp}
            self._whole = len(seen) == world.present.sum()
        rows = np.empty((len(robots), 7))
        rows[:, :2] = measured[:, :2]
        rows[:, 2], rows[:, 3] = np.sin(0.5 * measured[:, 2]), np.cos(0.5 * measured[:, 2])
        rows[:, 4:] = twists
        self._odometry = list(zip(robots, stamps, rows.tolist(), strict=True))

    def _publish_tick(self) -> None:
        """Publish every pose that arrives, then the truth, then the clock, where there is one."""
        for robot, stamp, row in self._odometry:
            self._outputs[robot].send(divmod(stamp, 10**9), row)
        world, stamp = self.world, divmod(self.stamp, 10**9)
        half = 0.5 * world.poses[:, 2]
        zw = np.stack([np.sin(half), np.cos(half)], axis=1)
        xy = np.where(world.present[:, None], world.poses[:, :2], np.nan)
        self._truth.publish(self._truth_bytes.write(stamp, xy, zw))
        if self.settings["system_time"]:
            return
        clock = Clock()
        clock.clock.sec, clock.clock.nanosec = stamp
        self._clock_out.publish(clock)

    def _publish_status(self) -> None:
        """Publish what the world knows about contacts, time and faults."""
        wall = time.monotonic()
        message = SimStatus()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(self.stamp, 10**9)
        message.header.frame_id = self.frame
        message.robot_contacts, message.wall_contacts = self.world.robot_contacts, self.world.wall_contacts
        message.min_separation, message.separation = self.world.min_separation, self.world.separation
        message.late_ticks = self.late_ticks
        message.real_time_factor = (self.now - self._status_sim) * 1e-9 / max(wall - self._status_wall, 1e-9)
        self._status_wall, self._status_sim = wall, self.now
        self._status.publish(message)
        if self.faults is not None:
            counts = self.faults.counts
            faults = FaultCounts(kinds=list(counts))
            faults.header.stamp = message.header.stamp
            faults.injected, faults.active = (list(column) for column in zip(*counts.values(), strict=True))
            self._counts.publish(faults)

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
    if not p["robots"] and not p["robots_file"]:
        raise ValueError("parameter 'robots' is not set; give the names of the robots, or a robots_file")
    if p["drive"] not in DRIVES:
        raise ValueError(f"parameter 'drive' is '{p['drive']}'; it must be one of {', '.join(DRIVES)}")
    fleet = p["fleet"] = robots_of(p)
    p["robots"], p["radius"], p["absent"] = fleet.names, fleet.radius, list(p["absent"] or ())
    for name in p["absent"]:
        if name not in p["robots"]:
            raise ValueError(f"parameter 'absent' names '{name}', which is none of the robots")
    poses = p["initial_poses"]
    if poses is not None and len(poses) != 3 * len(p["robots"]):
        raise ValueError(
            f"parameter 'initial_poses' has {len(poses)} numbers; {len(p['robots'])} robots need "
            f"{3 * len(p['robots'])} (x, y, yaw of each)"
        )
    if not p["map_yaml"]:
        raise ValueError("parameter 'map_yaml' is not set; give the YAML file of a map")
    steps = p["rate"] / p["publish_rate"]
    if steps < 1.0 or abs(steps - round(steps)) > 1e-9:
        raise ValueError(
            f"parameter 'rate' ({p['rate']}) must be a multiple of 'publish_rate' ({p['publish_rate']})"
        )
    if p["lockstep"] and not all(robot.stamped_cmd_vel for robot in fleet.robots):
        raise ValueError("parameter 'lockstep' needs 'stamped_cmd_vel': without stamps no command has a time")
    try:
        p["faults"] = FaultConfig(**{field.name: p[f"fault_{field.name}"] for field in fields(FaultConfig)})
    except ValueError as error:
        raise ValueError(f"parameter fault_{error}") from None
    if p["system_time"] and (p["lockstep"] or p["faults"].enabled or p["real_time_factor"] != 1.0):
        raise ValueError(
            "parameter 'system_time' needs real_time_factor 1.0, and neither lockstep nor faults: "
            "the system's clock goes on whatever the simulator does"
        )
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

"""Node `watchdog_node`: a process beside the fleet node that stops the robots when it no longer can.

Hears ``fleet/heartbeat``, the robots' commands, and the emergency stops ``fleet/emergency_stop`` and
``<robot>/emergency_stop`` (Bool, true stops); sends zero velocity to the robots and reports on ``/diagnostics``. Its
rules are those of :mod:`marlgpt_policy.fleet.watchdog`; its clock is the wall's, also where ``use_sim_time`` is set.
Then the simulated time serves to tell a paused simulation from a dead fleet node, in words: the zeros go out in
either case.
"""

from __future__ import annotations

import sys
import time
from functools import partial

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Twist, TwistStamped
from marlgpt_msgs.msg import Heartbeat
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException
from rclpy.experimental import EventsExecutor
from rclpy.node import Node
from rclpy.time import Time
from std_msgs.msg import Bool

from marlgpt_policy.fleet.watchdog import Watchdog
from marlgpt_policy.nodes.cmd_vel_publishers import CmdVelPublishers
from marlgpt_policy.nodes.diagnostics import listed
from marlgpt_policy.nodes.event_log import short
from marlgpt_policy.nodes.messages.cdr import is_marked
from marlgpt_policy.nodes.parameters import PARAMETERS as fleet_parameters
from marlgpt_policy.nodes.parameters import STRINGS, Spec, check_names, declare, refuse_unused, robots_of
from marlgpt_policy.nodes.qos import BEST_EFFORT, RELIABLE

PARAMETERS: dict[str, Spec] = {
    "robots_file": Spec("", "YAML file that describes each robot, instead of robots and stamped_cmd_vel."),
    "robots": Spec(STRINGS, "Names of the robots; those that join later are learnt from the heartbeats."),
    "timeout": Spec(
        0.5, "Seconds after the last heartbeat by which every robot is sent zero velocity.", 0.05, 60.0
    ),
    "rate": Spec(50.0, "Checks, and zeros to each robot that is held, per second.", 5.0, 1000.0),
    "stamped_cmd_vel": Spec(False, "Publish geometry_msgs/TwistStamped instead of Twist."),
    "max_robots": Spec(512, "Robots that it watches; heartbeats with more are refused.", 1, 100_000),
}
REFUSALS_LOGGED_EVERY = 5.0
"""Seconds."""


class WatchdogNode(Node):
    """Holds the robots at standstill whenever the rules say so."""

    def __init__(self, **options) -> None:
        """Read the parameters and begin to listen.

        Raises:
            ValueError: naming the parameter that is wrong.
        """
        super().__init__("watchdog_node", **options)
        refuse_unused(self, PARAMETERS, fleet_parameters, any_value=True)
        declare(self, PARAMETERS, read_only=True)
        values = {name: self.get_parameter_or(name, None) for name in PARAMETERS}
        values = {name: None if value is None else value.value for name, value in values.items()}
        self._fleet = robots_of({**values, "robots": values["robots"] or []})
        robots = self._fleet.names
        self._most, timeout, rate = values["max_robots"], values["timeout"], values["rate"]
        if timeout * rate < 4:
            raise ValueError(
                f"parameter 'rate' is {rate} Hz; a timeout of {timeout} s needs {4 / timeout:g} Hz"
            )
        # Two periods early: one until the next check, one for a check that comes late.
        self.watchdog = Watchdog(robots, timeout - 2 / rate)
        self._cmd_vel = CmdVelPublishers(self, marked=True)
        self._stops: dict[str | None, tuple] = {}
        self._connect(None)
        for robot in robots:
            self._connect(robot)
        self.rejected = 0
        self._logged_refusal = -1e9
        self._was = (False, False, frozenset(), frozenset(), frozenset())
        self._alone_since = 0.0  # when the silence began, wall s
        self._stamp_heard: float | None = None  # stamp of the last heartbeat, node clock, s
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", RELIABLE)
        self.create_subscription(Heartbeat, "fleet/heartbeat", self._on_heartbeat, RELIABLE)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # a paused simulation must not pause the watchdog
        self.create_timer(1.0 / rate, self._check, clock=steady)
        self.create_timer(1.0, self._publish_health, clock=steady)
        self.get_logger().info(f"watching {len(robots)} robots: zero velocity within {timeout} s of silence")

    def _connect(self, robot: str | None) -> None:
        """Listen and repeat stops, of one robot or of all; be ready to stop its wheels."""
        if robot in self._stops:
            return
        topic = f"{robot or 'fleet'}/emergency_stop"
        self._stops[robot] = (
            self.create_publisher(Bool, topic, RELIABLE),
            self.create_subscription(Bool, topic, partial(self._on_stop, robot), RELIABLE),
        )
        if robot is not None:
            entry = self._fleet.entry(robot)
            self._cmd_vel.add(entry)
            kind, heard = TwistStamped if entry.stamped_cmd_vel else Twist, partial(self._on_command, robot)
            self.create_subscription(kind, entry.cmd_vel_topic, heard, BEST_EFFORT, raw=True)

    def _on_stop(self, robot: str | None, message: Bool) -> None:
        if message.data:
            self.watchdog.emergency_stop(robot, time.monotonic())
            self._check()

    def _on_command(self, robot: str, data: bytes) -> None:
        if not is_marked(data):  # its own zeros come back
            self.watchdog.command(robot, time.monotonic())

    def _on_heartbeat(self, message: Heartbeat) -> None:
        if message.phase != Heartbeat.DRIVING:
            return  # it commands nobody
        dog, sender = self.watchdog, (message.incarnation, short(message.node))
        try:
            most = max(len(message.robots), len(message.standing))
            if most > self._most:
                raise ValueError(f"it names {most} robots, parameter max_robots is {self._most}")
            if not dog.concerns(sender, (*message.robots, *message.standing)):
                return
            new = [robot for robot in message.robots if robot not in self._stops]
            check_names(new, self._most - len(self._stops) + 1)
            for robot in new:
                self._fleet.entry(robot)  # refuses topics that are another robot's
            stamp = Time.from_msg(message.header.stamp).nanoseconds * 1e-9
        except ValueError as error:
            self.rejected += 1
            now = time.monotonic()
            if now - self._logged_refusal >= REFUSALS_LOGGED_EVERY:
                self._logged_refusal = now
                self.get_logger().warning(f"heartbeat refused: {error}")
            return
        for robot in new:
            self._connect(robot)
        dog.heartbeat(
            message.sequence, message.stopped, message.robots, time.monotonic(), sender, message.standing
        )
        self._stamp_heard = stamp

    def _check(self) -> None:
        now = time.monotonic()
        held = self.watchdog.hold(now)
        if held:
            stamp = self.get_clock().now().to_msg()
            for robot in held:
                self._cmd_vel.send(robot, stamp)
        for stop in self.watchdog.repeats(now):
            self._stops[stop][0].publish(Bool(data=True))
            self.get_logger().warning(f"the stop of {stop or 'the fleet'} is not confirmed; repeated")
        self._report(now, held)

    def _report(self, now: float, held: list[str]) -> None:
        """Log what has changed since the last check, once."""
        dog, log = self.watchdog, self.get_logger()
        silent, stopped, halted, orphans, uncommanded = self._was
        unheard = frozenset() if dog.silent else dog.uncommanded  # who is silent sends no commands either
        self._was = dog.silent, dog.stopped, frozenset(dog.halted), frozenset(dog.orphans), unheard
        if self._was == (silent, stopped, halted, orphans, uncommanded):
            return
        if dog.silent and not silent:
            self._alone_since = now - dog.age(now)
            log.error(
                f"no heartbeat for {dog.age(now):.2f} s: zero velocity to {len(held)} robots until heartbeats return"
            )
        if silent and not dog.silent:
            log.info(f"heartbeats are back after {now - self._alone_since:.2f} s")
        if lost := sorted(unheard - uncommanded):
            log.error(
                f"no commands for {listed(lost)} though heartbeats come: zero velocity until they return"
            )
        if dog.stopped and not stopped and dog.contest:
            log.error(f"{' and '.join(dog.contest)} drive the same robots: fleet stopped; end one and resume")
        if dog.stopped != stopped:
            log.warning("the fleet is stopped until resumed" if dog.stopped else "the fleet is resumed")
        for robot in sorted(halted ^ dog.halted):
            log.warning(f"'{robot}' is {'stopped until resumed' if robot in dog.halted else 'resumed'}")
        for robot in sorted(dog.orphans - orphans):
            log.error(
                f"'{robot}' was driven before and is unknown to the restarted fleet: held, fleet stopped"
            )

    def _simulation_pauses(self) -> bool:
        """Has simulated time stood still since the last heartbeat? Never without ``use_sim_time``."""
        if not self.get_parameter("use_sim_time").value or self._stamp_heard is None:
            return False
        return self.get_clock().now().nanoseconds * 1e-9 - self._stamp_heard < self.watchdog.timeout

    def _publish_health(self) -> None:
        now, dog = time.monotonic(), self.watchdog
        level, text = DiagnosticStatus.OK, "heartbeats come"
        if dog.age(now) is None:
            text = "no fleet has driven yet"
        elif dog.overdue(now) and self._simulation_pauses():
            level, text = DiagnosticStatus.WARN, "simulated time stands still: robots are held at standstill"
        elif dog.overdue(now):
            level, text = DiagnosticStatus.ERROR, "the fleet node is silent: robots are held at standstill"
        elif dog.contest:
            level, text = DiagnosticStatus.ERROR, f"drive the same robots: {' and '.join(dog.contest)}"
        elif dog.uncommanded:
            level, text = DiagnosticStatus.ERROR, f"held, no commands: {listed(sorted(dog.uncommanded))}"
        elif dog.orphans:
            level, text = (
                DiagnosticStatus.ERROR,
                f"held, nobody drives them: {', '.join(sorted(dog.orphans))}",
            )
        elif dog.stopped or dog.halted:
            stopped = "the fleet" if dog.stopped else ", ".join(sorted(dog.halted))
            level, text = DiagnosticStatus.WARN, f"stopped until resumed: {stopped}"
        age = dog.age(now)
        values = {
            "heartbeat_age_s": "none" if age is None else f"{age:.2f}",
            "held_robots": str(len(dog.hold(now))),
            "known_robots": str(len(dog.known)),
            "uncommanded_robots": str(len(dog.uncommanded)),
            "fleet_node": "none" if dog.sender is None else dog.sender[1],
            "foreign_heartbeats": str(dog.foreign),
            "rejected_messages": str(self.rejected),
        }
        status = DiagnosticStatus(level=level, name="marlgpt: watchdog", message=text, hardware_id="watchdog")
        status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def main(args: list[str] | None = None) -> int:
    """Watch until interrupted; 1 if a parameter is wrong."""
    rclpy.init(args=args)
    try:
        node = WatchdogNode()
        # For 64 robots 0.02 of a core; waiting on all topics anew after each event, as other executors do, 0.38.
        executor = EventsExecutor()
        executor.add_node(node)
        while rclpy.ok():
            executor.spin_once(0.5)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (ValueError, InvalidParameterTypeException, InvalidParameterValueException) as error:
        print(f"watchdog_node: {error}", file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())

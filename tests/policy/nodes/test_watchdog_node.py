"""The watchdog node over DDS: zeros when heartbeats stop, emergency stops, limits, diagnostics."""

import time

import domains
import pytest

rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from geometry_msgs.msg import Twist, TwistStamped  # noqa: E402
from marlgpt_msgs.msg import Heartbeat  # noqa: E402
from marlgpt_policy.nodes import watchdog_node  # noqa: E402
from marlgpt_policy.nodes.watchdog_node import WatchdogNode  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from std_msgs.msg import Bool  # noqa: E402


class Bench:
    """A watchdog, and a node that plays fleet node, operator and wheels; both in this process."""

    def __init__(self, **parameters):
        self.context = rclpy.Context()
        self.context.init(domain_id=domains.take())
        values = {"robots": ["a", "b"], **parameters}
        self.watchdog = WatchdogNode(
            context=self.context, parameter_overrides=[Parameter(k, value=v) for k, v in values.items()]
        )
        self.node = Node("bench", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.watchdog)
        self.executor.add_node(self.node)
        self.sequence, self.incarnation = 0, 1
        self.commands = {name: [] for name in "abc"}
        self.health, self.stops = [], {name: [] for name in ("fleet", "a", "b")}
        self.wheels, self.kind = {}, TwistStamped if values.get("stamped_cmd_vel") else Twist
        for name, heard in self.commands.items():
            self.node.create_subscription(self.kind, f"{name}/cmd_vel", heard.append, 10)
        for name, heard in self.stops.items():
            self.node.create_subscription(Bool, f"{name}/emergency_stop", heard.append, 10)
        self.node.create_subscription(
            DiagnosticArray, "/diagnostics", lambda m: self.health.append(m.status[0]), 10
        )
        self.heartbeat = self.node.create_publisher(Heartbeat, "fleet/heartbeat", 10)
        self.press = {
            k: self.node.create_publisher(Bool, f"{k}/emergency_stop", 10) for k in ("fleet", "a", "b")
        }
        self.clock = self.node.create_publisher(Clock, "/clock", 10)
        self.until(lambda: self.heartbeat.get_subscription_count() > 0, "discovery")
        self.until(lambda: all(p.get_subscription_count() > 1 for p in self.press.values()), "discovery")

    def spin(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.01)

    def until(self, condition, what, seconds=10.0):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"no {what} within {seconds} s"
            self.executor.spin_once(timeout_sec=0.01)

    def beat(self, times=1, robots=("a", "b"), stopped=False, stamp=0.0, drive=(), **said):
        """Send heartbeats, 50 ms apart, and a command before each to the robots in ``drive``."""
        for _ in range(times):
            self.sequence += 1
            for robot in drive:
                self.drive(robot)
            message = Heartbeat(
                sequence=self.sequence, stopped=stopped, robots=list(robots), incarnation=self.incarnation
            )
            for name, value in said.items():
                setattr(message, name, value)
            message.header.stamp.sec = int(stamp)
            self.heartbeat.publish(message)
            self.spin(0.05)

    def drive(self, robot):
        """Command a robot as a fleet node does."""
        if robot not in self.wheels:
            topic = f"{robot}/cmd_vel"
            self.wheels[robot] = self.node.create_publisher(self.kind, topic, 10)
            self.until(lambda: self.wheels[robot].get_subscription_count() > 1, "discovery")
        command = self.kind()
        getattr(command, "twist", command).linear.x = 0.5
        self.wheels[robot].publish(command)

    def heard(self):
        """Names of the robots that the watchdog commanded since the last call; every command is zero."""
        names = ""
        for name, commands in self.commands.items():
            twists = [getattr(command, "twist", command) for command in commands]
            commands[:] = [twist for twist in twists if twist.linear.x != 0.5]
            for twist in commands:
                assert (twist.linear.x, twist.linear.y, twist.angular.z) == (0.0, 0.0, 0.0)
            names += name if commands else ""
            commands.clear()
        return names

    def close(self):
        self.executor.shutdown()
        self.watchdog.destroy_node()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    opened = []

    def make(**parameters):
        opened.append(Bench(**parameters))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def test_zeros_go_out_from_silence_until_heartbeats_return_and_to_robots_that_joined(bench):
    bench = bench()
    bench.spin(1.0)
    assert bench.heard() == "", "nobody has driven yet"
    bench.beat(10)
    bench.beat(10, robots=("a", "c"))
    bench.heard()
    bench.beat(10, robots=("a", "c"))
    assert bench.heard() == "", "the fleet lives"
    bench.until(lambda: bench.commands["a"] and bench.commands["c"], "zeros")
    bench.spin(0.5)
    assert len(bench.commands["a"]) > 10, "they are repeated"
    assert bench.heard() == "ac", "b has left the fleet"
    bench.until(lambda: bench.health and bench.health[-1].level == DiagnosticStatus.ERROR, "diagnostics")
    assert bench.health[-1].message == "the fleet node is silent: robots are held at standstill"
    bench.sequence, bench.incarnation = 0, 2  # another process
    bench.beat(4, robots=("a", "c"))
    bench.heard()
    bench.beat(6, robots=("a", "c"))
    assert bench.heard() == ""


def test_the_deadline_is_kept_on_the_walls_clock_whatever_the_simulated_one_does(bench):
    """Checked on the watchdog's own clock: the check that sends zeros comes before the timeout is over."""
    bench = bench(use_sim_time=True)
    bench.clock.publish(Clock())
    bench.beat(5)
    bench.heard()
    dog = bench.watchdog.watchdog
    while not dog.silent:
        assert dog.age(time.monotonic()) < 10.0
        bench.executor.spin_once(timeout_sec=0.001)
    first = dog.age(time.monotonic())
    bench.until(lambda: bench.commands["a"], "zeros")
    assert 0.46 == pytest.approx(dog.timeout) and first >= 0.46
    bench.until(lambda: bench.health and bench.health[-1].level == DiagnosticStatus.WARN, "diagnostics")
    assert "simulated time stands still" in bench.health[-1].message
    later = Clock()
    later.clock.sec = 30
    bench.until(lambda: bench.watchdog.get_clock().now().nanoseconds == 30_000_000_000
                or bench.clock.publish(later), "clock")  # fmt: skip
    bench.until(lambda: bench.health[-1].level == DiagnosticStatus.ERROR, "diagnostics")


def test_an_emergency_stop_holds_until_the_fleet_confirms_and_ends_it(bench):
    bench = bench()
    bench.beat(3)
    bench.heard()
    bench.press["fleet"].publish(Bool(data=False))
    bench.beat(3)
    assert bench.heard() == "", "false is no stop"
    bench.press["fleet"].publish(Bool(data=True))
    bench.beat(4)
    assert bench.heard() == "ab"
    bench.stops["fleet"].clear()
    bench.beat(10)
    assert bench.stops["fleet"] and bench.stops["fleet"][0].data, "it is repeated to a fleet that missed it"
    bench.beat(3, stopped=True)
    bench.heard()
    bench.beat(3, stopped=True)
    assert bench.heard() == "ab"
    bench.beat(2)
    bench.heard()
    bench.beat(4)
    assert bench.heard() == ""


def test_one_robot_is_stopped_alone(bench):
    bench = bench(stamped_cmd_vel=True)
    bench.beat(3)
    bench.heard()
    bench.press["b"].publish(Bool(data=True))
    bench.beat(4)
    bench.beat(2, robots=("a",))
    assert bench.heard() == "b"
    bench.beat(2)
    bench.heard()
    bench.beat(4)
    assert bench.heard() == ""


@pytest.mark.parametrize("stamped", [False, True])
def test_robots_that_get_no_commands_are_held_though_heartbeats_come(bench, stamped):
    bench = bench(stamped_cmd_vel=stamped)
    bench.beat(10, drive="ab")
    bench.heard()
    bench.beat(10, drive="ab")
    assert bench.heard() == ""
    bench.beat(20, drive="b")
    assert bench.heard() == "a"
    bench.until(
        lambda: bench.beat(drive="b") or bench.health[-1].level == DiagnosticStatus.ERROR, "diagnostics"
    )
    assert bench.health[-1].message == "held, no commands: a"
    bench.beat(30, drive="b")
    assert bench.heard() == "a", "its own zeros are no commands"
    bench.beat(4, drive="ab")
    bench.heard()
    bench.beat(10, drive="ab")
    assert bench.heard() == ""


def test_foreign_heartbeats_are_no_sign_of_life(bench):
    """Those of another fleet, of a node that waits, and of one that says that it drives and does not."""
    bench = bench()
    for said in (
        {"robots": ["c", "d"], "incarnation": 8},
        {"phase": Heartbeat.WAITING, "incarnation": 8},
        {"phase": Heartbeat.CANDIDATE, "incarnation": 8},
        {"node": "other", "incarnation": 9},
    ):
        bench.incarnation += 10
        bench.beat(15, drive="ab")
        bench.heard()
        bench.beat(25, **said)
        bench.heard()
        bench.beat(3, **said)
        assert bench.heard() == "ab", said
        bench.spin(0.7)


def test_two_that_drive_the_same_robots_are_stopped(bench):
    bench = bench()
    bench.beat(5, drive="ab")
    for _ in range(15):
        bench.beat(drive="ab")
        bench.beat(drive="ab", incarnation=9, node="other")
    bench.stops["fleet"].clear()
    for _ in range(10):
        bench.beat(drive="ab")
        bench.beat(drive="ab", incarnation=9, node="other")
    assert bench.stops["fleet"] and bench.stops["fleet"][0].data, "both are told"
    assert bench.heard() == "ab"
    bench.until(lambda: bench.health and "drive the same robots" in bench.health[-1].message, "diagnostics")


def test_heartbeats_beyond_the_limits_are_refused_and_no_sign_of_life(bench):
    bench = bench(max_robots=3)
    bench.beat(3)
    for robots in (["a", "b", "c", "d"], ["a", "b c"], ["x" * 1000], ["c", "c"]):
        bench.beat(1, robots=robots)
    assert bench.watchdog.rejected == 4
    bench.beat(15, robots=["c", "d"])
    assert bench.watchdog.rejected == 19, "with a and b they would be four"
    assert bench.heard() == "ab"
    assert list(bench.watchdog.watchdog.known) == ["a", "b"]


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"robots": "[a, a]"}, "names a twice"),
        ({"robots": "[a b]"}, "robot name 'a b' is not a ROS name"),
        ({"robots": "[a, b, c]", "max_robots": "2"}, "3 robots, parameter 'max_robots' is 2"),
        ({"timeout": "0.1", "rate": "10.0"}, "needs 40 Hz"),
        ({"timeout": "-1.0"}, "timeout"),
    ],
)
def test_bad_parameters_end_it_with_a_reason(parameters, text, capsys):
    arguments = ["--ros-args"]
    for name, value in parameters.items():
        arguments += ["-p", f"{name}:={value}"]
    assert watchdog_node.main(arguments) == 1
    assert text in capsys.readouterr().err

"""Fuzzed messages: whatever a node hears, nothing leaves a callback, no robot is commanded wildly, and it goes on."""

import asyncio
import os
import time
from pathlib import Path
from types import SimpleNamespace

import domains
import numpy as np
import pytest
from places import ROOT

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("marlgpt_msgs")

from fleet_bench import hall, write_policy  # noqa: E402
from fuzz_messages import callbacks, like, messages, ours  # noqa: E402
from fuzzing import damaged, fuzz  # noqa: E402
from geometry_msgs.msg import PoseStamped, Twist  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from marlgpt_msgs.action import Navigate  # noqa: E402
from marlgpt_msgs.msg import Heartbeat, PeerState  # noqa: E402
from marlgpt_msgs.srv import GetGrid, LoadPolicy, RobotCommand  # noqa: E402
from marlgpt_policy.nodes import presence  # noqa: E402
from marlgpt_policy.nodes.fleet_node import FleetNode  # noqa: E402
from marlgpt_policy.nodes.robot_node import RobotNode  # noqa: E402
from marlgpt_policy.nodes.watchdog_node import WatchdogNode  # noqa: E402
from marlgpt_policy.robots.robot_config import Status  # noqa: E402
from nav_msgs.msg import OccupancyGrid, Odometry  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSProfile  # noqa: E402
from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from std_msgs.msg import Bool  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

NODES = ROOT / "ros2_ws/src/marlgpt_policy/marlgpt_policy/nodes"
SPEED, YAW_RATE = 2.0, 4.0
LIMITS = {
    "max_speed": SPEED,
    "max_yaw_rate": YAW_RATE,
    "drive": "holonomic",
    "max_robots": 8,
    "temperature": 0.0,
}

COVERED = {
    # Every message, request and action goal that the node takes is drawn by the test named here.
    "fleet_node.py": {
        "test_the_fleet_node_survives": {
            "handle", "self._on_map", "partial(self._on_goal, index)",
            "partial(self.operator.emergency_stop_robot, name)",
            "lambda _, r: conversions.grid_response(self.grid, r)",
        },
    },
    "operator_services.py": {
        "test_the_fleet_node_survives": {
            "self.emergency_stop", "self._stop", "self._resume", "partial(self._command, act)", "self._load_policy",
            "partial(self._command, self._stop_robot)",
        },
    },
    "navigate_action.py": {
        "test_the_fleet_node_survives": {"self._accept", "self._execute", "lambda _: CancelResponse.ACCEPT"},
    },
    "presence.py": {"test_the_fleet_node_survives": {"self._on_heartbeat"}},
    "robot_node.py": {
        "test_a_robot_node_survives": {
            "self._on_map", "self._on_goal", "self._on_peer", "self._on_emergency",
            "self._on_stop", "self._on_resume", "self._on_get_grid",
        },
    },
    "pose_sources.py": {
        "test_the_fleet_node_survives": {"callback"},
        "test_transforms_are_survived": {"heard", "static"},
    },
    "watchdog_node.py": {
        "test_the_watchdog_survives": {"self._on_heartbeat", "partial(self._on_stop, robot)", "heard"},
    },
}  # fmt: skip


def test_every_callback_is_fuzzed():
    """A new subscription, service or action needs a place in one of the tests below, or in those of poses."""
    elsewhere = (Path(__file__).parent / "test_pose_sources.py").read_text(encoding="utf-8")
    for tests in COVERED.values():
        assert all(name in globals() or f"def {name}(" in elsewhere for name in tests)
    assert callbacks(NODES) == {name: set().union(*tests.values()) for name, tests in COVERED.items()}


@pytest.fixture(scope="module")
def context():
    """ROS on a domain of its own; nothing in this file needs another process."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    context = rclpy.Context()
    context.init(domain_id=domains.take())
    yield context
    context.try_shutdown()


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return str(write_policy(tmp_path_factory.mktemp("policy") / "tiny.onnx"))


def overrides(values):
    return [Parameter(name, value=value) for name, value in values.items()]


def pose_at(x, y, stamp):
    message = Odometry()
    message.header.frame_id = "map"
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(round(stamp * 1e9), 10**9)
    message.pose.pose.position.x, message.pose.pose.position.y = float(x), float(y)
    message.pose.pose.orientation.w = 1.0
    return message


def goal_at(x, y):
    message = PoseStamped()
    message.header.frame_id = "map"
    message.pose.position.x, message.pose.position.y = float(x), float(y)
    message.pose.orientation.w = 1.0
    return message


def peer_state():
    """What a robot with the same map and rules might say."""
    message = PeerState(name="b", incarnation=7, sequence=3, clock=2, held_rows=[1, 1], held_cols=[3, 4])
    message.pose = goal_at(2.5, 1.2).pose
    message.peers, message.heard_incarnation, message.heard_sequence = ["a"], [5], [2]
    message.heard_age, message.history = [0.1], [5, 1, 0]
    return message


def good_messages():
    return {
        OccupancyGrid: hall(), Odometry: pose_at(0.3, 0.3, 100.0), PoseStamped: goal_at(2.0, 1.2),
        Bool: Bool(data=True), PeerState: peer_state(),
        Heartbeat: Heartbeat(sequence=4, robots=["a", "b"]),
    }  # fmt: skip


def anything(kind):
    """A message of type ``kind``: any at all, or a good one with something wrong in it."""
    good = good_messages().get(kind)
    return messages(kind) if good is None else messages(kind) | like(good)


def calls(*kinds):
    """Draws a call: a message or request of one of ``kinds``, and which of the callbacks that take it gets it."""
    return st.sampled_from(kinds).flatmap(lambda kind: st.tuples(anything(kind), st.integers(0, 5)))


def call(node, message, which):
    """Give a message or request to one of the node's own callbacks for its type."""
    kind = type(message)
    found = [(taker(s), ()) for s in node.subscriptions if ours(s.callback) and s.msg_type is kind]
    services = [s for s in node.services if ours(s.callback) and s.srv_type.Request is kind]
    found += [(s.callback, (s.srv_type.Response(),)) for s in services]
    callback, response = found[which % len(found)]
    finish(callback(message, *response))


def taker(subscription):
    """A subscription's callback as one that takes messages."""
    if not subscription.raw:
        return subscription.callback
    return lambda message: subscription.callback(serialize_message(message))


def call_raw(node, data, which):
    """Give bytes to one of the node's callbacks that take them."""
    found = [s.callback for s in node.subscriptions if ours(s.callback) and s.raw]
    found[which % len(found)](data)


LUMPS = st.tuples(damaged(serialize_message(Odometry())) | st.binary(max_size=800), st.integers(0, 5))


def kinds_of(node):
    """Types of everything that the node takes."""
    found = {s.msg_type for s in node.subscriptions if ours(s.callback)}
    return found | {s.srv_type.Request for s in node.services if ours(s.callback)}


def finish(result, seconds=20.0):
    """Run a callback that is a coroutine to its end, as an executor does."""
    if not asyncio.iscoroutine(result):
        return result
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            result.send(None)
        except StopIteration as done:
            return done.value
        time.sleep(0.001)
    raise AssertionError("a callback did not come to its end")


def check_command(vx, vy, wz):
    assert np.hypot(vx, vy) <= SPEED + 1e-9 and abs(wz) <= YAW_RATE + 1e-9, (vx, vy, wz)


class Watched:
    """Publishers made through a node from now on check every command, and that each message can be sent."""

    def __init__(self, node, monkeypatch):
        self.commands = {}
        create = node.create_publisher

        def create_publisher(kind, topic, qos, **options):
            publisher = create(kind, topic, qos if isinstance(qos, QoSProfile) else 10, **options)
            publish = publisher.publish

            def checked(message):
                if isinstance(message, bytes):
                    message = deserialize_message(message, kind)
                serialize_message(message)
                if topic.endswith("/cmd_vel"):
                    twist = message.linear.x, message.linear.y, message.angular.z
                    check_command(*twist)
                    self.commands[topic.removesuffix("/cmd_vel")] = twist
                publish(message)

            monkeypatch.setattr(publisher, "publish", checked, raising=False)
            return publisher

        monkeypatch.setattr(node, "create_publisher", create_publisher)


class Clock:
    """Time as a node under test sees it, s."""

    def __init__(self):
        self.time = 100.0

    def __call__(self):
        return self.time


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield monkeypatch


# Fleet node ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fleet_node(context, policy, patch):
    patch.setattr(presence, "DISCOVERY", 0.0)  # there is nobody to be found
    patch.setattr(presence, "LISTEN", 0.0)
    patch.setattr(presence, "PERIODS", 1)
    node = FleetNode(
        context=context,
        parameter_overrides=overrides(
            {"robots": ["a", "b"], "policy": policy, "providers": ["CPUExecutionProvider"], **LIMITS}
        ),
    )
    node.watched, node.clock = Watched(node, patch), Clock()
    patch.setattr(node, "now", node.clock)
    yield node
    node.destroy_node()


class Handle:
    """What rclpy gives an action's callbacks for an accepted goal."""

    def __init__(self, request):
        self.request, self.is_cancel_requested, self.ended = request, False, ""
        self.publish_feedback = serialize_message_of_feedback

    def abort(self):
        self.ended = "aborted"

    def canceled(self):
        self.ended = "canceled"

    def succeed(self):
        self.ended = "succeeded"


def serialize_message_of_feedback(message):
    serialize_message(message)


ORDER = Navigate.Goal(robots=["a", "b"], goals=[goal_at(0.3, 0.3), goal_at(2.0, 1.2)])
ORDERS = st.tuples(messages(Navigate.Goal) | like(ORDER), st.booleans())
"""A goal of fleet/navigate, and whether it is cancelled at once."""


def run_order(node, goal, cancelled):
    """Take an order as rclpy's action server does; what is accepted runs until it ends or is aborted."""
    if node._navigate._accept(goal).name != "ACCEPT":
        return
    handle = Handle(goal)
    running = node._navigate._execute(handle)
    running.send(None)
    handle.is_cancel_requested = cancelled
    tick(node)
    node._publish_health()
    node._navigate.abort_all(node.fleet, "end of the example")
    serialize_message(finish(running))
    assert handle.ended


def tick(node, seconds=0.05):
    node.clock.time += seconds
    node._on_timer()
    node._publish_state_and_markers()


FLEET_KINDS = (
    OccupancyGrid, Odometry, PoseStamped, Bool, Trigger.Request, LoadPolicy.Request, RobotCommand.Request,
    GetGrid.Request, Heartbeat,
)  # fmt: skip
FLEET_STEPS = (
    st.tuples(st.just(call), calls(*FLEET_KINDS))
    | st.tuples(st.just(call_raw), LUMPS)
    | st.tuples(st.just(run_order), ORDERS)
    | st.tuples(st.just(tick), st.tuples(st.sampled_from([0.05, 0.3, 5.0, -3.0])))
)


def service(node, name, request, response):
    (found,) = [s for s in node.services if s.service_name == f"/fleet/{name}"]
    return finish(found.callback(request, response))


@fuzz(50)
@given(steps=st.lists(FLEET_STEPS, min_size=1, max_size=12))
def test_the_fleet_node_survives(fleet_node, policy, steps):
    node = fleet_node
    node.clock.time = 100.0
    assert node.start()
    try:
        for timer in node._timers:  # the steps say when time passes
            timer.cancel()
        assert kinds_of(node) == set(FLEET_KINDS)
        for step, arguments in steps:
            step(node, *arguments)
        tick(node)
        assert "fault" not in node.event_log._last, "a control period failed"
        assert node.event_log.rejected["unexpected"] == 0, "a callback failed where it should have refused"
        node.presence._rivals._others.clear()  # whoever drove its robots is gone
        if not node._active:
            assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
            for timer in node._timers:
                timer.cancel()
        drive_fleet(node, policy)
    finally:
        node.trigger_deactivate()
        node.trigger_cleanup()


def drive_fleet(node, policy):
    """After anything else, good messages bring the fleet back to work: robot a to the cell it is sent to."""
    topics(node)["map"](hall())
    assert node.fleet.grid.free.shape == (3, 5)
    assert service(node, "load_policy", LoadPolicy.Request(path=policy), LoadPolicy.Response()).success
    assert service(node, "resume", Trigger.Request(), Trigger.Response()).success
    for name in set(node.names) - {"a", "b"}:
        service(node, "remove_robot", RobotCommand.Request(robot=name), RobotCommand.Response())
    for name in ("a", "b"):
        index = node.index_of(name)
        if node.fleet.removed[index]:
            assert service(
                node, "add_robot", RobotCommand.Request(robot=name), RobotCommand.Response()
            ).success
        assert service(
            node, "resume_robot", RobotCommand.Request(robot=name), RobotCommand.Response()
        ).success
    places = dict(zip("ab", node.fleet.grid.centre(np.array([[0, 0], [2, 0]])), strict=True))
    node.clock.time = max(node.clock.time, 100.0)
    refused = node.event_log.rejected.copy()
    for _ in range(100):  # five seconds, after which a robot is believed to be where it says
        roll(node, places)
    topics(node)["a/goal_pose"](goal_at(*node.fleet.grid.centre(np.array([0, 2]))))
    before = node.fleet.goals_reached[node.index_of("a")]
    for _ in range(200):
        roll(node, places)
        if node.fleet.goals_reached[node.index_of("a")] > before:
            break
    else:
        raise AssertionError(
            f"'a' is not at its goal: {node.fleet.status(node.index_of('a'), node.clock.time)}"
        )
    assert node.event_log.rejected == refused


def roll(node, places):
    """A control period of robots that drive as they are commanded, without inertia; ``places`` follow."""
    for name, place in places.items():
        topics(node)[f"{name}/odom"](pose_at(*place, node.clock.time))
    tick(node)
    for name in places:
        command = node.fleet.commands[node.index_of(name)]
        check_command(*command)
        places[name] = places[name] + 0.05 * command[:2]


def topics(node):
    """Callbacks of the node's own subscriptions by relative topic name."""
    return {s.topic_name.lstrip("/"): taker(s) for s in node.subscriptions if ours(s.callback)}


# Robot node ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[["a"], ["a", "b"]], ids=["alone", "with_another"])
def robot_node(request, context, policy, patch):
    values = {"robots": request.param, "name": "a", "policy": policy, "providers": ["CPUExecutionProvider"]}
    # Publishers are made by the constructor, so that it is watched as a class.
    watched = SimpleNamespace()

    class Robot(RobotNode):
        def _connect(self, name):
            watched.found = Watched(self, patch)
            super()._connect(name)

    node = Robot(context=context, parameter_overrides=overrides({**values, **LIMITS}))
    node.watched, node.clock = watched.found, Clock()
    patch.setattr(node, "now", node.clock)
    yield node
    node.destroy_node()


def forget(node):
    """As when the node has just started."""
    node.not_alone, node._twin, node._listens_until = "", (0, 0, 0), 0.0
    node.lone = node._early_goal = None
    node._pose_stamp, node._stopped = 0, ""
    node.clock.time = 100.0


def stand(node, ticks, place=None):
    """Control periods with good poses where the robot stands."""
    for _ in range(ticks):
        node.clock.time += 0.05
        if place is not None:
            topics(node)["a/odom"](pose_at(*place, node.clock.time))
        node._tick()
        node._publish_state()


ROBOT_KINDS = (OccupancyGrid, Odometry, PoseStamped, PeerState, Bool, Trigger.Request, GetGrid.Request)


@fuzz(90)
@given(
    steps=st.lists(
        st.tuples(calls(*ROBOT_KINDS), st.sampled_from([0.0, 0.05, 0.05, 1.0, -2.0])), min_size=1, max_size=14
    ),
    before=st.none() | st.sampled_from([0, 2, 14]),
)
def test_a_robot_node_survives(robot_node, steps, before):
    node, alone = robot_node, len(robot_node.settings.robots) == 1
    assert kinds_of(node) == set(ROBOT_KINDS)
    forget(node)
    if before is not None:
        topics(node)["map"](hall())
        stand(node, before, node.lone.grid.centre(np.array([0, 0])))
    for step, seconds in steps:
        call(node, *step)
        node.clock.time += seconds
        node._tick()
        node._publish_state()
    assert node._stopped != "the policy failed"
    assert len(node._warned) < 20, "the log remembers what messages made up"
    forget(node)
    topics(node)["map"](hall())
    place = node.lone.grid.centre(np.array([0, 0]))
    stand(node, 15, place)
    topics(node)["a/goal_pose"](goal_at(*node.lone.grid.centre(np.array([0, 2]))))
    stand(node, 15, place)
    if alone:
        assert node.lone.status(node.clock.time)[0] == Status.MOVING
        assert node.watched.commands["a"][0] > 0.05
    else:
        assert not any(node.watched.commands["a"]), "it drives without having heard of the other robot"


def test_strangers_do_not_fill_the_memory(robot_node):
    forget(robot_node)
    topics(robot_node)["map"](hall())
    for k in range(50):
        message = peer_state()
        message.name = f"stranger_{k}"
        topics(robot_node)["fleet/peers"](message)
        message.name = "x" * 100 + str(k)
        topics(robot_node)["fleet/peers"](message)
    assert len(robot_node.lone.peers.known) <= LIMITS["max_robots"]
    assert len(robot_node._warned) < 20


# Watchdog ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watchdog(context):
    node = WatchdogNode(
        context=context, parameter_overrides=overrides({"robots": ["a", "b"], "max_robots": 8})
    )
    yield node
    node.destroy_node()


@fuzz(120)
@given(steps=st.lists(calls(Heartbeat, Bool, Twist), min_size=1, max_size=10))
def test_the_watchdog_survives(watchdog, steps):
    assert kinds_of(watchdog) == {Heartbeat, Bool, Twist}
    for step in steps:
        call(watchdog, *step)
        watchdog._check()
        watchdog._publish_health()
    assert len(watchdog.watchdog.known) <= 9
    # A driving fleet that confirms the stop and then resumes lets it go; silence holds the robots again.
    dog, beat = watchdog.watchdog, topics(watchdog)["fleet/heartbeat"]
    if dog.sender is not None:
        dog._heard -= 10.0  # whoever drove is gone
    incarnation = 1 if dog.sender is None else dog.sender[0] ^ 1
    for sequence, (stopped, driven) in enumerate(
        (stopped, driven) for stopped in (True, True, False, False) for driven in (["a", "b"], [], ["a", "b"])
    ):
        beat(Heartbeat(sequence=sequence, stopped=stopped, robots=driven, incarnation=incarnation))
    assert not dog.stopped and not {"a", "b"} & dog.halted
    watchdog._check()
    assert not {"a", "b"} & set(dog.hold(time.monotonic()))
    assert {"a", "b"} <= set(dog.hold(time.monotonic() + 10.0))

"""Fuzzed messages, bytes and bags: whatever the simulation's nodes hear, nothing leaves a callback."""

import asyncio
import json
import os
from pathlib import Path
from types import SimpleNamespace

import domains
import numpy as np
import pytest
from places import ROOT

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("marlgpt_msgs")
pytest.importorskip("rosbags")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from fuzz_messages import callbacks, like, messages, ours  # noqa: E402
from fuzzing import damaged, fuzz  # noqa: E402
from geometry_msgs.msg import Pose, PoseArray, Twist, TwistStamped  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from marlgpt_msgs.action import Navigate  # noqa: E402
from marlgpt_msgs.msg import FleetDecision, FleetState, Grid, RobotState, SimStatus  # noqa: E402
from marlgpt_msgs.srv import GetGrid  # noqa: E402
from marlgpt_policy.grid.nav_grid import build_grid  # noqa: E402
from marlgpt_policy.grid.occupancy_map import OccupancyMap, save_map_yaml  # noqa: E402
from marlgpt_policy.nodes.messages.conversions import grid_message, grid_response  # noqa: E402
from marlgpt_sim.bags.bag_recovery import recover  # noqa: E402
from marlgpt_sim.bags.bag_types import TopicSpec  # noqa: E402
from marlgpt_sim.bags.bag_writer import BagWriter  # noqa: E402
from marlgpt_sim.nodes.demo_monitor import Monitor  # noqa: E402
from marlgpt_sim.nodes.operator_calls import _awaitable  # noqa: E402
from marlgpt_sim.nodes.recorder_node import RecorderNode  # noqa: E402
from marlgpt_sim.nodes.simulator import Simulator  # noqa: E402
from marlgpt_sim.nodes.task_source import TaskSource  # noqa: E402
from marlgpt_sim.nodes.view_node import ViewNode  # noqa: E402
from nav_msgs.msg import OccupancyGrid  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSProfile  # noqa: E402
from rclpy.serialization import serialize_message  # noqa: E402
from rclpy.task import Future  # noqa: E402
from rosbags.rosbag2 import Reader  # noqa: E402

NODES = ROOT / "ros2_ws/src/marlgpt_sim/marlgpt_sim/nodes"
SPEED = 0.5

COVERED = {
    # Every message and answer that the nodes take is drawn by the test named here.
    "simulator.py": {"test_the_simulator_survives": {"self._listener(i, reader)"}},
    "task_source.py": {
        "test_the_task_source_survives": {"self._on_state", "self._on_robot_state", "self._on_grid"}
    },
    "recorder_node.py": {"test_the_recorder_survives": {"lambda data: self._write(name, topic, data)"}},
    "demo_monitor.py": {
        "test_the_monitor_survives": {
            "self._on_state", "self._on_decision", "self._on_truth", "self._on_status",
        },
    },
    "view_node.py": {
        "test_the_view_survives": {
            "self._on_state", "self._on_map", "self.picture.set_grid", "self.picture.set_sim",
            "self.picture.set_diagnostics",
        },
        "test_answers_to_the_view_survive": {"self._on_radius"},
    },
    "operator_calls.py": {
        "test_answers_to_the_view_survive": {
            "lambda _: loop.call_soon_threadsafe(hand_over)", "lambda done: self._on_result(command.robot, done)",
        },
    },
}  # fmt: skip


def test_every_callback_is_fuzzed():
    """A new subscription or service needs a place in one of the tests below."""
    for tests in COVERED.values():
        assert tests.keys() <= globals().keys()
    assert callbacks(NODES) == {name: set().union(*tests.values()) for name, tests in COVERED.items()}


@pytest.fixture(scope="module", autouse=True)
def ros():
    """ROS on a domain of its own; nothing in this file needs another process."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    rclpy.init(domain_id=domains.take())
    yield
    rclpy.try_shutdown()


def room():
    occupied = np.zeros((60, 80), bool)
    return OccupancyMap(occupied, np.zeros_like(occupied), 0.05, (0.0, 0.0, 0.0))


def overrides(values):
    return [Parameter(name, value=value) for name, value in values.items()]


def inputs(node):
    """Callbacks of the node's own subscriptions, by type of message."""
    found = {}
    for subscription in node.subscriptions:
        if ours(subscription.callback):
            found.setdefault(subscription.msg_type, []).append(subscription.callback)
    return found


# Simulator -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["twist", "stamped", "faults"])
def simulator(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("room") / "room.yaml"
    save_map_yaml(room(), path)
    values = {
        "robots": ["a", "b"], "map_yaml": str(path), "initial_poses": [1.0, 1.0, 0.0, 3.0, 2.0, 1.0],
        "max_speed": SPEED, "stamped_cmd_vel": request.param != "twist",
    }  # fmt: skip
    if request.param == "faults":
        values |= {"fault_cmd_reorder_rate": 3600.0, "fault_cmd_duplicate_rate": 3600.0}
    node = Simulator(parameter_overrides=overrides(values))
    node._status_wall, node._status_sim = 0.0, 0  # as `Simulator.run` begins
    yield node
    node.destroy_node()


def command(node, vx):
    kind = TwistStamped if node.settings["stamped_cmd_vel"] else Twist
    message = kind()
    getattr(message, "twist", message).linear.x = vx
    return message


def swapped(data):
    """The same bytes announced in the other byte order."""
    return bytes([0, 1 - data[1]]) + data[2:]


def run(node, ticks):
    """What the simulator does in so many ticks, without waiting."""
    for _ in range(ticks):
        node._measure()
        node._publish_tick()
        for _ in range(node._steps):
            node._take_commands()
            if node.faults is None:
                node.world.step(node._commands, node._dt)
            else:
                node.faults.step(node._dt)
        node.now += node._period
        node._publish_status()
        node._log_contacts()
        world = node.world
        assert np.isfinite(world.poses).all()
        assert np.hypot(world.velocities[:, 0], world.velocities[:, 1]).max() <= SPEED + 1e-6


@st.composite
def raw(draw, kind):
    """Bytes where a serialized message of type ``kind`` is expected."""
    data = bytes(serialize_message(draw(messages(kind) | like(kind()))))
    return draw(st.just(data) | st.just(swapped(data)) | damaged(data) | st.binary(max_size=99))


@fuzz(80)
@given(steps=st.lists(st.tuples(raw(Twist) | raw(TwistStamped), st.integers(0, 1)), min_size=1, max_size=6))
def test_the_simulator_survives(simulator, steps):
    (listeners,) = inputs(simulator).values()
    for data, robot in steps:
        listeners[robot](data)
        run(simulator, 1)
    for _ in range(30):
        for listener in listeners:
            listener(bytes(serialize_message(command(simulator, 0.0))))
        run(simulator, 1)
    assert np.hypot(*simulator.world.velocities[:, :2].T).max() < 0.05
    way = 0.3 if np.cos(simulator.world.poses[0, 2]) * (2.0 - simulator.world.poses[0, 0]) > 0 else -0.3
    for _ in range(6):
        listeners[0](bytes(serialize_message(command(simulator, way))))
        run(simulator, 1)
    assert np.hypot(*simulator.world.velocities[0, :2]) > 0.05 or simulator.world.wall_contacts


# Task source ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["centralised", "decentralised"])
def task_source(request):
    node = TaskSource(parameter_overrides=overrides({"robots": ["a", "b"], "control": request.param}))
    yield node
    node.destroy_node()


def answer(response):
    return SimpleNamespace(result=lambda: response)


GRID = grid_response(build_grid(room(), 0.22), GetGrid.Response())
GRIDS = st.none() | messages(GetGrid.Response) | like(GRID)
FLEET = FleetState(robots=[RobotState(name=name, status=1, goal_row=-1) for name in "ab"])
STATES = messages(FleetState) | like(FLEET) | messages(RobotState) | like(FLEET.robots[0])


@fuzz(120)
@given(steps=st.lists(GRIDS.map(answer) | STATES, min_size=1, max_size=8))
def test_the_task_source_survives(task_source, steps):
    node, taken = task_source, inputs(task_source)
    node._grid = None
    for task in node._tasks:
        task.__init__()
    for step in steps:
        if isinstance(step, SimpleNamespace):
            node._on_grid(step)
        else:
            for callback in taken.get(type(step), []):
                callback(step)
    node._on_grid(answer(GRID))
    for k in (1, 2):
        for name in "ab":
            state = RobotState(name=name, status=1, goals_reached=2**32 - 3 + k)
            for kind, found in taken.items():
                found[0](FleetState(robots=[state]) if kind is FleetState else state)
    assert all(task.goal is not None for task in node._tasks)
    cells = [task.cell for task in node._tasks]
    assert all(node._grid.free[cell] for cell in cells) and len(set(cells)) == 2


# Monitor of the demo -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def monitor():
    args = SimpleNamespace(radius=0.22, map=Path("room.yaml"), seed=0)
    node = Monitor(SimpleNamespace(names=["a", "b"], grid=build_grid(room(), 0.22), map=room(), args=args))
    yield node
    node.destroy_node()


def truth(seconds):
    message = PoseArray()
    message.header.stamp.sec = seconds
    message.poses = [Pose(), Pose()]
    for k, pose in enumerate(message.poses):
        pose.position.x, pose.orientation.w = 1.0 + k, 1.0
    return message


MONITORED = {
    FleetState: FLEET, FleetDecision: FleetDecision(total_ms=3.0), PoseArray: truth(9), SimStatus: SimStatus(),
}  # fmt: skip


@fuzz(120)
@given(
    steps=st.lists(
        st.sampled_from(list(MONITORED)).flatmap(lambda kind: messages(kind) | like(MONITORED[kind])),
        min_size=1,
        max_size=12,
    )
)
def test_the_monitor_survives(monitor, steps):
    taken = inputs(monitor)
    assert taken.keys() == MONITORED.keys()
    for step in steps:
        taken[type(step)][0](step)
    taken[FleetDecision][0](FleetDecision(total_ms=3.0))
    taken[FleetState][0](FLEET)
    monitor.samples.clear()
    taken[PoseArray][0](truth(50))
    taken[PoseArray][0](truth(51))
    trace = monitor.trace({})
    assert trace.poses.shape == (2, 2, 3) and trace.times.tolist() == [0.0, 1.0]
    assert np.allclose(trace.separation, 1.0 - 2 * 0.22)


def test_what_was_recorded_in_between_makes_a_trace(monitor):
    """Fleets that are said to be smaller or larger than they are leave no samples of another size."""
    monitor.samples.clear()
    taken = inputs(monitor)
    taken[FleetDecision][0](FleetDecision(total_ms=3.0))
    for k, robots in enumerate([[], FLEET.robots[:1], FLEET.robots * 2, FLEET.robots]):
        taken[FleetState][0](FleetState(robots=robots))
        message = truth(60 + k)
        taken[PoseArray][0](message)
        message.poses = message.poses[:1]
        taken[PoseArray][0](message)
    assert monitor.trace({}).goals.shape == (4, 2, 2)


# Live view -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def view():
    node = ViewNode(parameter_overrides=overrides({"port": 0}))
    yield node
    node.destroy_node()


def as_message(map):
    message = OccupancyGrid()
    message.info.resolution, message.info.width, message.info.height = 0.05, *map.occupied.shape[::-1]
    message.info.origin.orientation.w = 1.0
    message.data = [0] * map.occupied.size
    return message


VIEWED = {
    FleetState: FLEET, OccupancyGrid: as_message(room()), Grid: grid_message(build_grid(room(), 0.22)),
    SimStatus: SimStatus(), DiagnosticArray: DiagnosticArray(status=[DiagnosticStatus(name="fleet: driving")]),
}  # fmt: skip


@fuzz(80)
@given(
    steps=st.lists(
        st.sampled_from(list(VIEWED)).flatmap(lambda kind: messages(kind) | like(VIEWED[kind])),
        min_size=1,
        max_size=8,
    ),
    torn=st.data(),
)
def test_the_view_survives(view, steps, torn):
    taken = inputs(view)
    assert taken.keys() == VIEWED.keys()
    for step in steps:
        if isinstance(step, FleetState):
            data = serialize_message(step)
            taken[FleetState][0](torn.draw(st.just(data) | st.binary(max_size=40)))
            view._read_state()
        else:
            taken[type(step)][0](step)
        json.loads(view.picture.frame())
        for part in ("map", "grid", "roster"):
            view.picture.message(part)
    taken[FleetState][0](serialize_message(FLEET))
    view._read_state()
    assert view.picture.names == ("a", "b")


@fuzz(40)
@given(radius=st.floats(), status=st.integers(0, 9), why=st.lists(st.text(), max_size=2))
def test_answers_to_the_view_survive(view, radius, status, why):
    for values in ([], [SimpleNamespace(double_value=radius)]):
        view._on_radius(SimpleNamespace(result=lambda values=values: SimpleNamespace(values=values)))
    result = Navigate.Result(messages=[text.encode("utf-8", "replace").decode() for text in why])
    for response in (None, SimpleNamespace(status=status, result=result)):
        view.orders._on_result("a", SimpleNamespace(result=lambda response=response: response))

    async def ask(future):
        waiting = _awaitable(future)
        future.set_result(status) if status else future.set_exception(RuntimeError("x"))
        return await waiting

    if status:
        assert asyncio.run(ask(Future())) == status
    else:
        with pytest.raises(RuntimeError):
            asyncio.run(ask(Future()))


# Recorder ------------------------------------------------------------------------------------------------

KINDS = ["std_msgs/msg/String", "geometry_msgs/msg/Twist", "marlgpt_msgs/msg/FleetState"]
STRANGE = [
    "std_msgs/msg/NoSuch", "no_such/msg/Type", "a", "", "a/b/c", "/msg/", "../os/msg/path", ".x/msg/Y", "os/msg/path",
    "std_msgs/srv/Empty", "lifecycle_msgs/msg/__doc__",
]  # fmt: skip


@fuzz(25)
@given(
    data=st.lists(st.tuples(st.binary(max_size=60), st.integers(0, len(KINDS) - 1)), max_size=12),
    types=st.lists(st.sampled_from(STRANGE) | st.text(max_size=9), max_size=4),
)
def test_the_recorder_survives(tmp_path_factory, data, types):
    folder = tmp_path_factory.mktemp("bags") / "bag"
    node = RecorderNode(parameter_overrides=overrides({"output": str(folder)}))
    try:
        offered = [SimpleNamespace(qos_profile=QoSProfile(depth=1))]
        node.get_publishers_info_by_topic = lambda name: offered
        wanted = [f"/t{k}" for k in range(len(KINDS))]
        graph = [*zip(wanted, [[k] for k in KINDS], strict=True)]
        graph += [(f"/strange{k}", [kind]) for k, kind in enumerate(types)]
        node.get_topic_names_and_types = lambda: graph
        node._discover()
        node._discover()
        taken = {s.topic_name: s.callback for s in node.subscriptions if ours(s.callback)}
        assert taken.keys() == set(wanted)
        for content, which in data:
            taken[wanted[which]](content)
    finally:
        node.recorder.close()
        node.destroy_node()
    with Reader(folder) as bag:
        assert [bytes(m) for _, _, m in bag.messages()] == [content for content, _ in data]


# Bags ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bag_bytes(tmp_path_factory):
    """The file of a bag that was killed, and the same one finished."""
    path = tmp_path_factory.mktemp("bag") / "bag"
    bag = BagWriter(path, ["marlgpt_msgs"], flush_period=0.0)
    for topic, kind in (("/a", "std_msgs/msg/String"), ("/b", "marlgpt_msgs/msg/FleetState")):
        bag.add_topic(topic, kind, [TopicSpec(topic, kind).qos()])
        for k in range(3):
            bag.write(topic, kind, bytes(40), k + 1)
    torn = (path / "bag_0.mcap").read_bytes()
    bag.close()
    return torn, (path / "bag_0.mcap").read_bytes()


@fuzz(150)
@given(data=st.data(), which=st.integers(0, 1))
def test_damaged_bags(tmp_path_factory, bag_bytes, data, which):
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "x.mcap").write_bytes(data.draw(damaged(bag_bytes[which]) | st.binary(max_size=60)))
    try:
        count = recover(folder / "x.mcap", folder / "whole")
    except ValueError as error:
        assert "x.mcap" in str(error)
        return
    with Reader(folder / "whole") as bag:
        assert bag.message_count == count


def test_chunks_within_chunks_are_refused(tmp_path):
    content = b""
    for _ in range(3000):
        body = bytes(28) + bytes(4) + bytes(8) + content
        content = b"\x06" + len(body).to_bytes(8, "little") + body
    (tmp_path / "x.mcap").write_bytes(b"\x89MCAP0\r\n" + content)
    with pytest.raises(ValueError, match="x.mcap"):
        recover(tmp_path / "x.mcap", tmp_path / "whole")

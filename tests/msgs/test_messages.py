"""The message package: every definition documented, importable, and able to cross DDS."""

import importlib
import os
import re
import subprocess
import sys
import time

import domains
import pytest
from places import ROOT

PACKAGE = ROOT / "ros2_ws" / "src" / "marlgpt_msgs"
DEFINITIONS = sorted(path for kind in ("msg", "srv", "action") for path in PACKAGE.glob(f"{kind}/*.{kind}"))
UNITS = re.compile(r"\[(s|ms|ns|m|count|cells|no unit|m, quaternion)\]")


def fields(path):
    """Yield (type, name, comment) of every field and constant of a definition."""
    for line in path.read_text().splitlines():
        code, _, comment = line.partition("#")
        if words := code.split(None, 1):
            if words != ["---"]:
                yield words[0], words[1].strip(), comment.strip()


def load(path):
    return getattr(importlib.import_module(f"marlgpt_msgs.{path.parent.name}"), path.stem)


def test_every_definition_is_built():
    listed = set(re.findall(r'"(\w+/\w+\.\w+)"', (PACKAGE / "CMakeLists.txt").read_text()))
    assert listed == {str(path.relative_to(PACKAGE)) for path in DEFINITIONS}


@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: path.stem)
def test_every_field_is_documented(path):
    assert path.read_text().startswith("# "), f"{path.name} does not say what it is for"
    for kind, name, comment in fields(path):
        assert comment, f"{path.name}: {name} has no comment"
        if kind.startswith(("float", "uint32", "uint64", "int32", "geometry_msgs")) and "[]" not in kind:
            assert UNITS.search(comment), f"{path.name}: {name} has no unit in [brackets]: {comment}"


@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: path.stem)
def test_built_interface_matches_its_definition(path):
    interface = load(path)
    parts = {
        "msg": [interface],
        "srv": [getattr(interface, name, None) for name in ("Request", "Response")],
        "action": [getattr(interface, name, None) for name in ("Goal", "Result", "Feedback")],
    }[path.parent.name]
    built = {name for part in parts for name in part.get_fields_and_field_types()}
    built -= {"structure_needs_at_least_one_member"}
    assert built == {name for _, name, _ in fields(path) if "=" not in name}


def test_constants():
    from marlgpt_msgs.msg import RobotDecision, RobotState

    states = ("NO_POSE", "IDLE", "WAITING", "MOVING", "STALE", "STOPPED", "OFF_GRID", "DOCKING")
    assert [getattr(RobotState, name) for name in states] == list(range(8))
    moves = ("WAIT", "UP", "DOWN", "LEFT", "RIGHT")
    assert [getattr(RobotDecision, name) for name in moves] == list(range(5))


@pytest.fixture
def ros_context(monkeypatch):
    """An rclpy context of its own, on a domain that follows from the process id, local to this machine."""
    rclpy = pytest.importorskip("rclpy")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    context = rclpy.Context()
    context.init(domain_id=domains.take())
    yield context
    context.try_shutdown()


def test_fleet_state_crosses_dds(ros_context):
    from marlgpt_msgs.msg import FleetState, RobotState
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

    # Latched and reliable: it arrives exactly once, whichever side is discovered first.
    qos = QoSProfile(
        depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
    )
    sent = FleetState(step=2**40, stopped=True, provider="CPUExecutionProvider", policy="tiny", decisions=7)
    sent.header.frame_id = "map"
    sent.header.stamp.sec = 12
    for index in range(3):
        robot = RobotState(name=f"robot_{index}", status=RobotState.MOVING, row=index, col=-1, progress=0.25)
        robot.pose.position.x = 0.1 * index
        robot.detail = "wartet auf Zelle (3, 4) ü"
        sent.robots.append(robot)

    talker = Node("talker", context=ros_context)
    listener = Node("listener", context=ros_context)
    executor = SingleThreadedExecutor(context=ros_context)
    received = []
    listener.create_subscription(FleetState, "fleet/state", received.append, qos)
    publisher = talker.create_publisher(FleetState, "fleet/state", qos)
    executor.add_node(talker)
    executor.add_node(listener)
    try:
        publisher.publish(sent)
        deadline = time.monotonic() + 30
        while not received and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.1)
        assert received == [sent]
    finally:
        executor.shutdown()
        talker.destroy_node()
        listener.destroy_node()


def test_messages_need_nothing_sourced(tmp_path):
    """A new Python finds modules, libraries and resources of the workspace by itself, arguments intact."""
    workspace = str(PACKAGE.parents[1] / "install")
    environment = {}
    for name, value in os.environ.items():
        if name != "_ROS_WHEELS_BOOTSTRAP_COMPLETE":
            kept = [part for part in value.split(os.pathsep) if not part.startswith(workspace)]
            environment[name] = os.pathsep.join(kept)
    code = (
        "import sys; from ament_index_python import get_package_share_directory as share;"
        "from marlgpt_msgs.msg import FleetState;"
        "FleetState.__import_type_support__();"
        "print(FleetState().step, share('marlgpt_msgs'), share('std_msgs') != '', sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "two words", ""]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.stdout.split() == f"0 {workspace}/share/marlgpt_msgs True ['two words', '']".split(), (
        run.stderr
    )

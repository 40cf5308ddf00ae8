"""The recorder: real DDS traffic in, a bag that `rosbags` reads back byte for byte."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rosbags")
from marlgpt_sim.recorder import BagWriter, TopicSpec, load_types, recover  # noqa: E402
from rosbags.interfaces import QosDurability, QosReliability  # noqa: E402
from rosbags.rosbag2 import Reader  # noqa: E402

ODOM = "nav_msgs/msg/Odometry"
GRID = "nav_msgs/msg/OccupancyGrid"


def stored(path: Path) -> dict[str, list[tuple[int, bytes]]]:
    """Everything in a bag: per topic the stamps and bytes in order."""
    found: dict[str, list[tuple[int, bytes]]] = {}
    with Reader(path) as bag:
        for connection in bag.connections:
            found[connection.topic] = []
        for connection, stamp, data in bag.messages():
            found[connection.topic].append((stamp, bytes(data)))
    return found


def sample(x: float) -> bytes:
    """A serialized pose, made without ROS."""
    types = load_types([])
    point = types.types["geometry_msgs/msg/Point"](x=x, y=2.0, z=0.0)
    return bytes(types.serialize_cdr(point, "geometry_msgs/msg/Point"))


def test_writer_stores_bytes_stamps_and_profiles(tmp_path: Path) -> None:
    """What was written is read back unchanged, with type, profile and stamps."""
    spec = TopicSpec("/point", "geometry_msgs/msg/Point", reliable=False, latched=True, depth=3)
    messages = [(7 + 10**9 * i, sample(float(i))) for i in range(20)]
    with BagWriter(tmp_path / "bag") as bag:
        bag.add_topic("/point", spec.type, [spec.qos()])
        bag.add_topic("/silent", "std_msgs/msg/String", [])
        for stamp, data in messages:
            bag.write("/point", spec.type, data, stamp)
    assert stored(tmp_path / "bag") == {"/point": messages, "/silent": []}
    with Reader(tmp_path / "bag") as bag:
        (profile,) = bag.topics["/point"].connections[0].ext.offered_qos_profiles
        assert bag.duration == 19 * 10**9 + 1
    assert profile.reliability == QosReliability.BEST_EFFORT
    assert profile.durability == QosDurability.TRANSIENT_LOCAL
    assert profile.depth == 3


def test_writer_refuses_what_it_cannot_store(tmp_path: Path) -> None:
    """Existing folders, unknown types and unannounced topics are errors with the value in them."""
    (tmp_path / "old").mkdir()
    with pytest.raises(FileExistsError, match="old"):
        BagWriter(tmp_path / "old")
    with pytest.raises(FileNotFoundError, match="no_such_package"):
        BagWriter(tmp_path / "new", ["no_such_package"])
    with BagWriter(tmp_path / "bag") as bag:
        with pytest.raises(KeyError, match="NoSuchMessage"):
            bag.add_topic("/a", "std_msgs/msg/NoSuchMessage", [])
        with pytest.raises(KeyError):
            bag.write("/b", "std_msgs/msg/String", b"", 1)
    with pytest.raises(ValueError, match="std_msgs/String"):
        TopicSpec("a", "std_msgs/String")


def test_empty_bag_is_readable(tmp_path: Path) -> None:
    """A run that never published leaves a bag without messages, not a broken one."""
    with BagWriter(tmp_path / "bag") as bag:
        bag.add_topic("/a", "std_msgs/msg/String", [])
    bag.close()
    assert stored(tmp_path / "bag") == {"/a": []}


def test_our_messages_are_known() -> None:
    """The messages of this project resolve from their `.msg` files."""
    types = load_types(["marlgpt_msgs"])
    for name in ("FleetState", "FleetDecision", "SimStatus"):
        assert f"marlgpt_msgs/msg/{name}" in types.types
    assert types.hash_rihs01("marlgpt_msgs/msg/FleetState").startswith("RIHS01_")


@pytest.mark.parametrize("lost", [0, 1, 500])
def test_recover_torn_file(tmp_path: Path, lost: int) -> None:
    """A file without its end gives back every whole message."""
    messages = [(i, sample(float(i))) for i in range(1, 200)]
    bag = BagWriter(tmp_path / "bag", flush_period=0.0)
    bag.add_topic("/point", "geometry_msgs/msg/Point", [TopicSpec("p", "geometry_msgs/msg/Point").qos()])
    for stamp, data in messages:
        bag.write("/point", "geometry_msgs/msg/Point", data, stamp)
    written = (tmp_path / "bag" / "bag.mcap").read_bytes()  # on disk although the bag is still open
    torn = tmp_path / "torn.mcap"
    torn.write_bytes(written[: len(written) - lost])
    bag.close()
    count = recover(torn, tmp_path / "whole")
    kept = stored(tmp_path / "whole")["/point"]
    assert kept == messages[:count]
    assert len(messages) - count <= (lost + 79) // 80
    with Reader(tmp_path / "whole") as whole:
        assert len(whole.connections[0].ext.offered_qos_profiles) == 1
    assert recover(tmp_path / "bag" / "bag.mcap", tmp_path / "again") == len(messages)


def test_recover_refuses_a_foreign_file(tmp_path: Path) -> None:
    """A file of another kind is named in the error."""
    (tmp_path / "no.mcap").write_bytes(b"hello")
    with pytest.raises(ValueError, match="no.mcap"):
        recover(tmp_path / "no.mcap", tmp_path / "out")


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch):
    """A context of its own, in a domain of its own."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    rclpy = pytest.importorskip("rclpy")
    domain = 60 + os.getpid() % 40
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    yield context
    rclpy.try_shutdown(context=context)


def test_records_dds_traffic(ros, tmp_path: Path) -> None:
    """Bytes that crossed DDS lie in the bag, with the publishers' profiles; a latched map too."""
    import rclpy
    from marlgpt_sim.nodes.recorder import BagRecorder
    from nav_msgs.msg import OccupancyGrid, Odometry
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
    from rclpy.serialization import serialize_message

    robot = rclpy.create_node("robot", namespace="yard", context=ros)
    best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    odometry = robot.create_publisher(Odometry, "robot_00/odom", best_effort)
    grid = OccupancyGrid(data=[0, 100, -1] * 1000)
    grid.info.width, grid.info.height = 100, 30
    serialized_grid = serialize_message(grid)
    robot.create_publisher(OccupancyGrid, "map", latched).publish(serialized_grid)

    listener = rclpy.create_node("listener", namespace="yard", context=ros)
    executor = SingleThreadedExecutor(context=ros)
    executor.add_node(listener)
    sent = []
    topics = [
        TopicSpec("robot_00/odom", ODOM, reliable=False),
        TopicSpec("map", GRID, latched=True),
        TopicSpec("never", "std_msgs/msg/String"),
    ]
    with BagRecorder(listener, tmp_path / "bag", topics) as recorder:
        deadline = time.monotonic() + 20
        while odometry.get_subscription_count() == 0 or recorder.messages == 0:
            executor.spin_once(timeout_sec=0.05)
            assert time.monotonic() < deadline, "no match within 20 s"
        for i in range(50):
            message = Odometry(child_frame_id=f"base_{i}")
            message.pose.pose.position.x = 0.1 * i
            sent.append(serialize_message(message))
            odometry.publish(sent[-1])
            executor.spin_once(timeout_sec=0.2)
        while recorder.messages < 51 and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.05)
    recorder.close()
    executor.shutdown()
    listener.destroy_node()
    robot.destroy_node()

    found = stored(tmp_path / "bag")
    assert [data for _, data in found["/yard/robot_00/odom"]] == sent
    assert [data for _, data in found["/yard/map"]] == [serialized_grid]
    assert found["/yard/never"] == []
    stamps = [stamp for stamp, _ in found["/yard/robot_00/odom"]]
    assert stamps == sorted(stamps) and abs(stamps[-1] / 1e9 - time.time()) < 60
    with Reader(tmp_path / "bag") as bag:
        (profile,) = bag.topics["/yard/robot_00/odom"].connections[0].ext.offered_qos_profiles
        assert profile.reliability == QosReliability.BEST_EFFORT
        (profile,) = bag.topics["/yard/map"].connections[0].ext.offered_qos_profiles
        assert profile.durability == QosDurability.TRANSIENT_LOCAL
        read = load_types([]).deserialize_cdr(found["/yard/robot_00/odom"][-1][1], ODOM)
        assert read.child_frame_id == "base_49"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_node_survives_signals(ros, tmp_path: Path, how: signal.Signals) -> None:
    """The node finds topics by itself; SIGTERM completes the bag, SIGKILL leaves what `recover` saves."""
    import rclpy
    from std_msgs.msg import String

    talker = rclpy.create_node("talker", context=ros)
    publisher = talker.create_publisher(String, "chatter", 100)
    command = [sys.executable, "-m", "marlgpt_sim.nodes.recorder", "--ros-args"]
    command += ["-p", f"output:={tmp_path / 'bag'}", "-p", "topics:=[chatter]", "-p", "flush_period:=0.5"]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 30
        while publisher.get_subscription_count() == 0:
            assert time.monotonic() < deadline and process.poll() is None, "the recorder never subscribed"
            time.sleep(0.05)
        for i in range(40):
            publisher.publish(String(data=f"message {i}"))
            time.sleep(0.01)
        time.sleep(2.0)
    finally:
        process.send_signal(how)
        code = process.wait(timeout=20)
    talker.destroy_node()
    bag = tmp_path / "bag"
    if how == signal.SIGTERM:
        assert code == 0
    else:
        assert recover(bag / "bag.mcap", tmp_path / "whole") == 40
        bag = tmp_path / "whole"
    texts = [data for _, data in stored(bag)["/chatter"]]
    assert len(texts) == 40 and b"message 39" in texts[-1]

"""The recorder: real DDS traffic in, a bag that `rosbags` reads back byte for byte."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import domains
import pytest

pytest.importorskip("rosbags")
from marlgpt_sim.bags.bag_recovery import recover  # noqa: E402
from marlgpt_sim.bags.bag_types import TopicSpec, load_types  # noqa: E402
from marlgpt_sim.bags.bag_writer import BagWriter  # noqa: E402
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
    written = (tmp_path / "bag" / "bag_0.mcap").read_bytes()  # on disk although the bag is still open
    torn = tmp_path / "torn.mcap"
    torn.write_bytes(written[: len(written) - lost])
    bag.close()
    count = recover(torn, tmp_path / "whole")
    kept = stored(tmp_path / "whole")["/point"]
    assert kept == messages[:count]
    assert len(messages) - count <= (lost + 79) // 80
    with Reader(tmp_path / "whole") as whole:
        assert len(whole.connections[0].ext.offered_qos_profiles) == 1
    assert recover(tmp_path / "bag" / "bag_0.mcap", tmp_path / "again") == len(messages)


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
    domain = domains.take()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    yield context
    rclpy.try_shutdown(context=context)


def test_records_dds_traffic(ros, tmp_path: Path) -> None:
    """Bytes that crossed DDS lie in the bag, with the publishers' profiles; a latched map too."""
    import rclpy
    from marlgpt_sim.nodes.recorder_node import BagRecorder
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
    command = [sys.executable, "-m", "marlgpt_sim.nodes.recorder_node", "--ros-args"]
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
        assert recover(bag / "bag_0.mcap", tmp_path / "whole") == 40
        bag = tmp_path / "whole"
    texts = [data for _, data in stored(bag)["/chatter"]]
    assert len(texts) == 40 and b"message 39" in texts[-1]


# Parts, crashes, full disks ------------------------------------------------------------------------------

STRING = "std_msgs/msg/String"
LATCHED = TopicSpec("/map", STRING, latched=True, depth=1)


def text(content: str) -> bytes:
    """A serialized string, made without ROS."""
    types = load_types([])
    return bytes(types.serialize_cdr(types.types[STRING](data=content), STRING))


@pytest.mark.parametrize("limits", [{"max_size": 1200}, {"max_duration": 10.0}])
def test_parts_stand_alone(tmp_path: Path, limits: dict) -> None:
    """A bag is split by size or by time; each part begins with the latched messages, the whole reads as one."""
    with BagWriter(tmp_path / "bag", **limits) as bag:
        bag.add_topic("/map", STRING, [LATCHED.qos()])
        bag.add_topic("/point", "geometry_msgs/msg/Point", [])
        bag.write("/map", STRING, text("old map"), 1)
        bag.write("/map", STRING, text("map"), 2)
        for i in range(200):
            bag.write("/point", "geometry_msgs/msg/Point", sample(float(i)), 10 + i * 10**9 // 4)
    names = [path.name for path in bag.parts]
    assert names == [f"bag_{k}.mcap" for k in range(len(names))] and len(names) >= 4
    assert sorted(path.name for path in (tmp_path / "bag").iterdir()) == sorted([*names, "metadata.yaml"])
    whole = stored(tmp_path / "bag")
    assert [data for _, data in whole["/point"]] == [sample(float(i)) for i in range(200)]
    with Reader(tmp_path / "bag") as reader:
        assert reader.message_count == 202 + len(names) - 1
        assert [Path(entry["path"]).name for entry in reader.storage.files] == names
    for k, path in enumerate(bag.parts):
        part = stored(path)
        assert len(part["/map"]) == (2 if k == 0 else 1) and part["/map"][-1][1] == text("map")
        if k:
            assert part["/map"][0][0] == part["/point"][0][0]  # stamped as what follows it


def test_transforms_of_all_senders_are_repeated(tmp_path: Path) -> None:
    """/tf_static has many senders, each with a message of its own."""
    kind = "tf2_msgs/msg/TFMessage"
    types = load_types([])
    with BagWriter(tmp_path / "bag", max_duration=1.0) as bag:
        bag.add_topic("/tf_static", kind, [LATCHED.qos()])
        bag.add_topic("/a", STRING, [])
        header = types.types["std_msgs/msg/Header"](
            stamp=types.types["builtin_interfaces/msg/Time"](sec=0, nanosec=0), frame_id="map"
        )
        zero = types.types["geometry_msgs/msg/Vector3"](x=0.0, y=0.0, z=0.0)
        turn = types.types["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0)
        sent = []
        for child in ("a/odom", "b/odom", "a/odom"):
            one = types.types["geometry_msgs/msg/TransformStamped"](
                header=header, child_frame_id=child,
                transform=types.types["geometry_msgs/msg/Transform"](translation=zero, rotation=turn),
            )  # fmt: skip
            sent.append(bytes(types.serialize_cdr(types.types[kind](transforms=[one]), kind)))
            bag.write("/tf_static", kind, sent[-1], 1)
        bag.write("/a", STRING, text("late"), 5 * 10**9)
    assert {data for _, data in stored(bag.parts[1])["/tf_static"]} == set(sent)


def test_silence_is_flushed_too(tmp_path: Path) -> None:
    """The last message is on disk within the period although nothing follows it."""
    bag = BagWriter(tmp_path / "bag", flush_period=0.1)
    bag.add_topic("/a", STRING, [])
    bag.write("/a", STRING, text("the last one"), 1)
    deadline = time.monotonic() + 20
    while b"the last one" not in (tmp_path / "bag" / "bag_0.mcap").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    bag.close()


def test_full_disk(tmp_path: Path) -> None:
    """Where no more can be written the error names the bag and what to do; what was written can be recovered."""
    code = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))  # files cannot grow beyond that, like a full disk
from marlgpt_sim.bags.bag_writer import BagWriter
bag = BagWriter({str(tmp_path / "bag")!r}, flush_period=0.0)
bag.add_topic("/a", "std_msgs/msg/String", [])
try:
    for k in range(1000):
        bag.write("/a", "std_msgs/msg/String", bytes(1000), k + 1)
except OSError as error:
    print("ERROR", error)
bag.close()
print("CLOSED", bag.closed, bag.failure is not None)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert f"cannot write to bag {tmp_path / 'bag'}" in done.stdout and "free space" in done.stdout, (
        done.stderr
    )
    assert "CLOSED True True" in done.stdout
    assert 200 < recover(tmp_path / "bag" / "bag_0.mcap", tmp_path / "whole") < 300


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write to bag .*another folder"):
        BagWriter(tmp_path / "file" / "bag")
    with pytest.raises(ValueError, match="below zero"):
        BagWriter(tmp_path / "bag", max_size=-1)


KILLED = """
import sys, time
from marlgpt_sim.bags.bag_types import load_types
from marlgpt_sim.bags.bag_writer import BagWriter
types = load_types([])
bag = BagWriter(sys.argv[1], max_duration=1.0)  # with the flush period that is the default
bag.add_topic("/a", "std_msgs/msg/String", [])
while True:
    now = time.time_ns()
    message = types.types["std_msgs/msg/String"](data=str(now))
    bag.write("/a", "std_msgs/msg/String", bytes(types.serialize_cdr(message, "std_msgs/msg/String")), now)
    print(now, flush=True)
    time.sleep(0.01)
"""


def test_a_crash_loses_the_last_second_at_most(tmp_path: Path) -> None:
    """SIGKILL at any time: of what was written more than a second before, every message is on disk."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "bag")], stdout=subprocess.PIPE, text=True
    )
    written = []
    while len(written) < 330:
        written.append(int(process.stdout.readline()))
    process.kill()
    rest, _ = process.communicate()
    written += [int(line) for line in rest.split("\n")[:-1]]
    parts = sorted((tmp_path / "bag").glob("*.mcap"), key=lambda path: int(path.stem.split("_")[1]))
    assert len(parts) >= 3
    kept = []
    for k, part in enumerate(parts):
        try:
            recover(part, tmp_path / f"whole{k}")
        except ValueError:  # the last part had just begun, nothing of it was flushed yet
            assert k == len(parts) - 1
            continue
        kept += [stamp for stamp, _ in stored(tmp_path / f"whole{k}").get("/a", [])]
    assert kept == sorted(set(kept))
    assert [stamp for stamp in written if stamp < written[-1] - 10**9] == [
        stamp for stamp in kept if stamp < written[-1] - 10**9
    ]

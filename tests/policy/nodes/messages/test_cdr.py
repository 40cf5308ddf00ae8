"""CDR bytes: what the readers and writers say is what ROS's own serialization says, or they refuse."""

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marlgpt_policy.nodes.messages.cdr import CdrError, PoseReader, TwistWriter, layout, text

pytest.importorskip("rclpy")

from fuzz_messages import messages  # noqa: E402
from fuzzing import damaged, fuzz  # noqa: E402
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped, Twist, TwistStamped  # noqa: E402
from nav_msgs.msg import Odometry  # noqa: E402
from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402

KINDS = {"odom": Odometry, "pose": PoseWithCovarianceStamped, "pose_stamped": PoseStamped}
sources = st.sampled_from(sorted(KINDS))


def said(source, message):
    """What a reader should find in a message."""
    pose = message.pose if source == "pose_stamped" else message.pose.pose
    stamp, q = message.header.stamp, pose.orientation
    numbers = (pose.position.x, pose.position.y, q.x, q.y, q.z, q.w)
    return stamp.sec * 10**9 + stamp.nanosec, message.header.frame_id, *numbers


def same(found, wanted):
    """Equal, with NaN equal to itself."""
    numbers = zip(found[2:], wanted[2:], strict=True)
    return found[:2] == wanted[:2] and all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in numbers)


def big_endian(source, message):
    """A message as a computer of the other byte order sends it."""
    behind = {"odom": 78, "pose": 36, "pose_stamped": 0}[source]
    pose = message.pose if source == "pose_stamped" else message.pose.pose
    names = [message.header.frame_id] + ([message.child_frame_id] if source == "odom" else [])
    data = struct.pack(">iI", message.header.stamp.sec, message.header.stamp.nanosec)
    for name in names:
        data += bytes(-len(data) % 4) + struct.pack(">I", len(text(name))) + text(name)
    p, q = pose.position, pose.orientation
    data += bytes(-len(data) % 8) + struct.pack(">7d", p.x, p.y, p.z, q.x, q.y, q.z, q.w)
    return b"\0\0\0\0" + data + bytes(8 * behind)


def check(reader, source, data):
    """The reader refuses ``data``, or finds in it what ROS does."""
    try:
        found = reader.read(data)
    except CdrError:
        return
    assert same(found, said(source, deserialize_message(data, KINDS[source])))


@fuzz(300)
@given(st.data(), sources)
def test_any_messages_are_read_as_ros_reads_them(data, source):
    reader, kind = PoseReader(source), KINDS[source]
    for _ in range(4):  # frames that stay, change, and come again
        carried = serialize_message(data.draw(messages(kind)))
        message = deserialize_message(carried, kind)  # strings end at their first zero
        for sent in (carried, big_endian(source, message)):
            try:
                found = reader.read(sent)
            except CdrError:
                assert message.header.stamp.sec < 0
            else:
                assert same(found, said(source, message))


@fuzz(600)
@given(st.data(), sources)
def test_damaged_messages_are_refused_or_read_as_ros_reads_them(data, source):
    reader, kind = PoseReader(source), KINDS[source]
    message = kind()
    message.header.frame_id = data.draw(st.sampled_from(["map", "odom", ""]))
    good = serialize_message(message)
    for _ in range(3):
        check(reader, source, data.draw(damaged(good)))
        assert reader.read(good) == said(source, message)


@given(st.lists(st.binary(max_size=900), min_size=1, max_size=4), sources)
def test_bytes_that_are_no_message_are_refused_with_a_reason(lumps, source):
    reader = PoseReader(source)
    for lump in lumps:
        try:
            check(reader, source, lump)
        except CdrError as error:
            assert len(str(error)) < 300


@pytest.mark.parametrize("source", sorted(KINDS))
def test_every_shorter_message_is_refused(source):
    message = KINDS[source]()
    message.header.frame_id = "map"
    whole = serialize_message(message)
    primed = PoseReader(source)
    primed.read(whole)
    for length in range(len(whole)):
        for reader in (PoseReader(source), primed):
            with pytest.raises(CdrError):
                reader.read(whole[:length])


def test_text_that_is_no_utf8_or_does_not_end_is_refused():
    good = serialize_message(PoseStamped())
    named = layout(0, (("i", 1), ("I", 1), ("s", 1), ("d", 7)), 4)
    for name, why in ((b"\xff\xfe\xfd\0", "UTF-8"), (b"mapp", "does not end"), (b"m\0p\0", "does not end")):
        data = good[:4] + named.pack(0, 0, 4, name, *[0.0] * 7)
        with pytest.raises(CdrError, match=why):
            PoseReader("pose_stamped").read(data)


# Commands --------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**32 - 1), st.floats(), st.floats(), st.floats()
        ),
        min_size=1, max_size=3,
    ),
    st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
)  # fmt: skip
def test_commands_are_the_bytes_that_ros_writes(commands, frame):
    writer = TwistWriter(frame)
    for seconds, nanoseconds, vx, vy, wz in commands:
        twist = Twist()
        twist.linear.x, twist.linear.y, twist.angular.z = vx, vy, wz
        message = twist
        if frame is not None:
            message = TwistStamped(twist=twist)
            message.header.frame_id = frame
            message.header.stamp.sec, message.header.stamp.nanosec = seconds, nanoseconds
        data = writer.write((seconds, nanoseconds), vx, vy, wz)
        carried = serialize_message(message)  # with anything between the fields
        assert len(data) == len(carried)
        assert repr(deserialize_message(data, type(message))) == repr(
            deserialize_message(carried, type(message))
        )

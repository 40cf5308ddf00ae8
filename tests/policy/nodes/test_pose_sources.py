"""Sources of poses: whatever a robot's localisation sends becomes x, y, yaw in the map, or is refused with the fix."""

import math
from types import SimpleNamespace

import pytest

rclpy = pytest.importorskip("rclpy")

import tf2_double  # noqa: E402
from fuzz_messages import messages  # noqa: E402
from fuzzing import fuzz  # noqa: E402
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped, TransformStamped  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from marlgpt_policy.grid.geometry import quaternion_of  # noqa: E402
from marlgpt_policy.nodes.pose_sources import NoPose, Poses, require_tf  # noqa: E402
from marlgpt_policy.robots.robots_file import FleetFile  # noqa: E402
from nav_msgs.msg import Odometry  # noqa: E402
from rclpy.serialization import serialize_message  # noqa: E402
from rclpy.time import Time  # noqa: E402

try:
    import tf2_ros  # noqa: F401

    KINDS_OF_TF = ["double", "real"]
except ImportError:
    KINDS_OF_TF = ["double"]


@pytest.fixture(params=KINDS_OF_TF)
def tf(request, monkeypatch):
    """tf2_ros: the double and, where it is installed, the real one."""
    if request.param == "double":
        tf2_double.install(monkeypatch)


class Ear:
    """A node's part in hearing poses: subscriptions by topic, a clock, what was taken and what refused."""

    def __init__(self, map_frame="map", **defaults):
        self.subscriptions, self.taken, self.refused = {}, [], []
        self.time, self.ready = 100.0, True
        clock = SimpleNamespace(now=lambda: Time(nanoseconds=round(self.time * 1e9)))
        node = SimpleNamespace(get_clock=lambda: clock, destroy_subscription=self.subscriptions.pop)
        self.poses = Poses(
            node, self.listen, map_frame, lambda *why: self.refused.append(why), lambda: self.ready
        )
        self.fleet = FleetFile.default(["a", "b"], map_frame, **defaults)
        for robot in self.fleet.robots:
            self.poses.add(robot, lambda *pose, name=robot.name: self.taken.append((name, *pose)))

    def listen(self, kind, topic, callback, qos, raw=False):
        assert topic not in self.subscriptions, f"{topic} is subscribed twice"
        self.subscriptions[topic] = (kind, callback, raw)
        return topic

    def hear(self, topic, message):
        _, callback, raw = self.subscriptions[topic]
        callback(serialize_message(message) if raw else message)

    def why(self):
        """The reason of the only refusal so far."""
        ((_, error),) = self.refused
        self.refused = []
        return str(error)


def fill(message, pose, x, y, yaw, frame, stamp):
    message.header.frame_id = frame
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(round(stamp * 1e9), 10**9)
    pose.position.x, pose.position.y = float(x), float(y)
    q = pose.orientation
    q.x, q.y, q.z, q.w = quaternion_of(yaw)
    return message


def odometry(x, y, yaw, frame="map", stamp=100.0):
    message = Odometry()
    return fill(message, message.pose.pose, x, y, yaw, frame, stamp)


def transform(parent, child, x, y, yaw, stamp=100.0):
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id = parent
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(round(stamp * 1e9), 10**9)
    message.transform.translation.x, message.transform.translation.y = float(x), float(y)
    q = message.transform.rotation
    q.x, q.y, q.z, q.w = quaternion_of(yaw)
    return message


def tf_message(*transforms):
    from tf2_msgs.msg import TFMessage

    return TFMessage(transforms=list(transforms))


def is_pose(found, name, stamp, x, y, yaw):
    assert found[0] == name and found[1] == round(stamp * 1e9)
    assert found[2:4] == pytest.approx((x, y), abs=1e-9)
    assert math.remainder(found[4] - yaw, 2 * math.pi) == pytest.approx(0.0, abs=1e-9)


# Messages --------------------------------------------------------------------------------------------------


def test_each_source_has_its_type_and_topic():
    kinds = {"odom": Odometry, "pose": PoseWithCovarianceStamped, "pose_stamped": PoseStamped}
    for source, kind in kinds.items():
        ear = Ear(pose_source=source)
        topic = "odom" if source == "odom" else "pose"
        assert {name: found[0] for name, found in ear.subscriptions.items()} == {
            f"a/{topic}": kind, f"b/{topic}": kind,
        }  # fmt: skip
        message = kind()
        pose = message.pose if kind is PoseStamped else message.pose.pose
        ear.hear(f"b/{topic}", fill(message, pose, 1.0, -2.0, 3.0, "map", 7.25))
        is_pose(*ear.taken, "b", 7.25, 1.0, -2.0, 3.0)
        ear.poses.remove("b")
        assert set(ear.subscriptions) == {f"a/{topic}"}
        ear.poses.clear()
        assert not ear.subscriptions


def test_robots_of_one_node_may_differ():
    ear = Ear()
    ear.poses.add(
        FleetFile.default(["c"], pose_source="pose")["c"], lambda *pose: ear.taken.append(("c", *pose))
    )
    message = PoseWithCovarianceStamped()
    ear.hear("c/pose", fill(message, message.pose.pose, 1.0, 2.0, 0.5, "", 3.0))
    ear.hear("a/odom", odometry(4.0, 5.0, 0.0))
    assert [found[0] for found in ear.taken] == ["c", "a"] and not ear.refused


def test_another_frame_is_refused_with_what_to_write_in_the_file():
    ear = Ear()
    ear.hear("a/odom", odometry(0, 0, 0, "a/odom"))
    why = ear.why()
    assert "its frame is 'a/odom', not 'map'" in why
    assert "odom_through_tf: true and odom_frame: a/odom" in why and "map_frame: a/odom" in why
    assert not ear.taken
    ear = Ear(pose_source="pose")
    message = PoseWithCovarianceStamped()
    ear.hear("a/pose", fill(message, message.pose.pose, 0, 0, 0, "x" * 5000, 1.0))
    assert "odom_through_tf" not in (why := ear.why()) and len(why) < 600
    ear = Ear(map_frame="site")
    ear.hear("a/odom", odometry(0, 0, 0, "site"))
    assert len(ear.taken) == 1


def test_poses_are_not_looked_at_before_there_is_a_map():
    ear = Ear()
    ear.ready = False
    ear.hear("a/odom", odometry(0, 0, 0, "nowhere"))
    assert not ear.taken and not ear.refused


def test_what_the_node_refuses_is_told_with_the_robots_name():
    ear = Ear()

    def take(*_):
        raise ValueError("it is older than the last one")

    ear.poses.add(FleetFile.default(["c"])["c"], take)
    ear.hear("c/odom", odometry(0, 0, 0))
    ((name, error),) = ear.refused
    assert name == "c" and str(error) == "it is older than the last one" and not isinstance(error, NoPose)


# tf --------------------------------------------------------------------------------------------------------


def test_tf_that_is_not_installed_is_named_with_the_package(monkeypatch):
    tf2_double.hide(monkeypatch)
    for keys, what in (
        ({"pose_source": "tf"}, "pose_source is tf"),
        ({"odom_through_tf": True}, "odom_through_tf is"),
    ):
        robot = FleetFile.default(["a"], **keys)["a"]
        with pytest.raises(ValueError, match=f"robot 'a': {what}.*tf2_ros.*Install ros-"):
            require_tf(robot)
        with pytest.raises(ValueError, match="Install"):
            Ear(**keys)
    require_tf(FleetFile.default(["a"])["a"])


def test_a_pose_is_looked_up_along_the_chain(tf):
    ear = Ear(pose_source="tf", base_frame="{name}/base_link")
    assert set(ear.subscriptions) == {"/tf", "/tf_static"}
    ear.hear("/tf_static", tf_message(transform("a/base_footprint", "a/base_link", 0.0, 0.0, 0.0)))
    ear.hear("/tf", tf_message(transform("map", "a/odom", 1.0, 2.0, math.pi / 2, 101.0)))
    ear.hear("/tf", tf_message(transform("a/odom", "a/base_footprint", 3.0, 0.5, 0.25, 100.5)))
    ear.poses.poll()  # the map's side is known for later only, and nothing is extrapolated; b is unknown
    assert not ear.taken and [name for name, _ in ear.refused] == ["a", "b"]
    assert all(isinstance(error, NoPose) for _, error in ear.refused)
    assert "/tf does not say where 'b/base_link' is" in str(ear.refused[1][1])
    ear.hear("/tf", tf_message(transform("map", "a/odom", 1.0, 2.0, math.pi / 2, 100.0)))
    ear.poses.poll()
    is_pose(*ear.taken, "a", 100.5, 1.0 - 0.5, 2.0 + 3.0, math.pi / 2 + 0.25)


def test_a_pose_that_tf_repeats_is_taken_once(tf):
    ear = Ear(pose_source="tf")
    ear.hear("/tf", tf_message(transform("map", "a/base_link", 1.0, 2.0, 0.0, 100.0)))
    for _ in range(3):
        ear.poses.poll()
    assert len(ear.taken) == 1
    ear.hear("/tf", tf_message(transform("map", "a/base_link", 1.5, 2.0, 0.0, 100.1)))
    ear.poses.poll()
    assert [found[2] for found in ear.taken] == [1.0, 1.5]


def test_a_pose_that_nobody_measures_is_refused(tf):
    ear = Ear(pose_source="tf")
    ear.hear("/tf_static", tf_message(transform("map", "a/base_link", 1.0, 2.0, 0.0, 0.0)))
    ear.poses.poll()
    assert not ear.taken and "'map' to 'a/base_link' are static" in str(ear.refused[0][1])


def test_each_robot_may_have_a_tree_of_its_own(tf):
    ear = Ear(pose_source="tf", tf_topic="{name}/tf", base_frame="base_link")
    assert set(ear.subscriptions) == {"a/tf", "a/tf_static", "b/tf", "b/tf_static"}
    ear.hear("a/tf", tf_message(transform("map", "base_link", 1.0, 0.0, 0.0)))
    ear.hear("b/tf", tf_message(transform("map", "base_link", 2.0, 0.0, 0.0)))
    ear.poses.poll()
    assert [(name, x) for name, _, x, _, _ in ear.taken] == [("a", 1.0), ("b", 2.0)]
    ear.poses.remove("a")
    assert set(ear.subscriptions) == {"b/tf", "b/tf_static"}


def test_odometry_is_carried_into_the_map(tf):
    ear = Ear(odom_through_tf=True)
    assert set(ear.subscriptions) == {"a/odom", "b/odom", "/tf", "/tf_static"}
    ear.hear("a/odom", odometry(1.0, 0.0, 0.5, "a/odom", 100.5))
    assert "/tf does not say where 'a/odom' is" in ear.why()
    for x, stamp in ((10.0, 100.0), (20.0, 101.0)):
        ear.hear("/tf", tf_message(transform("map", "a/odom", x, 0.0, math.pi / 2, stamp)))
    ear.hear("a/odom", odometry(1.0, 0.0, 0.5, "a/odom", 100.5))  # the frame as it was then
    is_pose(ear.taken.pop(), "a", 100.5, 15.0, 1.0, math.pi / 2 + 0.5)
    ear.hear("a/odom", odometry(1.0, 0.0, 0.5, "a/odom", 101.9))  # the frame as it was last
    is_pose(ear.taken.pop(), "a", 101.9, 20.0, 1.0, math.pi / 2 + 0.5)
    ear.hear("a/odom", odometry(1.0, 0.0, 0.5, "a/odom", 99.0))  # before anything that tf knows
    is_pose(ear.taken.pop(), "a", 99.0, 20.0, 1.0, math.pi / 2 + 0.5)
    ear.hear("a/odom", odometry(1.0, 0.0, 0.5, "a/odom", 102.01))
    assert "tf last said 1.01 s before" in (why := ear.why()) and "Does localisation run?" in why
    ear.time = 102.5
    ear.hear("a/odom", odometry(1.0, 0.0, 0.5, "a/odom", 0.0))  # without a stamp: now
    assert "tf last said 1.50 s before" in ear.why() and not ear.taken


def test_odometry_in_a_frame_that_does_not_move(tf):
    ear = Ear(odom_through_tf=True, odom_frame="{name}/world")
    ear.hear("/tf_static", tf_message(transform("map", "b/world", -1.0, 2.0, 0.0, 0.0)))
    ear.hear("b/odom", odometry(1.0, 1.0, 0.0, "b/world", 5000.0))
    is_pose(*ear.taken, "b", 5000.0, 0.0, 3.0, 0.0)
    ear.hear("b/odom", odometry(1.0, 1.0, 0.0, "map", 5000.0))
    assert "its frame is 'map', odom_frame in robots.yaml is 'b/world'" in ear.why()


def test_a_clock_that_was_set_back_makes_tf_forget(tf):
    ear = Ear(pose_source="tf")
    ear.hear("/tf", tf_message(transform("map", "a/base_link", 1.0, 2.0, 0.0, 5000.0)))
    ear.poses.poll()
    ear.poses.forget_times()
    ear.hear("/tf", tf_message(transform("map", "a/base_link", 3.0, 2.0, 0.0, 10.0)))
    ear.poses.poll()
    assert [(stamp, x) for _, stamp, x, _, _ in ear.taken] == [(5000 * 10**9, 1.0), (10 * 10**9, 3.0)]


FRAMES = st.sampled_from(["map", "a/odom", "a/base_link", "b/odom", "b/base_link", "", "/map", "x"])
NUMBERS = st.floats() | st.sampled_from([0.0, 1.0, 1e300, math.nan, math.inf])


@st.composite
def transforms(draw):
    """Transforms between few frames, some of them impossible."""
    found = draw(messages(TransformStamped))
    found.header.frame_id, found.child_frame_id = draw(FRAMES), draw(FRAMES)
    if draw(st.booleans()):
        found.transform.rotation.x = found.transform.rotation.y = found.transform.rotation.z = 0.0
        found.transform.rotation.w = 1.0
    for axis in "xyz":
        setattr(found.transform.translation, axis, draw(NUMBERS))
    return found


@pytest.mark.parametrize("keys", [{"pose_source": "tf"}, {"odom_through_tf": True}], ids=["tf", "odom"])
def test_transforms_are_survived(tf, keys):
    """Whatever is on tf, a pose that is taken is finite; what is refused is refused in words."""

    @fuzz(60)
    @given(steps=st.lists(st.tuples(st.booleans(), st.lists(transforms(), max_size=3)), max_size=6))
    def survive(steps):
        ear = Ear(**keys)
        for static, found in steps:
            ear.hear("/tf_static" if static else "/tf", tf_message(*found))
            ear.poses.poll()
            if "a/odom" in ear.subscriptions:
                ear.hear("a/odom", odometry(1.0, 2.0, 0.5, "a/odom", 3.0))
        for _, _, x, y, yaw in ear.taken:
            assert all(map(math.isfinite, (x, y, yaw))) and max(abs(x), abs(y)) < 2e6
        assert all(len(str(error)) < 600 for _, error in ear.refused)

    survive()

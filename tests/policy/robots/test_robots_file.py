"""robots.yaml: what it says is what comes out, and what is wrong in it is named with file, robot, key and fix."""

import math

import pytest
import yaml
from fuzzing import damaged, fuzz  # noqa: E402
from hypothesis import given
from hypothesis import strategies as st
from marlgpt_policy.robots.robot_config import Drive, MotionLimits
from marlgpt_policy.robots.robots_file import FleetFile, RobotsFileError, load_robots
from marlgpt_policy.robots.robots_keys import KEYS, LIMITS, POSE_SOURCES
from places import ROOT

EXAMPLE = ROOT / "ros2_ws/src/marlgpt_policy/config/robots.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("robots")


def read(folder, text):
    path = folder / "robots.yaml"
    path.write_text(text, encoding="utf-8")
    return load_robots(path)


def refusal(folder, text):
    with pytest.raises(RobotsFileError) as caught:
        read(folder, text)
    assert str(caught.value).startswith(str(folder / "robots.yaml"))
    return str(caught.value)


# Reading ---------------------------------------------------------------------------------------------------


def test_a_list_of_names_is_a_fleet_of_the_usual_robots(folder):
    fleet = read(folder, "robots: [alice, bob]")
    assert fleet.names == ["alice", "bob"] and fleet.map_frame == "map" and len(fleet) == 2
    alice = fleet["alice"]
    assert (alice.radius, alice.drive, alice.limits) == (0.22, Drive.DIFFERENTIAL, MotionLimits())
    assert (alice.pose_source, alice.pose_topic, alice.cmd_vel_topic) == (
        "odom",
        "alice/odom",
        "alice/cmd_vel",
    )
    assert (alice.base_frame, alice.odom_frame, alice.goal_topic) == (
        "alice/base_link", "alice/odom", "alice/goal_pose",
    )  # fmt: skip
    assert not alice.stamped_cmd_vel and not alice.needs_tf and alice.initial_pose is None
    assert alice.config.name == "alice" and alice.config.limits == alice.limits


def test_a_robot_overrides_the_defaults_key_by_key(folder):
    fleet = read(
        folder,
        """
        map_frame: site
        defaults:
          radius: 0.3
          limits: {max_speed: 0.8, max_yaw_rate: 1.5}
          cmd_vel_topic: "base/{name}/cmd"
          stamped_cmd_vel: true
        robots:
          alice: {drive: holonomic, limits: {max_speed: 1}, initial_pose: [1, 2.5, -1]}
          bob: {radius: 0.4, pose_source: pose, stamped_cmd_vel: false}
          carol:
        """,
    )
    alice, bob, carol = fleet.robots
    assert fleet.map_frame == "site" and fleet.radius == 0.4 and fleet.max_speed == 1.0
    assert (alice.drive, alice.limits.max_speed, alice.limits.max_yaw_rate) == (Drive.HOLONOMIC, 1.0, 1.5)
    assert alice.initial_pose == (1.0, 2.5, -1.0) and alice.cmd_vel_topic == "base/alice/cmd"
    assert (bob.pose_topic, bob.stamped_cmd_vel, bob.limits.max_speed) == ("bob/pose", False, 0.8)
    assert (carol.radius, carol.pose_topic, carol.stamped_cmd_vel) == (0.3, "carol/odom", True)


def test_a_topic_in_the_defaults_is_for_robots_with_the_defaults_source(folder):
    fleet = read(
        folder,
        """
        defaults: {pose_source: pose, pose_topic: "{name}/amcl_pose"}
        robots: {a: , b: {pose_source: odom}, c: {pose_source: tf}, d: {pose_source: odom, pose_topic: x}}
        """,
    )
    assert [robot.pose_topic for robot in fleet.robots] == ["a/amcl_pose", "b/odom", "", "x"]


def test_the_example_shows_every_key_with_its_default(folder):
    fleet = load_robots(EXAMPLE)
    content = yaml.safe_load(EXAMPLE.read_text())
    assert set(content["defaults"]) == set(KEYS) - {"name", "initial_pose"}
    assert fleet.entry("new") == FleetFile.default(["new"])["new"]
    written = set().union(*map(set, content["robots"]))
    assert {"name", "initial_pose", "radius", "limits", "pose_source", "stamped_cmd_vel"} <= written


def test_a_robot_that_joins_later_is_made_of_the_defaults(folder):
    fleet = read(folder, 'defaults: {radius: 0.3, goal_topic: "go/{name}"}\nrobots: [a]')
    assert (fleet.entry("b").radius, fleet.entry("b").goal_topic) == (0.3, "go/b")
    assert fleet.entry("a") is fleet["a"] and "b" not in fleet
    with pytest.raises(RobotsFileError, match="not a ROS name"):
        fleet.entry("b c")
    with pytest.raises(RobotsFileError, match="so is cmd_vel_topic of 'a'"):
        read(folder, "defaults: {cmd_vel_topic: cmd_vel}\nrobots: [a]").entry("b")


def test_a_fleet_can_be_made_without_a_file():
    limits = MotionLimits(max_speed=0.7)
    fleet = FleetFile.default(("a", "b"), "site", radius=0.3, drive=Drive.HOLONOMIC, limits=limits)
    assert fleet.map_frame == "site" and fleet["b"].drive == Drive.HOLONOMIC and fleet["a"].limits == limits
    assert FleetFile.default([]).names == []
    with pytest.raises(RobotsFileError, match="did you mean 'radius'"):
        FleetFile.default(["a"], raduis=0.3)
    with pytest.raises(KeyError):
        fleet["c"]


# Refusals --------------------------------------------------------------------------------------------------

WRONG = {
    "robots: {alice: {radus: 1}}": "robot 'alice': key 'radus' is unknown; did you mean 'radius'?",
    "robots: {alice: {limits: {max_sped: 1}}}": "robot 'alice': limit 'max_sped' is unknown; did you mean 'max_speed'",
    "robot: [a]": "key 'robot' is unknown; did you mean 'robots'?",
    "defaults: {frame: x}\nrobots: [a]": "defaults: key 'frame' is unknown",
    "robots: {alice: {radius: -1}}": "robot 'alice': radius is -1; it must be a number of 0.01 to 10 m",
    "robots: {alice: {radius: 0}}": "radius is 0;",
    "robots: {alice: {radius: .nan}}": "radius is nan;",
    "robots: {alice: {radius: 1e-1}}": "radius is '1e-1', which YAML reads as text; write 0.1",
    "robots: {alice: {radius: true}}": "radius is True;",
    "robots: {alice: {radius: wide}}": "radius is 'wide';",
    "robots: {alice: {radius: }}": "radius is empty;",
    "robots: {alice: {limits: {max_speed: .inf}}}": "max_speed is inf;",
    "robots: {alice: {limits: 3}}": "limits is 3; it must be lines such as",
    "defaults: {radius: -1}\nrobots: [a]": "defaults: radius is -1",
    "defaults: {initial_pose: [0, 0, 0]}\nrobots: [a]": "defaults: initial_pose is each robot's own",
    "defaults: 3\nrobots: [a]": "defaults is 3",
    "robots: {alice: {drive: tracks}}": "drive is 'tracks'; it must be one of differential, holonomic",
    "robots: {alice: {pose_source: gps}}": "pose_source is 'gps'; it must be one of odom, pose, pose_stamped, tf",
    "robots: {alice: {stamped_cmd_vel: 1}}": "stamped_cmd_vel is 1; it must be true or false",
    "robots: {alice: {pose_source: tf, pose_topic: x}}": "pose_topic is 'x', but pose_source tf reads no topic",
    "robots: {alice: {pose_topic: ''}}": "pose_topic is empty, but pose_source is odom",
    "robots: {alice: {pose_source: pose, odom_through_tf: true}}": "odom_through_tf is true, but pose_source is 'pose'",
    "robots: {alice: {cmd_vel_topic: '{robot}/cmd'}}": "cmd_vel_topic is '{robot}/cmd'; only {name} is filled in",
    "robots: {alice: {cmd_vel_topic: a b}}": "cmd_vel_topic is 'a b', not a ROS topic",
    "robots: {alice: {cmd_vel_topic: a/}}": "not a ROS topic",
    "robots: {alice: {cmd_vel_topic: 1a}}": "not a ROS topic",
    "robots: {alice: {cmd_vel_topic: map}}": "cmd_vel_topic is 'map', a topic of the whole fleet",
    "robots: {alice: {goal_topic: fleet/state}}": "a topic of the whole fleet",
    "robots: {alice: {base_frame: /base}}": "base_frame is '/base'; tf frames do not begin with '/'",
    "robots: {alice: {base_frame: a b}}": "a frame has no blanks",
    "robots: {alice: {initial_pose: [1, 2]}}": "initial_pose is [1, 2]; it must be three numbers [x, y, yaw]",
    "robots: {alice: {initial_pose: [1, .nan, 0]}}": "initial_pose's y is nan",
    "map_frame: /map\nrobots: [a]": "map_frame is '/map'; tf frames do not begin with '/'",
    "robots: [a, b, a]": "two robots are named 'a'",
    "robots: {a: {radius: 1}, a: {radius: 2}}": "'a' is there twice, in lines 1 and 1",
    "robots:\n  a: {radius: 1,\n radius: 2}": "'radius' is there twice, in lines 2 and 3",
    "robots: [{radius: 1}]": "robot number 1 has no 'name'",
    "robots: {a: {name: b}}": "robot 'a': name is 'b'; leave one of the two out",
    "robots: [on]": "name is True, which YAML does not read as text; put it in quotes",
    "robots: [1]": "put it in quotes",
    "robots: [a__b]": "robot name 'a__b' is not a ROS name",
    "robots: [2a]": "not a ROS name",
    "robots: [fleet]": "robot name 'fleet' is taken",
    f"robots: [{'a' * 65}]": "longer than 64 characters",
    "robots: {a: 3}": "robot 'a' is 3; it must be 'key: value' lines",
    "robots: 3": "'robots' is 3",
    "robots: []": "'robots' is empty",
    "map_frame: map": "'robots' is empty",
    "": "must hold 'key: value' lines",
    "[": "is not valid YAML",
    "robots: &x [a, *x]": "aliases (*name) are not read",
    "defaults: {goal_topic: goal}\nrobots: [a, b]": (
        "robot 'b': goal_topic is 'goal', and so is goal_topic of 'a'; each needs its own"
    ),
    "robots: {a: {pose_topic: x/y}, b: {cmd_vel_topic: /x/y}}": "cmd_vel_topic is '/x/y', and so is pose_topic of 'a'",
    "defaults: {pose_source: tf, base_frame: base}\nrobots: [a, b]": "base_frame is 'base', and so is",
    "robots: {a: {initial_pose: [0, 0, 0]}, b: {initial_pose: [0.3, 0.3, 1]}}": (
        "robots 'a' and 'b' overlap: their initial_pose are 0.42 m apart, their radii need 0.44 m"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG.items())
def test_what_is_wrong_is_named(folder, text, message):
    assert message in refusal(folder, text)


def test_robots_with_trees_of_their_own_may_call_their_bodies_the_same(folder):
    fleet = read(
        folder, 'defaults: {pose_source: tf, base_frame: base_link, tf_topic: "{name}/tf"}\nrobots: [a, b]'
    )
    assert [robot.tf_topic for robot in fleet.robots] == ["a/tf", "b/tf"]
    assert all(robot.needs_tf for robot in fleet.robots)


def test_files_that_cannot_be_read(folder, tmp_path):
    with pytest.raises(RobotsFileError, match="none.yaml: no such file"):
        load_robots(tmp_path / "none.yaml")
    with pytest.raises(RobotsFileError, match="no such file"):
        load_robots(tmp_path)
    path = tmp_path / "large.yaml"
    path.write_text("#" * 4_000_001)
    with pytest.raises(RobotsFileError, match="more than 4000000 bytes"):
        load_robots(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RobotsFileError, match="cannot be read as text"):
        load_robots(path)


# For all files ---------------------------------------------------------------------------------------------

NAMES = st.from_regex(r"[a-z][a-z0-9]{0,6}(_[a-z0-9]{1,3})?", fullmatch=True).filter(
    lambda name: name not in ("fleet", "map", "clock", "tf", "diagnostics")
)
WORDS = st.sampled_from(["{name}/a", "/x/{name}/b", "robots/{name}", "{name}_c/d"])


def numbers(low, high):
    return st.floats(low, high) | st.integers(math.ceil(low), math.floor(high))


BODIES = st.fixed_dictionaries(
    {},
    optional={
        "radius": numbers(0.01, 10.0),
        "drive": st.sampled_from(["differential", "holonomic"]),
        "limits": st.fixed_dictionaries(
            {}, optional={key: numbers(low, high) for key, (low, high, _) in LIMITS.items()}
        ),
        "pose_source": st.sampled_from(POSE_SOURCES),
        "base_frame": st.sampled_from(["{name}/base", "{name}_footprint"]),
        "odom_frame": st.sampled_from(["odom", "{name}/odom"]),
        "tf_topic": st.sampled_from(["/tf", "{name}/tf"]),
        "tf_timeout": numbers(0.05, 60.0),
        "cmd_vel_topic": WORDS.map(lambda word: word + "/cmd"),
        "goal_topic": WORDS.map(lambda word: word + "/goal"),
        "stamped_cmd_vel": st.booleans(),
    },
)


@st.composite
def contents(draw):
    """The content of a correct file; robots that have a start stand in a row, far apart."""
    names = draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
    robots = []
    for i, name in enumerate(names):
        robot = {"name": name, **draw(BODIES)}
        if draw(st.booleans()):
            robot["initial_pose"] = [25.0 * i, draw(st.floats(-1e5, 1e5)), draw(st.floats(-7.0, 7.0))]
        robots.append(robot)
    return {"map_frame": draw(st.sampled_from(["map", "site"])), "defaults": draw(BODIES), "robots": robots}


@fuzz(150)
@given(content=contents())
def test_what_is_written_is_read_back(folder, content):
    first = read(folder, yaml.safe_dump(content))
    first.dump(folder / "again.yaml")
    assert load_robots(folder / "again.yaml") == first
    for robot, own in zip(first.robots, content["robots"], strict=True):
        merged = {**content["defaults"], **own}
        assert robot.radius == merged.get("radius", 0.22)
        assert robot.pose_source == merged.get("pose_source", "odom")
        limits = {**content["defaults"].get("limits", {}), **own.get("limits", {})}
        assert all(getattr(robot.limits, key) == value for key, value in limits.items())
    assert first.radius == max(robot.radius for robot in first.robots)
    assert first.entry("stranger") == load_robots(folder / "again.yaml").entry("stranger")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


def survives(path):
    """Reading gives a fleet or an error of its own, short enough to be read."""
    try:
        fleet = load_robots(path)
    except RobotsFileError as error:
        assert len(str(error)) < 2000
    else:
        assert fleet.robots
        for robot in fleet.robots:
            assert 0.01 <= robot.radius <= 10.0 and robot.config.limits.as_row().min() > 0.0


@fuzz(200)
@given(data=st.data(), content=contents())
def test_any_value_in_any_place_is_taken_or_refused(folder, data, content):
    place = data.draw(st.sampled_from([content, content["defaults"], content["robots"][0]]))
    key = data.draw(st.sampled_from([*KEYS, "robots", "defaults", "map_frame"]) | st.text(max_size=6))
    place[key] = data.draw(VALUES)
    path = folder / "any.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    survives(path)


@fuzz(200)
@given(data=st.data())
def test_damaged_files_are_survived(folder, data):
    path = folder / "damaged.yaml"
    path.write_bytes(data.draw(damaged(EXAMPLE.read_bytes()) | st.binary(max_size=300)))
    survives(path)

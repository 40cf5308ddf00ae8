"""Messages of the nodes: what is refused at the door, what RViz and the diagnostics show, log lines."""

import math
from array import array

import numpy as np
import pytest
from fleet_sim import a_fleet
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from geometry_msgs.msg import Pose  # noqa: E402
from marlgpt_msgs.msg import FleetState, Heartbeat, RobotDecision, RobotState  # noqa: E402
from marlgpt_policy.deadlock import remedies
from marlgpt_policy.fleet.rival_nodes import Claim, Phase  # noqa: E402
from marlgpt_policy.nodes.diagnostics import Health  # noqa: E402
from marlgpt_policy.nodes.event_log import EVERY, EventLog, short  # noqa: E402
from marlgpt_policy.nodes.markers import NAMESPACES, markers  # noqa: E402
from marlgpt_policy.nodes.messages import conversions, fleet_messages
from marlgpt_policy.nodes.messages import message_checks as intake
from marlgpt_policy.robots.robot_config import Status
from nav_msgs.msg import OccupancyGrid  # noqa: E402
from rclpy.serialization import deserialize_message  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from visualization_msgs.msg import Marker  # noqa: E402

floats = st.floats(width=64)


class Lines:
    """Stands in for a node's logger."""

    def __init__(self):
        self.lines = []

    def info(self, line):
        self.lines.append(line)

    warning = error = info


def pose(x=0.0, y=0.0, q=(0.0, 0.0, 0.0, 1.0)):
    message = Pose()
    message.position.x, message.position.y = x, y
    o = message.orientation
    o.x, o.y, o.z, o.w = q
    return message


# What comes in -------------------------------------------------------------------------------------------


@given(floats, floats, st.tuples(floats, floats, floats, floats))
def test_a_pose_is_finite_and_near_or_refused(x, y, q):
    try:
        found = intake.planar(pose(x, y, q))
    except ValueError as error:
        assert len(str(error)) < 300
    else:
        assert all(math.isfinite(v) for v in found) and max(abs(x), abs(y)) <= intake.FARTHEST
        assert found[:2] == (x, y) and abs(found[2]) <= math.pi


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(-3.1, 3.1))
def test_a_good_pose_passes_unchanged(x, y, yaw):
    np.testing.assert_allclose(intake.planar(conversions.pose_message(x, y, yaw)), (x, y, yaw), atol=1e-9)


def chart(width=3, height=2, resolution=0.05, x=0.0, frame="map", data=None):
    message = OccupancyGrid()
    message.header.frame_id = frame
    message.info.width, message.info.height, message.info.resolution = width, height, resolution
    message.info.origin = pose(x)
    message.data = array("b", [0] * 6 if data is None else data)
    return message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"frame": "odom"}, "its frame is 'odom', parameter map_frame is 'map'"),
        ({"width": 4_000_000_000, "height": 4_000_000_000}, "parameter max_map_pixels is 100"),
        ({"width": 101, "height": 1}, "it has 101 x 1 pixels"),
        ({"resolution": 0.0}, "its resolution is 0 m"),
        ({"resolution": -1.0}, "its resolution is -1 m"),
        ({"resolution": float("nan")}, "its resolution is nan m"),
        ({"resolution": 1e-9}, "its resolution is 1e-09 m"),
        ({"x": float("inf")}, "its origin: position is not finite"),
        ({"x": 1e9}, "its origin: position"),
    ],
)
def test_maps_are_refused_by_their_header(changes, reason):
    intake.check_map(chart(), "map", 100)
    with pytest.raises(ValueError, match=reason):
        intake.check_map(chart(**changes), "map", 100)


def test_the_digest_tells_maps_apart_by_what_they_say_not_when():
    first, again = chart(), chart()
    again.header.stamp.sec = again.info.map_load_time.sec = 7
    assert intake.map_digest(first) == intake.map_digest(again)
    others = [chart(2, 3), chart(x=1.0), chart(resolution=0.1), chart(data=[0, 0, 0, 0, 0, 100])]
    assert len({intake.map_digest(message) for message in [first, *others]}) == 5


# What goes out -------------------------------------------------------------------------------------------


def test_status_and_remedy_have_the_values_of_the_messages():
    assert {s.name: s.value for s in Status} == {s.name: getattr(RobotState, s.name) for s in Status}
    for name in ("NONE", "SAMPLING", "PIBT", "PLAN"):
        assert getattr(remedies, name) == getattr(RobotDecision, name)


CLAIM = Claim(Phase.DRIVING, 7, "n")


def test_state_decision_and_heartbeat_say_what_the_fleet_does():
    fleet = a_fleet()
    decision = None
    for k in range(40):
        now = 10.0 + 0.05 * k
        for i in range(3):
            fleet.update_pose(i, *fleet.poses[i], now)
        decision = fleet.tick(now).decision or decision
    message = conversions.decision_message(fleet, decision, Header(frame_id="map"))
    assert [robot.executed for robot in message.robots] == [4, 4, 4]
    assert not any(robot.veto for robot in message.robots)
    state = deserialize_message(fleet_messages.state_bytes(fleet, (0, 0), "map", now, 7), FleetState)
    assert state.rejected_messages == 7 and state.robots[0].pose_age == pytest.approx(0.0, abs=1e-6)
    assert (state.robots[2].row, state.robots[2].goal_col) == (2, 4)
    fleet.stop(1)
    fleet.remove_robot(2)
    beat = deserialize_message(fleet_messages.heartbeat_bytes(fleet, (0, 0), "", 9, CLAIM), Heartbeat)
    assert (beat.sequence, beat.stopped, list(beat.robots)) == (9, False, ["r0"])
    assert (list(beat.standing), beat.incarnation, beat.node, beat.phase) == (["r1"], 7, "n", 0)
    fleet.stop()
    beat = deserialize_message(fleet_messages.heartbeat_bytes(fleet, (0, 0), "", 10, CLAIM), Heartbeat)
    assert beat.stopped


def test_before_any_pose_all_messages_can_be_sent():
    fleet = a_fleet(2)
    fleet.poses[:] = np.nan
    fleet.pose_time[:] = -np.inf
    state = deserialize_message(fleet_messages.state_bytes(fleet, (0, 0), "map", 5.0, 0), FleetState)
    assert [robot.pose_age for robot in state.robots] == [-1.0, -1.0]
    shown = markers(fleet, set(), Header(), 5.0)
    assert all(marker.action == Marker.DELETE for marker in shown.markers)
    health = Health(EventLog(Lines()), 0.05).message(fleet, Header(), 5.0, 0)
    assert [status.message.split(":")[0] for status in health.status[1:]] == ["NO_POSE", "NO_POSE"]


def drive_off(fleet):
    """Ticks until the robots have moves under way; the time."""
    for k in range(10):
        now = 10.0 + 0.05 * k
        for i in range(len(fleet.names)):
            fleet.update_pose(i, *fleet.poses[i], now)
        fleet.tick(now)
    return now


def test_markers_show_cells_moves_goals_vetoes_and_robots_that_stand():
    fleet = a_fleet()
    now = drive_off(fleet)
    fleet.stop(1)
    fleet.pose_time[2] = 0.0
    by_name = {marker.ns: marker for marker in markers(fleet, {0}, Header(frame_id="map"), now).markers}
    assert tuple(by_name) == NAMESPACES
    assert len(by_name["reserved"].points) == int((fleet.reservations.holder >= 0).sum()) >= 6
    assert len(by_name["goals"].points) == 6 and len(by_name["moves"].points) >= 6
    assert len(by_name["vetoes"].points) == 1 and len(by_name["robots"].points) == 3
    for name, robot in (("stopped", 1), ("lost", 2)):
        (point,) = by_name[name].points
        np.testing.assert_allclose((point.x, point.y), fleet.poses[robot, :2])


def test_diagnostics_name_who_needs_a_look_and_log_it_once():
    fleet, log = a_fleet(), Lines()
    now = drive_off(fleet)
    event_log = EventLog(log)
    health = Health(event_log, 0.05)
    for milliseconds in range(1, 101):
        health.decision(float(milliseconds))
    for elapsed in (0.05, 0.07, 0.08, 0.3):
        health.tick(elapsed)
    fleet.pose_time[1] = 0.0
    fleet.stop(2)
    event_log.reject("pose", "bad", "r1")
    for _ in range(3):
        message = health.message(fleet, Header(), now, 1)
    summary = message.status[0]
    values = {pair.key: pair.value for pair in summary.values}
    assert summary.level == DiagnosticStatus.WARN and summary.message == "standing still: r1"
    assert values["decision_ms_last"] == "100.00" and values["decision_ms_p50"] == "50.50"
    assert float(values["decision_ms_p99"]) == pytest.approx(99.01)
    assert (values["late_periods"], values["longest_period_s"]) == ("2", "0.300")
    assert (values["rejected_messages"], values["rejected_pose"]) == ("1", "1")
    assert (values["stale_robots"], values["stopped_robots"], values["execution"]) == (
        "1",
        "1",
        "asynchronous",
    )
    assert [status.name for status in message.status[1:]] == ["marlgpt: r1", "marlgpt: r2"]
    assert len(log.lines) == 2 and "STALE: r1 [event=robots_stand status=STALE robots=1]" in log.lines[1]
    fleet.pose_time[1] = now
    health.message(fleet, Header(), now, 1)
    assert "recovered: r1" in log.lines[2]
    fleet.stop()
    assert health.message(fleet, Header(), now, 1).status[0].message == "stopped until fleet/resume is called"


# The log -------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.text(max_size=2000))
def test_what_a_message_says_is_logged_short_and_printable(text):
    shown = short(text)
    assert len(shown) <= 203 and shown.isprintable()


def test_repeated_lines_are_counted_and_told_at_intervals(monkeypatch):
    now, log = [100.0], Lines()
    monkeypatch.setattr("marlgpt_policy.nodes.event_log.time.monotonic", lambda: now[0])
    event_log = EventLog(log)
    for _ in range(50):
        event_log.reject("pose", "pose of 'a' refused: NaN", "a")
    assert log.lines == ["pose of 'a' refused: NaN [event=pose_refused of=a]"]
    event_log.reject("pose", "pose of 'b' refused: NaN", "b")
    assert len(log.lines) == 2 and event_log.refusals == 51
    now[0] += EVERY
    event_log.reject("pose", "pose of 'a' refused: NaN", "a")
    assert log.lines[2].endswith("[event=pose_refused of=a left_out=49]")

"""What the fleet node survives, over DDS: stops, kills, another policy or map, robots that come and go."""

import hashlib
import time
from array import array

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from bad_policies import nan_towards  # noqa: E402
from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from fleet_bench import CELL, centre, hall, open_bench, write_policy  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from marlgpt_msgs.msg import RobotState, SimStatus  # noqa: E402
from marlgpt_msgs.srv import GetGrid  # noqa: E402
from marlgpt_policy.grid.nav_grid import build_grid  # noqa: E402
from marlgpt_policy.grid.occupancy_map import from_occupancy_grid, save_map_yaml  # noqa: E402
from marlgpt_policy.nodes.fleet_node import UNCONFIGURED  # noqa: E402
from std_msgs.msg import Bool  # noqa: E402
from visualization_msgs.msg import Marker, MarkerArray  # noqa: E402


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy") / "tiny.onnx")


@pytest.fixture(scope="module")
def driving(tmp_path_factory, policy):
    """An active node with a map, and two robots that drive to and fro on rows 0 and 1."""
    bench = open_bench(tmp_path_factory, policy)
    try:
        bench.bring_up({"a": (0, 0), "b": (1, 4)})
        yield bench
    finally:
        bench.close()


def keep_moving(bench, robots=("a", "b")):
    """Send every robot to the other end of its row and wait until all of them move."""
    rows = {"a": 0, "b": 1}
    for robot in robots:
        far = 4 if bench.poses[robot][0] < centre(bench.grid, 0, 2)[0] else 0
        bench.go(robot, rows[robot], far)
    bench.until(lambda: all(bench.moving(robot) for robot in robots), "motion")


def settle(bench):
    """Wait until all robots have arrived and stand."""
    bench.until(
        lambda: (
            bench.states
            and all(r.status in (RobotState.IDLE, RobotState.REMOVED) for r in bench.fresh_state().robots)
        ),
        "standstill",
    )


def forget(bench):
    for robot in bench.commands:
        bench.commands[robot].clear()
        bench.heard[robot].clear()


# Stops ---------------------------------------------------------------------------------------------------


def test_an_emergency_stop_takes_at_most_one_control_period(driving):
    """Counted in commands: after the stop is sent, at most the one that was under way is not zero."""
    bench = driving
    keep_moving(bench)
    forget(bench)
    pressed = time.monotonic()
    bench.press_all.publish(Bool(data=True))
    bench.until(lambda: all(len(bench.commands[robot]) > 8 for robot in "ab"), "commands")
    for robot in "ab":
        moving = np.abs(bench.commands[robot]).max(axis=1) > 0
        assert moving.sum() <= 1 and not moving[1:].any(), bench.commands[robot]
        first = bench.heard[robot][int(np.argmin(moving))]
        print(f"zero at '{robot}' {1e3 * (first - pressed):.1f} ms after the emergency stop was published")
    assert bench.fresh_state().stopped
    bench.press_all.publish(Bool(data=False))
    bench.spin(0.3)
    assert bench.fresh_state().stopped, "only the service resumes"
    assert bench.trigger("resume").success
    settle(bench)


def test_one_robot_is_stopped_and_resumed_alone_and_by_service_only(driving):
    bench = driving
    keep_moving(bench)
    forget(bench)
    bench.press["a"].publish(Bool(data=True))
    bench.until(lambda: len(bench.commands["a"]) > 8, "commands")
    moving = np.abs(bench.commands["a"]).max(axis=1) > 0
    assert moving.sum() <= 1 and not moving[1:].any()
    bench.until(lambda: bench.robot("b").status == RobotState.IDLE, "arrival of the other robot")
    assert bench.robot("a").status == RobotState.STOPPED
    assert bench.heartbeats[-1].robots == ["b"]
    assert bench.trigger("resume").success
    bench.spin(0.3)
    assert bench.fresh_state().robots[0].status == RobotState.STOPPED, "resuming the fleet does not resume it"
    refused = bench.command("resume_robot", "zorro")
    assert not refused.success and "no robot is named 'zorro'" in refused.message
    assert bench.command("resume_robot", "a").success
    settle(bench)
    assert bench.command("stop_robot", "b").success
    bench.go("b", 1, 2)
    bench.spin(0.4)
    assert bench.fresh_state().robots[1].status == RobotState.STOPPED
    assert bench.command("resume_robot", "b").success
    settle(bench)


# Messages that are wrong ---------------------------------------------------------------------------------


def test_malformed_messages_are_refused_counted_and_end_nothing(driving):
    bench = driving
    settle(bench)
    x, y = bench.poses.pop("a")
    bench.until(lambda: bench.robot("a").status == RobotState.STALE, "stale robot")
    before = bench.fresh_state().rejected_messages
    bad = [bench.pose(value, y) for value in (np.nan, np.inf, 1e300, -1e12)]
    bad += [bench.pose(x, y, frame) for frame in ("odom", "x" * 100_000)]
    for q in ((0, 0, 0, 0), (np.nan, 0, 0, 1)):
        message = bench.pose(x, y)
        o = message.pose.pose.orientation
        o.x, o.y, o.z, o.w = (float(v) for v in q)
        bad.append(message)
    ahead = bench.pose(x, y)
    ahead.header.stamp = bench.node.get_clock().now().to_msg()
    ahead.header.stamp.sec += 3600
    for message in [*bad, ahead]:
        bench.odometry["a"].publish(message)
        bench.spin(0.08)
    for goal in (bench.goal_at((np.nan, 0)), bench.goal_at((1e300, 0)), bench.goal_at((1e5, 0))):
        bench.goal["a"].publish(goal)
    charts = []
    for change in (
        {"resolution": 0.0}, {"resolution": float("nan")}, {"resolution": 1e-30}, {"width": 4_000_000_000},
        {"width": 3}, {"height": 0},
    ):  # fmt: skip
        chart = hall()
        for name, value in change.items():
            setattr(chart.info, name, value)
        charts.append(chart)
    wild = hall()
    wild.data = array("b", [101] + wild.data.tolist()[1:])
    away = hall()
    away.info.origin.position.x = 1e300
    for chart in [*charts, wild, away]:
        bench.map.publish(chart)
        bench.spin(0.2)
    wanted = before + len(bad) + 1 + 3 + len(charts) + 2
    bench.until(lambda: bench.states[-1].rejected_messages >= wanted, "count")
    assert bench.states[-1].rejected_messages == wanted
    assert bench.robot("a").status == RobotState.STALE
    assert max(len(line) for line in bench.log.read_text().splitlines()) < 1000, "no flood by long names"
    bench.poses["a"] = np.array([x, y])
    settle(bench)
    assert bench.call(GetGrid, "fleet/get_grid", GetGrid.Request()).success, "the good map is still there"


def test_copies_and_reordered_poses_do_no_harm(driving):
    bench = driving
    keep_moving(bench)
    before = bench.fresh_state().rejected_messages
    recent = []

    def disturb():
        for robot, (x, y) in bench.poses.items():
            message = bench.pose(x, y)
            message.header.stamp = bench.node.get_clock().now().to_msg()
            recent.append((robot, message))
            bench.odometry[robot].publish(message)
            bench.odometry[robot].publish(message)
        for robot, message in recent[-8:-6]:
            bench.odometry[robot].publish(message)

    timer = bench.node.create_timer(0.03, disturb)
    bench.timer.cancel()
    try:
        settle(bench)
        bench.spin(0.3)
    finally:
        timer.cancel()
        bench.timer.reset()
    assert bench.fresh_state().rejected_messages > before, "older than the last"
    np.testing.assert_allclose(bench.poses["a"][1], centre(bench.grid, 0, 0)[1], atol=0.05)


# Another policy ------------------------------------------------------------------------------------------


def test_a_policy_is_replaced_while_driving_and_a_bad_one_refused(driving, policy, tmp_path):
    bench = driving
    keep_moving(bench)
    corrupt = tmp_path / "corrupt.onnx"
    corrupt.write_bytes(policy.read_bytes()[:300])
    other = write_policy(tmp_path / "other.onnx")
    digest = hashlib.sha256(other.read_bytes()).hexdigest()
    for path, sha, reason in (
        (corrupt, "", "truncated or not a model"),
        (tmp_path / "missing.onnx", "", "no such file"),
        (other, "0" * 64, f"its SHA-256 is {digest}"),
        ("x" * 5000, "", "a path has 1 to 4096 characters"),
    ):
        answer = bench.load(path, sha)
        assert not answer.success and reason in answer.message and answer.policy == "tiny.onnx"
    settle(bench)
    assert bench.states[-1].policy == "tiny.onnx"
    keep_moving(bench)
    periods = bench.heartbeats[-1].sequence
    answer = bench.load(other, digest)
    assert answer.success and answer.policy == "other.onnx" and digest in answer.message
    settle(bench)
    assert bench.states[-1].policy == "other.onnx"
    assert bench.heartbeats[-1].sequence > periods


def test_a_policy_that_fails_while_driving_is_rolled_back_and_nobody_stops(driving, tmp_path):
    bench = driving
    settle(bench)
    for robot, row in (("a", 0), ("b", 1)):
        bench.go(robot, row, 4)
    settle(bench)
    before = bench.states[-1].policy
    answer = bench.load(nan_towards(tmp_path / "nan.onnx", 0, -4), "")
    assert answer.success and answer.policy == "nan.onnx"
    reached = bench.states[-1].goals_reached
    keep_moving(bench)
    settle(bench)
    assert bench.states[-1].policy == before and not bench.states[-1].stopped
    assert bench.states[-1].goals_reached > reached
    assert bench.logged("event=policy_rolled_back") and bench.logged("non-finite logits")
    bench.health.clear()
    bench.until(lambda: len(bench.health) > 1, "diagnostics")
    fleet = next(status for status in bench.health[-1].status if status.name == "marlgpt: fleet")
    values = {pair.key: pair.value for pair in fleet.values}
    assert values["policy_rollbacks"] == "1" and "non-finite" in values["policy_rollback_reason"]


# Another map ---------------------------------------------------------------------------------------------


def test_a_new_map_takes_the_driving_fleet_over_and_keeps_goals_by_position(driving):
    bench = driving
    keep_moving(bench)
    accepted = bench.log.read_text().count("map accepted")
    bench.map.publish(hall())
    bench.spin(0.5)
    assert bench.log.read_text().count("map accepted") == accepted, "the same map again is none"
    keep_moving(bench)
    goal = centre(bench.grid, 0, 4 if bench.robot("a").goal_col == 4 else 0)
    rejected = bench.states[-1].rejected_messages
    larger = (
        hall()
    )  # one more row of cells below, and an origin that moves with it: other cells for the same places
    data = np.array(larger.data).reshape(larger.info.height, larger.info.width)
    data = np.concatenate([np.zeros((14, data.shape[1]), np.int8), data])
    larger.info.height = data.shape[0]
    larger.info.origin.position.y -= 14 * 0.05
    larger.data = array("b", data.ravel().tolist())
    reached = bench.states[-1].goals_reached
    bench.map.publish(larger)
    bench.until(lambda: bench.log.read_text().count("map accepted") == accepted + 1, "map")
    bench.grid = bench.call(GetGrid, "fleet/get_grid", GetGrid.Request())
    assert (bench.grid.rows, bench.grid.cols) == (4, 5)
    bench.until(lambda: bench.states[-1].goals_reached == reached + 2, "arrival at the goals given before")
    np.testing.assert_allclose(bench.poses["a"], goal, atol=0.06)
    assert bench.states[-1].rejected_messages == rejected
    # A wall where b wants to go.
    keep_moving(bench, ("b",))
    walled = hall()
    walls = np.array(walled.data).reshape(walled.info.height, walled.info.width)
    column = bench.robot("b").goal_col
    left = 0 if column == 0 else walls.shape[1] - 11
    walls[7:28, left : left + 11] = 100
    walled.data = array("b", walls.ravel().tolist())
    bench.map.publish(walled)
    bench.until(lambda: bench.logged("dropped with the map: goal"), "dropped goal")
    bench.until(lambda: bench.fresh_state().robots[1].goal_row == -1, "dropped goal in the state")
    assert bench.states[-1].rejected_messages == rejected + 1
    bench.map.publish(hall())
    bench.until(lambda: bench.log.read_text().count("map accepted") == accepted + 3, "map")
    bench.grid = bench.call(GetGrid, "fleet/get_grid", GetGrid.Request())
    settle(bench)


# Robots that come and go ---------------------------------------------------------------------------------


def test_robots_join_leave_and_come_back_while_others_drive(driving):
    bench = driving
    settle(bench)
    for name, reason in (
        ("a", "in the fleet already"),
        ("b c", "not a ROS name"),
        ("", "1 to 64"),
        ("fleet", "taken"),
    ):
        answer = bench.command("add_robot", name)
        assert not answer.success and reason in answer.message
    assert bench.command("add_robot", "c").success
    bench.add("c")
    bench.poses["c"] = centre(bench.grid, 2, 0)
    keep_moving(bench)
    bench.until(lambda: bench.fresh_state().robots[-1].status == RobotState.IDLE, "the new robot on the grid")
    bench.until(lambda: bench.goal["c"].get_subscription_count() > 0, "discovery")
    bench.go("c", 2, 3)
    bench.until(lambda: bench.robot("c").goals_reached == 1, "arrival of the new robot")
    assert bench.heartbeats[-1].robots == ["a", "b", "c"]
    assert bench.command("remove_robot", "c").success
    assert not bench.command("remove_robot", "c").success
    bench.until(lambda: bench.fresh_state().robots[-1].status == RobotState.REMOVED, "removal")
    forget(bench)
    keep_moving(bench)
    settle(bench)
    assert bench.commands["c"] == [] and bench.heartbeats[-1].robots == ["a", "b"]
    bench.poses["c"] = centre(bench.grid, 2, 1)  # carried elsewhere meanwhile
    assert bench.command("add_robot", "c").success
    bench.until(lambda: bench.fresh_state().robots[-1].status == RobotState.IDLE, "return")
    assert (bench.robot("c").row, bench.robot("c").col) == (2, 1)
    assert bench.command("remove_robot", "c").success
    bench.poses.pop("c")


# What operators see --------------------------------------------------------------------------------------


def test_diagnostics_and_markers_show_what_goes_on(driving):
    bench = driving
    settle(bench)
    health, shown = bench.health, []
    bench.node.create_subscription(MarkerArray, "fleet/markers", shown.append, 10)
    bench.command("stop_robot", "b")
    x, y = bench.poses.pop("a")
    bench.until(lambda: bench.robot("a").status == RobotState.STALE, "stale robot")
    health.clear()
    bench.until(lambda: len(health) > 1, "diagnostics")
    statuses = {status.name: status for status in health[-1].status}
    assert statuses["marlgpt: a"].level == DiagnosticStatus.ERROR
    assert statuses["marlgpt: a"].message.startswith("STALE: last pose is")
    assert statuses["marlgpt: b"].message == "STOPPED: robot is stopped until resumed"
    fleet = statuses["marlgpt: fleet"]
    values = {pair.key: pair.value for pair in fleet.values}
    assert fleet.level == DiagnosticStatus.WARN and fleet.message == "standing still: a"
    assert values["provider"] == "CPUExecutionProvider" and len(values["policy_sha256"]) == 64
    assert float(values["decision_ms_p50"]) <= float(values["decision_ms_p99"])
    assert (values["stale_robots"], values["stopped_robots"], values["removed_robots"]) == ("1", "1", "1")
    for key in (
        "late_periods",
        "vetoes",
        "waiting_robots",
        "remedy_plan",
        "remedy_turned_back",
        "rejected_pose",
    ):
        assert int(values[key]) >= 0
    bench.until(lambda: shown, "markers")
    markers = {marker.ns: marker for marker in shown[-1].markers}
    assert {name for name, m in markers.items() if m.action == Marker.ADD} >= {
        "reserved",
        "robots",
        "stopped",
        "lost",
    }
    assert len(markers["stopped"].points) == len(markers["lost"].points) == 1
    assert markers["lost"].points[0].x == pytest.approx(x, abs=0.02)
    assert markers["vetoes"].action == Marker.DELETE
    bench.command("resume_robot", "b")
    bench.poses["a"] = np.array([x, y])
    settle(bench)
    shown.clear()
    keep_moving(bench)
    bench.until(lambda: any(m.ns == "goals" and m.points for s in shown for m in s.markers), "goal lines")
    settle(bench)


def test_the_log_stays_short_whatever_comes_in(driving):
    bench = driving
    before = len(bench.log.read_text().splitlines())
    bad = bench.pose(np.nan, 0.0)
    for _ in range(200):
        bench.odometry["a"].publish(bad)
        bench.goal["a"].publish(bench.goal_at((np.nan, 0.0)))
        bench.spin(0.005)
    bench.spin(0.5)
    assert len(bench.log.read_text().splitlines()) - before <= 6
    settle(bench)


# Death and takeover --------------------------------------------------------------------------------------


def test_a_killed_node_is_followed_by_zeros_in_time_and_by_one_that_takes_over(tmp_path_factory, policy):
    """The one test by the wall's clock: from SIGKILL to zero velocity at every robot, with a real watchdog."""
    bench = open_bench(tmp_path_factory, policy)
    watchdog, log = bench.spawn("watchdog_node", {"robots": "[a, b]"})
    try:
        bench.bring_up({"a": (0, 0), "b": (1, 4)})
        bench.watched()
        keep_moving(bench)

        def between():
            """Whether a robot is between two cells, where it must not stay."""
            return any(
                abs((bench.poses[robot] - centre(bench.grid, 0, 0))[0] / CELL % 1 - 0.5) < 0.25
                for robot in "ab"
            )

        bench.until(between, "robot between cells")
        killed = time.monotonic()
        bench.kill()
        forget(bench)
        zero = (0.0, 0.0, 0.0)
        bench.until(lambda: all(zero in bench.commands[robot] for robot in "ab"), "zeros")
        late = max(bench.heard[robot][bench.commands[robot].index(zero)] for robot in "ab") - killed
        print(f"zero velocity at every robot {late:.3f} s after SIGKILL")
        assert late < 0.5 + 0.25, "a quarter of a second for the scheduler of a busy machine"
        forget(bench)
        bench.until(lambda: all(len(bench.commands[robot]) > 5 for robot in "ab"), "repeated zeros")
        assert not np.any(bench.commands["a"]) and not np.any(bench.commands["b"])
        bench.restart()
        settle(bench)
        bench.watched()
        assert "heartbeats are back" in log.read_text()
        keep_moving(bench)
        settle(bench)
        # Stopped, killed, restarted: it must not drive off.
        assert bench.trigger("stop").success
        bench.until(lambda: "the fleet is stopped until resumed" in log.read_text(), "watchdog that knows")
        bench.kill()
        bench.restart()
        bench.until(lambda: bench.states and bench.fresh_state().stopped, "stop told by the watchdog")
        bench.go("a", 0, 2)
        forget(bench)
        bench.spin(0.5)
        assert not np.any(bench.commands["a"])
        assert bench.trigger("resume").success
        bench.until(lambda: bench.moving("a", 0.05), "motion")
        settle(bench)
        assert watchdog.poll() is None
    finally:
        watchdog.terminate()
        watchdog.wait(10)
        bench.close()


def test_simulated_robots_are_taken_over_between_cells_without_a_contact(tmp_path_factory, policy):
    """With the real simulator: three robots change places, their driver is killed twice on the way."""
    names = ["a", "b", "c"]
    bench = open_bench(tmp_path_factory, policy, names, use_sim_time=True, autostart=True)
    chart = save_map_yaml(from_occupancy_grid(hall()), bench.folder / "hall.yaml").with_suffix(".yaml")
    grid = build_grid(from_occupancy_grid(hall()), 0.22, 0.05)
    cells = [(0, 0), (0, 4), (1, 2)]
    starts = [[*grid.centre(np.array(cell)), 0.0] for cell in cells]
    shared = {"robots": "[a, b, c]", "drive": "holonomic", "max_speed": 2.0, "max_yaw_rate": 4.0}
    simulator, _ = bench.spawn(
        "simulator", {**shared, "map_yaml": chart, "cmd_timeout": 0.2, "initial_poses": np.ravel(starts).tolist()},
        "marlgpt_sim",
    )  # fmt: skip
    watchdog, log = bench.spawn("watchdog_node", {"robots": "[a, b, c]", "use_sim_time": True})
    truth = []
    bench.node.create_subscription(SimStatus, "sim/status", truth.append, 10)
    try:
        bench.map.publish(hall())
        bench.until(lambda: bench.logged("map accepted"), "map")
        bench.grid = bench.call(GetGrid, "fleet/get_grid", GetGrid.Request())
        for turn in (1, 2):
            settle(bench)
            bench.watched()
            targets = cells[turn:] + cells[:turn]
            for name, cell in zip(names, targets, strict=True):
                bench.go(name, *cell)
            bench.until(lambda: sum(bench.moving(name) for name in names) >= 2, "motion")
            bench.spin(0.3)
            bench.kill()
            bench.spin(0.2)  # what the node sent last may still be under way
            forget(bench)
            bench.until(lambda: all(len(bench.commands[name]) > 10 for name in names), "zeros")
            assert not any(np.any(bench.commands[name]) for name in names)
            bench.restart()
            settle(bench)
            for name, cell in zip(names, targets, strict=True):
                bench.go(name, *cell)
            bench.until(lambda: sum(r.goals_reached for r in bench.states[-1].robots) == 3, "arrival of all")
        assert truth[-1].robot_contacts == truth[-1].wall_contacts == 0
        assert truth[-1].min_separation > 0.0
        assert log.read_text().count("heartbeats are back") == 2
    finally:
        for process in (simulator, watchdog):
            process.terminate()
            process.wait(10)
        bench.close()


def test_stops_outlive_the_configuration(tmp_path_factory, policy):
    bench = open_bench(tmp_path_factory, policy, max_robots=2, require_policy_hash=True)
    try:
        bench.bring_up({"a": (0, 0), "b": (1, 4)})
        refused = bench.load(policy)
        assert not refused.success and "give the file's sha256" in refused.message
        refused = bench.command("add_robot", "c")
        assert not refused.success and "2 robots" in refused.message
        assert bench.command("stop_robot", "a").success
        bench.press_all.publish(Bool(data=True))
        bench.until(lambda: bench.states and bench.fresh_state().stopped, "stop")
        assert bench.change_state(Transition.TRANSITION_DEACTIVATE)
        assert bench.change_state(Transition.TRANSITION_CLEANUP)
        bench.bring_up({}, chart=False)
        state = bench.fresh_state()
        assert state.stopped
        assert bench.trigger("resume").success
        bench.until(lambda: bench.fresh_state().robots[1].status == RobotState.IDLE, "resumed fleet")
        assert bench.states[-1].robots[0].status == RobotState.STOPPED
        assert "still stopped one by one: ['a']" in bench.trigger("resume").message
    finally:
        bench.close()


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"max_robots": 1}, "2 robots, parameter 'max_robots' is 1"),
        ({"policy_sha256": "a" * 64}, "its SHA-256 is"),
        ({"execution": "chaotic"}, "parameter 'execution' is 'chaotic'"),
    ],
)
def test_limits_and_hash_are_checked_by_configure(tmp_path_factory, policy, parameters, reason):
    bench = open_bench(tmp_path_factory, policy, **parameters)
    try:
        assert not bench.change_state(Transition.TRANSITION_CONFIGURE)
        bench.until(lambda: bench.logged(reason), "reason", 3.0)
        bench.kill()
        process, log = bench.spawn("fleet_node", {**bench.parameters, "autostart": True})
        assert process.wait(60) == UNCONFIGURED, log.read_text()
    finally:
        bench.close()


def test_a_map_larger_than_the_limit_is_refused_by_its_header(tmp_path_factory, policy):
    bench = open_bench(tmp_path_factory, policy, max_map_pixels=100)
    try:
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            assert bench.change_state(transition)
        bench.map.publish(hall())
        bench.until(lambda: bench.logged("pixels, parameter max_map_pixels is 100"), "refusal")
    finally:
        bench.close()

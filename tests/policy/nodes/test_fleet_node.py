"""The fleet node as a process of its own, over DDS: transitions, messages, refusals, stop."""

import signal
import time

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from fleet_bench import CELL, COLS, ROWS, centre, hall, open_bench, write_policy  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from marlgpt_msgs.action import Navigate  # noqa: E402
from marlgpt_msgs.msg import RobotState  # noqa: E402
from marlgpt_msgs.srv import GetGrid  # noqa: E402
from rcl_interfaces.srv import SetParameters  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy") / "tiny.onnx")


@pytest.fixture(scope="module")
def idle(tmp_path_factory, policy):
    """A node that has not been configured."""
    bench = open_bench(tmp_path_factory, policy)
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def driving(tmp_path_factory, policy):
    """An active node with a map and two robots on row 0 and 2."""
    bench = open_bench(tmp_path_factory, policy)
    try:
        bench.bring_up({"a": (0, 0), "b": (2, 0)})
        yield bench
    finally:
        bench.close()


# Configuration -------------------------------------------------------------------------------------------


def test_configure_fails_with_the_reason_in_the_log_and_can_be_tried_again(idle, policy, tmp_path):
    corrupt = tmp_path / "corrupt.onnx"
    corrupt.write_bytes(policy.read_bytes()[:300])
    missing = tmp_path / "missing.onnx"
    for change, reason in (
        ({"policy": str(missing)}, f"cannot configure: policy {missing}: no such file"),
        ({"policy": str(corrupt)}, f"cannot configure: policy {corrupt}: ONNX Runtime cannot load it"),
        ({"policy": str(policy), "robots": ["a", "b", "a"]}, "parameter 'robots' names a twice"),
        ({"robots": ["a", "b c"]}, "robot name 'b c' is not a ROS name"),
        ({"robots": ["a", ""]}, "robot name '' is not a ROS name"),
        ({"robots": ["a", "b"], "drive": "hovering"}, "parameter 'drive' is 'hovering'"),
    ):
        idle.set(**change)
        assert not idle.change_state(Transition.TRANSITION_CONFIGURE)
        idle.until(lambda reason=reason: idle.logged(reason), f"log '{reason}'", 3.0)
    idle.set(drive="holonomic")
    assert idle.change_state(Transition.TRANSITION_CONFIGURE), idle.log.read_text()


def test_no_robots_cannot_be_configured(idle):
    assert idle.change_state(Transition.TRANSITION_CLEANUP), "the test before left it configured"
    request = SetParameters.Request(
        parameters=[Parameter("robots", Parameter.Type.STRING_ARRAY, []).to_parameter_msg()]
    )
    assert idle.call(SetParameters, "fleet_node/set_parameters", request).results[0].successful
    assert not idle.change_state(Transition.TRANSITION_CONFIGURE)
    idle.until(lambda: idle.logged("parameter 'robots' is empty"), "log", 3.0)


def test_a_corrupt_map_is_refused_and_a_good_one_still_accepted(idle):
    idle.set(robots=["a", "b"])
    assert idle.change_state(Transition.TRANSITION_CONFIGURE), idle.log.read_text()
    assert idle.change_state(Transition.TRANSITION_ACTIVATE)
    answer = idle.call(GetGrid, "fleet/get_grid", GetGrid.Request())
    assert not answer.success and "no map" in answer.message
    assert idle.call(Trigger, "fleet/stop", Trigger.Request()).success  # holds for the fleet to come
    changed = SetParameters.Request(parameters=[Parameter("radius", value=5.0).to_parameter_msg()])
    refused = idle.call(SetParameters, "fleet_node/set_parameters", changed).results[0]
    assert not refused.successful and "radius" in refused.reason
    short = hall()
    short.data = short.data[:-7]
    idle.map.publish(short)
    idle.until(lambda: idle.logged("map refused"), "refusal")
    assert not idle.call(GetGrid, "fleet/get_grid", GetGrid.Request()).success
    idle.map.publish(hall())
    idle.until(lambda: idle.logged("map accepted"), "map")
    assert idle.call(GetGrid, "fleet/get_grid", GetGrid.Request()).success
    state = idle.fresh_state()
    assert state.rejected_messages >= 1 and state.stopped
    assert idle.call(Trigger, "fleet/resume", Trigger.Request()).success
    assert not idle.fresh_state().stopped


# Driving -------------------------------------------------------------------------------------------------


def test_the_grid_is_served(driving):
    grid = driving.grid
    assert (grid.success, grid.rows, grid.cols, grid.frame_id) == (True, ROWS, COLS, "map")
    assert grid.cell_size == pytest.approx(CELL)
    free = np.array(grid.free).reshape(ROWS, COLS)
    assert not free[2, 4] and free.sum() == ROWS * COLS - 1
    moves = np.array(list(grid.moves)).reshape(ROWS, COLS)
    assert moves[0, 0] == 0b10101, "wait, down and right"
    assert moves[2, 4] == 0


def test_a_goal_moves_the_right_robot_and_is_reported(driving):
    driving.until(lambda: driving.robot("b") and driving.robot("b").status == RobotState.IDLE, "idle robots")
    for robot in "ab":
        driving.commands[robot].clear()
    driving.goal["b"].publish(driving.goal_at(centre(driving.grid, 2, 2)))
    driving.until(lambda: driving.robot("b").goals_reached == 1, "arrival")
    assert max(np.abs(driving.commands["b"]).max(axis=1)) > 0.5
    assert (np.array(driving.commands["a"]) == 0).all(), "the other robot has no goal"
    np.testing.assert_allclose(driving.poses["b"], centre(driving.grid, 2, 2), atol=0.05)
    state = driving.fresh_state()
    assert (state.policy, state.provider) == ("tiny.onnx", "CPUExecutionProvider")
    assert state.header.frame_id == "map"
    assert (state.robots[1].row, state.robots[1].col, state.robots[1].status) == (2, 2, RobotState.IDLE)
    assert state.goals_reached == 1 and state.decisions >= 2
    first = driving.decisions[0]
    b = first.robots[1]
    assert [robot.name for robot in first.robots] == ["a", "b"]
    assert (b.row, b.col, b.goal_row, b.goal_col) == (2, 0, 2, 2)
    assert (b.proposed, b.executed, b.veto, b.held) == (4, 4, False, False)
    assert sum(b.probabilities) == pytest.approx(1.0, abs=1e-5)
    assert first.total_ms == pytest.approx(first.encode_ms + first.infer_ms + first.shield_ms, rel=1e-3)


def test_stop_sends_zeros_until_resume(driving):
    driving.goal["a"].publish(driving.goal_at(centre(driving.grid, 0, 4)))
    driving.until(lambda: np.abs(driving.commands["a"][-1]).max() > 0.3, "motion")
    assert driving.call(Trigger, "fleet/stop", Trigger.Request()).success
    driving.spin(0.1)
    for robot in "ab":
        driving.commands[robot].clear()
    driving.spin(0.6)
    assert len(driving.commands["a"]) >= 3
    assert all((np.array(driving.commands[robot]) == 0).all() for robot in "ab")
    state = driving.fresh_state()
    assert state.stopped and {robot.status for robot in state.robots} == {RobotState.STOPPED}
    assert driving.call(Trigger, "fleet/resume", Trigger.Request()).success
    driving.until(lambda: driving.robot("a").goals_reached == 1, "arrival")


def navigate(bench, goals):
    goal = Navigate.Goal(robots=list(goals), goals=[bench.goal_at(xy) for xy in goals.values()])
    bench.until(bench.navigate.server_is_ready, "action server")
    sent = bench.navigate.send_goal_async(goal)
    bench.until(sent.done, "answer to the action goal")
    return sent.result()


def test_navigate_reaches_its_goals(driving):
    handle = navigate(driving, {"a": centre(driving.grid, 0, 3), "b": centre(driving.grid, 1, 2)})
    assert handle.accepted
    result = handle.get_result_async()
    driving.until(result.done, "result")
    answer = result.result().result
    assert answer.success and list(answer.reached) == [True, True] and list(answer.robots) == ["a", "b"]


def test_navigate_refuses_walls_unknown_robots_and_says_why(driving):
    wall = centre(driving.grid, 2, 4) + (0.15, -0.15)
    assert not navigate(driving, {"a": wall}).accepted
    driving.until(lambda: driving.logged("of robot 'a' lies in a wall"), "log", 3.0)
    assert not navigate(driving, {"zorro": centre(driving.grid, 0, 0)}).accepted
    driving.until(lambda: driving.logged("unknown robots ['zorro']"), "log", 3.0)


def test_navigate_can_be_cancelled(driving):
    handle = navigate(driving, {"b": centre(driving.grid, 2, 0)})
    assert handle.accepted
    cancelled = handle.cancel_goal_async()
    result = handle.get_result_async()
    driving.until(lambda: cancelled.done() and result.done(), "cancellation")
    assert not result.result().result.success
    assert list(result.result().result.messages) == ["cancelled"]
    driving.until(lambda: driving.robot("b").status == RobotState.IDLE, "standstill")


def test_bad_poses_are_counted_and_the_robot_stands(driving):
    before = driving.fresh_state().rejected_messages
    x, y = driving.poses.pop("a")
    driving.until(lambda: driving.robot("a").status == RobotState.STALE, "stale robot", 5.0)
    driving.goal["a"].publish(driving.goal_at(centre(driving.grid, 0, 0)))
    driving.commands["a"].clear()
    zero = driving.pose(x, y)
    zero.pose.pose.orientation.w = 0.0
    for _ in range(5):
        for bad in (driving.pose(np.nan, y), driving.pose(x, y, "odom_of_a"), zero):
            driving.odometry["a"].publish(bad)
            driving.spin(0.05)
    state = driving.fresh_state()
    assert state.rejected_messages >= before + 6
    assert state.robots[0].status == RobotState.STALE
    assert state.robots[0].pose.position.x == pytest.approx(x), "the last good pose stays"
    assert len(driving.commands["a"]) > 3 and (np.array(driving.commands["a"]) == 0).all()
    driving.poses["a"] = np.array([x, y])
    driving.until(lambda: driving.robot("a").status != RobotState.STALE, "recovery", 5.0)


def test_deactivating_stops_the_robots_and_activating_goes_on(driving):
    driving.goal["a"].publish(driving.goal_at(centre(driving.grid, 0, 0)))
    driving.goal["b"].publish(driving.goal_at(centre(driving.grid, 2, 3)))
    driving.until(lambda: np.abs(driving.commands["b"][-1]).max() > 0.3, "motion")
    assert driving.change_state(Transition.TRANSITION_DEACTIVATE)
    driving.spin(0.2)
    assert driving.commands["b"][-1] == (0.0, 0.0, 0.0)
    driving.commands["b"].clear()
    driving.spin(0.3)
    assert driving.commands["b"] == [], "an inactive node sends nothing"
    assert driving.change_state(Transition.TRANSITION_ACTIVATE)
    driving.until(lambda: driving.robot("b").col == 3, "arrival")


def test_an_interrupted_node_stops_the_robots_before_it_ends(driving):
    driving.goal["b"].publish(driving.goal_at(centre(driving.grid, 2, 0)))
    driving.until(lambda: np.abs(driving.commands["b"][-1]).max() > 0.3, "motion")
    driving.process.send_signal(signal.SIGTERM)
    end = time.monotonic() + 10
    while driving.process.poll() is None and time.monotonic() < end:
        driving.executor.spin_once(timeout_sec=0.05)
    driving.spin(0.2)
    assert driving.process.returncode == 0, driving.log.read_text()
    assert driving.commands["b"][-1] == (0.0, 0.0, 0.0)

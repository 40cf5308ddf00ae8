"""The nodes of the simulation as processes, over real DDS."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import domains
import numpy as np
import pytest
from places import ROOT

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("marlgpt_msgs")

from geometry_msgs.msg import PoseArray, PoseStamped, Twist, TwistStamped  # noqa: E402
from marlgpt_msgs.msg import FaultCounts, FleetState, RobotState, SimStatus  # noqa: E402
from marlgpt_msgs.srv import GetGrid  # noqa: E402
from marlgpt_policy.grid.occupancy_map import OccupancyMap, from_occupancy_grid, load_map_yaml, save_map_yaml  # noqa: E402
from marlgpt_sim.nodes import sim_messages as cdr  # noqa: E402
from marlgpt_sim.nodes.task_source import GoalStream, grid_of  # noqa: E402
from nav_msgs.msg import OccupancyGrid, Odometry  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402

SOURCES = [str(ROOT / "ros2_ws" / "src" / name) for name in ("marlgpt_policy", "marlgpt_sim")]
DOMAIN = domains.take()
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)


def environment() -> dict[str, str]:
    path = os.pathsep.join([*SOURCES, os.environ.get("PYTHONPATH", "")])
    return os.environ | {
        "PYTHONPATH": path,
        "ROS_DOMAIN_ID": str(DOMAIN),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }


def start(module: str, *parameters: str, namespace: str = "/") -> subprocess.Popen:
    command = [sys.executable, "-m", f"marlgpt_sim.nodes.{module}", "--ros-args", "-r", f"__ns:={namespace}"]
    for parameter in parameters:
        command += ["-p", parameter]
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def stop(process: subprocess.Popen) -> tuple[int, str]:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        _, err = process.communicate()
        pytest.fail(f"did not end on SIGINT: {err}")
    return process.returncode, err


@pytest.fixture
def map_yaml(tmp_path) -> Path:
    """An empty room of 12 x 6 m."""
    occupied = np.zeros((120, 240), bool)
    path = tmp_path / "room.yaml"
    save_map_yaml(OccupancyMap(occupied, np.zeros_like(occupied), 0.05, (-1.0, -1.0, 0.0)), path)
    return path


class Peer:
    """A node of the test, spun by hand."""

    def __init__(self, monkeypatch) -> None:
        monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.node = rclpy.create_node("peer", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.last: dict[str, object] = {}

    def listen(self, kind, topic: str, profile=RELIABLE, callback=None) -> None:
        def take(message):
            self.last[topic] = message
            if callback:
                callback(message)

        self.node.create_subscription(kind, topic, take, profile)

    def until(self, condition, timeout: float = 60.0) -> None:
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, f"nothing after {timeout} s; heard {sorted(self.last)}"
            self.executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def peer(monkeypatch):
    peer = Peer(monkeypatch)
    yield peer
    peer.close()


def seconds(stamp) -> float:
    return stamp.sec + stamp.nanosec * 1e-9


COMMON = ("robots:=[ann,bob]", "initial_poses:=[0.0, 0.0, 0.0, 0.0, 2.0, 1.5]", "stamped_cmd_vel:=true")


def test_a_robot_drives_the_commanded_distance_in_lockstep(peer, map_yaml):
    """Two simulated seconds at 0.3 m/s, then silence: it stops after cmd_timeout; bob never moves."""
    publishers = {
        name: peer.node.create_publisher(TwistStamped, f"{name}/cmd_vel", RELIABLE) for name in ("ann", "bob")
    }
    track: list[tuple[float, float]] = []
    begin: list[float] = []

    def answer(message: Odometry) -> None:
        now = seconds(message.header.stamp)
        robot = message.child_frame_id.split("/")[0]
        command = TwistStamped()
        command.header.stamp, command.header.frame_id = message.header.stamp, message.child_frame_id
        if robot == "ann":
            track.append((now, message.pose.pose.position.x))
            if message.twist.twist.linear.x > 0.0:
                begin.append(now)
            if begin and now >= begin[0] + 2.0 - 1e-6:
                return
            command.twist.linear.x = 0.3
        publishers[robot].publish(command)

    for topic in ("ann/odom", "bob/odom"):
        peer.listen(Odometry, topic, RELIABLE, answer)
    peer.listen(Clock, "/clock", BEST_EFFORT)
    peer.listen(PoseArray, "sim/ground_truth")
    peer.listen(SimStatus, "sim/status")
    process = start(
        "simulator", *COMMON, f"map_yaml:={map_yaml}", "lockstep:=true", "real_time_factor:=0.0",
        "lockstep_timeout:=2.0",
    )  # fmt: skip
    try:
        peer.until(lambda: begin and track[-1][0] > begin[0] + 4.0)
        peer.until(lambda: peer.last["sim/status"].late_ticks >= 1)
    finally:
        code, err = stop(process)
    assert code == 0, err
    last = [x for now, x in track if now > begin[0] + 3.0]
    # The tick in which it began, 2 s of commands, 0.5 s of timeout; the ramps up and down cancel.
    assert last[0] == pytest.approx(0.3 * (0.05 + 2.0 + 0.5), abs=0.01)
    assert max(last) - min(last) < 1e-9, "it did not stop"
    times = np.array([now for now, _ in track])
    assert np.diff(times).max() < 0.0501, "a tick was lost"
    truth = peer.last["sim/ground_truth"].poses
    assert truth[0].position.x == pytest.approx(last[-1])
    assert (truth[1].position.x, truth[1].position.y) == pytest.approx((0.0, 2.0))
    assert 2.0 * math.atan2(truth[1].orientation.z, truth[1].orientation.w) == pytest.approx(1.5)
    assert seconds(peer.last["/clock"].clock) >= begin[0] + 4.0
    status = peer.last["sim/status"]
    assert (status.robot_contacts, status.wall_contacts) == (0, 0)
    assert status.min_separation == pytest.approx(2.0 - 0.44, abs=1e-3)
    assert peer.last["ann/odom"].header.frame_id == "map"


@pytest.mark.parametrize(
    "faults",
    [
        (),
        tuple(
            f"fault_{kind}_rate:=3000.0"
            for kind in ("pose_jump", "pose_bias", "pose_duplicate", "slip", "push", "stall", "cmd_reorder")
        ),
    ],
    ids=["without faults", "with faults"],
)
def test_lockstep_runs_are_the_same_bit_for_bit(peer, map_yaml, faults):
    """Both robots steer by their noisy odom; whenever the driver comes, the same run follows."""
    publishers = {
        name: peer.node.create_publisher(TwistStamped, f"{name}/cmd_vel", RELIABLE) for name in ("ann", "bob")
    }
    truth: list[list[float]] = []

    def answer(message: Odometry) -> None:
        position, command = message.pose.pose.position, TwistStamped()
        command.header.stamp = message.header.stamp
        command.twist.linear.x, command.twist.angular.z = 0.2 + 0.1 * position.x, 3.0 * position.y
        publishers[message.child_frame_id.split("/")[0]].publish(command)

    def collect(message: PoseArray) -> None:
        truth.append([v for p in message.poses for v in (p.position.x, p.position.y, p.orientation.z)])

    for topic in ("ann/odom", "bob/odom"):
        peer.listen(Odometry, topic, RELIABLE, answer)
    peer.listen(PoseArray, "sim/ground_truth", QoSProfile(depth=100), collect)
    runs = []
    for _ in range(2):
        truth.clear()
        process = start(
            "simulator", *COMMON, f"map_yaml:={map_yaml}", "lockstep:=true", "real_time_factor:=0.0",
            "pose_noise_xy:=0.02", "pose_noise_yaw:=0.02", *faults,
        )  # fmt: skip
        try:
            peer.until(lambda: sum(row != truth[0] for row in truth) > 60)
        finally:
            code, err = stop(process)
        assert code == 0, err
        runs.append([row for row in truth if row != truth[0]][:60])
        heard, end = -1, 0.0
        while heard != len(truth) or time.monotonic() < end:  # nothing of this run may be left for the next
            if heard != len(truth):
                heard, end = len(truth), time.monotonic() + 0.5
            peer.executor.spin_once(timeout_sec=0.05)
    # A listener may join a few ticks late: the later one's first row must be in the other, and all after it the same.
    early, late = runs if runs[1][0] in runs[0] else reversed(runs)
    assert late[0] in early[:30], (early[0], late[0])
    offset = early.index(late[0])
    assert early[offset:] == late[: len(early) - offset]


# Faults ---------------------------------------------------------------------------------------------------

LOCKSTEP = ("lockstep:=true", "real_time_factor:=0.0", "lockstep_timeout:=5.0")


class Driver:
    """Answers every odom of ann and bob with a slow turn, and keeps what it heard in order."""

    def __init__(self, peer, forward: float = 0.0) -> None:
        self.publishers = {
            name: peer.node.create_publisher(TwistStamped, f"{name}/cmd_vel", RELIABLE)
            for name in ("ann", "bob")
        }
        self.forward = forward
        self.odom: dict[str, list[Odometry]] = {"ann": [], "bob": []}
        self.clock: list[float] = []
        self.truth: list[PoseArray] = []
        deep = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
        for name in self.odom:
            peer.listen(Odometry, f"{name}/odom", deep, self.answer)
        peer.listen(Clock, "/clock", deep, lambda message: self.clock.append(seconds(message.clock)))
        peer.listen(PoseArray, "sim/ground_truth", deep, self.truth.append)
        peer.listen(SimStatus, "sim/status")
        peer.listen(FaultCounts, "sim/faults")

    def answer(self, message: Odometry) -> None:
        robot = message.child_frame_id.split("/")[0]
        self.odom[robot].append(message)
        command = TwistStamped()
        command.header.stamp = message.header.stamp
        command.twist.linear.x, command.twist.angular.z = self.forward, 0.3
        self.publishers[robot].publish(command)

    def stamps(self, robot: str) -> np.ndarray:
        return np.array([seconds(message.header.stamp) for message in self.odom[robot]])


def faults_of(peer) -> dict[str, tuple[int, int]]:
    message = peer.last["sim/faults"]
    return dict(zip(message.kinds, zip(message.injected, message.active, strict=True), strict=True))


def test_dropped_poses_do_not_hold_up_lockstep(peer, map_yaml):
    """The driver answers poses only, so a robot whose pose is dropped has no command for that tick."""
    driver = Driver(peer)
    process = start(
        "simulator", *COMMON, *LOCKSTEP, f"map_yaml:={map_yaml}",
        "fault_pose_dropout_rate:=3600.0", "fault_pose_dropout_duration:=[0.3, 0.3]",
    )  # fmt: skip
    try:
        peer.until(lambda: driver.clock and driver.clock[-1] > driver.clock[0] + 8.0)
    finally:
        code, err = stop(process)
    assert code == 0, err
    gaps = np.diff(driver.stamps("ann"))
    assert gaps.max() > 0.29, "no pose was dropped"
    assert np.diff(driver.clock).max() < 0.0501
    assert faults_of(peer)["pose_dropout"][0] > 4
    assert peer.last["sim/status"].late_ticks == 0


def test_delayed_poses_come_late_with_their_own_stamps(peer, map_yaml):
    driver, late = Driver(peer), []
    process = start(
        "simulator", *COMMON, f"map_yaml:={map_yaml}", "real_time_factor:=2.0",
        "fault_pose_delay_rate:=1000000.0", "fault_pose_delay_duration:=[50.0, 50.0]",
        "fault_pose_delay_lag:=[0.3, 0.3]",
    )  # fmt: skip
    heard = 0

    def enough() -> bool:
        nonlocal heard
        if len(driver.odom["bob"]) > heard and driver.clock:
            heard = len(driver.odom["bob"])
            late.append(driver.clock[-1] - seconds(driver.odom["bob"][-1].header.stamp))
        return len(late) > 60

    try:
        peer.until(enough)
    finally:
        code, err = stop(process)
    assert code == 0, err
    assert np.median(late[-30:]) == pytest.approx(0.3, abs=0.11)  # the clock is another topic
    assert (np.diff(driver.stamps("bob")) > 0.0).all()
    assert faults_of(peer)["pose_delay"][1] == 2


def test_the_clock_jumps_and_stamps_go_along(peer, map_yaml):
    driver = Driver(peer, forward=0.1)
    process = start(
        "simulator", *COMMON, *LOCKSTEP, f"map_yaml:={map_yaml}",
        "fault_clock_jump_rate:=3600.0", "fault_clock_jump_seconds:=[2.0, 2.0]",
    )  # fmt: skip
    try:
        peer.until(lambda: "sim/faults" in peer.last and faults_of(peer)["clock_jump"][0] >= 8)
    finally:
        code, err = stop(process)
    assert code == 0, err
    steps = np.round(np.diff(driver.clock), 6)
    jumps = set(steps.tolist()) - {0.0, 0.05}
    assert jumps <= {2.05, -1.95, 4.05, -3.95} and len(jumps) >= 2, jumps
    ticks = set(np.round(driver.clock, 6).tolist())
    assert set(np.round(driver.stamps("ann")[:-1], 6).tolist()) <= ticks
    assert min(driver.clock) > 0.0
    assert peer.last["sim/status"].late_ticks == 0
    assert driver.odom["ann"][-1].twist.twist.linear.x == pytest.approx(0.1), "commands no longer count"


def test_lost_commands_stop_the_base(peer, map_yaml):
    driver = Driver(peer, forward=0.2)
    process = start(
        "simulator", *COMMON, *LOCKSTEP, f"map_yaml:={map_yaml}", "cmd_timeout:=0.2",
        "fault_cmd_loss_rate:=1200.0", "fault_cmd_loss_duration:=[1.0, 1.0]",
    )  # fmt: skip
    speeds = lambda: [message.twist.twist.linear.x for message in driver.odom["ann"]]  # noqa: E731
    try:
        peer.until(lambda: 0.0 in (late := speeds()[20:]) and max(late[late.index(0.0) :]) > 0.19)
    finally:
        code, err = stop(process)
    assert code == 0, err
    assert faults_of(peer)["cmd_loss"][0] >= 1
    assert peer.last["sim/status"].late_ticks == 0


def test_an_absent_robot_joins(peer, map_yaml):
    driver = Driver(peer)
    process = start(
        "simulator", *COMMON, *LOCKSTEP, f"map_yaml:={map_yaml}", "absent:=[bob]", "fault_join_rate:=1200.0"
    )
    try:
        peer.until(lambda: len(driver.odom["bob"]) > 10)
    finally:
        code, err = stop(process)
    assert code == 0, err
    first, last = driver.truth[0].poses, driver.truth[-1].poses
    assert math.isnan(first[1].position.x) and first[0].position.x == 0.0
    assert last[1].position.x == pytest.approx(driver.odom["bob"][-1].pose.pose.position.x)
    before = driver.stamps("ann") < driver.stamps("bob")[0]
    assert before.any(), "it was there from the start"
    assert faults_of(peer)["join"][0] == 1
    assert peer.last["sim/status"].late_ticks == 0


def test_plain_twist_at_real_time_with_noise(peer, map_yaml):
    publisher = peer.node.create_publisher(Twist, "fleet/ann/cmd_vel", RELIABLE)
    command = Twist()
    command.linear.x, command.angular.z = 0.2, 1.0
    odometry: list[Odometry] = []
    peer.listen(Odometry, "fleet/ann/odom", BEST_EFFORT, odometry.append)
    process = start(
        "simulator", "robots:=[ann]", f"map_yaml:={map_yaml}", "initial_poses:=[1.0, 1.0, 0.0]",
        "pose_noise_xy:=0.01", "pose_noise_yaw:=0.02", "real_time_factor:=4.0", namespace="/fleet",
    )  # fmt: skip
    try:
        peer.until(lambda: publisher.get_subscription_count() and odometry)
        begin, wall = seconds(odometry[-1].header.stamp), time.monotonic()

        def drive() -> bool:
            publisher.publish(command)
            message = odometry[-1]
            return message.twist.twist.angular.z > 0.99 and seconds(message.header.stamp) > begin + 8.0

        peer.until(drive)
        factor = (seconds(odometry[-1].header.stamp) - begin) / (time.monotonic() - wall)
        message = odometry[-1]
        assert message.twist.twist.linear.x == pytest.approx(0.2)
        assert message.child_frame_id == "ann/base_link"
        covariance = np.asarray(message.pose.covariance)
        assert covariance[[0, 7, 35]] == pytest.approx([1e-4, 1e-4, 4e-4])
        assert factor < 5.0, "faster than asked for"
        command.linear.x = math.nan
        peer.until(lambda: drive() or odometry[-1].twist.twist.linear.x == 0.0)
    finally:
        code, err = stop(process)
    assert code == 0, err


def test_on_the_system_clock_poses_are_stamped_when_they_are_measured(peer, map_yaml):
    publisher = peer.node.create_publisher(Twist, "ann/cmd_vel", RELIABLE)
    ages: list[float] = []
    peer.listen(
        Odometry, "ann/odom", BEST_EFFORT, lambda m: ages.append(time.time() - seconds(m.header.stamp))
    )
    peer.listen(SimStatus, "sim/status")
    peer.listen(Clock, "/clock")
    process = start(
        "simulator",
        "robots:=[ann]",
        f"map_yaml:={map_yaml}",
        "initial_poses:=[1.0, 1.0, 0.0]",
        "system_time:=true",
    )
    try:
        peer.until(
            lambda: publisher.get_subscription_count() and len(ages) > 20 and "sim/status" in peer.last
        )
        command = Twist()
        command.angular.z = 1.0

        def turns() -> bool:
            publisher.publish(command)
            return peer.last["ann/odom"].twist.twist.angular.z > 0.99

        peer.until(turns)
    finally:
        code, err = stop(process)
    assert code == 0, err
    assert all(-1e-3 < age < 30.0 for age in ages), ages
    assert abs(seconds(peer.last["sim/status"].header.stamp) - time.time()) < 90.0
    assert "/clock" not in peer.last


@pytest.mark.parametrize(
    ("module", "parameters", "named"),
    [
        ("simulator", (), "'robots'"),
        ("simulator", ("robots:=[ann]",), "'map_yaml'"),
        ("simulator", ("robots:=[ann, bob]", "initial_poses:=[0.0, 0.0, 0.0]"), "'initial_poses'"),
        ("simulator", ("robots:=[ann]", "drive:=legs"), "'drive'"),
        ("simulator", ("robots:=[ann]", "radius:=-1.0"), "radius"),
        ("simulator", ("robots:=[ann]", "rate:=fast"), "rate"),
        ("simulator", ("robots:=[ann]", "map_yaml:=MAP", "rate:=30.0"), "'publish_rate'"),
        ("simulator", ("robots:=[ann]", "map_yaml:=MAP", "lockstep:=true"), "'stamped_cmd_vel'"),
        (
            "simulator",
            ("robots:=[ann]", "map_yaml:=MAP", "system_time:=true", "real_time_factor:=2.0"),
            "'system_time'",
        ),
        (
            "simulator",
            ("robots:=[ann]", "map_yaml:=MAP", "system_time:=true", "fault_stall_rate:=1.0"),
            "'system_time'",
        ),
        ("simulator", ("robots:=[ann]", "map_yaml:=/none.yaml"), "/none.yaml"),
        ("simulator", ("robots:=[ann]", "map_yaml:=MAP", "initial_poses:=[50.0, 0.0, 0.0]"), "'ann'"),
        ("simulator", ("robots:=[ann]", "map_yaml:=MAP", "absent:=[eve]"), "'absent' names 'eve'"),
        ("simulator", ("robots:=[ann]", "map_yaml:=MAP", "fault_stall_rate:=-1.0"), "fault_stall_rate"),
        (
            "simulator",
            ("robots:=[ann]", "map_yaml:=MAP", "fault_stall_duration:=[2.0, 1.0]"),
            "fault_stall_duration must be two numbers",
        ),
        ("simulator", ("robots:=['no good']", "map_yaml:=MAP", "initial_poses:=[0.0, 0.0, 0.0]"), "no good"),
        ("map_publisher", (), "'map_yaml'"),
        ("map_publisher", ("map_yaml:=/none.yaml",), "/none.yaml"),
        ("task_source", (), "'robots'"),
        ("task_source", ("robots:=[ann, ann]",), "'ann' twice"),
        ("task_source", ("robots:=[ann]", "mode:=never"), "'mode'"),
        ("task_source", ("robots:=[ann]", "goals:=[1.0]"), "'goals'"),
    ],
)
def test_bad_parameters_end_the_node_and_are_named(map_yaml, module, parameters, named):
    process = start(module, *(text.replace("MAP", str(map_yaml)) for text in parameters))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert named in err
    assert "Traceback" not in err


def test_the_map_arrives_also_late(peer, map_yaml):
    process = start("map_publisher", f"map_yaml:={map_yaml}")
    try:
        peer.listen(OccupancyGrid, "map", LATCHED)
        peer.until(lambda: "map" in peer.last)
    finally:
        code, err = stop(process)
    assert code == 0, err
    got, expected = from_occupancy_grid(peer.last["map"]), load_map_yaml(map_yaml)
    np.testing.assert_array_equal(got.occupied, expected.occupied)
    np.testing.assert_allclose(got.origin, expected.origin)
    assert got.resolution == pytest.approx(0.05)


def fill_grid(response: GetGrid.Response) -> GetGrid.Response:
    """A grid of 4 x 6 cells with one blocked."""
    free = np.ones((4, 6), bool)
    free[1, 2] = False
    padded = np.pad(free, 1)
    near = [padded[1:-1, 1:-1], padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
    bits = sum((free & there).astype(np.uint8) << k for k, there in enumerate(near))
    response.success, response.frame_id, response.cell_size = True, "map", 0.7
    response.rows, response.cols = free.shape
    response.origin.position.x, response.origin.position.y = 1.0, 5.0
    response.free, response.moves = free.ravel().tolist(), bits.ravel().tolist()
    return response


def test_goal_streams_are_seeded_per_robot():
    grid = grid_of(fill_grid(GetGrid.Response()))
    assert grid.moves[0, 0].tolist() == [True, False, True, False, True]
    streams = [GoalStream(grid, 3, robots) for robots in (2, 5)]
    first = [streams[0].draw(1, set()) for _ in range(20)]
    assert [streams[1].draw(0, set()) for _ in range(20)] != first
    assert [streams[1].draw(1, set()) for _ in range(20)] == first
    cells = {tuple(cell) for cell in np.argwhere(grid.free).tolist()}
    assert set(first) <= cells
    left = cells - {(3, 5)}
    assert streams[0].draw(0, left) == (3, 5)
    with pytest.raises(ValueError, match="no cell is left"):
        streams[0].draw(0, cells)


@pytest.mark.parametrize("mode", ["lifelong", "once"])
def test_the_task_source_sends_first_next_and_lost_goals(peer, mode):
    def on_request(_, response):
        return fill_grid(response)

    peer.node.create_service(GetGrid, "fleet/get_grid", on_request)
    states = peer.node.create_publisher(FleetState, "fleet/state", RELIABLE)
    goals: dict[str, list[PoseStamped]] = {"ann": [], "bob": []}
    for name, got in goals.items():
        peer.listen(PoseStamped, f"{name}/goal_pose", RELIABLE, got.append)
    process = start("task_source", "robots:=[ann, bob]", f"mode:={mode}", "seed:=4")
    clock = [10.0]

    def state(reached: int, has_goal: bool) -> bool:
        clock[0] += 0.2
        message = FleetState()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(round(clock[0] * 1e9), 10**9)
        for name in goals:
            robot = RobotState(name=name, status=RobotState.MOVING, row=0, col=0)
            robot.goals_reached = reached if name == "ann" else 0
            robot.goal_row = robot.goal_col = 1 if has_goal or name == "bob" else -1
            message.robots.append(robot)
        states.publish(message)
        return False

    def count(*counts: int) -> bool:
        return [len(got) for got in goals.values()] == list(counts)

    try:
        peer.until(lambda: state(0, True) or count(1, 1))
        first = goals["ann"][0].pose.position
        assert (first.x, first.y) != (goals["bob"][0].pose.position.x, goals["bob"][0].pose.position.y)
        assert goals["ann"][0].header.frame_id == "map"
        lost = clock[0]
        peer.until(lambda: state(0, False) or count(2, 1))
        assert clock[0] > lost + 2.0
        assert goals["ann"][1].pose.position == first
        peer.until(lambda: state(0, True) or clock[0] > lost + 8.0)
        if mode == "lifelong":
            peer.until(lambda: state(1, True) or count(3, 1))
            assert goals["ann"][2].pose.position != first
        else:
            done = clock[0]
            peer.until(lambda: state(1, False) or clock[0] > done + 5.0)
            assert count(2, 1)
    finally:
        code, err = stop(process)
    assert code == 0, err


def test_bytes_are_what_ros_reads():
    odometry = cdr.OdometryBytes("map", "ann/base_link", 0.1, 0.2)
    data = odometry.write((7, 8), [1.0, 2.0, 0.6, 0.8, 3.0, 4.0, 5.0])
    message = deserialize_message(data, Odometry)
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (7, 8)
    pose, twist = message.pose.pose, message.twist.twist
    assert (pose.position.x, pose.position.y, pose.position.z) == (1.0, 2.0, 0.0)
    assert (pose.orientation.x, pose.orientation.z, pose.orientation.w) == (0.0, 0.6, 0.8)
    assert (twist.linear.x, twist.linear.y, twist.angular.z) == (3.0, 4.0, 5.0)
    xy, zw = np.arange(6.0).reshape(3, 2), np.arange(6.0, 12.0).reshape(3, 2)
    poses = deserialize_message(cdr.TruthBytes("map", 3).write((1, 2), xy, zw), PoseArray).poses
    assert [(p.position.x, p.position.y, p.orientation.z, p.orientation.w) for p in poses] == [
        (*xy[i], *zw[i]) for i in range(3)
    ]


@pytest.mark.parametrize("frame", ["", "a", "base_link", "robot_01/base_link"])
def test_commands_are_read_whatever_the_frame_name(frame):
    message = TwistStamped()
    message.header.frame_id = frame
    message.header.stamp.sec, message.header.stamp.nanosec = 3, 4
    message.twist.linear.x, message.twist.linear.y, message.twist.angular.z = 1.0, 2.0, 3.0
    assert cdr.read_twist_stamped(serialize_message(message)) == (3 * 10**9 + 4, 1.0, 2.0, 3.0)
    assert cdr.read_twist(serialize_message(message.twist)) == (0, 1.0, 2.0, 3.0)

"""A mixed fleet by one robots file, as processes over DDS: simulator, map, tasks, fleet node and watchdog."""

from __future__ import annotations

import ctypes
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

from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped, Twist, TwistStamped  # noqa: E402
from marlgpt_msgs.msg import FleetState, SimStatus  # noqa: E402
from marlgpt_msgs.srv import RobotCommand  # noqa: E402
from marlgpt_policy.grid.occupancy_map import OccupancyMap, save_map_yaml  # noqa: E402
from marlgpt_policy.robots.robots_file import FleetFile  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402

SOURCES = [str(ROOT / "ros2_ws" / "src" / name) for name in ("marlgpt_policy", "marlgpt_sim")]
ROBOTS = """
map_frame: site
defaults: {limits: {max_speed: 1.0, max_yaw_rate: 3.0}}
robots:
  - {name: alice, initial_pose: [0.7, 0.7, 0.0]}
  - name: bob
    pose_source: pose
    pose_topic: bob/amcl_pose
    stamped_cmd_vel: true
    initial_pose: [4.5, 0.8, 1.0]
  - name: carol
    radius: 0.3
    drive: holonomic
    limits: {max_speed: 0.6, max_acceleration: 1.0}
    pose_source: pose_stamped
    cmd_vel_topic: carol/base/cmd
    goal_topic: carol/go
    initial_pose: [2.5, 3.2, 0.0]
"""
JOINS = "  - {name: eve, initial_pose: [6.2, 3.3, 2.0]}\n"  # in the simulator's file only
NAMES = ["alice", "bob", "carol", "eve"]


def die_with_parent():
    """Linux: the kernel ends the child when the test process ends, however that happens."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Site:
    """The processes in a namespace, and a node here that watches."""

    def __init__(self, folder: Path, domain: int) -> None:
        self.folder, self.processes = folder, {}
        self.environment = {
            **os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "ROS_LOG_DIR": str(folder), "RCUTILS_COLORIZED_OUTPUT": "0", "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([*SOURCES, os.environ.get("PYTHONPATH", "")]),
        }  # fmt: skip
        occupied = np.zeros((84, 144), bool)
        save_map_yaml(
            OccupancyMap(occupied, np.zeros_like(occupied), 0.05, (0.0, 0.0, 0.0)), folder / "site.yaml"
        )
        map_yaml = f"map_yaml:='{folder / 'site.yaml'}'"
        (folder / "robots.yaml").write_text(ROBOTS)
        (folder / "all.yaml").write_text(ROBOTS + JOINS)
        file = f"robots_file:={folder / 'robots.yaml'}"
        everyone = f"robots_file:={folder / 'all.yaml'}"
        self.start("marlgpt_sim", "simulator", everyone, map_yaml, "cmd_timeout:=0.2")
        self.start("marlgpt_sim", "map_publisher", map_yaml, "map_frame:=site")
        # The plain parameters are there as well, as in every params_file, and not looked at.
        old = ("robots:=[x]", "radius:=0.1", "map_frame:=map", "providers:=[CPUExecutionProvider]")
        self.start("marlgpt_policy", "fleet_node", file, *old, "use_sim_time:=true", "autostart:=true")
        self.start("marlgpt_policy", "watchdog_node", file, "robots:=[x]", "timeout:=1.0")
        self.context = rclpy.Context()
        self.context.init(domain_id=domain)
        self.node = rclpy.create_node("watcher", namespace="yard", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.state = self.sim = None
        self.node.create_subscription(FleetState, "fleet/state", lambda m: setattr(self, "state", m), 10)
        self.node.create_subscription(SimStatus, "sim/status", lambda m: setattr(self, "sim", m), 10)
        self.commands, self.frames = {}, {}
        kinds = {
            "alice/cmd_vel": Twist,
            "bob/cmd_vel": TwistStamped,
            "carol/base/cmd": Twist,
            "eve/cmd_vel": Twist,
        }
        for topic, kind in kinds.items():
            self.node.create_subscription(kind, topic, lambda m, topic=topic: self.command(topic, m), 1)

    def start(self, package, name, *parameters):
        command = [sys.executable, "-m", f"{package}.nodes.{name}", "--ros-args", "-r", "__ns:=/yard"]
        for parameter in parameters:
            command += ["-p", parameter]
        log = open(self.folder / f"{name}.log", "w")  # noqa: SIM115
        self.processes[name] = subprocess.Popen(
            command, env=self.environment, stdout=log, stderr=log, preexec_fn=die_with_parent
        )

    def command(self, topic, message):
        if isinstance(message, TwistStamped):
            self.frames[topic] = message.header.frame_id
            message = message.twist
        self.commands[topic] = np.hypot(message.linear.x, message.linear.y)

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def until(self, condition, what, timeout=100.0):
        end = time.monotonic() + timeout
        while not condition():
            dead = [name for name, process in self.processes.items() if process.poll() is not None]
            assert not dead, f"{dead} ended:\n{self.log(dead[0])[-3000:]}"
            assert time.monotonic() < end, f"did not {what}: {self.state}\n{self.log('fleet_node')[-3000:]}"
            self.executor.spin_once(timeout_sec=0.1)

    def goals(self):
        return {} if self.state is None else {r.name: r.goals_reached for r in self.state.robots}

    def close(self):
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path, domains.take())
    yield site
    site.close()


@pytest.mark.slow
def test_a_mixed_fleet_reaches_its_goals_without_contact(site):
    # A robot that the fleet's file does not list joins with the file's defaults.
    site.until(lambda: len(site.goals()) == 3, "start")
    client = site.node.create_client(RobotCommand, "fleet/add_robot")
    answer = client.call_async(RobotCommand.Request(robot="eve"))
    site.until(answer.done, "answer")
    assert answer.result().success, answer.result().message
    everyone = f"robots_file:={site.folder / 'all.yaml'}"
    site.start("marlgpt_sim", "task_source", everyone, "use_sim_time:=true")
    site.until(lambda: len(site.goals()) == 4 and min(site.goals().values()) >= 1, "reach four goals")
    assert (site.sim.robot_contacts, site.sim.wall_contacts) == (0, 0)
    assert site.state.header.frame_id == "site" and "its frame is" not in site.log("fleet_node")
    topics = dict(site.node.get_topic_names_and_types())
    assert topics["/yard/bob/amcl_pose"] == ["geometry_msgs/msg/PoseWithCovarianceStamped"]
    assert topics["/yard/carol/pose"] == ["geometry_msgs/msg/PoseStamped"]
    assert topics["/yard/alice/odom"] == ["nav_msgs/msg/Odometry"]
    assert topics["/yard/carol/go"] == ["geometry_msgs/msg/PoseStamped"] and "/yard/x/cmd_vel" not in topics
    assert site.frames["bob/cmd_vel"] == "bob/base_link"

    # The watchdog knows topic and type of each robot's commands, also of the one that joined.
    site.until(lambda: max(site.commands.values()) > 0.2, "drive")
    site.processes.pop("fleet_node").kill()
    site.until(lambda: "no heartbeat" in site.log("watchdog_node"), "be noticed")
    site.commands.clear()
    site.until(lambda: len(site.commands) == 4, "be told to stand")
    assert set(site.commands.values()) == {0.0}
    assert (site.sim.robot_contacts, site.sim.wall_contacts) == (0, 0)


def run(module, *parameters):
    command = [sys.executable, "-m", module, "--ros-args"]
    for parameter in parameters:
        command += ["-p", parameter]
    path = os.pathsep.join([*SOURCES, os.environ.get("PYTHONPATH", "")])
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "ROS_DOMAIN_ID": str(domains.take()),
        "RCUTILS_COLORIZED_OUTPUT": "0",
    }
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("node", "more"),
    [
        ("marlgpt_policy.nodes.fleet_node", ["autostart:=true"]), ("marlgpt_policy.nodes.robot_node", ["name:=alice"]),
        ("marlgpt_policy.nodes.watchdog_node", []), ("marlgpt_sim.nodes.simulator", []),
        ("marlgpt_sim.nodes.task_source", []),
    ],
)  # fmt: skip
def test_every_node_says_what_is_wrong_in_the_file(node, more, tmp_path):
    file = tmp_path / "robots.yaml"
    file.write_text("robots: {alice: {raduis: 1}}")
    ended = run(node, f"robots_file:={file}", *more)
    assert ended.returncode in (1, 2)
    output = ended.stdout + ended.stderr
    assert f"{file}: robot 'alice': key 'raduis' is unknown; did you mean 'radius'?" in output, output
    assert "Traceback" not in output


def test_robots_without_a_start_stand_clear_of_those_with_one():
    from marlgpt_policy.grid.nav_grid import build_grid
    from marlgpt_sim.world.spawn import place_fleet

    occupied = np.zeros((80, 80), bool)
    grid = build_grid(OccupancyMap(occupied, np.zeros_like(occupied), 0.05, (0.0, 0.0, 0.0)), 0.3)
    fleet = FleetFile.default([f"r{i}" for i in range(8)])
    known = [(1.5, 1.7, 0.5) if i in (1, 4) else None for i in range(8)]
    known[4] = (3.1, 3.1, 0.0)
    poses = place_fleet(grid, known, 3)
    assert poses[1].tolist() == [1.5, 1.7, 0.5] and poses[4].tolist() == [3.1, 3.1, 0.0]
    gaps = np.linalg.norm(poses[:, None, :2] - poses[None, :, :2], axis=2) + 9.0 * np.eye(len(fleet))
    assert gaps.min() >= grid.cell_size - 1e-9
    with pytest.raises(ValueError, match="cannot place 98 robots: .* fit beside the 2 whose start is given"):
        place_fleet(grid, known[:5] + [None] * 95, 3)


def test_poses_as_bytes_are_what_ros_reads():
    from marlgpt_sim.nodes.sim_messages import PoseBytes
    from rclpy.serialization import deserialize_message

    for kind in (PoseStamped, PoseWithCovarianceStamped):
        message = deserialize_message(
            PoseBytes(kind, "site", 0.1, 0.2).write((7, 8), [1.0, 2.0, 0.6, 0.8, 9.0, 9.0, 9.0]), kind
        )
        pose = message.pose if kind is PoseStamped else message.pose.pose
        assert (message.header.frame_id, message.header.stamp.sec, message.header.stamp.nanosec) == (
            "site",
            7,
            8,
        )
        assert (pose.position.x, pose.position.y, pose.orientation.z, pose.orientation.w) == (
            1.0,
            2.0,
            0.6,
            0.8,
        )
    assert message.pose.covariance[0] == pytest.approx(0.01) and message.pose.covariance[35] == pytest.approx(
        0.04
    )

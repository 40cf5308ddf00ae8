"""Robot nodes as processes of their own with the real simulator, over DDS: no fleet node, nobody touches anything."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

import domains
import numpy as np
import pytest
from places import ROOT

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("marlgpt_msgs")

from geometry_msgs.msg import PoseStamped  # noqa: E402
from marlgpt_msgs.msg import PeerState, RobotState, SimStatus  # noqa: E402
from marlgpt_policy.decentralised.peer_state import Shown, State  # noqa: E402
from marlgpt_policy.grid.nav_grid import build_grid  # noqa: E402
from marlgpt_policy.grid.occupancy_map import OccupancyMap, save_map_yaml  # noqa: E402
from marlgpt_policy.nodes.messages.conversions import grid_hash  # noqa: E402
from marlgpt_policy.nodes.messages.peer_messages import cells_around, read_state, write_state  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from std_msgs.msg import Bool  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

SOURCES = [str(ROOT / "ros2_ws" / "src" / name) for name in ("marlgpt_policy", "marlgpt_sim")]
PEERS = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
NAMES = ["a", "b", "c", "d"]
RADIUS = 0.22
STARTS = [(0, 0), (0, 7), (4, 0), (4, 7)]


def room():
    """An empty room of 5 x 8 cells."""
    occupied = np.zeros((4 * 14 + 11, 7 * 14 + 11), bool)
    return OccupancyMap(occupied, np.zeros_like(occupied), 0.05, (0.0, 0.0, 0.0))


def die_with_parent():
    """Linux: the kernel ends the child when the test process ends, however that happens."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Floor:
    """A simulator, its map, one robot node per robot, and a node here that gives goals and watches.

    Robot d speaks and hears on a topic of its own; this node passes its messages on, or not.
    """

    def __init__(self, folder, domain):
        self.folder, self.grid = folder, build_grid(room(), RADIUS)
        self.environment = {
            **os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "ROS_LOG_DIR": str(folder), "RCUTILS_COLORIZED_OUTPUT": "0", "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([*SOURCES, os.environ.get("PYTHONPATH", "")]),
        }  # fmt: skip
        self.processes = {}
        save_map_yaml(room(), folder / "room.yaml")
        where = [[*self.grid.centre(np.array(cell)).tolist(), 0.0] for cell in STARTS]
        limits = {"max_speed": 1.0, "max_yaw_rate": 2.5, "max_acceleration": 2.0, "max_yaw_acceleration": 5.0}
        self.start(
            "simulator", "marlgpt_sim.nodes.simulator", robots=NAMES, map_yaml=f"'{folder / 'room.yaml'}'",
            initial_poses=sum(where, []), drive="holonomic", cmd_timeout=0.2, **limits,
        )  # fmt: skip
        self.start("map", "marlgpt_sim.nodes.map_publisher", map_yaml=f"'{folder / 'room.yaml'}'")
        for name in NAMES:
            self.start(
                name, "marlgpt_policy.nodes.robot_node", robots=NAMES, drive="holonomic", use_sim_time=True,
                providers=["CPUExecutionProvider"], remaps={"fleet/peers": "d/peers"} if name == "d" else {},
                **{"name": name, **limits},
            )  # fmt: skip
        self.context = rclpy.Context()
        self.context.init(domain_id=domain)
        self.node = rclpy.create_node("watcher", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.states, self.said, self.sim, self.deaf = {}, {}, None, False
        for name in NAMES:
            self.node.create_subscription(
                RobotState, f"{name}/state", lambda m, name=name: self.states.update({name: m}), 10
            )
        self.goals = {
            name: self.node.create_publisher(PoseStamped, f"{name}/goal_pose", 10) for name in NAMES
        }
        self.to_all = self.node.create_publisher(PeerState, "fleet/peers", PEERS)
        self.to_d = self.node.create_publisher(PeerState, "d/peers", PEERS)
        self.emergency = self.node.create_publisher(Bool, "b/emergency_stop", 10)
        self.node.create_subscription(PeerState, "fleet/peers", self.relay, PEERS)
        self.node.create_subscription(PeerState, "d/peers", self.relay, PEERS)
        self.node.create_subscription(SimStatus, "sim/status", lambda m: setattr(self, "sim", m), 10)
        self.loses_d = False

    def start(self, label, module, /, remaps=None, **parameters):
        command = [sys.executable, "-m", module, "--ros-args"]
        for key, value in parameters.items():
            command += ["-p", f"{key}:={value}"]
        for key, value in (remaps or {}).items():
            command += ["-r", f"{key}:={value}"]
        with (self.folder / f"{label}.log").open("ab") as log:
            self.processes[label] = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, preexec_fn=die_with_parent
            )

    def relay(self, message):
        self.said[message.name] = message
        if message.name != "d":
            self.to_d.publish(message)
        elif not self.loses_d:
            self.to_all.publish(message)

    def go(self, name, cell):
        message = PoseStamped()
        message.header.frame_id = "map"
        message.pose.position.x, message.pose.position.y = self.grid.centre(np.array(cell)).tolist()
        message.pose.orientation.w = 1.0
        self.goals[name].publish(message)

    def logs(self):
        return "\n".join(f"{p.name}:\n{p.read_text()[-1500:]}" for p in sorted(self.folder.glob("*.log")))

    def until(self, condition, what, seconds=120.0):
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                states = [(n, s.status, s.row, s.col, s.detail) for n, s in self.states.items()]
                pytest.fail(f"no {what} within {seconds} s; {states}\n{self.logs()}")
            self.executor.spin_once(timeout_sec=0.05)

    def spin(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)

    def at(self, name):
        state = self.states[name]
        return state.row, state.col

    def reached(self, **counts):
        return all(name in self.states and self.states[name].goals_reached >= n for name, n in counts.items())

    def call(self, name):
        client = self.node.create_client(Trigger, name)
        self.until(client.service_is_ready, f"service {name}")
        future = client.call_async(Trigger.Request())
        self.until(future.done, f"answer of {name}")
        return future.result()

    def close(self):
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
        self.node.destroy_node()
        self.executor.shutdown()
        self.context.shutdown()


@pytest.fixture(scope="module")
def floor(tmp_path_factory):
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    floor = Floor(tmp_path_factory.mktemp("floor"), domains.take())
    yield floor
    floor.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_robots_swap_corners_without_a_fleet_node(floor):
    joined = (RobotState.IDLE, RobotState.WAITING, RobotState.MOVING)
    floor.until(lambda: len(floor.states) == 4, "states of all robots")
    floor.until(lambda: all(s.status in joined for s in floor.states.values()), "joined robots")
    for name, cell in zip(NAMES, reversed(STARTS), strict=True):
        floor.go(name, cell)
    floor.until(lambda: floor.reached(a=1, b=1, c=1, d=1), "goals reached")
    assert floor.sim.robot_contacts == 0 and floor.sim.wall_contacts == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_emergency_stop_lasts_until_resumed(floor):
    floor.go("b", (4, 4))
    floor.until(lambda: floor.states["b"].status == RobotState.MOVING, "moving robot")
    floor.emergency.publish(Bool(data=True))
    floor.until(lambda: floor.states["b"].status == RobotState.STOPPED, "stopped robot")
    assert floor.states["b"].detail == "emergency stop"
    floor.emergency.publish(Bool(data=False))
    floor.spin(1.0)
    assert floor.states["b"].status == RobotState.STOPPED
    assert floor.call("b/resume").success
    before = floor.states["b"].goals_reached
    floor.until(lambda: floor.states["b"].goals_reached > before, "goal after the stop")
    assert floor.sim.robot_contacts == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_others_keep_clear_of_a_robot_whose_messages_are_lost(floor):
    floor.loses_d = True
    floor.spin(2.0)
    floor.go("d", (4, 7))
    there = floor.at("d")
    before = {name: floor.states[name].goals_reached for name in NAMES}
    for name, cell in zip("abc", [(0, 7), (4, 6), (3, 5)], strict=True):
        floor.go(name, cell)
    floor.until(
        lambda: all(floor.states[name].goals_reached > before[name] for name in "abc"), "goals of the others"
    )
    assert floor.at("d") == there and floor.states["d"].goals_reached == before["d"]
    assert "too few robots hear this one" in floor.states["d"].detail
    assert floor.sim.robot_contacts == 0
    floor.loses_d = False
    floor.until(lambda: floor.states["d"].goals_reached > before["d"], "goal of the robot heard again")
    assert floor.sim.robot_contacts == 0


def test_a_state_survives_its_message():
    state = State(
        "a", 7, 9, 12.5, 4, "hash", ((1, 2), (1, 3)), (1, 4), 3, {"b": (5, 6, 0.25)},
        Shown((1.0, 2.0, 0.5), True, (0, 4), 1.5, (3, 0, -1)),
    )  # fmt: skip
    back = read_state(write_state(state, "map"))
    assert back.shown.pose == pytest.approx(state.shown.pose)
    assert vars(back) | {"shown": None} == vars(state) | {"shown": None}
    assert vars(back.shown) | {"pose": None} == vars(state.shown) | {"pose": None}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"held_rows": [1]}, "different lengths"),
        ({"held_rows": [], "held_cols": []}, "no cell"),
        ({"heard_age": [float("nan")]}, "not finite"),
        ({"peers": []}, "different lengths"),
    ],
)
def test_a_broken_state_is_refused(change, text):
    message = write_state(State("a", 1, 1, 0.0, 1, "k", ((1, 2), (1, 3)), heard={"b": (1, 1, 0.0)}), "map")
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(ValueError, match=text):
        read_state(message)


def test_another_map_has_another_hash_and_still_takes_space():
    grid = build_grid(room(), RADIUS)
    moved = OccupancyMap(room().occupied, room().unknown, 0.05, (0.01, 0.0, 0.0))
    assert grid_hash(grid) == grid_hash(build_grid(room(), RADIUS))
    assert grid_hash(grid) != grid_hash(build_grid(moved, RADIUS))
    x, y = grid.centre(np.array([2, 3]))
    assert set(cells_around(grid, (x, y, 0.0))) == {(r, c) for r in (1, 2, 3) for c in (2, 3, 4)}

"""A fleet node in a process of its own, and the map, robots and operator around it, for the tests of the node."""

import ctypes
import os
import signal
import subprocess
import sys
import time

import domains
import numpy as np
import onnx
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, Twist
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from marlgpt_msgs.action import Navigate
from marlgpt_msgs.msg import FleetDecision, FleetState, Heartbeat, RobotState
from marlgpt_msgs.srv import GetGrid, LoadPolicy, RobotCommand
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from nav_msgs.msg import OccupancyGrid, Odometry
from onnx import TensorProto, helper
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
ROWS, COLS, CELL = 3, 5, 0.7


def write_policy(path):
    """A policy that takes the moves which bring a robot closer to its goal."""
    columns, weights = np.zeros(20, np.int64), np.zeros((1, 20), np.float32)
    columns[1:5], weights[0, 1:5] = range(135, 139), 30.0
    nodes = [
        helper.make_node("Gather", ["values", "columns"], ["closer"], axis=1),
        helper.make_node("Mul", ["closer", "weights"], ["weighted"]),
        helper.make_node("Where", ["action_mask", "weighted", "forbidden"], ["logits"]),
        helper.make_node("Identity", ["weighted"], ["q"]),
        helper.make_node("Not", ["valid"], ["unused"]),
    ]
    inputs = [
        helper.make_tensor_value_info("values", TensorProto.FLOAT, ["robots", 356]),
        helper.make_tensor_value_info("valid", TensorProto.BOOL, ["robots", 356]),
        helper.make_tensor_value_info("action_mask", TensorProto.BOOL, ["robots", 20]),
    ]
    outputs = [helper.make_tensor_value_info(k, TensorProto.FLOAT, ["robots", 20]) for k in ("logits", "q")]
    constants = {"columns": columns, "weights": weights, "forbidden": np.full((1, 1), -1e9, np.float32)}
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(
        model, {"format_version": "1", "layout_name": "pogema-1", "layout_hash": POGEMA_LAYOUT.hash}
    )
    path.write_bytes(model.SerializeToString())
    return path


def hall():
    """An empty hall of 3 x 5 cells with one blocked corner cell, row 2 column 4 of the grid."""
    data = np.zeros(((ROWS - 1) * 14 + 11, (COLS - 1) * 14 + 11), dtype=np.int8)
    data[:8, -8:] = 100
    message = OccupancyGrid()
    message.header.frame_id = "map"
    message.info.resolution = 0.05
    message.info.height, message.info.width = data.shape
    message.info.origin.orientation.w = 1.0
    message.data = data.ravel().tolist()
    return message


def die_with_parent():
    """Linux: the kernel ends the child when the test process ends, however that happens."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Bench:
    """The node under test in a process, and a node here that plays map, robots and operator.

    Attributes:
        poses: Positions of the robots that send odometry, m.
        commands: Velocities heard, by robot.
        heard: Times (time.monotonic) of those commands.
        states, decisions, heartbeats, health: Messages heard.
    """

    def __init__(self, folder, domain, policy, robots, **parameters):
        self.folder, self.robots = folder, robots
        self.environment = {
            **os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "ROS_LOG_DIR": str(folder), "RCUTILS_COLORIZED_OUTPUT": "0",
        }  # fmt: skip
        self.parameters = {
            "robots": f"[{', '.join(robots)}]", "policy": policy, "providers": "[CPUExecutionProvider]",
            "max_speed": 2.0, "max_yaw_rate": 4.0, "drive": "holonomic", "temperature": 0.0, **parameters,
        }  # fmt: skip
        self.process = self.log = None
        self.start()
        self.context = Context()
        self.context.init(domain_id=domain)
        self.node = Node("bench", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.poses, self.commands, self.heard = {}, {}, {}
        self.odometry, self.goal, self.press = {}, {}, {}
        self.states, self.decisions, self.heartbeats, self.health = [], [], [], []
        self.map = self.node.create_publisher(OccupancyGrid, "map", LATCHED)
        self.press_all = self.node.create_publisher(Bool, "fleet/emergency_stop", 10)
        for robot in robots:
            self.add(robot)
        self.node.create_subscription(FleetState, "fleet/state", self.states.append, 10)
        self.node.create_subscription(FleetDecision, "fleet/decisions", self.decisions.append, 10)
        self.node.create_subscription(Heartbeat, "fleet/heartbeat", self.heartbeats.append, 10)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.health.append, 10)
        self.timer = self.node.create_timer(0.05, self.send_poses)
        self.navigate = ActionClient(self.node, Navigate, "fleet/navigate")

    def start(self, **parameters):
        """Start the node; it logs to a file of its own."""
        self.process, self.log = self.spawn("fleet_node", {**self.parameters, **parameters})

    def restart(self):
        """Start the node again as launch files do after a crash: it takes over by itself."""
        self.states.clear()
        self.start(autostart=True)
        self.until(lambda: self.logged("map accepted") and self.states, "take over")

    def spawn(self, module, parameters, package="marlgpt_policy"):
        """A node's process and its log."""
        command = [sys.executable, "-m", f"{package}.nodes.{module}", "--ros-args"]
        for name, value in parameters.items():
            command += ["-p", f"{name}:={value}"]
        log = self.folder / f"{module}_{len(list(self.folder.glob('*.txt')))}.txt"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, env=self.environment, stdout=file, stderr=file, preexec_fn=die_with_parent
            )
        return process, log

    def kill(self):
        """SIGKILL: the node has no chance to say anything."""
        self.process.kill()
        self.process.wait()
        self.process = None

    def add(self, robot):
        """Play one more robot."""
        self.commands[robot], self.heard[robot] = [], []
        self.odometry[robot] = self.node.create_publisher(Odometry, f"{robot}/odom", BEST_EFFORT)
        self.goal[robot] = self.node.create_publisher(PoseStamped, f"{robot}/goal_pose", 10)
        self.press[robot] = self.node.create_publisher(Bool, f"{robot}/emergency_stop", 10)
        self.node.create_subscription(Twist, f"{robot}/cmd_vel", lambda m: self.obey(robot, m), 10)

    def bring_up(self, cells, chart=None):
        """Configure, activate, send the map, and place the robots on cells (row, column)."""
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            assert self.change_state(transition), self.log.read_text()
        if chart is not False:
            self.map.publish(hall() if chart is None else chart)
        self.until(lambda: self.logged("map accepted"), "map")
        self.grid = self.call(GetGrid, "fleet/get_grid", GetGrid.Request())
        self.poses |= {robot: centre(self.grid, *cell) for robot, cell in cells.items()}

    def obey(self, robot, twist):
        """One control period of a robot without inertia and without yaw."""
        self.commands[robot].append((twist.linear.x, twist.linear.y, twist.angular.z))
        self.heard[robot].append(time.monotonic())
        if robot in self.poses:
            self.poses[robot] = self.poses[robot] + 0.05 * np.array([twist.linear.x, twist.linear.y])

    def watched(self):
        """Wait until a watchdog hears the node."""
        self.health.clear()
        self.until(
            lambda: any(s.message == "heartbeats come" for m in self.health for s in m.status),
            "watchdog that hears",
        )

    def moving(self, robot, speed=0.3):
        """Was the robot's last command to move?"""
        return bool(self.commands[robot]) and np.abs(self.commands[robot][-1]).max() > speed

    def go(self, robot, row, col):
        """Send a goal by topic."""
        self.goal[robot].publish(self.goal_at(centre(self.grid, row, col)))

    def command(self, name, robot):
        """Call fleet/<name> for a robot."""
        return self.call(RobotCommand, f"fleet/{name}", RobotCommand.Request(robot=robot))

    def trigger(self, name):
        """Call fleet/<name>."""
        return self.call(Trigger, f"fleet/{name}", Trigger.Request())

    def send_poses(self):
        for robot, (x, y) in self.poses.items():
            self.odometry[robot].publish(self.pose(x, y))

    @staticmethod
    def pose(x, y, frame="map"):
        message = Odometry()
        message.header.frame_id = frame
        message.pose.pose.position.x, message.pose.pose.position.y = float(x), float(y)
        message.pose.pose.orientation.w = 1.0
        return message

    @staticmethod
    def goal_at(xy):
        message = PoseStamped()
        message.header.frame_id = "map"
        message.pose.position.x, message.pose.position.y = (float(v) for v in xy)
        message.pose.orientation.w = 1.0
        return message

    def until(self, condition, what, seconds=20.0):
        """Spin until the condition holds; fails with the node's log otherwise."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                pytest.fail(f"no {what} within {seconds} s; log of the node:\n{self.log.read_text()}")
            assert self.process is None or self.process.poll() is None, self.log.read_text()
            self.executor.spin_once(timeout_sec=0.05)

    def spin(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)

    def call(self, kind, name, request, seconds=20.0):
        client = self.node.create_client(kind, name)
        self.until(client.service_is_ready, f"service {name}")
        self.spin(0.1)  # the way back may not have been found yet
        future = client.call_async(request)
        self.until(future.done, f"answer of {name}", seconds)
        self.node.destroy_client(client)
        return future.result()

    def change_state(self, transition, seconds=120.0):  # kernels are compiled in configure
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.call(ChangeState, "fleet_node/change_state", request, seconds).success

    def set(self, **values):
        parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        request = SetParameters.Request(parameters=parameters)
        results = self.call(SetParameters, "fleet_node/set_parameters", request).results
        assert all(result.successful for result in results), results

    def load(self, path, sha256=""):
        """Call fleet/load_policy."""
        return self.call(LoadPolicy, "fleet/load_policy", LoadPolicy.Request(path=str(path), sha256=sha256))

    def logged(self, text):
        return text in self.log.read_text()

    def robot(self, name) -> RobotState | None:
        return next((r for r in self.states[-1].robots if r.name == name), None) if self.states else None

    def fresh_state(self):
        """The next fleet/state that is sent from now on."""
        before = len(self.states)
        self.until(lambda: len(self.states) > before + 1, "fleet/state")
        return self.states[-1]

    def close(self):
        """End the node as an interrupt does; it must end well."""
        code = 0
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGINT)
            try:
                code = self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                code = self.process.wait()
        self.executor.shutdown()
        self.navigate.destroy()
        self.node.destroy_node()
        self.context.try_shutdown()
        assert code == 0, self.log.read_text()


def centre(grid, row, col):
    return np.array([
        grid.origin.position.x + col * grid.cell_size, grid.origin.position.y - row * grid.cell_size
    ])  # fmt: skip


def open_bench(tmp_path_factory, policy, robots=("a", "b"), **parameters):
    """A bench in a DDS domain of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        return Bench(tmp_path_factory.mktemp("bench"), domains.take(), policy, list(robots), **parameters)


class Pulse:
    """The longest silence of the heartbeat while a block runs, s."""

    def __init__(self, bench):
        self.bench, self.longest, self._last, self._seen = bench, 0.0, None, 0

    def __enter__(self):
        self._last, self._seen = time.monotonic(), len(self.bench.heartbeats)
        self._timer = self.bench.node.create_timer(0.005, self._look)
        return self

    def _look(self):
        if len(self.bench.heartbeats) > self._seen:
            self._last, self._seen = time.monotonic(), len(self.bench.heartbeats)
        self.longest = max(self.longest, time.monotonic() - self._last)

    def __exit__(self, *_):
        self.bench.node.destroy_timer(self._timer)

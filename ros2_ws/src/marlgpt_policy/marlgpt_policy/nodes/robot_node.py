"""The node of one robot of a decentralised fleet: messages in and out around its ``RobotController``.

Names are relative: ``map``, ``fleet/peers``, ``fleet/emergency_stop`` and ``<name>/...`` for the robot's own topics.
"""

from __future__ import annotations

import signal
import sys
import time

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from marlgpt_msgs.msg import PeerState, RobotState
from marlgpt_msgs.srv import GetGrid
from nav_msgs.msg import OccupancyGrid
from rcl_interfaces.msg import SetParametersResult
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.time import Time
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from marlgpt_policy.decentralised.peer_state import Rules, State
from marlgpt_policy.decentralised.robot_controller import ControllerConfig, RobotController
from marlgpt_policy.kernels.kernel_warmup import Kernels
from marlgpt_policy.nodes import parameters
from marlgpt_policy.nodes import policy_files as policies
from marlgpt_policy.nodes.cmd_vel_publishers import CmdVelPublishers
from marlgpt_policy.nodes.event_log import short
from marlgpt_policy.nodes.map_input import map_digest, read_map, refusal
from marlgpt_policy.nodes.messages import conversions
from marlgpt_policy.nodes.messages import message_checks as intake
from marlgpt_policy.nodes.messages.peer_messages import cells_around, read_state, write_state
from marlgpt_policy.nodes.parameters import LONGEST_NAME, Spec
from marlgpt_policy.nodes.pose_sources import NoPose, Poses, require_tf
from marlgpt_policy.nodes.qos import LATCHED, RELIABLE
from marlgpt_policy.policy.onnx_policy import PolicyError
from marlgpt_policy.policy.policy_swap import PolicySwap
from marlgpt_policy.policy.probes import sample

PEERS = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
UNUSED = (
    "autostart", "require_policy_hash", "execution", "jump_distance", "jump_settle", "first_settle", "step_timeout",
    "goal_grace", "trigger",
)  # fmt: skip
"""Parameters of the fleet node that this node does not use: refused, unless a shared file gives their defaults."""
OWN_PARAMETERS: dict[str, Spec] = {
    "name": Spec("", "Which of the robots this node drives."),
    "absent": Spec(
        Parameter.Type.STRING_ARRAY,
        "Robots that are not on the floor, so that nobody waits for them; may be changed at any time.",
    ),
    "fleet_max_speed": Spec(
        0.0,
        "Largest speed of any robot of the fleet, m/s, the same for all; 0 for the largest max_speed it knows of.",
        0.0,
        20.0,
    ),
    "message_rate": Spec(10.0, "States sent to the other robots per second, besides changes.", 2.0, 100.0),
    "quorum_age": Spec(
        1.0, "Seconds within which a majority must have heard this robot; the same for all.", 0.1, 60.0
    ),
    "clock_slack": Spec(
        0.1, "Seconds by which two robots' clocks may differ about the length of an interval.", 0.001, 5.0
    ),
}


LISTEN = 1.0
"""Seconds that a node listens, before it commands anything, whether another one drives its robot."""
NOT_ALONE = 2
"""Exit status of a node whose robot another one drives."""


class RobotNode(Node):
    """Waits for a map and a pose, joins the other robots, and drives to the goals that its robot is given."""

    def __init__(self, **options) -> None:
        """Read the parameters, load and try out the policy, compile, and subscribe.

        Raises:
            ValueError: A parameter or the policy file is wrong; the message names it.
        """
        super().__init__("robot_node", **options)
        used = {name: spec for name, spec in parameters.PARAMETERS.items() if name not in UNUSED}
        shared = {name: parameters.PARAMETERS[name] for name in UNUSED}
        parameters.refuse_unused(self, {**used, **OWN_PARAMETERS}, shared)
        parameters.declare(self, used)
        parameters.declare(self, OWN_PARAMETERS)
        self.settings = parameters.read(self)
        own = {name: self.get_parameter_or(name, None) for name in OWN_PARAMETERS}
        self.own = {name: None if value is None else value.value for name, value in own.items()}
        self.robot = next((r for r in self.settings.robots if r.name == self.own["name"]), None)
        if self.robot is None:
            names = ", ".join(robot.name for robot in self.settings.robots)
            raise ValueError(f"parameter 'name' is '{self.own['name']}'; it must be one of robots: {names}")
        self.entry = self.settings.robots_file[self.robot.name]
        require_tf(self.entry)
        policy = policies.start_policy(self.settings, self.settings.policy, self.settings.policy_sha256)
        policy.wait_loaded(self.settings.policy_load_timeout)
        self._kernels = Kernels(self.get_logger().info)
        policy.try_out(sample(None, 1), self.settings.policy_load_timeout)
        self.policy = PolicySwap(policy, 1.0 / self.settings.control_rate)
        self._late = 0  # decisions that it was too late for, as far as told
        self.lone: RobotController | None = None
        self.rejected = 0
        self._stopped = ""  # why, while it is; outlives maps
        self._early_goal: PoseStamped | None = None
        self.not_alone = ""
        """Why this node must end: another process drives its robot."""
        self._spoken: set[int] = set()  # incarnations in which this process has spoken
        self._twin = (0, 0, 0)  # incarnation, sequence and number of messages of another one under this name
        self._pose_stamp = 0
        self._newest_clock = 0.0
        self._warned: dict[str, float] = {}
        self._connect(self.robot.name)
        self.add_on_set_parameters_callback(self._on_parameters)
        self.get_logger().info(f"drives {self.robot.name} with policy {self.policy.name}; waiting for a map")

    def _connect(self, name: str) -> None:
        self._cmd_vel = CmdVelPublishers(self)
        self._cmd_vel.add(self.entry)
        self._peers = self.create_publisher(PeerState, "fleet/peers", PEERS)
        self._state = self.create_publisher(RobotState, f"{name}/state", RELIABLE)
        self.create_subscription(OccupancyGrid, "map", self._on_map, LATCHED)
        self._poses = Poses(
            self, self.create_subscription, self.settings.map_frame, self._refuse_pose,
            lambda: self.lone is not None,
        )  # fmt: skip
        self._poses.add(self.entry, self._on_pose)
        self.create_subscription(PoseStamped, self.entry.goal_topic, self._on_goal, RELIABLE)
        self.create_subscription(PeerState, "fleet/peers", self._on_peer, PEERS)
        for topic in ("fleet/emergency_stop", f"{name}/emergency_stop"):
            self.create_subscription(Bool, topic, self._on_emergency, RELIABLE)
        self.create_service(Trigger, f"{name}/stop", self._on_stop)
        self.create_service(Trigger, f"{name}/resume", self._on_resume)
        self.create_service(GetGrid, f"{name}/get_grid", self._on_get_grid)
        self._listens_until = time.monotonic() + LISTEN
        self.create_timer(1.0 / self.settings.control_rate, self._tick)
        self.create_timer(1.0 / self.settings.state_rate, self._publish_state)

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        """Take a new list of absent robots; refuse changes that would have no effect."""
        tables = (parameters.PARAMETERS, OWN_PARAMETERS)
        fixed = [change.name for change in changes if any(change.name in t for t in tables)]
        if "absent" in fixed:
            fixed.remove("absent")
        if fixed:
            return SetParametersResult(
                successful=False, reason=f"{', '.join(fixed)}: restart the node to change it"
            )
        for change in changes:
            if change.name == "absent":
                strangers = set(change.value) - {robot.name for robot in self.settings.robots}
                if strangers or self.robot.name in change.value:
                    reason = f"absent: {', '.join(change.value)} must be other robots of the fleet"
                    return SetParametersResult(successful=False, reason=reason)
                self.own["absent"] = list(change.value)
                if self.lone is not None:
                    self.lone.peers.absent = set(change.value)
        return SetParametersResult(successful=True)

    # Inputs ---------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds on the node's clock (simulated where ``use_sim_time`` is set)."""
        return self.get_clock().now().nanoseconds * 1e-9

    def _reject(self, key: str, text: str) -> None:
        """Count a refused message; log each kind at most every five seconds."""
        self.rejected += 1
        self._warn(key, text)

    def _warn(self, key: str, text: str) -> None:
        now = time.monotonic()
        if now - self._warned.get(key, -1e9) >= 5.0:
            self._warned[key] = now
            self.get_logger().warning(text)

    def _on_get_grid(self, _: GetGrid.Request, response: GetGrid.Response) -> GetGrid.Response:
        """Tell the cells and moves that the robot drives on."""
        return conversions.grid_response(None if self.lone is None else self.lone.grid, response)

    def _on_map(self, message: OccupancyGrid) -> None:
        if self.lone is not None:
            self._reject("map", "a new map came while the robot drives; restart the node to change maps")
            return
        settings, own = self.settings, self.own
        try:
            map_digest(message, settings)  # checks it
            map = read_map(message, settings)
            grid = map.grid
            members = tuple(robot.name for robot in settings.robots)
            speed = own["fleet_max_speed"] or settings.robots_file.max_speed
            rules = Rules(
                members,
                conversions.grid_hash(grid),
                grid.cell_size / speed,
                own["quorum_age"],
                own["clock_slack"],
            )
            config = ControllerConfig(
                control_period=1.0 / settings.control_rate,
                pose_timeout=settings.pose_timeout,
                latency=settings.latency if settings.latency >= 0 else 2.0 / settings.control_rate,
                arrive_tolerance=settings.arrive_tolerance,
                pose_error=max(settings.pose_error, 0.0),
                temperature=settings.temperature,
                seed=settings.seed + members.index(self.robot.name),
                message_period=1.0 / own["message_rate"],
            )
            self.lone = RobotController(
                self.robot,
                grid,
                self.policy,
                rules,
                time.time_ns(),
                config,
                map.distances,
                tuple(own["absent"] or ()),
            )
        except ValueError as error:
            self._reject("map", refusal(error))
            return
        self.get_logger().info(f"map accepted: {grid.free.shape[0]} x {grid.free.shape[1]} cells")
        if self._stopped:
            self.lone.stop()
        if self._early_goal is not None:
            self._on_goal(self._early_goal)

    def _refuse_pose(self, _: str, error: ValueError) -> None:
        if isinstance(error, NoPose):
            self._warn("tf", f"no pose: {error}")
        else:
            self._reject("pose", f"pose refused: {error}")

    def _on_pose(self, stamp: int, x: float, y: float, yaw: float) -> None:
        """Take a pose in the map frame, m and rad, measured at ``stamp`` ns (0: now); ``ValueError`` refuses it."""
        if stamp and stamp <= self._pose_stamp and self._pose_stamp - stamp < 5e8:
            return  # no news
        now = self.now()
        self.lone.update_pose(x, y, yaw, min(now, stamp * 1e-9) if stamp else now)
        self._pose_stamp = stamp

    def _on_goal(self, message: PoseStamped) -> None:
        try:
            intake.check_frame(message.header.frame_id, self.settings.map_frame)
            x, y = intake.position(message.pose)
            if self.lone is None:
                self._early_goal = message
            else:
                self.lone.set_goal(x, y, self.now())
        except ValueError as error:  # GoalError among them
            self._reject("goal", f"goal refused: {error}")

    def _hears_twin(self, message: PeerState) -> None:
        """Another process speaks under this robot's name.

        Who has not spoken yet ends: the other one drives. One message may be the last word of a dead process, two are
        not. Among those that have spoken the older one ends, as it may have been frozen: :class:`Peers` tells it.
        """
        incarnation, sequence, heard = self._twin
        if message.incarnation != incarnation:
            sequence = heard = 0
        if message.sequence > sequence:
            self._twin = message.incarnation, message.sequence, heard + 1
        if not self._spoken and self._twin[2] > 1:
            self._end()

    def _end(self) -> None:
        if not self.not_alone:
            self.not_alone = f"another process drives '{self.robot.name}'; end one of the two"
            self.get_logger().error(self.not_alone)

    def _on_peer(self, message: PeerState) -> None:
        if message.name == self.robot.name:
            if message.incarnation in self._spoken:
                return
            self._hears_twin(message)
        if self.lone is None or (
            message.name == self.robot.name and message.incarnation <= self.lone.incarnation
        ):
            return
        name, peers = message.name, self.lone.peers
        # The log's key is a name only where it is one of few: anything can be in a message.
        member = name if name in peers.rules.members else "a stranger"
        try:
            if len(name) > LONGEST_NAME:
                raise ValueError(f"its name is longer than {LONGEST_NAME} characters")
            most = self.settings.max_robots
            if name not in (*peers.rules.members, *peers.known) and len(peers.known) >= most:
                raise ValueError(f"{len(peers.known)} robots are known, parameter max_robots is {most}")
            state = read_state(message)
            if state.key != peers.key:
                cells = cells_around(self.lone.grid, state.shown.pose)
                state = State(**{**vars(state), "held": cells, "request": None})
                self._reject(
                    f"rules {member}",
                    f"'{short(name)}' drives on another map or by other rules ({short(state.key)}, here "
                    f"{peers.key}): give both the same map, robots, fleet_max_speed and quorum_age",
                )
            self.lone.receive(state)
        except ValueError as error:
            self._reject(f"peer {member}", f"state of '{short(name)}' refused: {error}")

    def _on_emergency(self, message: Bool) -> None:
        if message.data:  # false does not let anybody drive again
            self._halt("emergency stop")

    def _on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._halt("stopped")
        response.success, response.message = True, f"stopped until {self.robot.name}/resume is called"
        return response

    def _on_resume(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._stopped = ""
        if self.lone is not None:
            self.lone.resume()
        response.success = True
        response.message = "driving" if self.lone is not None else "resumed; no map has been received yet"
        return response

    def _halt(self, why: str) -> None:
        if not self._stopped:
            self.get_logger().warning(f"{why}: stands still until {self.robot.name}/resume is called")
        self._stopped = why
        if self.lone is not None:
            self.lone.stop()
        self._send_command(np.zeros(3), self.now())

    # Control periods and outputs ------------------------------------------------------------------------

    def _tick(self) -> None:
        if self.lone is None or self.not_alone or time.monotonic() < self._listens_until:
            return
        now = self.now()
        if now < self._newest_clock - 0.5:
            self._poses.forget_times()
            self._newest_clock = now
        self._newest_clock = max(self._newest_clock, now)
        self._poses.poll()
        try:
            result = self.lone.tick(now)
        except (PolicyError, ValueError) as error:
            self.get_logger().error(str(error))
            self._halt("the policy failed")
            return
        self._send_command(result.command, now)
        if self.lone.peers.usurped:
            self._end()
            return
        if result.message is not None:
            self._spoken.add(self.lone.incarnation)
            self._peers.publish(write_state(result.message, self.settings.map_frame))
        if result.reached:
            self._publish_state()

    def _send_command(self, command: np.ndarray, now: float) -> None:
        stamp = Time(nanoseconds=round(now * 1e9)).to_msg()
        self._cmd_vel.send(self.robot.name, stamp, *command.tolist())

    @property
    def has_driven(self) -> bool:
        """Whether this process has taken part, so that its robot may move by its command."""
        return bool(self._spoken)

    def stop_wheels(self) -> None:
        """Command a standstill."""
        self._send_command(np.zeros(3), self.now())

    def _watch_speed(self) -> None:
        """Say which decisions the policy was too late for, and what was compiled while the robot drove."""
        self.policy.watch()
        if self.policy.late > self._late:
            missed, self._late = self.policy.late - self._late, self.policy.late
            self._warn(
                "late",
                f"policy {self.policy.name} was too late for {missed} decisions; took the shortest way",
            )
        compiled = self._kernels.news()
        if compiled:
            self.get_logger().warning(
                f"compiled while the robot drove, please report it: {', '.join(compiled)}"
            )

    def _publish_state(self) -> None:
        lone = self.lone
        if lone is None:
            return
        self._watch_speed()
        now = self.now()
        status, detail = lone.status(now)
        message = RobotState(
            name=self.robot.name, status=int(status), detail=self._stopped or detail, pose_age=-1.0
        )
        if lone.pose is not None:
            message.pose = conversions.pose_message(*lone.pose)
            message.pose_age = float(now - lone.pose_time)
        here, there = (lone.path[0], lone.path[min(1, len(lone.path) - 1)]) if lone.path else ((-1, -1),) * 2
        message.row, message.col = here
        message.target_row, message.target_col = there
        message.goal_row, message.goal_col = lone.choice.goal or (-1, -1)
        message.goals_reached = lone.goals_reached
        self._state.publish(message)


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted or another process drives its robot; what it sends last is a standstill.

    Returns:
        0 after an interrupt, 1 if a parameter is wrong, ``NOT_ALONE`` beside another process for the same robot.
    """
    # With rclpy's own handlers the context would be gone before the robot could be told to stop.
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        node = RobotNode()
    except ValueError as error:
        print(f"robot_node: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while rclpy.ok() and not node.not_alone:
            executor.spin_once(timeout_sec=0.5)  # returns to Python, where signals are noticed
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        if rclpy.ok() and not (node.not_alone and not node.has_driven):
            node.stop_wheels()
        node.policy.close()
        node.destroy_node()
        rclpy.try_shutdown()
    return NOT_ALONE if node.not_alone else 0


if __name__ == "__main__":
    sys.exit(main())

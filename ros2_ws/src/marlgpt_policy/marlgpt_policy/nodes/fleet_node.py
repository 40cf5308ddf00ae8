"""The lifecycle node that drives a fleet: messages in and out around :class:`marlgpt_policy.fleet.Fleet`."""

from __future__ import annotations

import signal
import sys
from functools import partial

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped, Twist, TwistStamped
from marlgpt_msgs.msg import FleetDecision, FleetState
from marlgpt_msgs.srv import GetGrid
from nav_msgs.msg import OccupancyGrid, Odometry
from rcl_interfaces.msg import SetParametersResult
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.time import Time
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from visualization_msgs.msg import MarkerArray

from marlgpt_policy.clearance import DistanceField
from marlgpt_policy.fleet import Fleet, GoalError, Tick
from marlgpt_policy.grid import NavGrid, build_grid
from marlgpt_policy.layout import POGEMA_LAYOUT
from marlgpt_policy.nodes import conversions, parameters
from marlgpt_policy.nodes.navigate import NavigateServer
from marlgpt_policy.occupancy import from_occupancy_grid
from marlgpt_policy.policy import OnnxPolicy, PolicyError
from marlgpt_policy.reservations import ReservationError

LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
LAST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)


class FleetNode(LifecycleNode):
    """``configure`` loads and checks the policy, ``activate`` starts driving once a map has come."""

    def __init__(self, **options) -> None:
        """Declare the parameters; everything else happens in the transitions."""
        super().__init__("fleet_node", **options)
        parameters.declare(self, parameters.PARAMETERS)  # changes are refused once configured
        self.settings: parameters.Settings | None = None
        self.policy: OnnxPolicy | None = None
        self.grid: NavGrid | None = None
        self.fleet: Fleet | None = None
        self._entities: list = []
        self._active = False
        self._stopped = False  # by fleet/stop; outlives maps and configurations
        self._configured = False
        self.add_on_set_parameters_callback(self._on_parameters)
        self._reset_counters()

    def _reset_counters(self) -> None:
        self.rejected = 0
        self._decision_ms = 0.0
        self._last_tick = -1.0
        self._newest_clock = -1.0
        self._pose_stamp: dict[int, int] = {}
        self._early_goals: dict[int, PoseStamped] = {}
        self._warned: dict[str, float] = {}

    # Transitions ----------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read parameters, load and check the policy, subscribe; fails with a reason in the log."""
        try:
            self.settings = parameters.read(self)
            if not self.settings.robots:
                raise ValueError("parameter 'robots' is empty; name at least one robot")
            names = [robot.name for robot in self.settings.robots]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(
                    f"parameter 'robots' names {', '.join(twice)} twice; every robot needs its own name"
                )
            self.policy = OnnxPolicy(
                self.settings.policy, POGEMA_LAYOUT, tuple(self.settings.providers), self.settings.threads
            )
        except (ValueError, OSError) as error:
            self.get_logger().error(f"cannot configure: {error}")
            return TransitionCallbackReturn.FAILURE
        self._reset_counters()
        self._configured = True
        self._publish_to(names)
        self._listen_to(names)
        self.get_logger().info(
            f"configured: {len(names)} robots, policy {self.policy.name} on {self.policy.provider}; waiting for a map"
        )
        return TransitionCallbackReturn.SUCCESS

    def _publish_to(self, names: list[str]) -> None:
        twist = TwistStamped if self.settings.stamped_cmd_vel else Twist
        self._cmd = [self.create_publisher(twist, f"{name}/cmd_vel", LAST) for name in names]
        self._state = self.create_publisher(FleetState, "fleet/state", RELIABLE)
        self._decisions = self.create_publisher(FleetDecision, "fleet/decisions", RELIABLE)
        self._markers = self.create_publisher(MarkerArray, "fleet/markers", LAST)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", RELIABLE)
        self._entities += [
            *((self.destroy_publisher, p) for p in self._cmd),
            *(
                (self.destroy_publisher, p)
                for p in (self._state, self._decisions, self._markers, self._diagnostics)
            ),
        ]

    def _listen_to(self, names: list[str]) -> None:
        subscriptions = [self.create_subscription(OccupancyGrid, "map", self._on_map, LATCHED)]
        kind, topic = (
            (Odometry, "odom") if self.settings.pose_source == "odom" else (PoseWithCovarianceStamped, "pose")
        )
        for i, name in enumerate(names):
            subscriptions += [
                self.create_subscription(kind, f"{name}/{topic}", partial(self._on_pose, i), BEST_EFFORT),
                self.create_subscription(
                    PoseStamped, f"{name}/goal_pose", partial(self._on_goal, i), RELIABLE
                ),
            ]
        services = [
            self.create_service(
                GetGrid, "fleet/get_grid", lambda _, r: conversions.grid_response(self.grid, r)
            ),
            self.create_service(Trigger, "fleet/stop", self._on_stop),
            self.create_service(Trigger, "fleet/resume", self._on_resume),
        ]
        self._navigate = NavigateServer(
            self, lambda: self.fleet if self._active else None, self.settings.map_frame
        )
        self._entities += [(self.destroy_subscription, s) for s in subscriptions]
        self._entities += [(self.destroy_service, s) for s in services]

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start control periods; robots move as soon as map, poses and goals are there."""
        self._active = True
        period = self.settings.fleet.control_period
        timers = [
            self.create_timer(period, self._on_timer),
            self.create_timer(1.0 / self.settings.state_rate, self._publish_state),
            self.create_timer(1.0, self._publish_health),
        ]
        self._timers = timers
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Command every robot to stop and end the control periods."""
        self._stop_wheels()
        self._active = False
        self._navigate.abort_all(self.fleet, "the fleet node was deactivated")
        for timer in self._timers:
            self.destroy_timer(timer)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget map, policy and robots."""
        self._navigate.destroy()
        for destroy, entity in self._entities:
            destroy(entity)
        self._entities, self.fleet, self.grid, self.policy = [], None, None, None
        self._configured = False
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the robots, whatever state the node is in."""
        if self._active:
            self._stop_wheels()
            self._active = False
        return TransitionCallbackReturn.SUCCESS

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        """Refuse changes that would have no effect: parameters are read by ``configure``."""
        fixed = [change.name for change in changes if change.name in parameters.PARAMETERS]
        if self._configured and fixed:
            return SetParametersResult(
                successful=False, reason=f"{', '.join(fixed)}: deactivate and clean up the node to change it"
            )
        return SetParametersResult(successful=True)

    # Inputs ---------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds on the node's clock (simulated where ``use_sim_time`` is set)."""
        return self.get_clock().now().nanoseconds * 1e-9

    def _watched_now(self) -> float:
        """:meth:`now`; a clock that was set back makes all stamps seen so far meaningless."""
        now = self.now()
        if now < self._newest_clock - 0.5:
            self._pose_stamp.clear()
            self._last_tick = -1.0
            self.get_logger().warning(f"the clock went back by {self._newest_clock - now:.2f} s")
            self._newest_clock = now
        self._newest_clock = max(self._newest_clock, now)
        return now

    def _reject(self, key: str, text: str) -> None:
        """Count a refused message; log each kind at most every five seconds."""
        self.rejected += 1
        now = self.now()
        if now - self._warned.get(key, -1e9) >= 5.0 or now < self._warned.get(key, -1e9):
            self._warned[key] = now
            self.get_logger().warning(text)

    def _on_map(self, message: OccupancyGrid) -> None:
        if self.fleet is not None:
            self._reject(
                "map", "a new map came while the fleet drives; deactivate and clean up to change maps"
            )
            return
        settings = self.settings
        try:
            if message.header.frame_id not in ("", settings.map_frame):
                raise ValueError(
                    f"its frame is '{message.header.frame_id}', parameter map_frame is '{settings.map_frame}'"
                )
            map = from_occupancy_grid(message)
            self.grid = build_grid(
                map, settings.radius, settings.margin, settings.cell_size or None, settings.unknown_is_free
            )
            distances = DistanceField(map, settings.unknown_is_free)
            self.fleet = Fleet(self.grid, self.policy, settings.robots, settings.fleet, distances)
            if self._stopped:
                self.fleet.stop()
        except ValueError as error:
            self.grid = None
            self._reject("map", f"map refused: {error}")
            return
        rows, cols = self.grid.free.shape
        self.get_logger().info(
            f"map accepted: {rows} x {cols} cells of {self.grid.cell_size:.2f} m, "
            f"{int((self.grid.components == 0).sum())} of {int(self.grid.free.sum())} free cells connected"
        )
        for robot, goal in self._early_goals.items():
            self._on_goal(robot, goal)
        self._early_goals = {}

    def _on_pose(self, robot: int, message: Odometry | PoseWithCovarianceStamped) -> None:
        if self.fleet is None:
            return
        name = self.fleet.names[robot]
        stamp = Time.from_msg(message.header.stamp).nanoseconds
        if message.header.frame_id not in ("", self.settings.map_frame):
            self._reject(
                f"frame {name}",
                f"pose of '{name}' is in frame '{message.header.frame_id}', expected '{self.settings.map_frame}'",
            )
            return
        now = self._watched_now()
        last = self._pose_stamp.get(robot, 0)
        if stamp and stamp < last:
            self._reject(f"old {name}", f"pose of '{name}' is older than its last one; dropped")
            return
        by_poses = self.settings.trigger == "poses"
        if not stamp or stamp > last:  # a repeated stamp is no news of where the robot is
            taken = now if not stamp else stamp * 1e-9 if by_poses else min(now, stamp * 1e-9)
            try:
                self.fleet.update_pose(robot, *conversions.planar(message.pose.pose), taken)
            except ValueError as error:
                self._reject(f"pose {name}", f"pose of '{name}' refused: {error}")
                return
        self._pose_stamp[robot] = stamp
        if by_poses and self._active:
            newest = max(self._pose_stamp.values())
            expected = [i for i, last in self._pose_stamp.items() if newest - last < 5e8]
            if all(self._pose_stamp[i] == newest for i in expected):
                self._tick(max(newest * 1e-9, self._last_tick))

    def _on_goal(self, robot: int, message: PoseStamped) -> None:
        name = self.settings.robots[robot].name
        if message.header.frame_id not in ("", self.settings.map_frame):
            self._reject(
                f"goal {name}", f"goal of '{name}' is in frame '{message.header.frame_id}', not the map's"
            )
            return
        if self.fleet is None:
            self._early_goals[robot] = message
            return
        try:
            self.fleet.set_goal(robot, message.pose.position.x, message.pose.position.y)
        except GoalError as error:
            self._reject(f"goal {name}", f"refused: {error}")

    def _on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._stopped = True  # also for a fleet that is still to come
        if self.fleet is not None:
            self.fleet.stop()
            self._stop_wheels()
        response.success, response.message = True, "stopped until fleet/resume is called"
        return response

    def _on_resume(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._stopped = False
        if self.fleet is not None:
            self.fleet.resume()
        response.success = True
        response.message = "driving" if self.fleet is not None else "resumed; no map has been received yet"
        return response

    # Control periods and outputs ------------------------------------------------------------------------

    def _on_timer(self) -> None:
        now = self._watched_now()
        if self.settings.trigger == "timer" or now - self._last_tick > 2 * self.settings.fleet.control_period:
            self._tick(now)

    def _tick(self, now: float) -> None:
        if self.fleet is None or not self._active:
            return
        self._last_tick = now
        try:
            result = self.fleet.tick(now)
        except (PolicyError, ReservationError, ValueError) as error:
            self._stopped = True
            self.fleet.stop()
            self._stop_wheels()
            self.get_logger().error(f"fleet stopped until fleet/resume is called: {error}")
            return
        self._publish_commands(result, now)
        self._navigate.update(self.fleet, result.reached)
        if result.decision is not None:
            header = self._header(now)
            message = conversions.decision_message(self.fleet, result.decision, header)
            self._decision_ms = message.total_ms
            self._decisions.publish(message)
            if self._markers.get_subscription_count():
                self._markers.publish(conversions.markers(self.fleet, result.decision, header))
        if result.reached or result.decision is not None:
            self._publish_state(now)

    def _header(self, now: float) -> Header:
        return Header(frame_id=self.settings.map_frame, stamp=Time(nanoseconds=round(now * 1e9)).to_msg())

    def _publish_commands(self, result: Tick, now: float) -> None:
        stamp = Time(nanoseconds=round(now * 1e9)).to_msg()
        for publisher, robot, (vx, vy, wz) in zip(
            self._cmd, self.fleet.names, result.commands.tolist(), strict=True
        ):
            if self.settings.stamped_cmd_vel:
                message = TwistStamped()
                message.header.stamp, message.header.frame_id = stamp, f"{robot}/base_link"
                twist = message.twist
            else:
                message = twist = Twist()
            twist.linear.x, twist.linear.y, twist.angular.z = vx, vy, wz
            publisher.publish(message)

    def _stop_wheels(self) -> None:
        if self.fleet is not None:
            self.fleet.commands[:] = 0.0
            self._publish_commands(Tick(self.fleet.commands, [], None), self.now())

    def _publish_state(self, now: float | None = None) -> None:
        if self.fleet is not None:
            now = self.now() if now is None else now
            self._state.publish(conversions.state_message(self.fleet, self._header(now), now, self.rejected))

    def _publish_health(self) -> None:
        if self.fleet is None:
            return
        now = self.now()
        message = conversions.diagnostics(
            self.fleet, self._header(now), now, self._decision_ms, self.rejected
        )
        self._diagnostics.publish(message)
        self._navigate.feedback(self.fleet)


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; the last thing it sends is a standstill for every robot."""
    # With rclpy's own handlers the context would be gone before the robots could be told to stop.
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    node = FleetNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while rclpy.ok():
            executor.spin_once(timeout_sec=0.5)  # returns to Python, where signals are noticed
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # nothing may interrupt the standstill below
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if node._active and rclpy.ok():
            node._stop_wheels()
            for publisher in node._cmd:
                if not publisher.wait_for_all_acked(Duration(seconds=0.5)):
                    break  # a robot that is gone; no use waiting for each of many
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())

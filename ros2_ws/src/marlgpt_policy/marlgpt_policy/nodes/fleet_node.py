"""The lifecycle node that drives a fleet: messages in and out around :class:`marlgpt_policy.fleet.fleet.Fleet`."""

from __future__ import annotations

import gc
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from marlgpt_msgs.msg import FleetDecision, FleetState, Grid
from marlgpt_msgs.srv import GetGrid
from nav_msgs.msg import OccupancyGrid
from rcl_interfaces.msg import SetParametersResult
from rclpy.executors import ExternalShutdownException
from rclpy.experimental import EventsExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.service import Service
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from rclpy.time import Time
from std_msgs.msg import Bool, Header
from visualization_msgs.msg import MarkerArray

from marlgpt_policy.fleet.fleet import Fleet
from marlgpt_policy.grid.distance_field import DistanceField
from marlgpt_policy.grid.goal_cell import GoalError
from marlgpt_policy.grid.nav_grid import NavGrid
from marlgpt_policy.kernels.kernel_warmup import Kernels
from marlgpt_policy.nodes import parameters
from marlgpt_policy.nodes import policy_files as policies
from marlgpt_policy.nodes.cmd_vel_publishers import CmdVelPublishers
from marlgpt_policy.nodes.diagnostics import Health
from marlgpt_policy.nodes.event_log import EventLog, short
from marlgpt_policy.nodes.fleet_session import Stops
from marlgpt_policy.nodes.map_input import map_digest, read_map, refusal
from marlgpt_policy.nodes.markers import markers
from marlgpt_policy.nodes.messages import conversions, fleet_messages
from marlgpt_policy.nodes.messages import message_checks as intake
from marlgpt_policy.nodes.navigate_action import NavigateServer
from marlgpt_policy.nodes.operator_services import OperatorServices
from marlgpt_policy.nodes.pose_sources import NoPose, Poses, require_tf
from marlgpt_policy.nodes.presence import Presence
from marlgpt_policy.nodes.qos import LAST, LATCHED, RELIABLE, REQUESTS
from marlgpt_policy.nodes.request_limits import RequestLimits
from marlgpt_policy.policy.policy_process import PolicyProcess
from marlgpt_policy.policy.policy_swap import PolicySwap
from marlgpt_policy.policy.probes import sample

FUTURE = 1.0
"""Seconds by which a pose's stamp may lie ahead of the node's clock; more is a clock that is set wrong."""
UNCONFIGURED = 2
"""Exit status of a node that was to start by itself and could not: starting it again would not help."""


class FleetNode(LifecycleNode):
    """``configure`` loads and tries out the policy and compiles; ``activate`` starts driving once a map has come.

    Attributes:
        settings: The parameters; None before they are read.
        policy, grid, fleet: What drives; ``fleet`` and ``grid`` are None until a map has come.
        stops: Stops in force, whatever comes and goes otherwise.
        event_log: Log and counter of refused messages.
        cmd_vel: Publishers of the commands.
        pose_sources: Where the robots' poses come from.
        operator: Services; None unless configured.
        presence: Heartbeats, and who else drives these robots.
        request_limits: Lets requests in, behind control periods and stops.
        gave_way: It was deactivated because another node drives these robots.
        before_driving: Called while the robots stand anyway, before they are to drive.
    """

    def __init__(self, **options) -> None:
        """Declare the parameters; everything else happens in the transitions.

        Raises:
            ValueError: A parameter is given that this node does not have.
        """
        super().__init__("fleet_node", **options)
        parameters.refuse_unused(self, parameters.PARAMETERS)
        parameters.declare(self, parameters.PARAMETERS)  # changes are refused once configured
        self.settings: parameters.Settings | None = None
        self.policy: PolicySwap | None = None
        self.grid: NavGrid | None = None
        self.fleet: Fleet | None = None
        self.operator: OperatorServices | None = None
        self.stops = Stops()
        self.before_driving: Callable[[], None] = lambda: None
        self._topics: dict[str, list[Subscription]] = {}
        self._active = self._keeping_time = self.gave_way = False
        self.request_limits = RequestLimits(self._keep_time)
        for service in self.services:  # those of parameters and transitions
            service.callback = self.request_limits.behind(service.callback, None)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._reset()

    def _reset(self) -> None:
        self.event_log = EventLog(self.get_logger())
        self._map_digest = b""
        self._last_tick = -1.0
        self._newest_clock = -1.0
        self._pose_stamp: dict[int, int] = {}
        self._early_goals: dict[int, PoseStamped] = {}
        self._vetoed: set[int] = set()

    def start(self) -> bool:
        """Configure and activate; False if either fails."""
        done = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == done and self.trigger_activate() == done

    # Transitions ----------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read parameters, load and try out the policy, compile, subscribe; fails with a reason in the log."""
        try:
            settings = parameters.read(self)
            if not settings.robots:
                raise ValueError(
                    "parameter 'robots' is empty; name at least one robot, or give a robots_file"
                )
            for robot in settings.robots_file.robots:
                require_tf(robot)
            policy = policies.start_policy(settings, settings.policy, settings.policy_sha256)
            policy.wait_loaded(settings.policy_load_timeout)
            self._kernels = Kernels(self.get_logger().info)
            policy.try_out(sample(None, len(settings.robots)), settings.policy_load_timeout)
        except (ValueError, OSError) as error:
            self.get_logger().error(f"cannot configure: {error}")
            return TransitionCallbackReturn.FAILURE
        self.settings = settings
        self._reset()
        self._health = Health(self.event_log, settings.fleet.control_period)
        self.policy = PolicySwap(policy, settings.fleet.control_period, self._on_rollback)
        self.presence = Presence(self, settings.fleet.control_period)
        self.cmd_vel = CmdVelPublishers(self)
        self.pose_sources = Poses(
            self, self.listen, settings.map_frame, self._refuse_pose, lambda: self.fleet is not None
        )
        self._publish()
        self._map = self.listen(OccupancyGrid, "map", self._on_map, LATCHED)
        self._grid = self.serve(
            GetGrid, "fleet/get_grid", lambda _, r: conversions.grid_response(self.grid, r)
        )
        self.operator = OperatorServices(self)
        self._navigate = NavigateServer(
            self,
            lambda: self.fleet if self._active else None,
            settings.map_frame,
            self.event_log,
            self.request_limits,
        )
        for i, robot in enumerate(settings.robots):
            self.join(i, robot.name)
        self.event_log.write(
            "info", "configured", f"configured: {len(settings.robots)} robots; waiting for a map",
            policy=self.policy.name, sha256=self.policy.sha256, provider=self.policy.provider,
        )  # fmt: skip
        return TransitionCallbackReturn.SUCCESS

    def _publish(self) -> None:
        self._state = self.create_publisher(FleetState, "fleet/state", RELIABLE)
        self._decisions = self.create_publisher(FleetDecision, "fleet/decisions", RELIABLE)
        self._grids = self.create_publisher(Grid, "fleet/grid", LATCHED)
        self._markers = self.create_publisher(MarkerArray, "fleet/markers", LAST)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", RELIABLE)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start control periods; robots move as soon as map, poses and goals are there.

        Fails where another fleet node drives one of these robots: the log names it.
        """
        reason = self.presence.claim()
        if reason:
            self.event_log.write("error", "not_alone", f"cannot activate: {reason}")
            return TransitionCallbackReturn.FAILURE
        self._active, self.gave_way = True, False
        self._last_tick = -1.0
        self.before_driving()
        self._timers = [
            self.create_timer(self.settings.fleet.control_period, self._on_timer),
            self.create_timer(1.0 / self.settings.state_rate, self._publish_state_and_markers),
            self.create_timer(1.0, self._publish_health),
        ]
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Command every robot to stop and end the control periods."""
        self.stand()
        self._active = False
        self.presence.withdraw()
        self.request_limits.no_periods()
        self._navigate.abort_all(self.fleet, "the fleet node was deactivated")
        for timer in self._timers:
            self.destroy_timer(timer)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget map, policy and robots; stops stay."""
        self._navigate.destroy()
        self.operator.destroy()
        for i, name in enumerate(self.names):
            self.leave(i, name)
        for publisher in (self._state, self._decisions, self._grids, self._markers, self._diagnostics):
            self.destroy_publisher(publisher)
        self.presence.destroy()
        self.destroy_subscription(self._map)
        self.destroy_service(self._grid)
        self.policy.close()
        self.operator = self.fleet = self.grid = self.policy = None
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the robots, whatever state the node is in."""
        if self._active:
            self.stand()
            self._active = False
            self.presence.withdraw()
        return TransitionCallbackReturn.SUCCESS

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        """Refuse changes that would have no effect: parameters are read by ``configure``."""
        fixed = [change.name for change in changes if change.name in parameters.PARAMETERS]
        if self.operator is not None and fixed:
            return SetParametersResult(
                successful=False, reason=f"{', '.join(fixed)}: deactivate and clean up the node to change it"
            )
        return SetParametersResult(successful=True)

    # Robots ---------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """All robots by index, removed ones included."""
        return self.fleet.names if self.fleet is not None else [robot.name for robot in self.settings.robots]

    def index_of(self, name: str) -> int | None:
        """A robot's index in the fleet; None if there is no fleet yet, or no such robot."""
        return self.fleet.names.index(name) if self.fleet is not None and name in self.fleet.names else None

    def listen(
        self, kind: type, topic: str, callback: Callable, qos: QoSProfile, raw: bool = False
    ) -> Subscription:
        """Subscribe, to bytes if ``raw``; a message whose callback fails, however, is refused and ends nothing."""

        def handle(message) -> None:
            try:
                callback(message)
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                self.event_log.reject(
                    "unexpected", f"message on {topic} refused: {error!r} ({where.name}, line {where.lineno})"
                )

        return self.create_subscription(kind, topic, handle, qos, raw=raw)

    def serve(self, kind: type, name: str, callback: Callable, *, stop: bool = False) -> Service:
        """Offer a service whose response has ``success`` and ``message``; stops go before everything else."""

        def busy(response, reason: str):
            response.success, response.message = False, reason
            self.event_log.reject("request", f"{name} refused: {reason}", "busy")
            return response

        handle = self.request_limits.behind(callback, None if stop else busy)
        service = self.create_service(kind, name, handle, qos_profile=REQUESTS)
        if stop:
            self.request_limits.stops_come_by(service)
        return service

    def join(self, index: int, name: str) -> None:
        """Talk with a robot from now on."""
        robot = self.settings.robots_file.entry(name)
        self.cmd_vel.add(robot)
        self.pose_sources.add(robot, partial(self._on_pose, index))
        self._topics[name] = [
            self.listen(PoseStamped, robot.goal_topic, partial(self._on_goal, index), RELIABLE),
            self.listen(
                Bool, f"{name}/emergency_stop", partial(self.operator.emergency_stop_robot, name), RELIABLE
            ),
        ]
        self.request_limits.stops_come_by(self._topics[name][1])

    def leave(self, index: int, name: str) -> None:
        """Neither hear nor command a robot any more."""
        self.cmd_vel.remove(name)
        self.pose_sources.remove(name)
        self._pose_stamp.pop(index, None)
        self._early_goals.pop(index, None)
        for subscription in self._topics.pop(name, []):
            self.request_limits.no_more_stops_by(subscription)
            self.destroy_subscription(subscription)

    def use_policy(self, policy: PolicyProcess) -> None:
        """Decide with another policy from the next decision on; the one before comes back if it fails."""
        self.policy.swap(policy)

    def _on_rollback(self, failed: str, reason: str) -> None:
        """A policy that was swapped in failed while driving; the one before drives again."""
        self._health.rolled_back(reason)
        self.event_log.write(
            "error", "policy_rolled_back", f"policy {self.policy.name} drives the fleet again: {short(reason)}",
            failed=failed, sha256=self.policy.sha256,
        )  # fmt: skip

    # Inputs ---------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds on the node's clock (simulated where ``use_sim_time`` is set)."""
        return self.get_clock().now().nanoseconds * 1e-9

    def _watched_now(self) -> float:
        """:meth:`now`; a clock that was set back makes all stamps seen so far meaningless."""
        now = self.now()
        if now < self._newest_clock - 0.5:
            self._pose_stamp.clear()
            self.pose_sources.forget_times()
            self._last_tick = -1.0
            back = self._newest_clock - now
            text = f"the clock went back by {back:.2f} s"
            self.event_log.repeat("warning", "clock", "clock_set_back", text)
            self._newest_clock = now
        self._newest_clock = max(self._newest_clock, now)
        return now

    def _on_map(self, message: OccupancyGrid) -> None:
        settings = self.settings
        try:
            digest = map_digest(message, settings)
            if digest == self._map_digest:
                return
            self.stand()  # what follows takes as long as it takes
            map = read_map(message, settings)
            grid, distances = map.grid, map.distances
            if self.fleet is None:
                self.fleet = Fleet(grid, self.policy, settings.robots, settings.fleet, distances)
                self.stops.apply(self.fleet)
            else:
                self._replace_map(grid, distances)
        except ValueError as error:
            self.event_log.reject("map", refusal(error))
            return
        self.grid, self._map_digest, self._grid_hash = grid, digest, conversions.grid_hash(grid)
        self._grids.publish(conversions.grid_message(grid))
        self._last_tick = -1.0  # the time this took is no late period
        self.before_driving()
        rows, cols = grid.free.shape
        self.event_log.write(
            "info", "map_accepted", f"map accepted: {rows} x {cols} cells of {grid.cell_size:.2f} m",
            free=int(grid.free.sum()), connected=int((grid.components == 0).sum()),
        )  # fmt: skip
        margins = self.fleet.margins
        self.event_log.write(
            "info", "safety_margins", f"robots keep {1e3 * margins.reserve:.0f} mm between them as measured: no two "
            f"touch while poses are less than {1e3 * margins.pose_error:.1f} mm off (parameters margin, pose_error)",
            reserve=margins.reserve, pose_error=margins.pose_error,
        )  # fmt: skip
        self._take_early_goals()

    def _replace_map(self, grid: NavGrid, distances: DistanceField) -> None:
        """Take the fleet over to another map where it stands; goals stay where they are or are dropped."""
        before = self.fleet.goals.copy()
        for reason in self.fleet.replace_map(grid, distances):
            self.event_log.reject("goal", f"dropped with the map: {reason}")
        self._navigate.replace_map(self.fleet, before)
        self.stand()

    def _refuse_pose(self, name: str, error: ValueError) -> None:
        if isinstance(error, NoPose):
            self.event_log.repeat("warning", f"tf {name}", "no_pose", f"no pose of '{name}': {error}")
        else:
            self.event_log.reject("pose", f"pose of '{name}' refused: {error}", name)

    def _on_pose(self, robot: int, stamp: int, x: float, y: float, yaw: float) -> None:
        """Take a pose in the map frame, m and rad, measured at ``stamp`` ns (0: now); ``ValueError`` refuses it."""
        now, last = self._watched_now(), self._pose_stamp.get(robot, 0)
        by_poses = self.settings.trigger == "poses"
        if stamp and stamp < last:
            raise ValueError("it is older than the last one")
        if now and stamp * 1e-9 > now + FUTURE:
            raise ValueError(f"its stamp lies {stamp * 1e-9 - now:.1f} s ahead of the clock")
        if not stamp or stamp > last:  # a repeated stamp is no news of where the robot is
            taken = now if not stamp else stamp * 1e-9 if by_poses else min(now, stamp * 1e-9)
            self.fleet.update_pose(robot, x, y, yaw, taken)
        self._pose_stamp[robot] = stamp
        if by_poses and self._active:
            newest = max(self._pose_stamp.values())
            expected = [i for i, last in self._pose_stamp.items() if newest - last < 5e8]
            if all(self._pose_stamp[i] == newest for i in expected):
                self._tick(max(newest * 1e-9, self._last_tick))

    def _on_goal(self, robot: int, message: PoseStamped) -> None:
        """Take a goal; of more than are let in per control period each robot's last one waits for the next."""
        if self.request_limits.admits():
            self._early_goals.pop(robot, None)
            self._set_goal(robot, message)
        else:
            self._early_goals[robot] = message

    def _take_early_goals(self) -> None:
        goals, self._early_goals = self._early_goals, {}
        for robot, goal in goals.items():
            self._set_goal(robot, goal)

    def _set_goal(self, robot: int, message: PoseStamped) -> None:
        name = self.names[robot]
        try:
            intake.check_frame(message.header.frame_id, self.settings.map_frame)
            x, y = intake.position(message.pose)
            if self.fleet is None:
                self._early_goals[robot] = message
            else:
                self.fleet.set_goal(robot, x, y)
        except GoalError as error:
            self.event_log.reject("goal", f"refused: {error}", name)
        except ValueError as error:
            self.event_log.reject("goal", f"refused: goal of '{name}': {error}", name)

    # Control periods and outputs ------------------------------------------------------------------------

    def _keep_time(self) -> None:
        """Before a request: a control period that is overdue, and before it all stops that have come, go first."""
        if not self._active or self._last_tick < 0 or self._keeping_time:
            return
        periods = 1.0 if self.settings.trigger == "timer" else 2.0
        if self.now() - self._last_tick < periods * self.settings.fleet.control_period:
            return
        self._keeping_time = True
        try:
            self.request_limits.take_stops()
            self._on_timer()
        finally:
            self._keeping_time = False

    def _on_timer(self) -> None:
        if not self._active:
            return
        now = self._watched_now()
        if self.fleet is None:
            if self._drives_alone(now):
                self.presence.beat(now)
            return
        if 0.0 <= now - self._last_tick < 0.5 * self.settings.fleet.control_period:
            return  # a request found this period overdue and has let it begin
        self.pose_sources.poll()
        if self.settings.trigger == "timer" or now - self._last_tick > 2 * self.settings.fleet.control_period:
            self._tick(now)

    def _tick(self, now: float) -> None:
        fleet = self.fleet
        if fleet is None or not self._active:
            return
        if self._last_tick >= 0:
            self._health.tick(now - self._last_tick)
        self._last_tick = now
        self.request_limits.next_period(len(fleet.names))
        if not self._drives_alone(now):
            return
        self._take_early_goals()
        try:
            result = fleet.tick(now)
        except Exception as error:  # a fault of the model or of this program: nothing may go on moving
            self.stops.stopped = True
            fleet.stop()
            self.stand()
            self.event_log.repeat(
                "error", "fault", "fault", f"fleet stopped until fleet/resume is called: {short(error)}"
            )
            self.get_logger().debug(traceback.format_exc())
            return
        doubt = self.presence.doubt()
        if doubt:
            fleet.stand()
            self.event_log.repeat("error", "contested", "contested", f"all robots stand: {doubt}")
        self._command(now)
        self.presence.beat(now)
        stamp, frame = divmod(round(now * 1e9), 10**9), self.settings.map_frame
        self._navigate.update(fleet, result.reached)
        decision = result.decision
        if decision is not None:
            self._health.decision(decision.encode_ms + decision.infer_ms + decision.shield_ms)
            self._decisions.publish(
                fleet_messages.decision_bytes(fleet, decision, stamp, frame, self._grid_hash)
            )
            self._vetoed.update(np.flatnonzero(fleet_messages.vetoed(decision)).tolist())
        if result.reached or decision is not None:
            self._publish_state(now)

    def _drives_alone(self, now: float) -> bool:
        """Whether no other node drives these robots; gives way to one that does, and stands while that is unclear."""
        alone, reason = self.presence.may_drive()
        if alone:
            return True
        self.stand()
        if reason:
            self.event_log.write("error", "gives_way", f"deactivated: {reason}")
            self.gave_way = True
            self.trigger_deactivate()
        else:
            self.presence.beat(now)
        return False

    def _header(self, now: float) -> Header:
        return Header(frame_id=self.settings.map_frame, stamp=Time(nanoseconds=round(now * 1e9)).to_msg())

    def _command(self, now: float) -> None:
        stamp = Time(nanoseconds=round(now * 1e9)).to_msg()
        for robot, velocities in zip(self.fleet.names, self.fleet.commands.tolist(), strict=True):
            self.cmd_vel.send(robot, stamp, *velocities)

    def stand(self) -> None:
        """Command standstill at once, not in the next control period."""
        if self.fleet is not None and self._active:
            self.fleet.stand()
            self._command(self.now())

    def _publish_state(self, now: float) -> None:
        stamp, frame = divmod(round(now * 1e9), 10**9), self.settings.map_frame
        refusals = self.event_log.refusals
        self._state.publish(fleet_messages.state_bytes(self.fleet, stamp, frame, now, refusals))

    def _publish_state_and_markers(self) -> None:
        if self.fleet is None:
            return
        now = self.now()
        self._publish_state(now)
        if self._markers.get_subscription_count():
            self._markers.publish(markers(self.fleet, self._vetoed, self._header(now), now))
        self._vetoed.clear()

    def _publish_health(self) -> None:
        if self.fleet is not None:
            self._watch_speed()
            now = self.now()
            self._diagnostics.publish(
                self._health.message(self.fleet, self._header(now), now, self.presence.listeners)
            )
            self._navigate.feedback(self.fleet)

    def _watch_speed(self) -> None:
        """Say which decisions the policy was too late for, and what was compiled while robots drove."""
        self.policy.watch()
        missed = self.policy.late - self._health.late_decisions
        self._health.late_decisions = self.policy.late
        if missed > 0:
            self.event_log.repeat(
                "warning", "late_policy", "policy_late",
                f"policy {self.policy.name} did not answer in time, robots took their shortest ways; use a faster "
                "provider or a smaller model, or lower 'control_rate'", decisions=missed,
            )  # fmt: skip
        compiled = self._kernels.news()
        if compiled:
            self.event_log.write(
                "warning",
                "compiled_late",
                f"compiled while robots drove, please report it: {', '.join(compiled)}",
            )


def settle_memory() -> None:
    """Leave what is in memory now out of garbage collections: going through it would take two control periods."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; the last thing it sends is a standstill for every robot.

    Returns:
        0 after an interrupt, ``UNCONFIGURED`` where a parameter is unknown, or parameter ``autostart`` is set and the
        node cannot configure or activate itself, or gives way to another one.
    """
    # With rclpy's own handlers the context would be gone before the robots could be told to stop.
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        node = FleetNode()
    except ValueError as error:
        print(f"fleet_node: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return UNCONFIGURED
    node.before_driving = settle_memory
    executor = EventsExecutor()
    executor.add_node(node)
    code = 0
    try:
        by_itself = node.get_parameter("autostart").value
        if by_itself and not node.start():
            code = UNCONFIGURED
        while rclpy.ok() and not code:
            # Returns to Python, where signals are noticed, every half second, not after each message.
            executor.spin_until_future_complete(rclpy.Future(), 0.5)
            if by_itself and node.gave_way:
                code = UNCONFIGURED
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # nothing may interrupt the standstill below
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if node._active and rclpy.ok():
            node.stand()
            node.presence.withdraw()
            node.cmd_vel.flush(0.5)
        if node.policy is not None:
            node.policy.close()
        node.destroy_node()
        rclpy.try_shutdown()
    return code


if __name__ == "__main__":
    sys.exit(main())

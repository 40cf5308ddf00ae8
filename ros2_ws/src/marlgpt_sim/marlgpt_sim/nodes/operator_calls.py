"""What operators ask for in the browser, as calls of the fleet's services and of its action."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from action_msgs.msg import GoalStatus
from geometry_msgs.msg import PoseStamped
from marlgpt_msgs.action import Navigate
from marlgpt_msgs.srv import RobotCommand
from marlgpt_policy.grid.geometry import quaternion_of
from marlgpt_policy.robots.robots_file import FleetFile
from marlgpt_policy.robots.robots_keys import check_name
from rclpy.action import ActionClient
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from marlgpt_sim.view.picture import Picture
from marlgpt_sim.view.protocol import Command

ANSWER_TIMEOUT = 5.0
"""Seconds that the fleet may take to answer."""
RECEIPT_TIMEOUT = 1.0
"""Seconds within which all listeners have to have received an emergency stop."""
RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
MOST_TOPICS = 1024
"""Robots to which goals were published and that are remembered."""

Answer = tuple[bool, str]


class Orders:
    """Runs commands; `execute` is called on the web server's event loop, ROS answers on the executor's thread.

    Args:
        node: Its clients and publishers are used; somebody spins it.
        picture: Tells the robots' names and the map's frame.
        robots: The robots file, for goal topics; None for ``<robot>/goal_pose``.
    """

    def __init__(self, node: Node, picture: Picture, robots: FleetFile | None) -> None:
        self._node, self._picture, self._robots = node, picture, robots
        self._all = {kind: node.create_client(Trigger, f"fleet/{kind}") for kind in ("stop", "resume")}
        self._one = {
            kind: node.create_client(RobotCommand, f"fleet/{kind}") for kind in ("stop_robot", "resume_robot")
        }
        self._emergency = node.create_publisher(Bool, "fleet/emergency_stop", RELIABLE)
        self._navigate = ActionClient(node, Navigate, "fleet/navigate")
        self._goals: dict[str, Publisher] = {}
        self.tell: Callable[[str, str], None] = lambda text, level: None

    async def execute(self, command: Command) -> Answer:
        """Do what a checked command says; whether it was done, and what happened in words."""
        if command.kind == "stop":
            return await self._stop()
        if command.kind == "resume":
            ok, text = await self._call(self._all["resume"], Trigger.Request())
            self._announce(ok, f"Fleet resumed from a browser: {text}", "good")
            return ok, text
        if command.kind in self._one:
            request = RobotCommand.Request(robot=command.robot)
            ok, text = await self._call(self._one[command.kind], request)
            self._announce(ok, text, "bad" if command.kind == "stop_robot" else "good")
            return ok, text
        return await self._send_to_goal(command)

    def _announce(self, ok: bool, text: str, level: str) -> None:
        if ok:
            self.tell(text, level)

    async def _stop(self) -> Answer:
        """Publish the emergency stop, which watchdogs and single robots hear, too, then have the stop confirmed.

        Where a fleet node serves ``fleet/stop``, only its answer confirms: a process that has just died is counted
        among listeners until its lease ends, and one that hangs still receives. Elsewhere (decentralised fleets,
        a watchdog alone) receipt by all listeners has to do.
        """
        self._emergency.publish(Bool(data=True))
        self.tell("Stop of all robots sent from a browser", "bad")
        ok, text = await self._call(self._all["stop"], Trigger.Request())
        listeners = self._emergency.get_subscription_count()
        if ok or not listeners or self._all["stop"].service_is_ready():
            return ok, text
        received = await self._received()
        how = "received by" if received else "sent to, but not received by all of"
        return received, f"emergency stop {how} {listeners} listeners; {text}"

    async def _received(self) -> bool:
        """Whether all listeners acknowledge the emergency stop in time."""
        for _ in range(round(RECEIPT_TIMEOUT / 0.02)):
            # Many short looks: a long one would keep Python's lock, and with it the whole page, all the time.
            if self._emergency.wait_for_all_acked(Duration(nanoseconds=100_000)):
                return True
            await asyncio.sleep(0.02)
        return False

    async def _call(self, client: Any, request: Any) -> Answer:
        name = client.srv_name
        if not client.service_is_ready():
            return False, f"nobody serves {name}: the fleet node does not run, or is in another namespace"
        future = client.call_async(request)
        try:
            response = await asyncio.wait_for(_awaitable(future), ANSWER_TIMEOUT)
        except TimeoutError:
            client.remove_pending_request(future)
            return False, f"{name} did not answer within {ANSWER_TIMEOUT:.0f} s"
        return bool(response.success), response.message

    # Goals ----------------------------------------------------------------------------------------------

    async def _send_to_goal(self, command: Command) -> Answer:
        pose = PoseStamped()
        pose.header.stamp = self._node.get_clock().now().to_msg()
        pose.header.frame_id = self._picture.map_frame
        pose.pose.position.x, pose.pose.position.y = command.x, command.y
        q = pose.pose.orientation
        q.x, q.y, q.z, q.w = quaternion_of(command.yaw)
        if not self._navigate.server_is_ready():
            return self._publish_goal(command.robot, pose)
        future = self._navigate.send_goal_async(Navigate.Goal(robots=[command.robot], goals=[pose]))
        try:
            handle = await asyncio.wait_for(_awaitable(future), ANSWER_TIMEOUT)
        except TimeoutError:
            return False, f"fleet/navigate did not answer within {ANSWER_TIMEOUT:.0f} s"
        if not handle.accepted:
            return False, f"refused: {self._picture.why_not(command.robot, command.x, command.y)}"
        handle.get_result_async().add_done_callback(lambda done: self._on_result(command.robot, done))
        return True, f"'{command.robot}' is on its way"

    def _on_result(self, robot: str, future: Any) -> None:
        """The robot is there, or something came in between; on the executor's thread."""
        response = future.result()
        if response is None:
            return
        if response.status == GoalStatus.STATUS_SUCCEEDED:
            self.tell(f"'{robot}' reached its goal", "good")
        else:
            why = response.result.messages[0] if response.result.messages else "cancelled"
            self.tell(f"'{robot}' did not reach its goal: {why}", "bad")

    def _publish_goal(self, robot: str, pose: PoseStamped) -> Answer:
        if self._picture.names and robot not in self._picture.names:
            return False, f"the fleet has no robot named '{robot}'"
        try:
            check_name(robot)
        except ValueError as error:
            return False, str(error)
        if robot not in self._goals:
            if len(self._goals) >= MOST_TOPICS:
                return False, f"goals for more than {MOST_TOPICS} robots; restart the view"
            known = self._robots is not None and robot in self._robots
            topic = self._robots[robot].goal_topic if known else f"{robot}/goal_pose"
            self._goals[robot] = self._node.create_publisher(PoseStamped, topic, RELIABLE)
        publisher = self._goals[robot]
        publisher.publish(pose)
        if not publisher.get_subscription_count():
            return False, f"nobody listens to {publisher.topic_name} yet; try again in a second"
        return True, f"goal published on {publisher.topic_name}"


def _awaitable(future: Any) -> asyncio.Future:
    """A ROS future as one of the running event loop."""
    loop = asyncio.get_running_loop()
    waiting = loop.create_future()

    def hand_over() -> None:
        if waiting.done():
            return
        error = future.exception()
        if error is not None:
            waiting.set_exception(error)
        else:
            waiting.set_result(future.result())

    future.add_done_callback(lambda _: loop.call_soon_threadsafe(hand_over))
    return waiting

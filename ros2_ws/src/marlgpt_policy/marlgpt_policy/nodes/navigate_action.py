"""The ``fleet/navigate`` action: send named robots to goals and report when they are there."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import numpy as np
from marlgpt_msgs.action import Navigate
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.lifecycle import LifecycleNode
from rclpy.task import Future

from marlgpt_policy.fleet.fleet import Fleet
from marlgpt_policy.grid.cost_to_go import UNREACHABLE
from marlgpt_policy.grid.goal_cell import GoalError
from marlgpt_policy.nodes.event_log import EventLog, short
from marlgpt_policy.nodes.messages.message_checks import check_frame, position
from marlgpt_policy.nodes.request_limits import RequestLimits

RESULT_KEPT = 10.0
"""Seconds for which the result of a goal can be asked for. All goals of that time are told with each change of one."""
REMEMBERED = 128
"""Goals accepted in that time at most, besides four for each robot."""


class _Order:
    """One accepted action goal that is still running."""

    def __init__(self, handle, wanted: dict[int, tuple[int, int]], future: Future) -> None:
        self.handle, self.wanted, self.future = handle, wanted, future
        self.reached: set[int] = set()
        self.messages: dict[int, str] = {}


class NavigateServer:
    """Serves the action on top of a fleet that may not exist yet."""

    def __init__(
        self, node: LifecycleNode, fleet: Callable[[], Fleet | None], map_frame: str, event_log: EventLog,
        request_limits: RequestLimits,
    ) -> None:  # fmt: skip
        """Create the action server on ``node``; ``fleet`` returns the fleet while it can take goals."""
        self._fleet, self._map_frame, self._event_log, self._request_limits = (
            fleet,
            map_frame,
            event_log,
            request_limits,
        )
        self._orders: list[_Order] = []
        self._accepted: deque[float] = deque()  # when goals were, steady clock, s
        self._server = ActionServer(
            node, Navigate, "fleet/navigate", self._execute,
            goal_callback=self._accept, cancel_callback=lambda _: CancelResponse.ACCEPT,
            result_timeout=round(RESULT_KEPT),
        )  # fmt: skip

    def abort_all(self, fleet: Fleet | None, reason: str) -> None:
        """End everything that runs, with ``reason`` for robots that have not arrived; their goals are dropped."""
        for order in self._orders:
            for i, cell in order.wanted.items():
                if fleet is not None and tuple(fleet.goals[i]) == cell:
                    fleet.cancel_goal(i)
            self._finish(order, reason)
        self._orders.clear()

    def destroy(self) -> None:
        """Remove the server; nothing runs any more after :meth:`abort_all`."""
        self._server.destroy()

    def _refuse(self, reason: str, text: str) -> GoalResponse:
        self._event_log.reject("navigate", f"fleet/navigate: refused: {text}", reason)
        return GoalResponse.REJECT

    def _accept(self, goal: Navigate.Goal) -> GoalResponse:
        admitted, fleet = self._request_limits.admits(), self._fleet()
        if not admitted:
            return self._refuse("busy", self._request_limits.busy)
        if fleet is None:
            return self._refuse("inactive", "the fleet is not active or has no map yet")
        if len(goal.robots) != len(goal.goals) or not goal.robots:
            return self._refuse(
                "numbers", f"{len(goal.robots)} robots and {len(goal.goals)} goals; give one goal each"
            )
        if len(goal.robots) > len(fleet.names) or len(set(goal.robots)) != len(goal.robots):
            return self._refuse("twice", f"{len(goal.robots)} robots, some of them named twice")
        unknown = [name for name in goal.robots if name not in fleet.names]
        if unknown:
            return self._refuse("unknown", f"unknown robots {short(unknown)}")
        for name, pose in zip(goal.robots, goal.goals, strict=True):
            try:
                check_frame(pose.header.frame_id, self._map_frame)
                fleet.goal_cell(fleet.names.index(name), *position(pose.pose))
            except GoalError as error:
                return self._refuse("goal", str(error))
            except ValueError as error:
                return self._refuse("pose", f"goal of '{name}': {error}")
        now, most = time.monotonic(), REMEMBERED + 4 * len(fleet.names)
        while self._accepted and now - self._accepted[0] >= RESULT_KEPT:
            self._accepted.popleft()
        if len(self._accepted) >= most:
            return self._refuse(
                "busy", f"busy: more than {most} goals in {RESULT_KEPT:.0f} s; send again later"
            )
        self._accepted.append(now)
        return GoalResponse.ACCEPT

    async def _execute(self, handle) -> Navigate.Result:
        fleet = self._fleet()
        goal = handle.request
        if fleet is None:  # deactivated since it was accepted
            handle.abort()
            return Navigate.Result(
                robots=list(goal.robots), reached=[False] * len(goal.robots),
                messages=["the fleet node was deactivated"] * len(goal.robots),
            )  # fmt: skip
        order = _Order(handle, {}, Future())
        for name, pose in zip(goal.robots, goal.goals, strict=True):
            index = fleet.names.index(name)
            try:
                order.wanted[index] = tuple(int(v) for v in fleet.set_goal(index, *position(pose.pose)))
            except ValueError as error:
                order.messages[index] = str(error)
        self._orders.append(order)
        await order.future
        result = Navigate.Result(robots=list(goal.robots))
        for name in goal.robots:
            index = fleet.names.index(name)
            result.reached.append(index in order.reached)
            result.messages.append("" if index in order.reached else order.messages.get(index, "not reached"))
        result.success = all(result.reached)
        if handle.is_cancel_requested:
            handle.canceled()
        elif result.success:
            handle.succeed()
        else:
            handle.abort()
        return result

    def _finish(self, order: _Order, reason: str) -> None:
        for index in order.wanted:
            order.messages.setdefault(index, reason)
        if not order.future.done():
            order.future.set_result(None)

    def update(self, fleet: Fleet, reached: list[int]) -> None:
        """After a tick: note arrivals, replaced goals and cancellations, and end what is done."""
        for order in list(self._orders):
            order.reached |= {
                i for i in reached if i in order.wanted and tuple(fleet.cells[i]) == order.wanted[i]
            }
            open_robots = [i for i in order.wanted if i not in order.reached and i not in order.messages]
            for i in open_robots:
                if tuple(fleet.goals[i]) != order.wanted[i]:
                    order.messages[i] = "its goal was replaced or dropped"
            if order.handle.is_cancel_requested:
                for i in open_robots:
                    if tuple(fleet.goals[i]) == order.wanted[i]:
                        fleet.cancel_goal(i)
                self._finish(order, "cancelled")
            elif all(i in order.reached or i in order.messages for i in order.wanted):
                self._finish(order, "")
            if order.future.done():
                self._orders.remove(order)

    def replace_map(self, fleet: Fleet, before: np.ndarray) -> None:
        """The map was replaced: goals int[n, 2] ``before`` are now ``fleet.goals``, or dropped."""
        for order in self._orders:
            for i, cell in order.wanted.items():
                if i in order.reached or i in order.messages or tuple(before[i]) != cell:
                    continue
                if fleet.goals[i, 0] >= 0:
                    order.wanted[i] = tuple(int(v) for v in fleet.goals[i])
                else:
                    order.messages[i] = "its goal is not possible on the new map"

    def feedback(self, fleet: Fleet) -> None:
        """Publish who is still on the way and how far, in cells."""
        for order in self._orders:
            message = Navigate.Feedback()
            for i, cell in order.wanted.items():
                if i not in order.reached and i not in order.messages:
                    message.remaining.append(fleet.names[i])
                    known = fleet.cells[i, 0] >= 0
                    cost = fleet.costs.field(cell)[tuple(fleet.cells[i])] if known else UNREACHABLE
                    message.cells_to_go.append(-1.0 if cost >= UNREACHABLE else float(cost))
            order.handle.publish_feedback(message)

"""Heartbeats of a fleet node and those of others: it says that it lives, and hears who else drives its robots."""

from __future__ import annotations

import os
import socket
import time

from marlgpt_msgs.msg import Heartbeat
from rclpy.serialization import deserialize_message

from marlgpt_policy.fleet.rival_nodes import Claim, Phase, Rivals
from marlgpt_policy.nodes.diagnostics import listed
from marlgpt_policy.nodes.event_log import short
from marlgpt_policy.nodes.fleet_session import FleetSession
from marlgpt_policy.nodes.messages import fleet_messages
from marlgpt_policy.nodes.qos import RELIABLE

DISCOVERY = 1.0
"""Seconds from the first subscription after which other nodes of this network are taken as found."""
LISTEN = 0.3
"""Seconds for which a node listens before it drives, at least; also after its process was frozen."""
SILENCE = 0.5
"""Seconds without a heartbeat after which another node is dead or frozen."""
PERIODS = 3
"""Control periods that either of them lasts at least."""
INTERVAL = 0.05
"""Seconds between two heartbeats of a node that waits to be activated."""


class Presence:
    """One fleet node among others; times are those of the steady clock, s."""

    def __init__(self, node: FleetSession, period: float) -> None:
        """Listen; ``period`` is the control period in s."""
        self._node = node
        here = f"{node.get_fully_qualified_name()} (process {os.getpid()} on {socket.gethostname()})"
        self._rivals = Rivals(here, max(SILENCE, PERIODS * period))
        self._listen = max(LISTEN, PERIODS * period)
        self._sequence = 0
        self._beaten = self._awake = -1e9
        self._found_at = time.monotonic() + DISCOVERY
        self._publisher = node.create_publisher(Heartbeat, "fleet/heartbeat", RELIABLE)
        self._subscription = node.listen(Heartbeat, "fleet/heartbeat", self._on_heartbeat, RELIABLE, raw=True)

    def destroy(self) -> None:
        """Neither speak nor hear any more."""
        self._node.destroy_subscription(self._subscription)
        self._node.destroy_publisher(self._publisher)

    @property
    def listeners(self) -> int:
        """Those who hear the heartbeat and are no fleet node; without any there is no watchdog."""
        node = self._node
        own = node.get_name(), node.get_namespace()
        found = node.get_subscriptions_info_by_topic(self._publisher.topic_name)
        return sum((one.node_name, one.node_namespace) != own for one in found)

    def _robots(self) -> list[str]:
        fleet = self._node.fleet
        if fleet is None:
            return self._node.names
        return [name for name, removed in zip(fleet.names, fleet.removed, strict=True) if not removed]

    # Heartbeats -----------------------------------------------------------------------------------------

    def _on_heartbeat(self, data: bytes) -> None:
        if self._rivals.own.node.encode() in data and self._own(data):
            return
        try:
            message = deserialize_message(data, Heartbeat)
            phase = Phase(message.phase)
        except (
            Exception
        ) as error:  # whatever ROS raises for bytes that are no message, and phases that are none
            self._node.event_log.reject("heartbeat", f"heartbeat refused: {short(error)}")
            return
        names = frozenset((*message.robots, *message.standing))
        claim = Claim(phase, message.incarnation, short(message.node), names, message.sequence)
        self._rivals.hear(claim, time.monotonic())

    def _own(self, data: bytes) -> bool:
        return self._rivals.own.incarnation.to_bytes(8, "little") in data

    def beat(self, now: float) -> None:
        """Send a heartbeat of the control period at ``now``, node clock, s."""
        node = self._node
        self._notice_freeze()
        self._sequence += 1
        self._beaten = time.monotonic()
        stamp = divmod(round(now * 1e9), 10**9)
        self._publisher.publish(
            fleet_messages.heartbeat_bytes(
                node.fleet, stamp, node.settings.map_frame, self._sequence, self._rivals.own, node.names
            )
        )

    # Who drives -----------------------------------------------------------------------------------------

    def claim(self) -> str:
        """Listen, at most a few seconds, whether another node drives these robots.

        Returns:
            Empty, if this node may be activated; otherwise why not, and what to do.
        """
        rivals = self._rivals
        now = time.monotonic()
        self._awake = now
        rivals.begin(time.time_ns(), now, max(self._listen, self._found_at - now))
        while True:
            self._take()
            now = time.monotonic()
            other = rivals.ahead(self._robots(), now)
            if other is not None:
                self.withdraw()
                return self._reason(other)
            if not rivals.listening(self._robots(), now):
                break
            if now - self._beaten >= INTERVAL:
                self.beat(self._node.now())
            time.sleep(0.01)
        self._advance()
        self.beat(self._node.now())
        return ""

    def _take(self) -> None:
        """Take heartbeats without an executor, which waits for the transition to end."""
        subscription = self._subscription
        while True:
            with subscription.handle:
                taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
            if taken is None:
                return
            subscription.callback(taken[0])

    def _notice_freeze(self) -> float:
        """The time; begin anew after a pause, in which another node may have taken over.

        To be called before anything is said or done: a process is frozen anywhere, also within a control period.
        """
        now = time.monotonic()
        if now - self._awake > self._rivals.silence and self._rivals.own.phase is not Phase.WITHDRAWN:
            self._rivals.begin(time.time_ns(), now, self._listen)
        self._awake = now
        return now

    def _advance(self) -> None:
        self._rivals.advance(Phase.WAITING if self._node.fleet is None else Phase.DRIVING)

    def _reason(self, other: Claim) -> str:
        common = sorted(other.robots.intersection(self._robots()))
        verb = "drives" if other.phase is Phase.DRIVING else "is there to drive"
        return (
            f"{other.node or 'a node without a name'} {verb} {listed(common)} already; "
            "end or deactivate it and activate this node again, or give this node other robots"
        )

    def may_drive(self) -> tuple[bool, str]:
        """At a control period: may this node command its robots to move, and why must it give way, if it must?

        A node that was frozen, or that built a map for long, listens anew first: another may have taken over.
        """
        rivals, now = self._rivals, self._notice_freeze()
        other = rivals.ahead(self._robots(), now)
        if other is not None:
            return False, self._reason(other)
        if rivals.own.phase is Phase.CANDIDATE and rivals.listening(self._robots(), now):
            return False, ""
        self._advance()
        return True, ""

    def doubt(self) -> str:
        """Just before commanding: why the robots must stand in this period; empty if they may move."""
        now = self._notice_freeze()
        if self._rivals.own.phase is Phase.CANDIDATE:
            return "the process was frozen, or a control period took too long"
        other = self._rivals.driving(self._robots(), now)
        return "" if other is None else f"{other.node or 'a node without a name'} drives the same robots"

    def driver_of(self, robot: str) -> str:
        """Another node that drives ``robot``; empty if none is heard."""
        other = self._rivals.driving([robot], time.monotonic())
        return "" if other is None else other.node

    def withdraw(self) -> None:
        """Say that this node commands nobody any more."""
        self._rivals.advance(Phase.WITHDRAWN)
        self.beat(self._node.now())

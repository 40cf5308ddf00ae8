"""What the services and heartbeats of a fleet node need of it: an interface, so that they do not import the node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from rclpy.qos import QoSProfile
from rclpy.service import Service
from rclpy.subscription import Subscription

from marlgpt_policy.fleet.fleet import Fleet
from marlgpt_policy.grid.nav_grid import NavGrid
from marlgpt_policy.nodes.cmd_vel_publishers import CmdVelPublishers
from marlgpt_policy.nodes.event_log import EventLog
from marlgpt_policy.nodes.parameters import Settings
from marlgpt_policy.nodes.request_limits import RequestLimits
from marlgpt_policy.policy.policy_process import PolicyProcess
from marlgpt_policy.policy.policy_swap import PolicySwap


@dataclass
class Stops:
    """Stops in force; they outlive maps, fleets and configurations, and only an operator takes them back.

    Attributes:
        stopped: Of the whole fleet.
        halted: Names of robots stopped one by one.
    """

    stopped: bool = False
    halted: set[str] = field(default_factory=set)

    def apply(self, fleet: Fleet) -> None:
        """Stop what must stand in a fleet that has just been made or has grown."""
        if self.stopped:
            fleet.stop()
        for i, name in enumerate(fleet.names):
            if name in self.halted:
                fleet.stop(i)


class RobotDrivers(Protocol):
    """Who else drives robots."""

    def driver_of(self, robot: str) -> str:
        """Name another node that drives ``robot``; empty if none is heard."""


class FleetSession(Protocol):
    """A configured fleet node; besides these, it has the methods of :class:`rclpy.node.Node`.

    Attributes:
        settings: The parameters.
        policy: What decides; None before ``configure`` and after ``cleanup``.
        fleet, grid: None until a map has come.
        stops: Stops in force.
        event_log: Log and counter of refused messages.
        cmd_vel: Publishers of commands.
        request_limits: Lets requests in, behind control periods and stops.
        operator: The services that are served now; None unless configured.
        presence: Who else drives these robots.
    """

    settings: Settings
    policy: PolicySwap | None
    fleet: Fleet | None
    grid: NavGrid | None
    stops: Stops
    event_log: EventLog
    cmd_vel: CmdVelPublishers
    request_limits: RequestLimits
    operator: object | None
    presence: RobotDrivers

    def __getattr__(self, name: str) -> Any:
        """Methods of :class:`rclpy.node.Node`."""

    @property
    def names(self) -> list[str]:
        """All robots by index, removed ones included."""

    def index_of(self, name: str) -> int | None:
        """Return a robot's index; None if there is no fleet yet, or no such robot."""

    def now(self) -> float:
        """Seconds on the node's clock."""

    def listen(
        self, kind: type, topic: str, callback: Callable, qos: QoSProfile, raw: bool = False
    ) -> Subscription:
        """Subscribe; a message whose callback fails is refused and ends nothing."""

    def serve(self, kind: type, name: str, callback: Callable, *, stop: bool = False) -> Service:
        """Offer a service; stops go before everything else."""

    def join(self, index: int, name: str) -> None:
        """Talk with a robot from now on."""

    def leave(self, index: int, name: str) -> None:
        """Neither hear nor command a robot any more."""

    def stand(self) -> None:
        """Command standstill to all robots at once."""

    def use_policy(self, policy: PolicyProcess) -> None:
        """Decide with another policy from the next decision on."""

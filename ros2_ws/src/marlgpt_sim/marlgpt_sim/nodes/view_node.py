"""Node `view_node`: shows the fleet in web browsers and passes on what operators ask there.

Subscribes to ``map``, ``fleet/grid``, ``fleet/state``, ``sim/status`` (where a simulator runs) and ``/diagnostics``.
Calls ``fleet/stop``, ``fleet/resume``, ``fleet/stop_robot``, ``fleet/resume_robot`` and the action ``fleet/navigate``;
a stop of all is also published on ``fleet/emergency_stop``, which needs no answer. Where no ``fleet/navigate`` is
served, goals go to ``<robot>/goal_pose``. `PARAMETERS` lists the parameters. The page works without the fleet: it says
that nothing is heard and shows it as soon as it comes.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from marlgpt_msgs.msg import FleetState, Grid, SimStatus
from marlgpt_policy.grid.occupancy_map import from_occupancy_grid
from marlgpt_policy.nodes.parameters import Spec, declare
from marlgpt_policy.robots.robots_file import load_robots
from nav_msgs.msg import OccupancyGrid
from rcl_interfaces.srv import GetParameters
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message

from marlgpt_sim.nodes.operator_calls import Orders
from marlgpt_sim.nodes.run_node import run
from marlgpt_sim.view.access import Access
from marlgpt_sim.view.picture import Picture
from marlgpt_sim.view.server import ViewServer

LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
LAST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
LOOK = 1.0
"""Seconds of wall time between two looks at who is there."""

PARAMETERS: dict[str, Spec] = {
    "host": Spec(
        "127.0.0.1", "Address to listen on; 0.0.0.0 lets the network in, and commands then need a token."
    ),
    "port": Spec(8420, "TCP port; 0 for any free one.", 0, 65535),
    "rate": Spec(10.0, "Frames per second that each browser gets, at most.", 1.0, 60.0),
    "read_only": Spec(False, "Whether browsers may only watch."),
    "allow_hosts": Spec("", "More host names under which browsers may reach the page, separated by commas."),
    "title": Spec("", "Heading of the page; empty: the namespace."),
    "radius": Spec(0.0, "Robots' radius to draw, m; 0: that of the fleet node.", 0.0, 10.0),
    "robots_file": Spec("", "YAML file that describes each robot, for radii and goal topics; may be empty."),
}


class ViewNode(Node):
    """Connects the picture and the web server to ROS."""

    def __init__(self, **options: object) -> None:
        """Read the parameters, connect and listen.

        Raises:
            ValueError: A parameter is wrong or the port is taken; says which and what to do.
        """
        super().__init__("view_node", **options)
        declare(self, PARAMETERS, read_only=True)
        value = {name: self.get_parameter(name).value for name in PARAMETERS}
        hosts = tuple(name.strip() for name in value["allow_hosts"].split(",") if name.strip())
        access = Access(value["host"], value["read_only"], hosts)
        self.picture = Picture(time.monotonic, value["radius"] or None)
        self._robots = load_robots(value["robots_file"]) if value["robots_file"] else None
        if self._robots is not None:
            radii = {robot.name: robot.radius for robot in self._robots.robots}
            self.picture.set_radii(self._robots.radius, radii)
        self._radius_known = bool(value["radius"]) or self._robots is not None
        self._asked: Any = None
        self._there = False
        self.picture.fleet_is_there = lambda: self._there
        self.orders = Orders(self, self.picture, self._robots)
        title = value["title"] or self.get_namespace().strip("/") or "Fleet"
        self.server = ViewServer(
            self.picture, self.orders.execute, access, value["port"], value["rate"], title,
            lambda text: self.get_logger().info(text),
        )  # fmt: skip
        self.orders.tell = self.server.tell
        self._connect()
        self.server.start()
        self.get_logger().info(f"open {self.server.url}")
        print(f"view: open {self.server.url}", flush=True)

    def _connect(self) -> None:
        # States of hundreds of robots cost milliseconds to take apart: done at the page's rate, not at the fleet's.
        self._raw_state: bytes | None = None
        self.create_subscription(FleetState, "fleet/state", self._on_state, LAST, raw=True)
        self.create_subscription(OccupancyGrid, "map", self._on_map, LATCHED)
        self.create_subscription(Grid, "fleet/grid", self.picture.set_grid, LATCHED)
        self.create_subscription(SimStatus, "sim/status", self.picture.set_sim, LAST)
        self.create_subscription(DiagnosticArray, "/diagnostics", self.picture.set_diagnostics, RELIABLE)
        self._radius_client = self.create_client(GetParameters, "fleet_node/get_parameters")
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # the page lives while a simulation is paused
        self.create_timer(1.0 / self.get_parameter("rate").value, self._read_state, clock=steady)
        self.create_timer(LOOK, self._look, clock=steady)

    def _on_state(self, data: bytes) -> None:
        self._raw_state = data

    def _read_state(self) -> None:
        data, self._raw_state = self._raw_state, None
        if data is None:
            return
        try:
            self.picture.set_state(deserialize_message(data, FleetState))
        except Exception as error:  # bytes from the network may be anything
            self.get_logger().warning(
                f"a fleet state was refused: {error!r}"[:300], throttle_duration_sec=5.0
            )

    def _on_map(self, message: OccupancyGrid) -> None:
        try:
            self.picture.set_map(from_occupancy_grid(message))
        except ValueError as error:
            self.get_logger().warning(f"map refused: {error}")
            self.server.tell(f"The map was refused: {str(error)[:200]}", "bad")

    def _look(self) -> None:
        """See whether somebody sends states, and ask for the radius until it is known."""
        self._there = self.count_publishers("fleet/state") > 0
        if self._radius_known or not self._radius_client.service_is_ready():
            return
        if self._asked is None or self._asked.done():
            self._asked = self._radius_client.call_async(GetParameters.Request(names=["radius"]))
            self._asked.add_done_callback(self._on_radius)

    def _on_radius(self, future: Any) -> None:
        values = future.result().values
        radius = values[0].double_value if values else 0.0
        if radius > 0.0 and math.isfinite(radius):
            self.picture.set_radii(radius, {})
            self._radius_known = True

    def destroy_node(self) -> None:
        """Say goodbye to the browsers, then end."""
        if hasattr(self, "server"):
            self.server.stop()
        super().destroy_node()


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; returns the exit status."""
    return run("view_node", ViewNode, args, _spin)


def _spin(node: Node) -> None:
    executor = rclpy.executors.SingleThreadedExecutor()
    executor.add_node(node)
    while rclpy.ok():
        executor.spin_once(timeout_sec=0.5)


if __name__ == "__main__":
    sys.exit(main())

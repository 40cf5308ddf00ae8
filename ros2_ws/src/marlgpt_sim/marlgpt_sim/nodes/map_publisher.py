"""Node `map_publisher`: publishes a map file on `map`, latched (nav_msgs/OccupancyGrid).

Parameters ``map_yaml``: the map in map_server's YAML format; ``map_frame``: its frame, map by default. A map that
cannot be read ends the node with status 1.
"""

from __future__ import annotations

import array
import math
import sys

from marlgpt_policy.grid.occupancy_map import OccupancyMap, load_map_yaml, to_occupancy_data
from nav_msgs.msg import OccupancyGrid
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from marlgpt_sim.nodes.run_node import run

LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


def to_message(map_: OccupancyMap) -> OccupancyGrid:
    """Return the map as a message without a stamp."""
    message = OccupancyGrid()
    message.header.frame_id = map_.frame_id
    info = message.info
    info.height, info.width = map_.shape
    info.resolution = map_.resolution
    x, y, yaw = map_.origin
    info.origin.position.x, info.origin.position.y = x, y
    info.origin.orientation.z, info.origin.orientation.w = math.sin(0.5 * yaw), math.cos(0.5 * yaw)
    message.data = array.array("b", to_occupancy_data(map_).tobytes())
    return message


class MapPublisher(Node):
    """Publishes one map, once, for all who come later too."""

    def __init__(self, **options: object) -> None:
        """Read the map and publish it.

        Raises:
            ValueError: naming the file or parameter that is wrong.
        """
        super().__init__("map_publisher", **options)
        descriptor = ParameterDescriptor(description="Map in map_server's YAML format.", read_only=True)
        path = self.declare_parameter("map_yaml", "", descriptor).value
        if not path:
            raise ValueError("parameter 'map_yaml' is not set; give the YAML file of a map")
        descriptor = ParameterDescriptor(description="Frame of the map; empty: map.", read_only=True)
        frame = self.declare_parameter("map_frame", "", descriptor).value
        message = to_message(load_map_yaml(path))
        message.header.frame_id = frame or message.header.frame_id
        message.header.stamp = message.info.map_load_time = self.get_clock().now().to_msg()
        self._publisher = self.create_publisher(OccupancyGrid, "map", LATCHED)
        self._publisher.publish(message)


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; returns the exit status."""
    return run("map_publisher", MapPublisher, args)


if __name__ == "__main__":
    sys.exit(main())

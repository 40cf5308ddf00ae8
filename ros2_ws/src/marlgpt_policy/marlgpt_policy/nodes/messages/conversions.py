"""Between ROS messages and the arrays of :mod:`marlgpt_policy.fleet.fleet`."""

from __future__ import annotations

import hashlib

import numpy as np
from geometry_msgs.msg import Pose
from marlgpt_msgs.msg import FleetDecision, Grid
from marlgpt_msgs.srv import GetGrid
from rclpy.serialization import deserialize_message
from std_msgs.msg import Header

from marlgpt_policy.fleet.decision_record import Decision
from marlgpt_policy.fleet.fleet import Fleet
from marlgpt_policy.grid.geometry import quaternion_of
from marlgpt_policy.grid.nav_grid import NavGrid
from marlgpt_policy.nodes.messages.fleet_messages import decision_bytes


def pose_message(x: float, y: float, yaw: float) -> Pose:
    """A planar pose as a message."""
    message = Pose()
    message.position.x, message.position.y = float(x), float(y)
    q = message.orientation
    q.x, q.y, q.z, q.w = (float(v) for v in quaternion_of(yaw))
    return message


def grid_hash(grid: NavGrid) -> str:
    """Hash of the cells, the moves and where they lie, to the millimetre."""
    place = repr((grid.shape, round(grid.cell_size, 3), [round(v, 3) for v in grid.origin], grid.frame_id))
    return hashlib.sha256(place.encode() + np.packbits(grid.moves).tobytes()).hexdigest()[:16]


def grid_message(grid: NavGrid) -> Grid:
    """A grid, whole: observations can be encoded anew from it."""
    message = Grid(hash=grid_hash(grid), frame_id=grid.frame_id, cell_size=float(grid.cell_size))
    message.rows, message.cols = grid.free.shape
    message.origin = pose_message(*grid.origin)
    message.free, message.moves = grid.free.ravel().tolist(), move_bits(grid.moves).ravel().tolist()
    return message


def move_bits(moves: np.ndarray) -> np.ndarray:
    """uint8[...]: bit k is set where ``moves`` bool[..., 5] allows move k."""
    return (moves * (1 << np.arange(5))).sum(axis=-1).astype(np.uint8)


def grid_response(grid: NavGrid | None, response: GetGrid.Response) -> GetGrid.Response:
    """Fill the answer of ``fleet/get_grid``."""
    if grid is None:
        response.success, response.message = False, "no grid yet: no map has been received"
        return response
    response.success = True
    response.frame_id = grid.frame_id
    response.rows, response.cols = grid.free.shape
    response.cell_size = float(grid.cell_size)
    response.origin = pose_message(*grid.origin)
    response.free = grid.free.ravel().tolist()
    response.moves = move_bits(grid.moves).ravel().tolist()
    return response


def decision_message(fleet: Fleet, decision: Decision, header: Header) -> FleetDecision:
    """One joint decision."""
    stamp = header.stamp.sec, header.stamp.nanosec
    data = decision_bytes(fleet, decision, stamp, header.frame_id, grid_hash(fleet.grid))
    return deserialize_message(data, FleetDecision)

"""Between ROS messages and the arrays of :mod:`marlgpt_policy.fleet`."""

from __future__ import annotations

import hashlib
import math

import numpy as np
from geometry_msgs.msg import Pose
from marlgpt_msgs.msg import FleetDecision, FleetState, Grid, Heartbeat, RobotDecision, RobotState
from marlgpt_msgs.srv import GetGrid
from std_msgs.msg import Header

from marlgpt_policy.fleet import Decision, Fleet
from marlgpt_policy.geometry import quaternion_of
from marlgpt_policy.grid import NavGrid

NO_MOVE = 5
"""History entry of a step that has not happened, in messages."""


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


def state_message(fleet: Fleet, header: Header, now: float, rejected: int) -> FleetState:
    """The whole fleet's state at ``now`` s."""
    message = FleetState(header=header, step=fleet.steps, stopped=fleet.stopped)
    message.provider, message.policy = fleet.policy.provider, fleet.policy.name
    message.decisions, message.rejected_messages = fleet.decisions, rejected
    message.vetoes, message.goals_reached = int(fleet.vetoes.sum()), int(fleet.goals_reached.sum())
    for i, name in enumerate(fleet.names):
        status, detail = fleet.status(i, now)
        robot = RobotState(name=name, status=int(status), detail=detail, pose_age=-1.0)
        if np.isfinite(fleet.poses[i, 0]):
            robot.pose = pose_message(*fleet.poses[i])
            age = float(now - fleet.pose_time[i])
            robot.pose_age = age if math.isfinite(age) else -1.0
        robot.row, robot.col = (int(v) for v in fleet.cells[i])
        robot.target_row, robot.target_col = (int(v) for v in fleet.targets[i])
        robot.goal_row, robot.goal_col = (int(v) for v in fleet.goals[i])
        robot.progress = float(fleet.progress[i])
        robot.goals_reached, robot.vetoes = int(fleet.goals_reached[i]), int(fleet.vetoes[i])
        message.robots.append(robot)
    return message


def decision_message(fleet: Fleet, decision: Decision, header: Header) -> FleetDecision:
    """One joint decision."""
    message = FleetDecision(header=header, step=decision.step, provider=fleet.policy.provider)
    message.encode_ms, message.infer_ms = decision.encode_ms, decision.infer_ms
    message.shield_ms = decision.shield_ms
    message.total_ms = decision.encode_ms + decision.infer_ms + decision.shield_ms
    message.policy, message.grid = fleet.policy.name, grid_hash(fleet.grid)
    message.detour_rows, message.detour_cols = (part.tolist() for part in decision.detours.T)
    history = np.where(decision.history < 0, NO_MOVE, decision.history).astype(np.uint8)
    masks = move_bits(decision.mask).tolist()
    for i, name in enumerate(fleet.names):
        robot = RobotDecision(name=name)
        robot.row, robot.col = (int(v) for v in decision.cells[i])
        robot.goal_row, robot.goal_col = (int(v) for v in decision.goals[i])
        robot.proposed, robot.executed = int(decision.proposed[i]), int(decision.executed[i])
        robot.probabilities = decision.probabilities[i].tolist()
        robot.value = float(decision.value[i])
        robot.held = bool(decision.held[i])
        robot.remedy = int(decision.remedy[i])
        robot.veto = not robot.held and robot.proposed != robot.executed
        robot.present, robot.mask = bool(decision.present[i]), masks[i]
        robot.history, robot.goals_reached = history[i], int(fleet.goals_reached[i])
        message.robots.append(robot)
    return message


def heartbeat_message(fleet: Fleet, header: Header, sequence: int) -> Heartbeat:
    """Sign of life after the commands of control period ``sequence``; robots stopped one by one are not in it."""
    out = (fleet.removed | fleet.halted).tolist()
    robots = [name for name, left_out in zip(fleet.names, out, strict=True) if not left_out]
    return Heartbeat(header=header, sequence=sequence, stopped=fleet.stopped, robots=robots)

"""Between ROS messages and the arrays of :mod:`marlgpt_policy.fleet`."""

from __future__ import annotations

import math

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point, Pose
from marlgpt_msgs.msg import FleetDecision, FleetState, RobotDecision, RobotState
from marlgpt_msgs.srv import GetGrid
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from marlgpt_policy.fleet import Decision, Fleet, Status
from marlgpt_policy.geometry import quaternion_of, yaw_of
from marlgpt_policy.grid import NavGrid


def planar(pose: Pose) -> tuple[float, float, float]:
    """(x, y, yaw) of a pose in m and rad. Raises ``ValueError`` for a NaN position or a quaternion of no length."""
    x, y = pose.position.x, pose.position.y
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"position is not finite: ({x}, {y})")
    q = pose.orientation
    return x, y, yaw_of((q.x, q.y, q.z, q.w))


def pose_message(x: float, y: float, yaw: float) -> Pose:
    """A planar pose as a message."""
    message = Pose()
    message.position.x, message.position.y = float(x), float(y)
    q = message.orientation
    q.x, q.y, q.z, q.w = (float(v) for v in quaternion_of(yaw))
    return message


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
    bits = (grid.moves * (1 << np.arange(5))).sum(axis=-1).astype(np.uint8)
    response.moves = bits.ravel().tolist()
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
        if status != Status.NO_POSE:
            robot.pose = pose_message(*fleet.poses[i])
            robot.pose_age = float(now - fleet.pose_time[i])
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
    for i, name in enumerate(fleet.names):
        robot = RobotDecision(name=name)
        robot.row, robot.col = (int(v) for v in decision.cells[i])
        robot.goal_row, robot.goal_col = (int(v) for v in decision.goals[i])
        robot.proposed, robot.executed = int(decision.proposed[i]), int(decision.executed[i])
        robot.probabilities = decision.probabilities[i].tolist()
        robot.value = float(decision.value[i])
        robot.held = bool(decision.held[i])
        robot.veto = not robot.held and robot.proposed != robot.executed
        message.robots.append(robot)
    return message


def _colour(r: float, g: float, b: float, a: float = 1.0) -> ColorRGBA:
    return ColorRGBA(r=r, g=g, b=b, a=a)


def markers(fleet: Fleet, decision: Decision, header: Header) -> MarkerArray:
    """What RViz shows: held cells, moves under way, lines to the goals, and vetoes, in the map frame."""
    size = float(fleet.grid.cell_size)

    def marker(index: int, name: str, kind: int, scale: float, colour: ColorRGBA) -> Marker:
        made = Marker(header=header, ns=name, id=index, type=kind, color=colour)
        made.scale.x = made.scale.y = scale
        made.scale.z = 0.02
        made.pose.orientation.w = 1.0
        return made

    def points(xy: np.ndarray, height: float) -> list[Point]:
        return [Point(x=float(x), y=float(y), z=height) for x, y in xy]

    centre = fleet.grid.centre
    held = marker(0, "reserved", Marker.CUBE_LIST, 0.9 * size, _colour(0.2, 0.5, 1.0, 0.25))
    held.points = points(centre(np.argwhere(fleet.reservations.holder >= 0)), 0.01)
    moving = np.flatnonzero((fleet.cells != fleet.targets).any(axis=1))
    moves = marker(1, "moves", Marker.LINE_LIST, 0.06, _colour(0.1, 0.8, 0.3))
    moves.points = points(
        centre(np.stack([fleet.cells[moving], fleet.targets[moving]], 1).reshape(-1, 2)), 0.05
    )
    heading = np.flatnonzero((fleet.goals[:, 0] >= 0) & (fleet.cells[:, 0] >= 0))
    goals = marker(2, "goals", Marker.LINE_LIST, 0.02, _colour(1.0, 0.6, 0.0, 0.6))
    goals.points = points(
        centre(np.stack([fleet.cells[heading], fleet.goals[heading]], 1).reshape(-1, 2)), 0.03
    )
    vetoed = np.flatnonzero(~decision.held & (decision.proposed != decision.executed))
    vetoes = marker(3, "vetoes", Marker.SPHERE_LIST, 0.3 * size, _colour(1.0, 0.1, 0.1, 0.8))
    vetoes.points = points(centre(fleet.cells[vetoed]), 0.2)
    return MarkerArray(markers=[held, moves, goals, vetoes])


def diagnostics(
    fleet: Fleet, header: Header, now: float, decision_ms: float, rejected: int
) -> DiagnosticArray:
    """Health of the fleet and of each robot that does not drive."""
    states = [fleet.status(i, now) for i in range(len(fleet.names))]
    bad = {Status.NO_POSE, Status.STALE, Status.OFF_GRID}
    lost = [name for name, (status, _) in zip(fleet.names, states, strict=True) if status in bad]
    level = DiagnosticStatus.WARN if lost or fleet.stopped else DiagnosticStatus.OK
    text = "stopped" if fleet.stopped else (f"standing still: {', '.join(lost)}" if lost else "driving")
    values = {
        "provider": fleet.policy.provider,
        "policy": fleet.policy.name,
        "decision_ms": f"{decision_ms:.2f}",
        "decisions": str(fleet.decisions),
        "vetoes": str(int(fleet.vetoes.sum())),
        "plans for stuck robots": str(fleet.remedies["plans"]),
        "goals_reached": str(int(fleet.goals_reached.sum())),
        "rejected_messages": str(rejected),
    }
    summary = DiagnosticStatus(level=level, name="marlgpt: fleet", message=text, hardware_id="fleet")
    summary.values = [KeyValue(key=key, value=value) for key, value in values.items()]
    statuses = [summary]
    for name, (status, detail) in zip(fleet.names, states, strict=True):
        if status in bad:
            statuses.append(
                DiagnosticStatus(
                    level=DiagnosticStatus.ERROR, name=f"marlgpt: {name}", message=f"{status.name}: {detail}",
                    hardware_id=name,
                )
            )  # fmt: skip
    return DiagnosticArray(header=header, status=statuses)

"""The bytes that a fleet publishes say what messages built field by field say."""

import math

import numpy as np
import pytest
from fleet_sim import a_fleet
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy")

from marlgpt_msgs.msg import (  # noqa: E402
    FleetDecision,
    FleetState,
    Heartbeat,
    RobotDecision,
    RobotState,
)
from marlgpt_policy.fleet.rival_nodes import Claim, Phase  # noqa: E402
from marlgpt_policy.nodes.messages import fleet_messages
from marlgpt_policy.nodes.messages.conversions import decision_message, grid_hash, move_bits, pose_message  # noqa: E402
from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

STAMP, FRAME = (1_700_000_000, 123_456_789), "map"


def header():
    found = Header(frame_id=FRAME)
    found.stamp.sec, found.stamp.nanosec = STAMP
    return found


def state_message(fleet, now, rejected):
    """The whole fleet's state, field by field."""
    message = FleetState(header=header(), step=fleet.steps, stopped=fleet.stopped)
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


def decision_by_fields(fleet, decision):
    """One joint decision, field by field."""
    message = FleetDecision(header=header(), step=decision.step, provider=fleet.policy.provider)
    message.encode_ms, message.infer_ms = decision.encode_ms, decision.infer_ms
    message.shield_ms = decision.shield_ms
    message.total_ms = decision.encode_ms + decision.infer_ms + decision.shield_ms
    message.policy, message.grid = fleet.policy.name, grid_hash(fleet.grid)
    message.detour_rows, message.detour_cols = (part.tolist() for part in decision.detours.T)
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
        robot.history = [5 if move < 0 else int(move) for move in decision.history[i]]
        robot.goals_reached = int(fleet.goals_reached[i])
        message.robots.append(robot)
    return message


def carried(message):
    """What arrives of a message: numbers in the precision of their fields."""
    return deserialize_message(serialize_message(message), type(message))


@st.composite
def fleets(draw):
    """A fleet after a while with faults of many kinds, the time, and its last decision."""
    fleet = a_fleet(draw(st.integers(1, 3)))
    now, decision = 10.0, None
    for k in range(draw(st.integers(1, 60))):
        now = 10.0 + 0.05 * k
        for i in range(len(fleet)):
            if draw(st.integers(0, 9)):
                fleet.update_pose(i, *(fleet.poses[i] + fleet.commands[i] * 0.05), now)
        decision = fleet.tick(now).decision or decision
    for i in range(len(fleet)):
        match draw(
            st.sampled_from(
                ["fine", "halt", "remove", "stale", "unseen", "jump", "undock", "dock", "no goal"]
            )
        ):
            case "halt":
                fleet.stop(i)
            case "remove":
                fleet.remove_robot(i)
            case "stale":
                fleet.pose_time[i] = draw(st.sampled_from([0.0, -math.inf]))
            case "unseen":
                fleet.poses[i] = math.nan
            case "jump":
                fleet.suspect[i] = 1.0
            case "undock":
                fleet.docked[i], fleet.detail[i] = False, draw(st.sampled_from(["", "moved", "né " * 9]))
            case "dock":
                fleet.docking[i] = True
            case "no goal":
                fleet.cancel_goal(i)
    fleet.names = [
        draw(st.sampled_from(["", "a", "ab", "abc", "abcd", "rób"])) + str(i) for i in range(len(fleet))
    ]
    fleet.stopped = draw(st.booleans()) and draw(st.booleans())
    return fleet, now, decision


@settings(max_examples=60, deadline=None)
@given(fleets())
def test_states_say_the_same(drawn):
    fleet, now, _ = drawn
    assert fleet.statuses(now) == [fleet.status(i, now) for i in range(len(fleet))]
    found = deserialize_message(fleet_messages.state_bytes(fleet, STAMP, FRAME, now, 7), FleetState)
    wanted = carried(state_message(fleet, now, 7))
    for mine, theirs in zip(found.robots, wanted.robots, strict=True):
        for part in ("x", "y", "z", "w"):  # the last bit of a sine may differ
            got = getattr(mine.pose.orientation, part)
            assert got == pytest.approx(getattr(theirs.pose.orientation, part), abs=1e-15)
            setattr(mine.pose.orientation, part, getattr(theirs.pose.orientation, part))
    assert found == wanted


@settings(max_examples=60, deadline=None)
@given(fleets())
def test_decisions_say_the_same(drawn):
    fleet, _, decision = drawn
    if decision is None:
        return
    decision.detours.resize((2, 2), refcheck=False) if not len(decision.detours) else None
    data = fleet_messages.decision_bytes(fleet, decision, STAMP, FRAME, grid_hash(fleet.grid))
    wanted = carried(decision_by_fields(fleet, decision))
    assert deserialize_message(data, FleetDecision) == wanted
    assert decision_message(fleet, decision, header()) == wanted
    assert fleet_messages.vetoed(decision).tolist() == [robot.veto for robot in wanted.robots]


@settings(max_examples=60, deadline=None)
@given(fleets(), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.text(), st.sampled_from(Phase))
def test_heartbeats_say_the_same(drawn, sequence, incarnation, node, phase):
    fleet, _, _ = drawn
    claim = Claim(phase, incarnation, node)
    rows = list(zip(fleet.names, fleet.removed, fleet.halted, strict=True))
    wanted = Heartbeat(
        header=header(), sequence=sequence, stopped=fleet.stopped, incarnation=incarnation, phase=int(phase),
        robots=[name for name, removed, halted in rows if not removed and not halted],
        standing=[name for name, removed, halted in rows if halted and not removed], node=node,
    )  # fmt: skip
    data = fleet_messages.heartbeat_bytes(fleet, STAMP, FRAME, sequence, claim)
    assert deserialize_message(data, Heartbeat) == carried(wanted)
    data = fleet_messages.heartbeat_bytes(None, STAMP, FRAME, sequence, claim, ["x", "yy"])
    wanted.stopped, wanted.robots, wanted.standing = False, ["x", "yy"], []
    assert deserialize_message(data, Heartbeat) == carried(wanted)

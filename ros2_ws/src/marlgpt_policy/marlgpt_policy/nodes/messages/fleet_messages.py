"""What a fleet publishes of itself, as the CDR bytes of marlgpt_msgs: FleetState, FleetDecision and Heartbeat.

For 128 robots the objects of a FleetState take 9 ms to build and those of a FleetDecision 5 ms; the bytes take 0.7 ms
and 0.5 ms. ``tests/policy/nodes/messages/test_fleet_messages.py`` checks that they say what ROS's own serialization
of the messages says.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from marlgpt_policy.fleet.decision_record import Decision
from marlgpt_policy.fleet.fleet import Fleet
from marlgpt_policy.fleet.rival_nodes import Claim
from marlgpt_policy.nodes.messages.cdr import HEAD, LITTLE, Fields, layout, text

NO_MOVE = 5
"""History entry of a step that has not happened, in messages."""
HEADER: Fields = (("i", 1), ("I", 1), ("s", 1))
ROBOT_STATE: Fields = (
    ("s", 1), ("B", 1), ("d", 7), ("f", 1), ("i", 6), ("f", 1), ("I", 2), ("s", 1),
)  # fmt: skip
ROBOT_DECISION: Fields = (
    ("s", 1), ("i", 4), ("B", 2), ("I", 1), ("f", 5), ("f", 1), ("B", 10), ("I", 1),
)  # fmt: skip

Stamp = tuple[int, int]
"""Seconds and nanoseconds."""


class _Message:
    """A message that grows field by field."""

    def __init__(self, stamp: Stamp, frame: str) -> None:
        self.data = bytearray(LITTLE)
        name = text(frame)
        self.add(HEADER, *stamp, len(name), name, lengths=(len(name),))

    def add(self, fields: Fields, *values: object, lengths: tuple[int, ...] = ()) -> None:
        """Append values laid out as ``fields``."""
        self.data += layout((len(self.data) - HEAD) % 8, fields, *lengths).pack(*values)

    def add_string(self, value: str) -> None:
        """Append a string."""
        name = text(value)
        self.add((("s", 1),), len(name), name, lengths=(len(name),))

    def add_integers(self, values: np.ndarray) -> None:
        """Append int32[]."""
        self.add((("I", 1), ("i", len(values))), len(values), *values.tolist())


def state_bytes(fleet: Fleet, stamp: Stamp, frame: str, now: float, rejected: int) -> bytes:
    """FleetState: the whole fleet's state at ``now`` s; ``rejected`` messages were refused so far."""
    message = _Message(stamp, frame)
    message.add((("Q", 1), ("?", 1)), fleet.steps, fleet.stopped)
    message.add_string(fleet.policy.provider)
    message.add_string(fleet.policy.name)
    n = len(fleet)
    message.add((("I", 1),), n)
    numbers = np.zeros((n, 8))
    known = fleet.seen
    yaw = 0.5 * np.where(known, fleet.poses[:, 2], 0.0)
    numbers[known, :2] = fleet.poses[known, :2]
    numbers[:, 5], numbers[:, 6] = np.sin(yaw), np.cos(yaw)
    age = now - fleet.pose_time
    numbers[:, 7] = np.where(known & np.isfinite(age), age, -1.0)
    cells = np.concatenate([fleet.cells, fleet.targets, fleet.goals], axis=1)
    rows = zip(
        fleet.names, fleet.statuses(now), numbers.tolist(), cells.tolist(), fleet.progress.tolist(),
        fleet.goals_reached.tolist(), fleet.vetoes.tolist(), strict=True,
    )  # fmt: skip
    data = message.data
    for name, (status, detail), pose, places, progress, goals, vetoes in rows:
        name, detail = text(name), text(detail)
        record = layout((len(data) - HEAD) % 8, ROBOT_STATE, len(name), len(detail))
        data += record.pack(
            len(name), name, status, *pose, *places, progress, goals, vetoes, len(detail), detail
        )
    sums = fleet.decisions, int(fleet.vetoes.sum()), int(fleet.goals_reached.sum()), rejected
    message.add((("Q", 4),), *sums)
    return bytes(data)


def decision_bytes(fleet: Fleet, decision: Decision, stamp: Stamp, frame: str, grid: str) -> bytes:
    """FleetDecision: one joint decision on the grid with the hash ``grid``."""
    message = _Message(stamp, frame)
    message.add((("Q", 1), ("I", 1)), decision.step, len(fleet))
    history = np.where(decision.history < 0, NO_MOVE, decision.history)
    flags = np.column_stack([
        vetoed(decision), decision.held, decision.remedy, decision.present, history,
        (decision.mask * (1 << np.arange(5))).sum(axis=1),
    ])  # fmt: skip
    rows = zip(
        fleet.names, np.concatenate([decision.cells, decision.goals], axis=1).tolist(),
        np.column_stack([decision.proposed, decision.executed]).tolist(), decision.probabilities.tolist(),
        decision.value.tolist(), flags.tolist(), fleet.goals_reached.tolist(), strict=True,
    )  # fmt: skip
    data = message.data
    for name, cells, moves, probabilities, value, flag, goals in rows:
        name = text(name)
        record = layout((len(data) - HEAD) % 8, ROBOT_DECISION, len(name))
        data += record.pack(len(name), name, *cells, *moves, 5, *probabilities, value, *flag, goals)
    times = decision.encode_ms, decision.infer_ms, decision.shield_ms
    message.add((("f", 4),), *times, sum(times))
    for value in (fleet.policy.provider, fleet.policy.name, grid):
        message.add_string(value)
    for part in decision.detours.T:
        message.add_integers(part)
    return bytes(data)


def vetoed(decision: Decision) -> np.ndarray:
    """bool[n] robots whose proposed moves the shield changed."""
    return ~decision.held & (decision.proposed != decision.executed)


def heartbeat_bytes(
    fleet: Fleet | None, stamp: Stamp, frame: str, sequence: int, claim: Claim, names: Collection[str] = ()
) -> bytes:
    """Heartbeat ``sequence`` of the node that says ``claim`` of itself.

    Robots that were removed are left out, those stopped one by one stand apart. Without a fleet, as before there is a
    map, ``names`` are its robots.
    """
    message = _Message(stamp, frame)
    driven, standing = list(names), []
    if fleet is not None:
        rows = list(zip(fleet.names, fleet.removed.tolist(), fleet.halted.tolist(), strict=True))
        driven = [name for name, removed, halted in rows if not (removed or halted)]
        standing = [name for name, removed, halted in rows if halted and not removed]
    message.add((("Q", 1), ("?", 1)), sequence, fleet is not None and fleet.stopped)
    for group in (driven, standing):
        message.add((("I", 1),), len(group))
        for name in map(text, group):  # each begins at a multiple of 4
            message.data += bytes(-len(message.data) % 4) + len(name).to_bytes(4, "little") + name
    message.add((("Q", 1),), claim.incarnation)
    message.add_string(claim.node)
    message.add((("B", 1),), claim.phase)
    return bytes(message.data)

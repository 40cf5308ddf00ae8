"""Between ``marlgpt_msgs/PeerState`` and :class:`marlgpt_policy.decentralised.peer_state.State`."""

from __future__ import annotations

import math

import numpy as np
from marlgpt_msgs.msg import PeerState
from rclpy.time import Time
from std_msgs.msg import Header

from marlgpt_policy.decentralised.peer_state import Shown, State
from marlgpt_policy.grid.nav_grid import NavGrid
from marlgpt_policy.nodes.messages import conversions
from marlgpt_policy.nodes.messages import message_checks as intake
from marlgpt_policy.nodes.messages.fleet_messages import NO_MOVE

MOST_CELLS = 64
"""Cells that one robot may say it holds; it needs fewer than thirty to join."""
LARGEST_CLOCK = 2**63
"""A logical clock from here on is a mistake, and would leave no room to count on."""


def cells_around(grid: NavGrid, pose: tuple[float, float, float]) -> tuple[tuple[int, int], ...]:
    """The cell at a pose and the eight around it: what a robot there may touch whatever its own grid is."""
    row, col = (int(v) for v in grid.cell_of(np.array(pose[:2])))
    return tuple((row + r, col + c) for r in (0, -1, 1) for c in (0, -1, 1))


def read_state(message: PeerState) -> State:
    """A robot's state from its message.

    Raises:
        ValueError: Lists of different lengths, no cell or too many, a number out of range, a stamp before zero.
    """
    lists = (message.peers, message.heard_incarnation, message.heard_sequence, message.heard_age)
    if len({len(values) for values in lists}) > 1 or len(message.held_rows) != len(message.held_cols):
        raise ValueError("its lists have different lengths")
    if not message.held_rows:
        raise ValueError("it holds no cell")
    if len(message.held_rows) > MOST_CELLS:
        raise ValueError(f"it holds {len(message.held_rows)} cells, more than {MOST_CELLS}")
    if max(message.clock, message.request_clock) >= LARGEST_CLOCK:
        raise ValueError(f"its logical clock is {max(message.clock, message.request_clock)}")
    if not all(math.isfinite(value) for value in (*message.heard_age, message.waited)):
        raise ValueError("a number in it is not finite")
    heard = {name: (int(a), int(b), float(c)) for name, a, b, c in zip(*lists, strict=True)}
    request = (message.request_row, message.request_col) if message.request_row >= 0 else None
    goal = (message.goal_row, message.goal_col) if message.goal_row >= 0 else None
    history = tuple(-1 if move == NO_MOVE else int(move) for move in message.history)
    shown = Shown(intake.planar(message.pose), message.stopped, goal, float(message.waited), history)
    return State(
        message.name, message.incarnation, message.sequence,
        Time.from_msg(message.header.stamp).nanoseconds * 1e-9, message.clock, message.grid,
        tuple((int(r), int(c)) for r, c in zip(message.held_rows, message.held_cols, strict=True)),
        request, message.request_clock, heard, shown,
    )  # fmt: skip


def write_state(state: State, frame: str) -> PeerState:
    """A robot's state as a message, its pose in ``frame``."""
    message = PeerState(
        name=state.name, incarnation=state.incarnation, sequence=state.sequence, clock=state.clock
    )
    message.header = Header(frame_id=frame, stamp=Time(nanoseconds=round(state.stamp * 1e9)).to_msg())
    message.grid, message.stopped = state.key, state.shown.stopped
    message.pose = conversions.pose_message(*state.shown.pose)
    message.held_rows, message.held_cols = [r for r, _ in state.held], [c for _, c in state.held]
    message.request_row, message.request_col = state.request or (-1, -1)
    message.request_clock = state.request_clock
    message.goal_row, message.goal_col = state.shown.goal or (-1, -1)
    message.waited = state.shown.waited
    message.history = [NO_MOVE if move < 0 else move for move in state.shown.history]
    message.peers = list(state.heard)
    message.heard_incarnation = [a for a, _, _ in state.heard.values()]
    message.heard_sequence = [b for _, b, _ in state.heard.values()]
    message.heard_age = [c for _, _, c in state.heard.values()]
    return message

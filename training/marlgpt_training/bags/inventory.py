"""A first pass over a bag: which topics, maps and frames it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from marlgpt_policy.grid.geometry import yaw_of
from marlgpt_policy.grid.nav_grid import NavGrid

from marlgpt_training.bags import pose_frames as frames
from marlgpt_training.bags.bag_reader import Bag, BagError, Decoder, Record, Topic, records
from marlgpt_training.bags.decisions import grid_of, has_observations

DECISION, GRID = "marlgpt_msgs/msg/FleetDecision", "marlgpt_msgs/msg/Grid"
MAP = "nav_msgs/msg/OccupancyGrid"
LOOKED_AT = 200
"""Messages of tf that are looked at to know the frames."""


@dataclass
class Inventory:
    """What a first pass over a bag found.

    Attributes:
        topics: All topics by name.
        grids: Recorded grids by hash, as edges bool[R, C, 5].
        nav: The last recorded grid as one to drive on.
        maps: The last map of each topic, not decoded.
        frames: Frame of the first pose of each topic.
        offsets: Stamp less time of reception of those, s; None without a stamp.
        children: Frames that tf knows.
        decided: Whether the bag's decisions hold what observations rest on; None if there are none.
        damaged: Messages that could not be decoded, by type [count].
    """

    topics: dict[str, Topic] = field(default_factory=dict)
    grids: dict[str, np.ndarray] = field(default_factory=dict)
    nav: NavGrid | None = None
    maps: dict[str, Record] = field(default_factory=dict)
    frames: dict[str, str] = field(default_factory=dict)
    offsets: dict[str, float | None] = field(default_factory=dict)
    children: set[str] = field(default_factory=set)
    decided: bool | None = None
    damaged: Counter = field(default_factory=Counter)


def take_inventory(bag: Bag, decode: Decoder, progress: Callable[[int], None]) -> Inventory:
    """Look through a bag once: topics, maps and frames.

    Raises:
        BagError: Nothing can be read.
    """
    found = Inventory()
    transforms = 0
    for record in records(bag, progress):
        topic = found.topics.setdefault(record.topic, Topic(record.topic, record.type))
        topic.count += 1
        if record.type == MAP:
            found.maps[record.topic] = record
            continue
        wanted = record.type == GRID or (record.type == DECISION and found.decided is None)
        wanted |= record.type in frames.POSES and record.topic not in found.frames
        if record.type == frames.TF and (transforms < LOOKED_AT or "static" in record.topic):
            transforms += 1
            wanted = True
        if not wanted:
            continue
        try:
            _look(found, record, decode(record.type, record.encoding, record.definition, record.data))
        except (ValueError, AttributeError):
            found.damaged[record.type] += 1
    if not found.topics:
        raise BagError(f"{bag.path}: holds no message{because(bag)}; record it again")
    return found


def because(bag: Bag) -> str:
    """What is known of a bag's damage, in brackets; empty if it has none."""
    return f" ({'; '.join(bag.damage[:2])})" if bag.damage else ""


def _look(found: Inventory, record: Record, message: Any) -> None:
    if record.type == GRID:
        found.grids[message.hash] = grid_of(message)
        found.nav = nav_grid(message)
    elif record.type == DECISION:
        found.decided = has_observations(message)
    elif record.type == frames.TF:
        found.children |= {frames.plain_frame(one.child_frame_id) for one in message.transforms}
    else:
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        found.frames[record.topic] = message.header.frame_id
        found.offsets[record.topic] = stamp - record.stamp * 1e-9 if stamp else None


def nav_grid(message: Any) -> NavGrid:
    """The grid of a ``marlgpt_msgs/Grid``.

    Raises:
        ValueError: It is none.
    """
    moves = grid_of(message)
    q = message.origin.orientation
    origin = (
        float(message.origin.position.x),
        float(message.origin.position.y),
        float(yaw_of((q.x, q.y, q.z, q.w))),
    )
    return NavGrid(moves[..., 0].copy(), moves, float(message.cell_size), origin, message.frame_id or "map")

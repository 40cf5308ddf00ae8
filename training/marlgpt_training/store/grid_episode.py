"""An episode of POGEMA, as its shards keep it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT

from marlgpt_training.store.episode_row import (
    RowReader,
    common_row,
    contradictions,
    schema_of,
)

KINDS = ("grid", "frames", "fleet")


_SCHEMA = schema_of(
    ended=pa.bool_(),
    map_rows=pa.int32(),
    map_cols=pa.int32(),
    map_bits=pa.binary(),
    starts=pa.binary(),
    goal_events=pa.binary(),
)


@dataclass
class Episode:
    """One POGEMA episode.

    Attributes:
        free: bool[R, C] free cells.
        starts: int16[n, 2] start cells.
        goal_events: int16[k, 4] rows (step, agent, row, column): from that step on the agent has that goal;
            sorted by step, every agent has one at step 0.
        actions: int8[T, n] executed moves (what really happened).
        labels: int8[T, n] the expert's moves in the same states, -1 where it was not asked.
        rewards: float16[T, n], 1 on reaching a goal.
        ended: Whether the episode ended by itself (all at their goals) rather than by its step limit.
        source: Who drove and who labelled, e.g. ``lns``, ``student+lns``, ``bag``.
        scenario: Map family or name.
        seed: Seed of the episode.
        spec: Free JSON-serialisable description (lifelong, window, ...).
        environment: Environment name.
    """

    free: np.ndarray
    starts: np.ndarray
    goal_events: np.ndarray
    actions: np.ndarray
    labels: np.ndarray
    rewards: np.ndarray
    ended: bool
    source: str
    scenario: str
    seed: int
    spec: dict = field(default_factory=dict)
    environment: str = "pogema"

    kind: ClassVar[str] = "grid"
    schema: ClassVar[pa.Schema] = _SCHEMA

    @property
    def layout(self) -> str:
        """Name of the token layout of its observations."""
        return POGEMA_LAYOUT.name

    def row(self) -> dict:
        """The Parquet row."""
        return common_row(self) | {
            "ended": self.ended,
            "map_rows": self.free.shape[0],
            "map_cols": self.free.shape[1],
            "map_bits": np.packbits(self.free).tobytes(),
            "starts": self.starts.astype("<i2").tobytes(),
            "goal_events": self.goal_events.astype("<i2").tobytes(),
        }

    @staticmethod
    def from_row(row: dict) -> Episode:
        """Decode a Parquet row; ``StoreError`` if its fields contradict each other."""
        with contradictions():
            read = RowReader(row, "map_rows", "map_cols")
            episode = Episode(
                free=read.bits("map_bits", row["map_rows"], row["map_cols"]),
                starts=read.numbers("starts", "<i2", read.agents, 2),
                goal_events=read.numbers("goal_events", "<i2", -1, 4),
                ended=row["ended"],
                **read.common(),
            )
            episode.check()
        return episode

    def check(self) -> None:
        """``ValueError`` if a move, label, agent or cell is out of range, or an agent starts without a goal."""
        agents, events = len(self.starts), self.goal_events
        for name, low in (("actions", 0), ("labels", -1)):
            moves = getattr(self, name)
            if ((moves < low) | (moves > 4)).any():
                raise ValueError(f"{name} outside {low}..4")
        for name, cells in (("start", self.starts), ("goal", events[:, 2:])):
            if ((cells < 0) | (cells >= self.free.shape)).any():
                raise ValueError(f"a {name} lies outside the {self.free.shape[0]} x {self.free.shape[1]} map")
        first = events[events[:, 0] == 0, 1]
        if set(first.tolist()) != set(range(agents)) or not set(events[:, 1].tolist()) <= set(range(agents)):
            raise ValueError(f"goal events do not give each of the {agents} agents, and no other, its goals")
        if (np.diff(events[:, 0], prepend=0) < 0).any():
            raise ValueError("goal events are not sorted by step")

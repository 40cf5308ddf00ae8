"""Episodes of driving fleets, from bags: kind ``fleet`` of the trajectory store.

Robots of a driving fleet decide at different times, on what the fleet knew then. A row of such an episode is one joint
decision with all that its observations rest on: cells, goals, histories, who was seen, the moves allowed, and the cells
that ways led around. So every row stands alone, and the observations encoded from it are those of the robots.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.grid.moves import HISTORY

from marlgpt_training.store.episode_row import RowReader, common_row, contradictions, schema_of

MOVES = 5
_SCHEMA = schema_of(
    map_rows=pa.int32(),
    map_cols=pa.int32(),
    edges=pa.binary(),
    times=pa.binary(),
    cells=pa.binary(),
    goals=pa.binary(),
    history=pa.binary(),
    present=pa.binary(),
    masks=pa.binary(),
    detours=pa.binary(),
)


@dataclass
class FleetEpisode:
    """T joint decisions of n robots on one grid.

    Attributes:
        moves: bool[R, C, 5] edges of the grid (wait, up, down, left, right); wait where the cell is free.
        times: int64[T] when they were taken, ns.
        cells: int16[T, n, 2] cells decided from, -1 for robots without one.
        goals: int16[T, n, 2] goal cells, -1 for none: the robot is then shown with its own cell as goal.
        history: int8[T, n, 5] moves before the decision, newest first, -1 for none.
        present: bool[T, n] robots that observations show.
        masks: bool[T, n, 5] moves that could be chosen; none for robots that took no part.
        detours: int16[k, 3] rows (decision, row, column): from that decision on, the ways lead around the cells named
            in it and no others; a decision with the cell (-1, -1) ends that. Sorted by decision.
        actions: int8[T, n] executed moves, -1 for robots that took no part.
        labels: int8[T, n] moves to imitate, -1 for none.
        rewards: float16[T, n] goals reached until the next decision.
        source: ``bag`` (decisions recorded) or ``bag-poses`` (inferred from poses).
        scenario: Name of the bag.
        seed: Not used.
        spec: Free JSON-serialisable description: ``robots`` (names), ``step_time`` (s), ``cell_size`` (m), ...
        environment: Environment name.
    """

    moves: np.ndarray
    times: np.ndarray
    cells: np.ndarray
    goals: np.ndarray
    history: np.ndarray
    present: np.ndarray
    masks: np.ndarray
    detours: np.ndarray
    actions: np.ndarray
    labels: np.ndarray
    rewards: np.ndarray
    source: str
    scenario: str
    seed: int = 0
    spec: dict = field(default_factory=dict)
    environment: str = "pogema"

    kind: ClassVar[str] = "fleet"
    schema: ClassVar[pa.Schema] = _SCHEMA

    @property
    def layout(self) -> str:
        """Name of the token layout of its observations."""
        return POGEMA_LAYOUT.name

    @property
    def free(self) -> np.ndarray:
        """bool[R, C] free cells."""
        return self.moves[..., 0]

    @property
    def step_time(self) -> float:
        """Seconds that a step takes; at least a millisecond."""
        return max(float(self.spec.get("step_time", 1.0)), 1e-3)

    def row(self) -> dict:
        """The Parquet row."""
        return common_row(self) | {
            "map_rows": self.moves.shape[0],
            "map_cols": self.moves.shape[1],
            "edges": np.packbits(self.moves).tobytes(),
            "times": self.times.astype("<i8").tobytes(),
            "cells": self.cells.astype("<i2").tobytes(),
            "goals": self.goals.astype("<i2").tobytes(),
            "history": self.history.astype("i1").tobytes(),
            "present": np.packbits(self.present).tobytes(),
            "masks": np.packbits(self.masks).tobytes(),
            "detours": self.detours.astype("<i2").tobytes(),
        }

    @staticmethod
    def from_row(row: dict) -> FleetEpisode:
        """Decode a Parquet row; ``StoreError`` if its fields contradict each other."""
        with contradictions():
            read = RowReader(row, "map_rows", "map_cols")
            shape = read.steps, read.agents
            episode = FleetEpisode(
                moves=read.bits("edges", row["map_rows"], row["map_cols"], MOVES),
                times=read.numbers("times", "<i8", read.steps),
                cells=read.numbers("cells", "<i2", *shape, 2),
                goals=read.numbers("goals", "<i2", *shape, 2),
                history=read.numbers("history", "i1", *shape, HISTORY),
                present=read.bits("present", *shape),
                masks=read.bits("masks", *shape, MOVES),
                detours=read.numbers("detours", "<i2", -1, 3),
                **read.common(),
            )
            episode.check()
        return episode

    def check(self) -> None:
        """``ValueError`` if a cell, move or label is out of range, not allowed, or two robots share a cell."""
        float(self.spec.get("step_time", 1.0))
        shape = np.array(self.moves.shape[:2])
        for name, cells, floor in (("cell", self.cells, -1), ("goal", self.goals, -1)):
            if ((cells < floor) | (cells >= shape)).any() or ((cells < 0).sum(axis=-1) == 1).any():
                raise ValueError(f"a {name} lies outside the {shape[0]} x {shape[1]} map")
        if (self.cells[self.present] < 0).any():
            raise ValueError("a robot that is present stands in no cell")
        for step in range(len(self.cells)):
            flat = self.cells[step, self.present[step]].astype(np.int64) @ (int(shape[1]), 1)
            if len(np.unique(flat)) != len(flat):
                raise ValueError(f"two robots stand in one cell at decision {step}")
        if ((self.history < -1) | (self.history >= MOVES)).any():
            raise ValueError("history outside -1..4")
        for name in ("actions", "labels"):
            moves = getattr(self, name)
            if ((moves < -1) | (moves >= MOVES)).any():
                raise ValueError(f"{name} outside -1..4")
        asked = self.labels >= 0
        allowed = np.take_along_axis(self.masks, np.maximum(self.labels, 0)[..., None].astype(np.int64), 2)
        if not (self.present & allowed[..., 0])[asked].all():
            raise ValueError("a label is a move that was not allowed, or of a robot that nobody saw")
        events = self.detours
        if len(events) and ((events[:, 1:] < -1) | (events[:, 1:] >= shape)).any():
            raise ValueError("a detour leads around a cell outside the map")
        if (np.diff(events[:, 0], prepend=0) < 0).any() or (events[:, 0] >= max(1, len(self.actions))).any():
            raise ValueError("detours are not sorted by decision, or begin after the last one")

    def detours_at(self, step: int) -> np.ndarray:
        """int64[k, 2] cells that ways lead around at decision ``step``."""
        begun = self.detours[self.detours[:, 0] <= step]
        if not len(begun):
            return np.zeros((0, 2), dtype=np.int64)
        cells = begun[begun[:, 0] == begun[-1, 0], 1:].astype(np.int64)
        return cells[cells[:, 0] >= 0]

"""Recorded decisions (``marlgpt_msgs/FleetDecision``) into episodes with exactly the observations of the robots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from marlgpt_policy.grid.moves import HISTORY

from marlgpt_training.store.fleet_episode import MOVES, FleetEpisode

LENGTH = 512
"""Most decisions of one episode: an episode is what is in memory at a time."""
GAP = 5.0
"""Seconds without a decision after which a new episode begins."""
NO_MOVE = 5
_FIELDS = ("present", "history", "mask", "goals_reached")


def grid_of(message: Any) -> np.ndarray:
    """bool[R, C, 5] edges of a ``marlgpt_msgs/Grid``.

    Raises:
        ValueError: Sizes that contradict each other, or edges that lead nowhere.
    """
    rows, cols = int(message.rows), int(message.cols)
    bits = np.asarray(message.moves, dtype=np.uint8)
    if not 0 < rows < 2**15 or not 0 < cols < 2**15 or bits.size != rows * cols:
        raise ValueError(f"a grid of {rows} x {cols} cells with {bits.size} values")
    moves = ((bits.reshape(rows, cols, 1) >> np.arange(MOVES)) & 1).astype(bool)
    for move, (axis, there) in enumerate(((0, 0), (0, -1), (1, 0), (1, -1)), 1):
        if np.take(moves[..., move], there, axis).any():
            raise ValueError("a grid with a move out of it")
    return moves


class DecisionEpisodes:
    """Collects the decisions of one fleet node into episodes.

    Attributes:
        grids: bool[R, C, 5] edges of the grids by their hashes.
        dropped: What was not taken, by reason: decisions of robots [count].
        seen: Decisions of robots in the bag [count].
        taken: Those that are in episodes [count].
    """

    def __init__(self, bag: str, grids: dict[str, np.ndarray], spec: dict) -> None:
        """``spec`` goes into every episode."""
        self.bag, self.grids, self.spec = bag, grids, spec
        self.dropped: Counter[str] = Counter()
        self.seen = self.taken = 0
        self._rows: list[dict] = []
        self._names: list[str] = []
        self._grid = ""
        self._moved: dict[int, int] = {}
        self._between: list[float] = []

    def take(self, message: Any) -> Iterator[FleetEpisode]:
        """Take one message; the episode that it ends, if it does."""
        members = sum(not robot.held for robot in message.robots)
        self.seen += members
        if message.grid not in self.grids:
            self.dropped["its grid is not in the bag"] += members
            return
        names = [robot.name for robot in message.robots]
        if self._rows:
            last = self._rows[-1]
            again = message.step <= last["step"]
            if again and _nanoseconds(message) <= last["time"]:
                self.dropped["recorded twice"] += members
                return
            gone_on = message.step != last["step"] + 1 or _nanoseconds(message) - last["time"] > GAP * 1e9
            other = names != self._names or message.grid != self._grid or message.policy != last["policy"]
            if gone_on or other or len(self._rows) >= LENGTH:
                goals = None if gone_on or other else [robot.goals_reached for robot in message.robots]
                yield from self.close(goals)
        self._names, self._grid = names, message.grid
        try:
            row = _row(message, self.grids[message.grid])
        except (ValueError, OverflowError) as error:
            self.dropped[f"damaged: {error}"] += members
            yield from self.close()
            return
        self.taken += members
        self.dropped["the executed move was not one that the policy could choose (kept without label)"] += (
            int((row["actions"] >= 0).sum() - (row["labels"] >= 0).sum())
        )
        self._pace(row)
        self._rows.append(row)

    def _pace(self, row: dict) -> None:
        """Note how long robots take from one move to the next, to know what a step is."""
        for robot in np.flatnonzero(row["actions"] > 0).tolist():
            then = self._moved.get(robot)
            if then is not None and len(self._between) < 10_000:
                self._between.append((row["time"] - then) * 1e-9)
            self._moved[robot] = row["time"]

    def close(self, goals_reached: list[int] | None = None) -> Iterator[FleetEpisode]:
        """The episode that is open, if it holds a decision.

        Args:
            goals_reached: Of all robots, at the decision that follows; None if none does.
        """
        rows, self._rows = self._rows, []
        if not rows:
            return
        reached = [row["goals_reached"] for row in rows]
        reached.append(np.array(goals_reached, dtype=np.int64) if goals_reached is not None else reached[-1])
        together = {
            name: np.stack([row[name] for row in rows])
            for name in ("cells", "goals", "history", "present", "masks", "actions", "labels")
        }
        detours, before = [], ()
        for step, row in enumerate(rows):
            if row["detours"] != before:
                detours += [(step, *cell) for cell in row["detours"] or [(-1, -1)]]
                before = row["detours"]
        step_time = float(np.quantile(self._between, 0.25)) if self._between else 1.0
        yield FleetEpisode(
            moves=self.grids[self._grid],
            times=np.array([row["time"] for row in rows], dtype=np.int64),
            detours=np.array(detours, dtype=np.int16).reshape(-1, 3),
            rewards=np.maximum(np.diff(np.stack(reached), axis=0), 0).astype(np.float16),
            source="bag",
            scenario=self.bag,
            spec={
                **self.spec,
                "robots": self._names,
                "policy": rows[0]["policy"],
                "grid": self._grid,
                "first_step": rows[0]["step"],
                "step_time": round(step_time, 3),
            },
            **together,
        )


def _nanoseconds(message: Any) -> int:
    stamp = message.header.stamp
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def has_observations(message: Any) -> bool:
    """Whether a decision holds what its observations rest on; those of older recordings do not."""
    return hasattr(message, "grid") and all(
        hasattr(robot, name) for robot in message.robots[:1] for name in _FIELDS
    )


def _row(message: Any, moves: np.ndarray) -> dict:
    """One decision as arrays.

    Raises:
        ValueError: A cell, move or history that cannot be.
    """
    robots = message.robots
    shape = np.array(moves.shape[:2])
    cells = np.array([(robot.row, robot.col) for robot in robots], dtype=np.int64).reshape(-1, 2)
    goals = np.array([(robot.goal_row, robot.goal_col) for robot in robots], dtype=np.int64).reshape(-1, 2)
    present = np.array([robot.present for robot in robots], dtype=bool)
    held = np.array([robot.held for robot in robots], dtype=bool)
    for name, found, shown in (("cell", cells, present), ("goal", goals, goals[:, 0] >= 0)):
        if ((found < -1) | (found >= shape)).any() or ((found < 0).sum(axis=1) == 1).any():
            raise ValueError(f"a {name} outside the grid")
        if not moves[found[shown, 0], found[shown, 1], 0].all():
            raise ValueError(f"a {name} in a wall")
    if (cells[present] < 0).any() or len(np.unique(cells[present], axis=0)) < present.sum():
        raise ValueError("robots without a cell of their own")
    history = np.stack([np.asarray(robot.history, dtype=np.int64) for robot in robots])
    if history.shape[1] != HISTORY or (history > NO_MOVE).any():
        raise ValueError("a history that is none")
    executed = np.array([robot.executed for robot in robots], dtype=np.int64)
    if (executed >= MOVES).any() or (~held & ~present).any():
        raise ValueError("a move that is none, or of a robot that is not there")
    masks = ((np.array([robot.mask for robot in robots])[:, None] >> np.arange(MOVES)) & 1).astype(bool)
    masks[held] = False
    actions = np.where(held, -1, executed).astype(np.int8)
    allowed = np.take_along_axis(masks, executed[:, None], axis=1)[:, 0]
    detours = tuple(
        zip(np.asarray(message.detour_rows).tolist(), np.asarray(message.detour_cols).tolist(), strict=True)
    )
    if any(not (0 <= row < shape[0] and 0 <= col < shape[1]) for row, col in detours):
        raise ValueError("a detour around a cell outside the grid")
    return {
        "step": int(message.step), "time": _nanoseconds(message), "policy": message.policy,
        "cells": cells.astype(np.int16), "goals": goals.astype(np.int16),
        "history": np.where(history == NO_MOVE, -1, history).astype(np.int8), "present": present,
        "masks": masks, "actions": actions, "labels": np.where(allowed & ~held, actions, -1).astype(np.int8),
        "detours": detours,
        "goals_reached": np.array([robot.goals_reached for robot in robots], dtype=np.int64),
    }  # fmt: skip

"""Visited cells of several robots into decisions: moves, waits, goals, and what each robot saw of the others."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from marlgpt_policy.grid.cost_to_go import UNREACHABLE, CostToGo
from marlgpt_policy.grid.moves import HISTORY
from marlgpt_policy.grid.moves import MOVE_OFFSETS as MOVES
from marlgpt_policy.grid.nav_grid import NavGrid

from marlgpt_training.bags.decisions import LENGTH
from marlgpt_training.bags.tracks import Track, Visit
from marlgpt_training.store.fleet_episode import FleetEpisode

SLACK = 2
"""Moves by which a way may be longer than the shortest one before its goal counts as reached earlier."""
MOVE_OF = {tuple(offset): move for move, offset in enumerate(MOVES.tolist())}
_APPEAR, _VANISH, _ACT = 0, 2, 1
NO_GOAL = (-1, -1)
RESTING, GOAL_UNKNOWN = "step standing without a goal", "step towards a goal that is not known"


@dataclass
class Inferred:
    """What inference made of a bag's poses.

    Attributes:
        steps: Moves and waits seen [count].
        labelled: Those with a known goal, to be imitated [count].
        dropped: Steps without label, by reason [count].
        rests: Places where robots rested, taken as goals [count].
        turns: Places where the way stopped being the shortest, taken as goals [count].
    """

    steps: int = 0
    labelled: int = 0
    dropped: Counter = None
    rests: int = 0
    turns: int = 0

    def __post_init__(self) -> None:
        self.dropped = Counter()


class Inference:
    """Decisions of robots of which only the poses are known."""

    def __init__(
        self,
        grid: NavGrid,
        tracks: dict[str, Track],
        step: float,
        rest: float,
        goals: dict[str, list[tuple[float, tuple[int, int]]]] | None = None,
    ) -> None:
        """Prepare.

        Args:
            grid: Where the robots drive.
            tracks: Closed tracks by robot.
            step: Seconds of a step.
            rest: Seconds of standing that make a place a goal.
            goals: Known goals by robot: (s, cell), sorted; where there are none they are inferred.
        """
        self.grid, self.step, self.rest = grid, step, rest
        self.names = sorted(tracks)
        self.tracks = [tracks[name] for name in self.names]
        self.given = [sorted((goals or {}).get(name, [])) for name in self.names]
        self.costs = CostToGo(grid.moves, capacity=2048)
        self.result = Inferred()
        self._stays: dict[tuple[int, int], list[tuple[float, float, int]]] = {}
        for i, track in enumerate(self.tracks):
            for segment in track.segments:
                for visit in segment:
                    self._stays.setdefault(visit.cell, []).append((visit.begin, visit.end, i))
        for stays in self._stays.values():
            stays.sort()

    # Goals ----------------------------------------------------------------------------------------------

    def _blocked(self, robot: int, visit: Visit, ahead: Visit) -> bool:
        """Whether a robot stood because another one was in the cell ``ahead``: for most of the time, to its end."""
        begin, end = visit.moved - visit.still, visit.moved
        stays = self._stays.get(ahead.cell, [])
        last = bisect_right(stays, (end, math.inf, 0))
        others = [stay for stay in stays[max(0, last - 12) : last] if stay[2] != robot and stay[1] > begin]
        if not any(until >= end - 2 * self.step for _, until, _ in others):
            return False
        return sum(min(end, until) - max(begin, since) for since, until, _ in others) > 0.5 * visit.still

    def _goals(self, robot: int, segment: list[Visit]) -> tuple[list[tuple[int, int]], set[int]]:
        """The goal at which each visit's last decision aimed (``NO_GOAL`` if unknown), and visits that are goals."""
        ends = []
        for k, visit in enumerate(segment):
            if visit.still < self.rest:
                continue
            turned_back = 0 < k < len(segment) - 1 and segment[k - 1].cell == segment[k + 1].cell
            if k + 1 < len(segment) and not turned_back and self._blocked(robot, visit, segment[k + 1]):
                continue
            ends.append(k)
        self.result.rests += len(ends)
        found = [NO_GOAL] * len(segment)
        start = 0
        for end in [*ends, len(segment) - 1]:
            for a, b in self._efficient(segment, start, end):
                found[a:b] = [segment[b].cell] * (b - a)
            start = max(start, end)
        return found, set(ends)

    def _efficient(self, segment: list[Visit], start: int, end: int) -> Iterator[tuple[int, int]]:
        """Pieces of the way from visit ``start`` to ``end`` of which each is about the shortest to its end."""
        while start < end:
            field = self.costs.field(np.array(segment[start].cell))
            best, at = -1, start + 1
            for i in range(start + 1, end + 1):
                far = int(field[segment[i].cell])
                if far >= UNREACHABLE or i - start - far > SLACK:
                    self.result.turns += 1
                    break
                if far > best:
                    best, at = far, i
            else:
                at = end
            yield start, at
            start = at

    def _given_goal(self, robot: int, segment: list[Visit], k: int) -> tuple[int, int] | None:
        """The goal that the robot had been given when it left visit ``k``; None if none is known."""
        given = self.given[robot]
        at = bisect_right(given, (segment[k].decided + 0.2, (2**31, 0))) - 1
        if at < 0:
            return None
        since, cell = given[at]
        for visit in reversed(segment[: k + 1]):
            if visit.end < since:
                break
            if visit.cell == cell:
                return NO_GOAL
        return cell

    # Decisions ------------------------------------------------------------------------------------------

    def events(self) -> list[tuple]:
        """(time, kind, robot, cell, move, goal), sorted: appearing, acting and vanishing."""
        found = []
        for i, track in enumerate(self.tracks):
            for segment in track.segments:
                found.append((segment[0].begin, _APPEAR, i, segment[0].cell, 0, NO_GOAL))
                inferred, rests = self._goals(i, segment)
                for k, visit in enumerate(segment):
                    given = self._given_goal(i, segment, k) if self.given[i] else None
                    goal = inferred[k] if given is None else given
                    wait_goal = NO_GOAL if k in rests or k + 1 == len(segment) else goal
                    found += self._waits(i, visit, wait_goal)
                    if k + 1 < len(segment):
                        there = segment[k + 1]
                        move = MOVE_OF[there.row - visit.row, there.col - visit.col]
                        found.append((visit.decided, _ACT, i, visit.cell, move, goal))
                found.append((segment[-1].end, _VANISH, i, segment[-1].cell, 0, NO_GOAL))
        found.sort(key=lambda event: event[:3])
        return found

    def _waits(self, robot: int, visit: Visit, goal: tuple[int, int]) -> Iterator[tuple]:
        waits = int(visit.still / self.step)
        if not waits:
            return
        every = visit.still / waits
        if goal == NO_GOAL and waits > HISTORY:  # more of them would not change what is seen
            self.result.dropped[RESTING] += waits - HISTORY
            self.result.steps += waits - HISTORY
            waits = HISTORY
        for n in range(waits):
            yield visit.decided - visit.still + n * every, _ACT, robot, visit.cell, 0, goal

    def episodes(self, bag: str, spec: dict) -> Iterator[FleetEpisode]:
        """The bag's decisions as episodes."""
        n = len(self.names)
        cells, goals = np.full((n, 2), -1, np.int16), np.full((n, 2), -1, np.int16)
        history, present = np.full((n, HISTORY), -1, np.int8), np.zeros(n, bool)
        rows: list[dict] = []
        together: dict[int, tuple] = {}
        began = 0.0
        spec = {**spec, "robots": self.names, "step_time": round(self.step, 3)}

        def act() -> None:
            row = self._row(began, cells, goals, history, present, together)
            if row is not None:
                rows.append(row)
            for robot, (move, _) in together.items():
                cells[robot] += MOVES[move].astype(np.int16)
                history[robot] = [move, *history[robot, :-1]]
            together.clear()

        for time, kind, robot, cell, move, goal in self.events():
            if together and (kind != _ACT or robot in together or time - began > self.step / 4):
                act()
                if len(rows) >= LENGTH:
                    yield self._episode(rows, bag, spec)
                    rows = []
            if kind == _APPEAR:
                cells[robot], goals[robot], history[robot], present[robot] = cell, NO_GOAL, -1, True
            elif kind == _VANISH:
                cells[robot], goals[robot], present[robot] = NO_GOAL, NO_GOAL, False
            else:
                if not together:
                    began = time
                goals[robot] = goal
                together[robot] = move, goal
        if together:
            act()
        if rows:
            yield self._episode(rows, bag, spec)

    def _row(self, time: float, cells, goals, history, present, together: dict) -> dict | None:
        """One decision; robots that seem to share a cell with another one are left out of it."""
        shown, taken = present.copy(), set()
        for i in [*together, *(k for k in np.flatnonzero(present).tolist() if k not in together)]:
            cell = tuple(cells[i].tolist())
            shown[i] &= cell not in taken
            taken.add(cell)
        n = len(cells)
        actions, masks = np.full(n, -1, np.int8), np.zeros((n, 5), bool)
        labels, rewards = np.full(n, -1, np.int8), np.zeros(n, np.float16)
        for robot, (move, goal) in together.items():
            self.result.steps += 1
            if not shown[robot]:
                self.result.dropped["step of a robot in a cell where another one seems to be"] += 1
                continue
            if goal == NO_GOAL:
                self.result.dropped[GOAL_UNKNOWN if move else RESTING] += 1
            actions[robot], masks[robot] = move, self.grid.moves[tuple(cells[robot])]
            if goal != NO_GOAL:
                labels[robot] = move
                self.result.labelled += 1
                rewards[robot] = move > 0 and tuple((cells[robot] + MOVES[move]).tolist()) == goal
        if not (actions >= 0).any():
            return None
        return {
            "times": np.int64(round(time * 1e9)), "cells": cells.copy(), "goals": goals.copy(),
            "history": history.copy(), "present": shown, "masks": masks, "actions": actions,
            "labels": labels, "rewards": rewards,
        }  # fmt: skip

    def _episode(self, rows: list[dict], bag: str, spec: dict) -> FleetEpisode:
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return FleetEpisode(
            moves=np.ascontiguousarray(self.grid.moves),
            detours=np.zeros((0, 3), np.int16),
            source="bag-poses",
            scenario=bag,
            spec=spec,
            **stacked,
        )

"""Poses of one robot into the cells that it visited, when, and how long it stood there."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from marlgpt_policy.grid.moves import MOVE_OFFSETS as MOVES
from marlgpt_policy.grid.nav_grid import NavGrid

STICKY = 0.1
"""Cells by which a robot must be beyond a border to count as across: at a border, noise would go to and fro."""
NEAR = 0.75
"""Cells to the nearest centre up to which a robot beside the free cells counts as in one of them."""
STILL = 0.12
"""Cells within which a robot that stands may move (noise)."""
STILL_TURN = 0.25
"""Rad within which it may turn."""
LEAST_STILL = 0.3
"""Seconds for which it must do neither."""
LARGEST_GAP = 2.0
"""Seconds without a pose after which a track ends and another one begins."""
LONGEST_HOP = 4
"""Moves between the cells of two poses that are filled in; more is a jump."""
ENOUGH = 5
"""Cells in which the time of a step must have been seen."""


@dataclass
class Visit:
    """A stay in a cell: entered and left at ``begin`` and ``end``, stood for ``still`` s until ``moved`` (s)."""

    row: int
    col: int
    begin: float
    end: float
    still: float = 0.0
    moved: float = math.nan

    @property
    def cell(self) -> tuple[int, int]:
        """(row, column)."""
        return self.row, self.col

    @property
    def decided(self) -> float:
        """When it decided to leave: when it came, or if it stood, when it began to move."""
        return self.begin if math.isnan(self.moved) else self.moved


@dataclass
class Track:
    """Takes the poses of one robot in their order.

    Attributes:
        grid: Where it drives.
        segments: Unbroken sequences of visits, each cell a neighbour of the one before.
        dropped: Poses that were not used, by reason [count].
        mended: Visits that were filled in: diagonals and cells between two poses [count].
        poses: Poses seen [count].
    """

    grid: NavGrid
    segments: list[list[Visit]] = field(default_factory=list)
    dropped: Counter = field(default_factory=Counter)
    mended: int = 0
    poses: int = 0
    _time: float = -math.inf
    _open: bool = False
    _rest: tuple[float, float, float, float] | None = None
    _rested: float = 0.0

    def __post_init__(self) -> None:
        yaw = self.grid.origin[2]
        self._cos, self._sin = math.cos(yaw), math.sin(yaw)

    def pose(self, time: float, x: float, y: float, yaw: float) -> None:
        """Take a pose: s, m and rad in the map frame."""
        self.poses += 1
        if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(yaw) and math.isfinite(time)):
            self.dropped["pose is not finite"] += 1
            return
        if time <= self._time:
            if time < self._time:
                self.dropped["pose is older than the one before"] += 1
            return
        if time - self._time > LARGEST_GAP:
            self._break()
        self._time = time
        place = self._place(x, y)
        if place is None:
            self.dropped["robot is off the grid"] += 1
            self._break()
            return
        if not self._open:
            self.segments.append([Visit(*place, time, time)])
            self._open = True
        elif place != self.segments[-1][-1].cell and not self._go(place, time):
            self.dropped["pose jumped"] += 1
            self._break()
            self.segments.append([Visit(*place, time, time)])
            self._open = True
        self._stand(time, x, y, yaw)
        self.segments[-1][-1].end = time

    def _place(self, x: float, y: float) -> tuple[int, int] | None:
        """The cell of a position; None where no free cell is near."""
        dx, dy = x - self.grid.origin[0], y - self.grid.origin[1]
        column = (self._cos * dx + self._sin * dy) / self.grid.cell_size
        row = (self._sin * dx - self._cos * dy) / self.grid.cell_size
        if not (abs(row) < 2**15 and abs(column) < 2**15):
            return None
        if self._open:
            here = self.segments[-1][-1]
            if max(abs(row - here.row), abs(column - here.col)) <= 0.5 + STICKY:
                return here.cell
        rows, columns = self.grid.shape
        best, found = NEAR, None
        for r in range(round(row) - 1, round(row) + 2):
            for c in range(round(column) - 1, round(column) + 2):
                away = math.hypot(r - row, c - column)
                if 0 <= r < rows and 0 <= c < columns and away < best and self.grid.free[r, c]:
                    best, found = away, (r, c)
        return found

    def _go(self, place: tuple[int, int], time: float) -> bool:
        """Append the visits on the way to ``place``; False if there is no short way."""
        last = self.segments[-1][-1]
        way = self._way(last.cell, place)
        if way is None:
            return False
        self._end_rest()
        self.mended += len(way) - 1
        then = last.end
        for k, cell in enumerate(way, 1):
            at = then + (time - then) * k / len(way)
            self.segments[-1][-1].end = at
            self.segments[-1].append(Visit(*cell, at, at))
        return True

    def _way(self, start: tuple[int, int], goal: tuple[int, int]) -> list[tuple[int, int]] | None:
        """Cells after ``start`` up to ``goal``, over at most ``LONGEST_HOP`` edges."""
        if abs(start[0] - goal[0]) + abs(start[1] - goal[1]) > LONGEST_HOP:
            return None
        came = {start: start}
        queue = deque([(start, 0)])
        while queue:
            cell, steps = queue.popleft()
            if cell == goal:
                way = []
                while cell != start:
                    way.append(cell)
                    cell = came[cell]
                return way[::-1]
            if steps == LONGEST_HOP:
                continue
            for move in range(1, 5):
                there = cell[0] + int(MOVES[move, 0]), cell[1] + int(MOVES[move, 1])
                if self.grid.moves[cell[0], cell[1], move] and there not in came:
                    came[there] = cell
                    queue.append((there, steps + 1))
        return None

    def _stand(self, time: float, x: float, y: float, yaw: float) -> None:
        """Count for how long the robot has hardly moved."""
        rest = self._rest
        if rest is not None:
            away = math.hypot(x - rest[1], y - rest[2]) / self.grid.cell_size
            turned = abs(math.remainder(yaw - rest[3], math.tau))
            if away <= STILL and turned <= STILL_TURN:
                self._rested = time - rest[0]
                return
            self._end_rest()
        self._rest, self._rested = (time, x, y, yaw), 0.0

    def _end_rest(self) -> None:
        if self._rest is not None and self._rested >= LEAST_STILL and self._open:
            visit = self.segments[-1][-1]
            visit.still += self._rested
            visit.moved = self._rest[0] + self._rested
        self._rest, self._rested = None, 0.0

    def _break(self) -> None:
        """End the track; what follows is another one."""
        self._end_rest()
        self._open = False

    def close(self) -> None:
        """No more poses come."""
        self._break()
        self.segments = [segment for segment in self.segments if segment]


def step_time(tracks: list[Track]) -> float:
    """Seconds that robots take for a cell, by what was seen: driving through or, if none does, from stop to stop.

    Fleets that move in step stop in every cell. Where neither was seen often enough it is 0.7 s.
    """
    segments = [segment for track in tracks for segment in track.segments]
    through = [
        visit.end - visit.begin
        for segment in segments
        for visit in segment[1:-1]
        if visit.still == 0 and visit.end > visit.begin
    ]
    stops = [
        ahead.moved - ahead.still - visit.moved
        for segment in segments
        for visit, ahead in pairwise(segment)
        if visit.still > 0 and ahead.still > 0
    ]
    for seen in (through, [seconds for seconds in stops if seconds > 0]):  # NaN, still standing, is not
        if len(seen) >= ENOUGH:
            return float(np.median(seen))
    return 0.7

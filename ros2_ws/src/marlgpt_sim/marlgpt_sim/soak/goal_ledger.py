"""Goals counted from what the operator gave and what the robots really reached, never from the fleet's own list."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numba
import numpy as np
from marlgpt_policy.grid.nav_grid import NavGrid

NEAR = 0.05
"""m beside the bound of the pose error within which a robot has reached a goal: where the fleet may say so."""
LATELY = 1.0
"""s that a fleet may take to notice that a goal is reached."""
GRACE = 0.5
"""s for which a goal may be missing from the fleet's list: a process that starts again is told at once."""
FAR = 1 << 30
FIELDS = 256
"""Tables of distances that are kept."""


@dataclass
class Goal:
    """A goal that an operator has given.

    Attributes:
        cell: (row, column). xy: its centre, complex, m. since: s.
        near: s at which the robot truly was there last; -inf before.
        missing: s since which the fleet does not have it; NaN if it does.
        nearest: steps to it at best so far.
    """

    cell: tuple[int, int]
    xy: complex
    since: float
    near: float = -np.inf
    missing: float = np.nan
    nearest: int = FAR


class GoalLedger:
    """The operator's own book of goals.

    Attributes:
        given, reached, taken_back, refused: counts of goals. Refused: the robot stood where no way leads there.
        lost: sentences, one for each goal that the fleet has forgotten.
        open: by robot, goals that were given and are neither reached nor taken back nor lost.
        starved: float[n] s for which each robot, although able, has got no nearer to its goal than ever.
        longest: float[n] the longest of these.
        served: int[n] goals that each robot has reached.
    """

    def __init__(self, grid: NavGrid, robots: int, pose_error: float) -> None:
        """Open a book for ``robots`` robots whose poses are known to ``pose_error`` m."""
        self.grid, self.tolerance = grid, NEAR + pose_error
        self.given = self.reached = self.taken_back = self.refused = 0
        self.lost: list[str] = []
        self.open: dict[int, Goal] = {}
        self.starved, self.longest = np.zeros(robots), np.zeros(robots)
        self.served = np.zeros(robots, int)
        self._fields: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def give(self, robot: int, cell: tuple[int, int], now: float) -> None:
        """Note a goal; one that the robot had is taken back by it."""
        self.take_back(robot)
        x, y = self.grid.centre(np.array(cell))
        self.given += 1
        self.open[robot] = Goal(cell, complex(x, y), now)
        self.starved[robot] = 0.0

    def take_back(self, robot: int) -> None:
        """Note that the operator no longer wants a robot's goal, if it has one."""
        self.taken_back += self.open.pop(robot, None) is not None
        self.starved[robot] = 0.0

    def watch(
        self,
        now: float,
        dt: float,
        poses: np.ndarray,
        listed: np.ndarray,
        able: np.ndarray,
        refusals: set[int],
    ) -> list[int]:
        """Judge all goals after a control period of ``dt`` s.

        Args:
            now: true s.
            dt: s.
            poses: float[n, 3] true poses.
            listed: int[n, 2] goals that the fleet says it has; -1 for none.
            able: bool[n] robots that nothing keeps from driving.
            refusals: robots whose goals the fleet says it cannot reach.

        Returns:
            Robots that have no goal any more: they reached it, or it was refused or lost.
        """
        done = []
        position = (poses[:, 0] + 1j * poses[:, 1]).tolist()
        cells = np.clip(self.grid.cell_of(poses[:, :2]), 0, np.array(self.grid.shape) - 1).tolist()
        has, able = [tuple(cell) for cell in np.asarray(listed).tolist()], able.tolist()
        for i, goal in list(self.open.items()):
            if abs(position[i] - goal.xy) <= self.tolerance:
                goal.near = now
            if has[i] == goal.cell:
                goal.missing = np.nan
                self._starve(i, goal, cells[i], dt, able[i])
                continue
            if now - goal.near <= LATELY:
                self.reached += 1
                self.served[i] += 1
                self.starved[i] = 0.0
            elif i in refusals and self._cut_off(poses[i, :2]):
                self.refused += 1
            else:
                self.starved[i] += dt  # whoever is not told where to go gets no nearer
                self.longest[i] = max(self.longest[i], self.starved[i])
                if not now - goal.missing >= GRACE:
                    goal.missing = now if np.isnan(goal.missing) else goal.missing
                    continue
                self.lost.append(
                    f"t = {now:.2f} s: goal {goal.cell} of robot {i}, given at {goal.since:.2f} s, is missing from the "
                    f"fleet; the robot is {abs(position[i] - goal.xy):.2f} m away"
                )
            del self.open[i]
            done.append(i)
        return done

    def forgotten_at_the_end(self) -> int:
        """Open goals that the fleet does not have."""
        return sum(not np.isnan(goal.missing) for goal in self.open.values())

    def _starve(self, i: int, goal: Goal, cell: list[int], dt: float, able: bool) -> None:
        left = int(self.steps_to(goal.cell)[cell[0], cell[1]])
        if left < goal.nearest:
            goal.nearest, self.starved[i] = left, 0.0
        elif able:
            self.starved[i] += dt
            self.longest[i] = max(self.longest[i], self.starved[i])

    def _cut_off(self, xy: np.ndarray) -> bool:
        """Whether a cell around a place is none of the large connected area that goals are drawn from."""
        rows, columns = self.grid.shape
        r, c = self.grid.cell_of(xy)
        around = self.grid.components[max(r - 1, 0) : min(r + 2, rows), max(c - 1, 0) : min(c + 2, columns)]
        return bool((around > 0).any())

    def steps_to(self, cell: tuple[int, int]) -> np.ndarray:
        """int64[R, C] moves from each cell to a goal; ``FAR`` without a way."""
        if cell not in self._fields:
            self._fields[cell] = _breadth_first(self.grid.moves, cell[0], cell[1])
            if len(self._fields) > FIELDS:
                self._fields.popitem(last=False)
        self._fields.move_to_end(cell)
        return self._fields[cell]


@numba.njit(cache=True)
def _breadth_first(moves, row, column):
    rows, columns = moves.shape[0], moves.shape[1]
    steps = np.full((rows, columns), FAR)
    queue = np.empty((rows * columns, 2), np.int64)
    queue[0] = row, column
    steps[row, column] = 0
    head, tail = 0, 1
    while head < tail:
        r, c = queue[head]
        head += 1
        for move in range(1, 5):
            if not moves[r, c, move]:
                continue
            a = r + (-1 if move == 1 else 1 if move == 2 else 0)
            b = c + (-1 if move == 3 else 1 if move == 4 else 0)
            if steps[a, b] == FAR:
                steps[a, b] = steps[r, c] + 1
                queue[tail] = a, b
                tail += 1
    return steps

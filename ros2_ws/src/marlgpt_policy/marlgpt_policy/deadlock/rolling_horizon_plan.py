"""Rolling-horizon joint plans: robots that have waited longest get through, and all near them plan around them.

The robot that has waited longest is planned first and takes its shortest way, the next one plans around it, and so on
(``mapf/prioritised_planning.py``). Where that does not find a way, LaCAM (``mapf/lacam.py``) searches. Plans are made
anew every few seconds.

A plan is carried out by its order, not by its clock: a robot drives on as soon as all that pass its next cell before
it have left that cell, so that nobody waits for the slowest. Its moves are proposals: the shield decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np

from marlgpt_policy.grid.cost_to_go import UNREACHABLE, CostToGo
from marlgpt_policy.mapf.joint_search import solve
from marlgpt_policy.mapf.lacam import lacam, neighbour_table, without
from marlgpt_policy.mapf.prioritised_planning import HORIZON, connected, plan_window, way

NEAR = 8
"""Robots this near (larger of the row and column distance, in cells) to one that goes first, or to a cell of the
next ``HORIZON // 2`` on its way, take part; those farther off are left out of account."""
MOST = 24
"""Most robots in a plan, the nearest first."""
RENEW = 4.0
"""Seconds after which a plan is made anew."""
PAUSE = 1.0
"""Least seconds between two plans; twice as many after each time that there was none, up to ``LONGEST_PAUSE``."""
LONGEST_PAUSE = 8.0
"""Largest such pause, s."""


@numba.njit(cache=True, nogil=True)
def _next(path, step, i):
    """Row of ``path`` int32[T + 1, n] in which robot ``i`` is in its next cell, -1 at the end of its way.

    ``step`` int64[n] is the row in which each robot is. Waits of the plan are skipped: order counts, not time.
    """
    for t in range(step[i] + 1, path.shape[0]):
        if path[t, i] != path[step[i], i]:
            return t
    return -1


@numba.njit(cache=True, nogil=True)
def _blocks(path, step, rows, i, j):
    """Whether robot ``j`` passes the next cell of ``i`` before it and has not left it; ``rows`` as in ``advance``."""
    cell = path[rows[i], i]
    begin = step[j]
    if rows[j] >= 0 and path[begin, j] == cell:
        begin = rows[j]  # it leaves now
    for t in range(begin, rows[i]):
        if path[t, j] == cell:
            return True
    return False


@numba.njit(cache=True, nogil=True)
def advance(path: np.ndarray, step: np.ndarray, ready: np.ndarray) -> np.ndarray:
    """Rows of the cells that robots may drive to now, in the order of their plan.

    Args:
        path: int32[T + 1, n] flat cells.
        step: int64[n] row in which each robot is.
        ready: bool[n] robots that decide now.

    Returns:
        int64[n], -1 for robots that wait. Whoever passes a cell before another one goes first; a robot that leaves
        now may be followed, round a circle too.
    """
    n = path.shape[1]
    rows = np.full(n, -1, dtype=np.int64)
    for i in range(n):
        if ready[i]:
            rows[i] = _next(path, step, i)
    # A greatest fixed point: begin with all moving, stop whoever is blocked, and again, until nobody is. Robots that
    # follow each other round a circle block nobody, so they keep moving.
    changed = True
    while changed:
        changed = False
        for i in range(n):
            if rows[i] < 0:
                continue
            for j in range(n):
                if j != i and _blocks(path, step, rows, i, j):
                    rows[i] = -1
                    changed = True
                    break
    return rows


def compile_plans() -> None:
    """Have planning compiled now (seconds, once on a machine) and not while robots drive."""
    moves = np.zeros((1, 2, 5), dtype=np.bool_)
    moves[0, :, 0] = moves[0, 0, 4] = moves[0, 1, 3] = True
    fields, near = np.array([[1, 0]], dtype=np.int32), neighbour_table(moves)
    connected(np.int64(0), np.int64(1), near)
    path = plan_window(np.array([0]), fields, near, 1, 2)
    advance(path, np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.bool_))
    lacam(np.array([0]), fields, np.array([0]), near, (2,))


@dataclass
class JointPlan:
    """A plan under way.

    Attributes:
        robots: int[k] robots that follow it.
        goals: int[k, 2] where they were headed when it was made.
        path: int32[T + 1, k] their flat cells.
        step: int64[k] row in which each of them is.
        made: When it was made, s.
    """

    robots: np.ndarray
    goals: np.ndarray
    path: np.ndarray
    step: np.ndarray
    made: float


class JointPlans:
    """The joint plan of a fleet on one grid, while there are robots that go first.

    Attributes:
        plan: The plan under way, or None.
        count: Plans made so far.
    """

    def __init__(self, costs: CostToGo) -> None:
        """Start without a plan; ``costs`` are those of the whole grid."""
        self.plan: JointPlan | None = None
        self.count = 0
        self._costs = costs
        self._columns = costs.moves.shape[1]
        self._tried, self._pause = -np.inf, PAUSE

    @cached_property
    def near(self) -> np.ndarray:
        """int32[cells, 5], see ``lacam.neighbour_table``; made when first needed, as it is large on large maps."""
        return neighbour_table(self._costs.moves)

    def propose(
        self,
        served: list[int],
        robots: np.ndarray,
        cells: np.ndarray,
        goals: np.ndarray,
        fields: np.ndarray,
        able: np.ndarray,
        ready: np.ndarray,
        closed: np.ndarray,
        now: float,
    ) -> np.ndarray:
        """Moves of the robots that follow the plan.

        Args:
            served: Robots that go first, the first of them first.
            robots: int[m] indices of robots.
            cells: int[m, 2] where they are or will be, all different.
            goals: int[m, 2] their goals.
            fields: int32[m, R, C] cost-to-go.
            able: bool[m] robots that can drive; the others are obstacles.
            ready: bool[m] robots that decide now.
            closed: bool[R, C] cells that nobody may enter.
            now: s.

        Returns:
            int8[m] moves, 0 for robots whose turn it is not, -1 for robots that are in no plan.
        """
        found = np.full(len(robots), -1, dtype=np.int8)
        place = {int(robot): k for k, robot in enumerate(robots)}
        first = [place[i] for i in served if i in place and able[place[i]]]
        if not first:
            self.plan, self._pause = None, PAUSE
            return found
        if self.plan is not None and not self._follow(place, cells, able):
            self.plan = None
        if now < self._tried:  # the clock was set back
            self._tried = -np.inf
        if now - self._tried >= self._pause and self._due(place, first, robots, goals, now):
            self._tried = now
            # Without another plan the old one ends: who follows it to its end would wait there for good.
            self.plan = self._make(first, robots, cells, goals, fields, able, closed, now)
            self.count += self.plan is not None
            self._pause = min(2 * self._pause, LONGEST_PAUSE) if self.plan is None else PAUSE
        plan = self.plan
        if plan is None:
            return found
        rows = np.array([place[int(robot)] for robot in plan.robots])
        to = advance(plan.path, plan.step, ready[rows])
        here = plan.path[plan.step, np.arange(len(rows))]
        there = np.where(to >= 0, plan.path[to, np.arange(len(rows))], here)
        found[rows] = (self.near[here] == there[:, None]).argmax(axis=1)
        return found

    def _follow(self, place: dict[int, int], cells: np.ndarray, able: np.ndarray) -> bool:
        """Note where robots are in the plan; False if one of them is off it."""
        plan = self.plan
        for k, robot in enumerate(plan.robots.tolist()):
            row = place.get(robot)
            if row is None or not able[row]:
                return False
            cell = int(cells[row, 0] * self._columns + cells[row, 1])
            if cell == plan.path[plan.step[k], k]:
                continue
            to = _next(plan.path, plan.step, k)
            if to < 0 or cell != plan.path[to, k]:
                return False
            plan.step[k] = to
        return True

    def _due(self, place: dict[int, int], first: list[int], robots, goals, now: float) -> bool:
        """Whether another plan is to be made: there is none, it is old, a robot or goal is not the plan's."""
        plan = self.plan
        if plan is None or now - plan.made >= RENEW or now < plan.made:
            return True
        members = set(plan.robots.tolist())
        if any(int(robots[k]) not in members for k in first):
            return True
        rows = [place[int(robot)] for robot in plan.robots]
        return bool((goals[rows] != plan.goals).any())

    def _make(self, first, robots, cells, goals, fields, able, closed, now: float) -> JointPlan | None:
        """Plan the robots that go first and those near their ways; None if the first would not get nearer.

        ``first`` int list holds rows of the other arrays; these are as for :meth:`propose`.
        """
        flat = fields.reshape(len(robots), -1)
        here = cells @ (self._columns, 1)
        able = able & (flat[np.arange(len(robots)), here] < UNREACHABLE)
        first = [k for k in first if able[k]]
        if not first:
            return None
        away = np.full(len(robots), UNREACHABLE)
        for k in first:
            path = np.array(way(int(here[k]), flat[k], self.near, HORIZON // 2))
            path = np.stack(np.divmod(path, self._columns), axis=1)
            gap = np.abs(cells[:, None] - path[None]).max(axis=2).min(axis=1)
            away = np.minimum(away, gap)
        rank = np.argsort(away, kind="stable")
        others = [int(k) for k in rank if able[k] and away[k] <= NEAR and k not in first]
        group = np.array((first + others)[:MOST])
        shut = closed.reshape(-1).copy()
        shut[here[~able]] = True
        near = without(self.near, shut, here[group])
        if not connected(here[group[0]], goals[group[0]] @ (self._columns, 1), near):
            return None
        path = plan_window(here[group], flat[group], near, len(first))
        if path is None:
            path = solve(self._costs, here[group], goals[group] @ (self._columns, 1), near, shut)
        if path is None:
            return None
        return JointPlan(robots[group], goals[group], path, np.zeros(len(group), dtype=np.int64), now)

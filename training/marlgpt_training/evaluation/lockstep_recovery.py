"""Plans for agents that are stuck while all step together, as in evaluation on grids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from marlgpt_policy.grid.cost_to_go import UNREACHABLE, CostToGo
from marlgpt_policy.grid.moves import MOVE_OFFSETS as MOVES
from marlgpt_policy.mapf.joint_search import solve
from marlgpt_policy.mapf.lacam import neighbour_table, without

AFTER = 24
"""Decisions without progress after which a robot gets a plan."""


RADII = (4, 8)
"""Robots this near (larger of the row and column distance, in cells) to the stuck robot or its goal take part; those
farther off are left out of account. The second radius is tried where the first finds no plan."""


MOST = 24
"""Most robots in one plan, the nearest first; the others that near count as obstacles."""


PAUSE = 8
"""Decisions before a robot without a plan is tried again."""


LONGEST = 32
"""Steps of a plan that are driven before another one is made."""


@dataclass
class Plan:
    """A joint plan under way.

    Attributes:
        stuck: Robot that it is for.
        goal: Its goal (row, column); another goal ends the plan.
        distance: Steps to go from its nearest position so far; getting below ends the plan.
        robots: int[k] robots that follow it.
        path: int[T + 1, k, 2] their cells.
        step: Where they are in it.
    """

    stuck: int
    goal: tuple[int, int]
    distance: int
    robots: np.ndarray
    path: np.ndarray
    step: int = 0


class Rescue:
    """Plans for the stuck robots of a fleet on one grid.

    Attributes:
        plans: Plans under way; no robot is in two of them.
        count: Plans made so far.
    """

    def __init__(self, costs: CostToGo, n: int) -> None:
        """For ``n`` robots on the grid of ``costs``."""
        self.plans: list[Plan] = []
        self.count = 0
        self._costs = costs
        self._near = neighbour_table(costs.moves)
        self._shape = costs.moves.shape[:2]
        self._pause = np.zeros(n, dtype=np.int64)

    def grow(self, count: int) -> None:
        """Add ``count`` robots."""
        self._pause = np.append(self._pause, np.zeros(count, dtype=np.int64))

    def propose(
        self,
        robots: np.ndarray,
        cells: np.ndarray,
        goals: np.ndarray,
        fields: np.ndarray,
        idle: np.ndarray,
        closed: np.ndarray,
    ) -> np.ndarray:
        """Moves of the robots that follow a plan.

        Args:
            robots: int[m] indices of robots.
            cells: int[m, 2] where they are or will be, all different.
            goals: int[m, 2] their goals.
            fields: int32[m, R, C] cost-to-go towards their goals.
            idle: float[m] decisions since they were last nearer to their goal than ever (``deadlock/stagnation.py``).
            closed: bool[R, C] cells that none of them may enter.

        Returns:
            int8[m] moves, -1 for robots without a plan.
        """
        found = np.full(len(robots), -1, dtype=np.int8)
        place = {int(robot): k for k, robot in enumerate(robots)}
        self._pause[robots] = np.maximum(self._pause[robots] - 1, 0)
        self.plans = [plan for plan in self.plans if self._goes_on(plan, place, cells, goals, fields)]
        taken = {int(robot) for plan in self.plans for robot in plan.robots}
        for k in np.argsort(-idle, kind="stable"):
            robot = int(robots[k])
            if idle[k] < AFTER:
                break
            if robot in taken or self._pause[robot]:
                continue
            can = ~np.isin(robots, list(taken))
            plan = self._plan(int(k), robots, cells, goals, fields, closed, can)
            if plan is None:
                self._pause[robot] = PAUSE
                continue
            self.count += 1
            self.plans.append(plan)
            taken |= set(plan.robots.tolist())
        for plan in self.plans:
            rows = [place[int(robot)] for robot in plan.robots]
            way = plan.path[plan.step + 1] - plan.path[plan.step]
            found[rows] = (way[:, None] == MOVES[None]).all(axis=2).argmax(axis=1)
        return found

    @staticmethod
    def _goes_on(plan: Plan, place: dict[int, int], cells, goals, fields) -> bool:
        """Whether the plan still holds; notes the step that was made."""
        if any(int(robot) not in place for robot in plan.robots):
            return False
        rows = [place[int(robot)] for robot in plan.robots]
        here = cells[rows]
        if (here == plan.path[plan.step + 1]).all():
            plan.step += 1
        elif (here != plan.path[plan.step]).any():
            return False  # somebody got in the way
        k = place[plan.stuck]
        if tuple(goals[k].tolist()) != plan.goal or fields[k][tuple(cells[k])] < plan.distance:
            return False
        return plan.step + 1 < len(plan.path) and plan.step < LONGEST

    def _plan(self, k: int, robots, cells, goals, fields, closed, can: np.ndarray) -> Plan | None:
        """A plan for the robot in row ``k``, or None."""
        distance = int(fields[k][tuple(cells[k])])
        if not 0 < distance < UNREACHABLE:
            return None
        away = np.minimum(np.abs(cells - cells[k]).max(axis=1), np.abs(cells - goals[k]).max(axis=1))
        away[k] = -1
        can = can & (fields[np.arange(len(robots)), cells[:, 0], cells[:, 1]] < UNREACHABLE)
        for radius in RADII:
            near = np.flatnonzero(away <= radius)
            near = near[np.argsort(away[near], kind="stable")]
            group = near[can[near]][:MOST]
            obstacles = np.setdiff1d(near, group)
            path = self._search(cells[group], goals[group], cells[obstacles], closed)
            if path is not None:
                goal = tuple(goals[k].tolist())
                return Plan(int(robots[k]), goal, distance, robots[group], path)
        return None

    def _search(self, cells, goals, obstacles, closed) -> np.ndarray | None:
        """int[T + 1, k, 2] joint path from ``cells`` to ``goals`` int[k, 2] past ``obstacles``, or None.

        The first robot must reach its own goal; another one whose goal is taken goes to a cell close to it.
        """
        rows, columns = self._shape
        shut = closed.reshape(-1).copy()
        shut[obstacles @ (columns, 1)] = True
        start = cells @ (columns, 1)
        near = without(self._near, shut, start)
        path = solve(self._costs, start, goals @ (columns, 1), near, shut)
        return None if path is None else np.stack([path // columns, path % columns], axis=2)

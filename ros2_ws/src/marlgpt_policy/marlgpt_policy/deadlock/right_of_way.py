"""Right of way: robots that got no nearer to their goals for long go first, and the others make way for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marlgpt_policy.deadlock.detours import Detours
from marlgpt_policy.deadlock.rolling_horizon_plan import JointPlans
from marlgpt_policy.deadlock.stagnation import Stagnation
from marlgpt_policy.grid.cost_to_go import UNREACHABLE, CostToGo
from marlgpt_policy.grid.moves import MOVE_OFFSETS as MOVES
from marlgpt_policy.mapf.prioritised_planning import way
from marlgpt_policy.robots.robot_state import Robots

WAY = 8
"""Cells ahead of a robot that goes first that others must leave and may not enter."""
FIRST_AFTER = 24
"""Steps without progress after which a robot goes first."""
MOST_FIRST = 8
"""Most robots that go first at the same time."""
PLANNED = 1e6
"""Added to the shield's priority of robots that follow a plan: the others make way for it."""
FIRST = 1e7
"""Added to the shield's priority of robots that go first; more than that of robots that follow a plan."""
LONGEST_FIRST = 180.0
"""Seconds after which the first of the robots that go first becomes the last of them."""
IN_VAIN = 30.0
"""Seconds in which the first of them must get nearer to its goal; otherwise it becomes the last, so that others try."""


@dataclass
class Leader:
    """The first of those that go first.

    Attributes:
        robot: Its index.
        since: When it became the first of them, s.
        nearest: Fewest steps to its goal since then.
        gained: When it came there, s.
    """

    robot: int
    since: float
    nearest: int
    gained: float

    def in_vain(self, left: int, now: float) -> bool:
        """Whether others should go before it from now on; ``left`` is its steps to the goal at ``now`` s."""
        if left < self.nearest:
            self.nearest, self.gained = left, now
        return now < self.since or now - self.since > LONGEST_FIRST or now - self.gained > IN_VAIN


class RightOfWay:
    """Who goes first in a fleet on one grid, and what the others do about it.

    Attributes:
        firsts: Goals of the robots that go first, by index; the first of them first.
        count: How often a robot became one of them.
        plans: Joint plans around them.
    """

    def __init__(self, robots: Robots, stagnation: Stagnation, costs: CostToGo, detours: Detours) -> None:
        """Start without robots that go first.

        Args:
            robots: State of all n robots.
            stagnation: Steps that each has waited; reset for a robot that no longer goes first.
            costs: Cost-to-go on the whole grid.
            detours: Cost-to-go around robots that do not drive.
        """
        self.robots, self.stagnation, self.detours = robots, stagnation, detours
        self.firsts: dict[int, tuple[int, ...]] = {}
        self.count = 0
        self.plans = JointPlans(costs)
        self._leader: Leader | None = None

    def take_over(self, before: RightOfWay) -> None:
        """Go on counting where ``before``, which was for another map, ends."""
        self.count, self.plans.count = before.count, before.plans.count

    def choose(self, fit: np.ndarray, now: float) -> None:
        """Robots that everybody makes way for, from when they are stuck until they are at their goals.

        If they lost that as soon as they get on, the next one would push them back. Of several, the one that has
        been among them for longest goes before the others. Those without a way around robots that do not drive
        are none of them: nobody could help them by making way.

        Args:
            fit: bool[n] robots that can drive.
            now: s.
        """
        robots = self.robots
        for i, goal in list(self.firsts.items()):
            if not fit[i] or tuple(robots.goals[i].tolist()) != goal:
                del self.firsts[i]
                self.stagnation.idle[i] = 0.0
            elif not self._has_way(i):
                del self.firsts[i]
        self._rotate(now)
        stuck = np.where(fit & (robots.goals[:, 0] >= 0), self.stagnation.idle, 0.0)
        for i in np.argsort(-(stuck * 1e3 + robots.waited), kind="stable").tolist():
            if stuck[i] < FIRST_AFTER or len(self.firsts) >= MOST_FIRST:
                break
            if i not in self.firsts and self._has_way(i):
                self.firsts[i] = tuple(robots.goals[i].tolist())
                self.count += 1

    def _rotate(self, now: float) -> None:
        """Make the leader the last of ``firsts`` where leading does not help it, see :meth:`Leader.in_vain`."""
        for robot in list(self.firsts)[:1]:
            left = self._left(robot)
            if self._leader is None or self._leader.robot != robot:
                self._leader = Leader(robot, now, left, now)
            elif self._leader.in_vain(left, now):
                self.firsts[robot] = self.firsts.pop(robot)
                self._leader = None
        if not self.firsts:
            self._leader = None

    def precedence(self, members: np.ndarray) -> np.ndarray:
        """float[m] what is added to the priority of ``members``, int[m]; 0 for those that do not go first."""
        rank = {robot: k for k, robot in enumerate(self.firsts)}
        return np.array([FIRST * (1.0 - rank[i] / 1e3) if i in rank else 0.0 for i in members.tolist()])

    def clear(self, members: np.ndarray, anchors: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Keep the ways of robots that go first clear: others leave them, and enter them nowhere.

        A robot on such a way may still drive along it, ahead of the one it is kept clear for.

        Args:
            members: int[m] robots to decide for.
            anchors: int[m, 2] their cells.
            mask: bool[m, >= 5] their moves; those into ways are taken out, in place.

        Returns:
            bool[m] robots that stand in the way.
        """
        leave = np.zeros(len(members), dtype=bool)
        planned = set(self.plans.plan.robots.tolist()) if self.plans.plan is not None else set()
        for first in [first for first in self.firsts if first not in planned]:
            place = self._way(first)
            here = place[anchors[:, 0], anchors[:, 1]]
            others = ~np.isin(members, [*self.firsts, *planned])
            leave |= others & (here >= 0)
            for move in range(1, 5):
                legal = np.flatnonzero(mask[:, move] & others)
                ahead = anchors[legal] + MOVES[move]
                there = place[ahead[:, 0], ahead[:, 1]]
                mask[legal, move] = (there < 0) | ((here[legal] >= 0) & (there > here[legal]))
        return leave

    def _has_way(self, robot: int) -> bool:
        """Whether a robot can get to its goal around those that do not drive."""
        end = self.robots.ends[robot]
        if end[0] < 0 or not len(self.detours.closed):
            return bool(end[0] >= 0)
        return self.detours.reachable(self.robots.goals[robot], end)

    def _left(self, robot: int) -> int:
        """Steps from where a robot will stand to its goal, as it will drive."""
        goal, end = self.robots.goals[robot], self.robots.ends[robot]
        return int(self.detours.fields(goal[None], end[None])[0][tuple(end)]) if end[0] >= 0 else UNREACHABLE

    def _way(self, first: int) -> np.ndarray:
        """int[R, C] moves after which a robot will be in each of its next ``WAY`` cells, -1 elsewhere."""
        cell, goal = self.robots.ends[first], self.robots.goals[first]
        field = self.detours.fields(goal[None], cell[None])[0]
        cells = way(int(cell @ (field.shape[1], 1)), field.reshape(-1), self.plans.near, WAY)
        place = np.full(field.shape, -1)
        place.reshape(-1)[cells] = np.arange(len(cells))
        return place

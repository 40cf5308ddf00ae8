"""Edges under way: which cells robots hold while they drive, how followers are coupled, and how to get out again.

A robot on an edge holds its two cells. It may hold a third one, decided before it arrives: straight on it passes
the middle one without braking. A cell that a robot is leaving can be taken over by a follower, whose measured
progress then never exceeds its leader's by more than the slack at which two discs still keep clear. Cells come
free when the robot has measurably left them. So at any time each cell has one holder, and each pair of robots
either drives on edges without a common cell, which are a cell apart, or is coupled by progress.
``tests/policy/test_edges.py`` checks that for random actions, speeds and failures.
"""

from __future__ import annotations

import numpy as np

from marlgpt_policy.encoders.pogema import MOVES
from marlgpt_policy.grid import NavGrid
from marlgpt_policy.reservations import NOBODY, ReservationError, Reservations
from marlgpt_policy.robots import NO_CELL, Robots

OPPOSITE = np.array([0, 2, 1, 4, 3], dtype=np.int8)
"""The move back."""
STALLED_AFTER = 4.0
"""Seconds without progress after which a robot on an edge counts as stalled: more than the longest turn takes."""
LEAST_PROGRESS = 0.02
"""Share of an edge that counts as progress."""
BROKEN_FOR = (10.0, 60.0)
"""Seconds for which a robot that did not obey is not relied on: at first, doubled each time after, and at most."""
SLOW = 0.1
"""m/s; below, a robot may begin to turn into its next edge."""


class Edges:
    """Starts, couples, ends and takes back edges of ``robots`` on ``grid``."""

    def __init__(
        self,
        robots: Robots,
        grid: NavGrid,
        reservations: Reservations,
        turn_slack: float,
        straight_slack: float,
    ) -> None:
        """Slacks are the shares of an edge that a follower may be ahead of a leader that turns or goes straight on."""
        self.robots, self.grid, self.reservations = robots, grid, reservations
        self.turn_slack, self.straight_slack = turn_slack, straight_slack
        self.turned_back = 0

    # Beginning ------------------------------------------------------------------------------------------

    def start(self, members: np.ndarray, moves: np.ndarray, now: float) -> None:
        """Begin the moves int8[m] of ``members`` int[m], or append them to the edges they are on.

        Raises:
            ReservationError: A move leads into a cell that nobody is leaving; then the fleet must stop.
        """
        robots, holder = self.robots, self.reservations
        entered: dict[int, np.ndarray] = {}
        for i, move in zip(members.tolist(), moves.tolist(), strict=True):
            if not move:
                continue
            entered[i] = robots.targets[i] + MOVES[move]
            if robots.moving[i]:
                robots.next_targets[i], robots.next_move[i] = entered[i], move
            else:
                robots.targets[i], robots.move[i] = entered[i], move
                robots.edge[i] += 1
                robots.progress[i], robots.leader[i] = 0.0, -1
                robots.progress_then[i], robots.progress_time[i] = 0.0, now
        # A robot that turns round before it has arrived holds the cell it goes back to, and follows nobody.
        leaders = {i: self._leaving(cell, i) for i, cell in entered.items()}
        for i, cell in entered.items():
            leader, edge = leaders[i]
            if leader == NOBODY:
                holder.acquire(cell, i)
            else:
                holder.follow(cell, leader, i)
            if (robots.next_targets[i] == cell).all():
                robots.next_leader[i], robots.next_leader_edge[i] = leader, edge
            else:
                robots.leader[i], robots.leader_edge[i] = leader, edge

    def _leaving(self, cell: np.ndarray, i: int) -> tuple[int, int]:
        """The robot other than ``i`` that holds ``cell`` and its edge that leads out of it; (``NOBODY``, 0) if none."""
        robots = self.robots
        j = self.reservations.of(cell)
        if j in (NOBODY, i):
            return NOBODY, 0
        if (robots.cells[j] == cell).all() and robots.moving[j]:
            return j, int(robots.edge[j])
        if (robots.targets[j] == cell).all() and robots.next_targets[j, 0] >= 0:
            return j, int(robots.edge[j]) + 1
        raise ReservationError(f"cell {tuple(cell)} is held by robot {j}, which is not leaving it")

    # Going on -------------------------------------------------------------------------------------------

    @property
    def straight(self) -> np.ndarray:
        """bool[n] robots whose next edge goes straight on: they need not stop in between."""
        robots = self.robots
        return (robots.next_targets[:, 0] >= 0) & (robots.next_move == robots.move)

    def limits(self) -> np.ndarray:
        """float64[n] how far a robot may be along its edge, 0 to 1, or up to 2 where it goes straight on."""
        robots = self.robots
        limit = self._coupled(robots.leader, robots.leader_edge, robots.move)
        onward = self.straight & (limit >= 1.0)
        if onward.any():
            beyond = self._coupled(robots.next_leader, robots.next_leader_edge, robots.next_move)
            limit[onward] += beyond[onward]
        return limit

    def _coupled(self, leader: np.ndarray, edge: np.ndarray, move: np.ndarray) -> np.ndarray:
        robots = self.robots
        limit = np.ones(len(robots))
        i = np.flatnonzero(leader >= 0)
        j = leader[i]
        slack = np.where(robots.move[j] == move[i], self.straight_slack, self.turn_slack)
        # A leader that was pushed off its edge may be that much nearer.
        behind = np.clip(robots.progress[j] + slack - robots.aside[j], 0.0, 1.0)
        limit[i] = np.select([robots.edge[j] < edge[i], robots.edge[j] == edge[i]], [0.0, behind], 1.0)
        limit[i[~robots.docked[j]]] = 0.0  # pushed off its way: where it will be is not known
        return limit

    def note_progress(self, now: float) -> None:
        """Note which robots get on; call once per control period after ``progress`` was measured."""
        robots = self.robots
        on = np.abs(robots.progress - robots.progress_then) >= LEAST_PROGRESS
        on |= ~robots.moving
        robots.progress_then[on] = robots.progress[on]
        robots.progress_time[on] = now

    def stalled(self, now: float) -> np.ndarray:
        """bool[n] robots on an edge on which they have not got on for ``STALLED_AFTER``."""
        robots = self.robots
        return robots.moving & (now - robots.progress_time > STALLED_AFTER)

    def note_failures(self, able: np.ndarray, now: float) -> None:
        """Note robots that stalled although they were ``able`` (bool[n]) to drive on."""
        robots = self.robots
        for i in np.flatnonzero(self.stalled(now) & able & (now >= robots.broken_until)).tolist():
            robots.broken_until[i] = now + min(
                BROKEN_FOR[1], BROKEN_FOR[0] * 2.0 ** min(robots.failures[i], 8)
            )
            robots.failures[i] += 1

    # Arriving -------------------------------------------------------------------------------------------

    def settle(self, fresh: np.ndarray, tolerance: float, now: float) -> None:
        """End the edges of robots that are at their targets, or past them on the way straight on."""
        robots = self.robots
        on = np.flatnonzero(robots.docked & fresh & robots.moving)
        if not len(on):
            return
        position, target = robots.poses[on, :2], self.grid.centre(robots.targets[on])
        away = np.hypot(*(position - target).T)
        span = target - self.grid.centre(robots.cells[on])
        past = ((position - target) * span).sum(axis=1) >= 0.0
        speed = np.hypot(robots.commands[on, 0], robots.commands[on, 1])
        straight, onward = self.straight[on], robots.next_targets[on, 0] >= 0
        there = away <= tolerance
        for i in on[np.where(onward, np.where(straight, there | past, there & (speed < SLOW)), there)]:
            self._arrive(int(i), now)

    def _arrive(self, i: int, now: float) -> None:
        robots = self.robots
        left = robots.cells[i].copy()
        robots.cells[i] = robots.targets[i]
        robots.edge[i] += 1
        robots.failures[i] = 0
        robots.returning[i] = False
        robots.leader[i] = -1
        robots.progress[i] = 1.0
        if robots.next_targets[i, 0] >= 0:
            robots.targets[i], robots.move[i] = robots.next_targets[i], robots.next_move[i]
            robots.leader[i], robots.leader_edge[i] = robots.next_leader[i], robots.next_leader_edge[i]
            robots.progress[i] = 0.0
            self._forget_next(i)
        robots.progress_then[i], robots.progress_time[i] = robots.progress[i], now
        self.reservations.leave(left, i)

    def _forget_next(self, i: int) -> None:
        self.robots.next_targets[i] = NO_CELL
        self.robots.next_leader[i] = -1

    # Getting out again ----------------------------------------------------------------------------------

    def turn_back(self, fit: np.ndarray, limited: np.ndarray, tolerance: float, now: float) -> None:
        """Let robots that wait on an edge for one that does not get on drive back to where they came from.

        A robot whose own cell has a follower cannot: the follower goes first. A robot that has not left its cell's
        centre only gives back the cell it was going to, whatever follows it, and so does one that does not obey.

        Args:
            fit: bool[n] robots that can drive.
            limited: bool[n] robots that their leader, or a robot in the way, keeps from driving on.
            tolerance: Distance in m from a cell's centre that counts as there.
            now: s.
        """
        robots = self.robots
        for i in np.flatnonzero(self.stalled(now) & robots.docked & ~robots.returning).tolist():
            own = self.reservations.of(robots.targets[i]) == i
            if robots.next_targets[i, 0] >= 0 and own:
                self.reservations.give_back(robots.next_targets[i], i)
                self._forget_next(i)
            if robots.next_targets[i, 0] >= 0:
                continue
            # After a turn on the spot its own cell may be the one it gave back just now: ask again.
            own = self.reservations.of(robots.targets[i]) == i
            followed = self.reservations.of(robots.cells[i]) != i
            away = np.hypot(*(robots.poses[i, :2] - self.grid.centre(robots.cells[i])))
            if not own:
                continue
            if (followed or now < robots.broken_until[i]) and away <= tolerance:
                self.reservations.give_back(robots.targets[i], i)
                # For a follower its edge is still there, with no progress.
                robots.targets[i], robots.progress[i] = robots.cells[i], 0.0
            elif not followed and fit[i] and limited[i]:
                self.turned_back += 1
                robots.cells[i], robots.targets[i] = robots.targets[i].copy(), robots.cells[i].copy()
                robots.move[i] = OPPOSITE[robots.move[i]]
                robots.edge[i] += 1
                robots.leader[i] = -1
                robots.returning[i] = True
                robots.progress[i] = 1.0 - robots.progress[i]
                robots.progress_then[i], robots.progress_time[i] = robots.progress[i], now

    def remove(self, robot: int) -> None:
        """Free a robot's cells and its followers: it is physically gone."""
        robots = self.robots
        self.reservations.release_all(robot)
        robots.leader[robots.leader == robot] = -1
        robots.next_leader[robots.next_leader == robot] = -1

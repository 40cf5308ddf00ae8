"""Edges under way: which cells robots hold while they drive, how followers are coupled, and how to get out again.

A robot on an edge holds its two cells. It may hold a third one, decided before it arrives: straight on it passes
the middle one without braking. A cell that a robot is leaving can be claimed by followers, in a queue; each of them
is limited by *every* robot ahead of it in that queue: it may drive only so far that its way keeps clear, as measured,
of all of the way that the other one has yet to drive through that cell. An edge ends, and the cell behind it comes
free, only where nobody limits the robot any more. So at any time each pair of robots either drives on edges without a
common cell, which are a cell apart, or the one that is later in the queue of a common cell keeps clear of the other.
``tests/policy/motion/test_edge_coupling.py`` checks that for random actions, speeds and failures, and
``tests/policy/motion/test_motion_model.py`` for all of them on small grids.
"""

from __future__ import annotations

import numpy as np

from marlgpt_policy.grid.geometry import along_ways
from marlgpt_policy.grid.moves import MOVE_OFFSETS as MOVES
from marlgpt_policy.motion.clear_way import coupling_limits
from marlgpt_policy.motion.floor import Floor
from marlgpt_policy.motion.reservations import NOBODY, ReservationError
from marlgpt_policy.robots.robot_state import NO_CELL, Robots

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
    """Starts, couples, ends and takes back edges of ``robots`` on ``floor``.

    It is the only one that writes the robots' cells, moves and progress along their edges.

    Attributes:
        turned_back: How often a robot has turned back on an edge.
    """

    def __init__(self, robots: Robots, floor: Floor) -> None:
        """Couple ``robots``: their centres keep ``floor.margins.body`` m between them as measured."""
        self.robots, self.grid, self.reservations = robots, floor.grid, floor.reservations
        self.body, self.tolerance = floor.margins.body, floor.tolerance
        self.centres = floor.grid.centres()
        self.turned_back = 0

    def put(self, i: int, cell: np.ndarray) -> None:
        """A robot that is off the grid holds ``cell`` int[2], and that one only, from now on."""
        robots = self.robots
        self.reservations.release_all(i)
        self.reservations.acquire(cell, i)
        robots.cells[i] = robots.targets[i] = cell
        robots.next_targets[i] = NO_CELL
        robots.returning[i] = False

    def arrive_from_outside(self, i: int) -> None:
        """A robot has come to the centre of its cell from off the grid."""
        self.robots.progress[i] = 1.0
        self.robots.move[i] = 0

    def begin_anew(self, i: int, now: float) -> None:
        """A robot has come onto the grid: what it did before is no stall."""
        self.robots.progress_time[i] = now

    def reset(self) -> None:
        """Nobody is on the grid any more: the map is another one."""
        robots = self.robots
        robots.returning[:] = False
        robots.cells[:] = robots.targets[:] = robots.next_targets[:] = -1
        robots.progress[:] = 1.0

    def clock_set_back(self, now: float) -> None:
        """Times of progress and of failures count from ``now`` s on."""
        robots = self.robots
        robots.progress_time[:] = now
        robots.broken_until[np.isfinite(robots.broken_until)] = now

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
                robots.progress[i] = 0.0
                robots.progress_then[i], robots.progress_time[i] = 0.0, now
        # Who is ahead is settled before anybody claims: of robots that follow each other in a ring all are leaving.
        leaders = {i: self._leaving(cell, i) for i, cell in entered.items()}
        for i, cell in entered.items():
            if leaders[i] == NOBODY:
                holder.acquire(cell, i)
            else:
                holder.follow(cell, leaders[i], i)

    def _leaving(self, cell: np.ndarray, i: int) -> int:
        """The robot other than ``i`` that holds ``cell`` and has decided to leave it; ``NOBODY`` if none holds it."""
        robots = self.robots
        j = self.reservations.of(cell)
        if j in (NOBODY, i):  # a robot that turns round before it has arrived holds the cell it goes back to
            return NOBODY
        # One that comes back to it before it has arrived anywhere holds it, but does not leave it.
        if (robots.ends[j] != cell).any():
            return j
        raise ReservationError(f"cell {tuple(cell)} is held by robot {j}, which is not leaving it")

    # Going on -------------------------------------------------------------------------------------------

    @property
    def straight(self) -> np.ndarray:
        """bool[n] robots whose next edge goes straight on: they need not stop in between."""
        robots = self.robots
        return (robots.next_targets[:, 0] >= 0) & (robots.next_move == robots.move)

    def limits(self) -> np.ndarray:
        """float64[n] how far a robot may be along its edge, 0 to 1, or up to 2 where it goes straight on."""
        limits = self._coupled()
        return limits[:, 0] + np.where(self.straight & (limits[:, 0] >= 1.0), limits[:, 1], 0.0)

    def may_settle(self) -> np.ndarray:
        """bool[n] robots that nobody ahead of them keeps from the cell that they drive to."""
        return self._coupled()[:, 0] >= 1.0

    def _coupled(self) -> np.ndarray:
        """float64[n, 2] the shares of their edges, and of their next ones, that robots ahead of them leave."""
        robots = self.robots
        return coupling_limits(
            self.reservations.pairs(), robots.cells, robots.targets, robots.next_targets, robots.docked,
            robots.poses[:, :2], self.centres, self.body, self.tolerance,
        )  # fmt: skip

    def measure(
        self, fresh: np.ndarray, starts: np.ndarray, ends: np.ndarray, edges: np.ndarray, now: float
    ) -> None:
        """Measure the progress of robots along their edges; followers trust in that and nothing else.

        Args:
            fresh: bool[n] robots whose place is known.
            starts: float64[n, 2] m, where the straight ways begin that they are on.
            ends: float64[n, 2] m, where these end.
            edges: float64[n] edges that these ways are long.
            now: s.
        """
        robots = self.robots
        moving = robots.docked & fresh & robots.moving
        along, length = along_ways(robots.poses[:, :2], starts, ends)
        robots.progress[moving] = np.clip(along / length * edges, 0.0, 1.0)[moving]
        self.note_progress(now)

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

    def settle(self, fresh: np.ndarray, now: float) -> None:
        """End the edges of robots that are at their targets, or past them on the way straight on.

        Not of those that a robot ahead limits: the cell behind them, and the next edge, would come free too early.
        """
        robots = self.robots
        on = robots.docked & fresh & robots.moving
        if not on.any():
            return
        on = np.flatnonzero(on & self.may_settle())
        position, target = robots.poses[on, :2], self.grid.centre(robots.targets[on])
        away = np.hypot(*(position - target).T)
        span = target - self.grid.centre(robots.cells[on])
        past = ((position - target) * span).sum(axis=1) >= 0.0
        speed = np.hypot(robots.rolling[on, 0], robots.rolling[on, 1])
        straight, onward = self.straight[on], robots.next_targets[on, 0] >= 0
        there = away <= self.tolerance
        for i in on[np.where(onward, np.where(straight, there | past, there & (speed < SLOW)), there)]:
            self._arrive(int(i), now)

    def _arrive(self, i: int, now: float) -> None:
        robots = self.robots
        left = robots.cells[i].copy()
        robots.cells[i] = robots.targets[i]
        robots.failures[i] = 0
        robots.returning[i] = False
        robots.progress[i] = 1.0
        if robots.next_targets[i, 0] >= 0:
            robots.targets[i], robots.move[i] = robots.next_targets[i], robots.next_move[i]
            robots.progress[i] = 0.0
            robots.next_targets[i] = NO_CELL
        robots.progress_then[i], robots.progress_time[i] = robots.progress[i], now
        self.reservations.leave(left, i)

    # Getting out again ----------------------------------------------------------------------------------

    def turn_back(self, fit: np.ndarray, limited: np.ndarray, now: float) -> None:
        """Let robots that wait on an edge for one that does not get on drive back to where they came from.

        A robot whose own cell has a follower cannot: the follower goes first. A robot that has not left its cell's
        centre only gives back the cell it was going to, whatever follows it, and so does one that does not obey.

        Args:
            fit: bool[n] robots that can drive.
            limited: bool[n] robots that their leader, or a robot in the way, keeps from driving on.
            now: s.
        """
        robots = self.robots
        for i in np.flatnonzero(self.stalled(now) & robots.docked & ~robots.returning).tolist():
            own = self.reservations.of(robots.targets[i]) == i
            if robots.next_targets[i, 0] >= 0 and own:
                self.reservations.give_back(robots.next_targets[i], i)
                robots.next_targets[i] = NO_CELL
            if robots.next_targets[i, 0] >= 0:
                continue
            # After a turn on the spot its own cell may be the one it gave back just now: ask again.
            own = self.reservations.of(robots.targets[i]) == i
            followed = self.reservations.of(robots.cells[i]) != i
            away = np.hypot(*(robots.poses[i, :2] - self.grid.centre(robots.cells[i])))
            if not own:
                continue
            if (followed or now < robots.broken_until[i]) and away <= self.tolerance:
                self.reservations.give_back(robots.targets[i], i)
                robots.targets[i], robots.progress[i] = robots.cells[i], 0.0
            elif not followed and fit[i] and limited[i]:
                self.turned_back += 1
                robots.cells[i], robots.targets[i] = robots.targets[i].copy(), robots.cells[i].copy()
                robots.move[i] = OPPOSITE[robots.move[i]]
                robots.returning[i] = True
                robots.progress[i] = 1.0 - robots.progress[i]
                robots.progress_then[i], robots.progress_time[i] = robots.progress[i], now

    def remove(self, robot: int) -> None:
        """Free a robot's cells and its followers: it is physically gone."""
        self.reservations.release_all(robot)

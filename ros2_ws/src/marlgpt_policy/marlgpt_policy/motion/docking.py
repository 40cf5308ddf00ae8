"""Robots off the grid: how they get onto it, and how the others keep clear of them meanwhile.

A robot is off the grid before it takes part, after it was pushed off its way, and after a new map. Once it has surely
come to rest it drives straight to the centre of a cell near it that nobody holds, if nobody is or will be too close
to the way there, and slowly enough to stop for one that is set down or pushed there meanwhile
(``motion/protective_stop.py``). If such a one stays, it chooses anew. Until it has arrived it keeps the cells it held
before, nobody begins an edge that passes near it, and robots that are on such an edge wait, unless they are driving
away from it.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from marlgpt_policy.grid.distance_field import DistanceField
from marlgpt_policy.grid.geometry import distance_to_segment
from marlgpt_policy.motion.docking_cell import docking_cells
from marlgpt_policy.motion.edge_coupling import Edges
from marlgpt_policy.motion.floor import Floor
from marlgpt_policy.motion.safety_margins import TRACKING_ERROR
from marlgpt_policy.robots.robot_state import Robots

DISPLACED = 0.25
"""Share of a cell's edge that a robot may be beside its way at most before it counts as off the grid."""
SAMPLES = 9
"""Points that stand for a way off the grid, which is a cell long at most."""
STRAYED = 0.15
"""The same while it docks."""
DOCKING_SPEED = 0.25
"""m/s at most off the grid, where the others do not know its way: it stops within 0.1 m of what turns up ahead."""
GIVE_UP_AFTER = 2.0
"""Seconds for which a robot may keep a docking one from going on before that one chooses its cell anew."""


def astray(cell_size: float, tolerance: float, pose_error: float) -> float:
    """How far, in m, a robot may be beside its way before something else must have moved it.

    More than its own errors make of the arrival ``tolerance`` m; the way back from there is not known to be clear of
    walls, and has to be looked at. ``cell_size`` and ``pose_error`` in m.
    """
    return min(DISPLACED * cell_size, tolerance + 2 * TRACKING_ERROR + pose_error)


def meets_wall(distances: DistanceField | None, position: np.ndarray, end: np.ndarray, room: float) -> bool:
    """Whether a robot beside its way comes nearer to a wall than ``room`` m, and than it is, on the way to its end.

    The layout of the cells keeps their edges clear, not what lies beside them.

    Args:
        distances: Of the map; without it nobody knows where walls are.
        position: float64[2] m, where the robot is.
        end: float64[2] m, where its edge ends.
        room: m that its centre must keep.
    """
    if distances is None:
        return False
    here = distances.clearance(position, position, room)
    return distances.clearance(position, end, room) < here - 1e-6


class Docking:
    """Puts ``robots`` onto the grid, and is the only one that writes who is on it and who is on the way there.

    Attributes:
        in_reach: bool[n] robots that keep another one from getting onto the grid.
    """

    def __init__(self, robots: Robots, floor: Floor, edges: Edges) -> None:
        """Dock ``robots`` on ``floor``; ``edges`` holds their cells."""
        self.robots, self.floor, self.edges = robots, floor, edges
        self.grid, self.reservations, self.distances = floor.grid, floor.reservations, floor.distances
        self.radius, self.reserve, self.tolerance = floor.radius, floor.margins.reserve, floor.tolerance
        self.astray = astray(floor.size, floor.tolerance, max(floor.margins.pose_error, 0.0))
        self._centres = floor.grid.centres()
        self.in_reach = np.zeros(len(robots), dtype=bool)
        self._coast = np.zeros((len(robots), 2))

    # What the others see --------------------------------------------------------------------------------

    def off_grid(self) -> np.ndarray:
        """int[k] robots that stand or drive off the grid, including those whose pose jumped."""
        robots = self.robots
        return np.flatnonzero(robots.seen & (~robots.docked | np.isfinite(robots.suspect[:, 0])))

    def blocked(self, only: np.ndarray | None = None) -> np.ndarray:
        """bool[R, C] cells that no robot may enter because one off the grid stands or docks near them.

        ``only`` bool[n] leaves out the others.
        """
        blocked = np.zeros(self.grid.free.shape, dtype=bool)
        off, ways = self._ways()
        for start, end in ways if only is None else ways[only[off]]:
            blocked |= self._near(start, end)
        return blocked

    def in_the_way(self, ends: np.ndarray) -> np.ndarray:
        """bool[n] robots on the grid that must wait: their way to ``ends`` float[n, 2] passes one off the grid."""
        robots = self.robots
        hold = np.zeros(len(robots), dtype=bool)
        off, ways = self._ways()
        moving = robots.docked & robots.moving
        for k, (start, end) in zip(off.tolist(), ways, strict=True):
            moving[k], moves = False, moving[k]
            _hold(robots.poses, ends, moving, start, end, 2 * self.radius + self.reserve, hold)
            moving[k] = moves
        return hold

    def _ways(self) -> tuple[np.ndarray, np.ndarray]:
        """Robots int[m] off the grid, and segments float[m, 2, 2] on which they may be; a robot may have two."""
        robots = self.robots
        off = self.off_grid()
        away = off[~robots.docked[off]]
        ends = robots.poses[away, :2] + self._coast[away]
        docking = robots.docking[away]
        ends[docking] = self.grid.centre(robots.cells[away[docking]])
        jumped = off[np.isfinite(robots.suspect[off, 0])]
        there = robots.suspect[jumped, :2]
        ways = np.stack(
            [np.concatenate([robots.poses[away, :2], there]), np.concatenate([ends, there])], axis=1
        )
        return np.concatenate([away, jumped]), ways

    def _near(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """bool[R, C] cells whose edges come too close to a robot between ``start`` and ``end`` float[2].

        An edge whose ends are both at least d from a point passes it at sqrt(d^2 - (cell / 2)^2).
        """
        reach = math.hypot(2 * self.radius + self.reserve, self.grid.cell_size / 2)
        return distance_to_segment(self._centres, start, end) < reach

    # Getting onto the grid ------------------------------------------------------------------------------

    def watch_displaced(self, fresh: np.ndarray) -> None:
        """A robot that was pushed off its edge leaves the grid and has to dock again; it keeps its cells.

        So does one that was pushed less, where a wall is in the way from there to its cell.
        """
        robots = self.robots
        on = np.flatnonzero(robots.docked & fresh)
        if not len(on):
            return
        starts, ends = self.grid.centre(robots.cells[on]), self.grid.centre(robots.targets[on])
        aside = distance_to_segment(robots.poses[on, :2], starts, ends)
        displaced = aside > self.astray
        for k in np.flatnonzero(~displaced & (aside > TRACKING_ERROR)):
            displaced[k] = meets_wall(
                self.distances, robots.poses[on[k], :2], ends[k], self.radius + self.floor.pose_error
            )
        for i in on[displaced]:
            self.undock(i, "was moved off its way")

    def undock(self, robot: int, reason: str) -> None:
        """Take a robot off the grid, whatever it was doing; it keeps its cells and docks once it can."""
        self.robots.docked[robot] = self.robots.docking[robot] = False
        self.robots.detail[robot] = reason

    def reset(self) -> None:
        """Nobody is on the grid any more: the map is another one."""
        self.robots.docked[:] = self.robots.docking[:] = False

    def note_blocked(self, blocked: np.ndarray, now: float) -> None:
        """Let docking robots choose anew whose ways have been ``blocked`` bool[n] for ``GIVE_UP_AFTER``."""
        robots = self.robots
        blocked = blocked & robots.docking
        robots.dock_blocked[~blocked] = np.nan
        robots.dock_blocked[blocked & np.isnan(robots.dock_blocked)] = now
        for i in np.flatnonzero(now - np.nan_to_num(robots.dock_blocked, nan=now) > GIVE_UP_AFTER):
            robots.docking[i] = False  # it keeps its cell until it has found another one
            robots.dock_blocked[i] = np.nan
            robots.detail[i] = "another robot came into its way while docking"

    def grow(self, count: int) -> None:
        """Robots were appended to the fleet."""
        self.in_reach = np.append(self.in_reach, np.zeros(count, dtype=bool))
        self._coast = np.vstack([self._coast, np.zeros((count, 2))])

    def update(self, fresh: np.ndarray, latency: float, now: float) -> list[int]:
        """Go on with all robots that are off the grid and may drive.

        Args:
            fresh: bool[n] robots that may.
            latency: s until a command acts.
            now: s.

        Returns:
            Robots that have arrived on the grid.
        """
        robots = self.robots
        self._coast = self._until_rest(latency)
        arrived = []
        self.in_reach = np.zeros(len(robots), dtype=bool)
        for i in np.flatnonzero(~robots.docked & fresh).tolist():
            position = robots.poses[i, :2]
            if robots.docking[i]:
                centre = self.grid.centre(robots.cells[i])
                if distance_to_segment(position, robots.dock_from[i], centre) > STRAYED * self.grid.cell_size:
                    robots.docking[i] = False  # moved by something else; it keeps its cell and starts anew
                    robots.detail[i] = "was moved off its way while docking"
                    continue
                if np.hypot(*(centre - position)) <= self.tolerance:
                    self._finish(i, arrived)
                continue
            if now < robots.rest_at[i]:  # whoever turns while it rolls drives a curve that nobody looked at
                robots.detail[i] = "rolls to a halt"
                continue
            cell, reason = self._choose(i, position)
            if cell is None:
                robots.detail[i] = reason
                continue
            self.edges.put(i, cell)
            robots.dock_from[i] = position
            robots.docking[i] = True
            if np.hypot(*(self.grid.centre(cell) - position)) <= self.tolerance:
                self._finish(i, arrived)
        return arrived

    def _until_rest(self, latency: float) -> np.ndarray:
        """float64[n, 2] how far robots may go on, map frame, m, before they have come to rest."""
        robots = self.robots
        speed = np.hypot(robots.rolling[:, 0], robots.rolling[:, 1])
        share = latency + speed / (2 * robots.limits[:, 2])
        yaw = np.nan_to_num(robots.poses[:, 2])
        x, y = robots.rolling[:, 0] * share, robots.rolling[:, 1] * share
        return np.stack([np.cos(yaw) * x - np.sin(yaw) * y, np.sin(yaw) * x + np.cos(yaw) * y], axis=1)

    def _choose(self, i: int, position: np.ndarray) -> tuple[np.ndarray | None, str]:
        """The cell to dock at, or None and why there is none yet."""
        nearest = self.grid.cell_of(position)
        if not (self.grid.inside(nearest) or self.grid.inside(nearest + 1) or self.grid.inside(nearest - 1)):
            return None, f"pose ({position[0]:.2f}, {position[1]:.2f}) lies outside the map"
        reason = f"no free cell near its pose ({position[0]:.2f}, {position[1]:.2f})"
        for cell in docking_cells(self.grid, self.distances, position, self.radius, self.tolerance):
            others = set(self.reservations.queue(cell)) - {i}
            close = self._too_close(i, position, self.grid.centre(cell))
            if not others and not len(close):
                return cell, ""
            blockers = set(close.tolist()) | others
            self.in_reach[list(blockers)] = True
            names = ", ".join(f"'{self.robots.names[j]}'" for j in sorted(blockers)[:3])
            reason = f"waits for robot {names} to make way"
        return None, reason

    def _too_close(self, i: int, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """int[k] robots that are, or will be on the ways they are on, too close to the way from start to end."""
        robots = self.robots
        seen = robots.seen & ~robots.removed
        here = robots.poses[:, :2]
        held = robots.cells[:, 0] >= 0
        middle, last = here.copy(), here.copy()
        middle[held] = self.grid.centre(robots.targets[held])
        last[held] = self.grid.centre(robots.ends[held])
        points = np.linspace(start, end, SAMPLES) if (start != end).any() else start[None]
        gap = np.minimum(
            distance_to_segment(points[:, None], here, middle),
            distance_to_segment(points[:, None], middle, last),
        )
        close = (gap < 2 * self.radius + self.reserve).any(axis=0) & seen
        off, ways = self._ways()
        if len(off):
            points = np.linspace(ways[:, 0], ways[:, 1], SAMPLES)  # the same ones where a robot stands
            near = distance_to_segment(points, start, end) < 2 * self.radius + 2 * self.reserve
            close[off[near.any(axis=0)]] = True
        # Robots that stand may be as close as they are: whoever drives away from them must be able to.
        stand = np.where(robots.docked, ~robots.moving, ~robots.docking) & np.isnan(robots.suspect[:, 0])
        apart = np.hypot(*(here - start).T)
        close &= ~(stand & (distance_to_segment(here, start, end) >= apart - 1e-3))
        close[i] = False
        return np.flatnonzero(close)

    def _finish(self, i: int, arrived: list[int]) -> None:
        robots = self.robots
        robots.docked[i], robots.docking[i] = True, False
        self.edges.arrive_from_outside(i)
        robots.detail[i] = ""
        arrived.append(i)


@numba.njit(cache=True)
def _hold(poses, ends, moving, start, end, reach, hold):
    """Set ``hold`` for robots whose way to ``ends`` comes within ``reach`` of the segment from start to end.

    Those that are closer already and drive away are left alone.
    """
    span_x, span_y = end[0] - start[0], end[1] - start[1]
    points = 1 if span_x == 0.0 and span_y == 0.0 else SAMPLES
    for i in range(len(poses)):
        if not moving[i] or hold[i]:
            continue
        way_x, way_y = ends[i, 0] - poses[i, 0], ends[i, 1] - poses[i, 1]
        length = max(way_x * way_x + way_y * way_y, 1e-12)
        for k in range(points):
            share = k / max(points - 1, 1)
            off_x, off_y = start[0] + share * span_x - poses[i, 0], start[1] + share * span_y - poses[i, 1]
            along = min(max((off_x * way_x + off_y * way_y) / length, 0.0), 1.0)
            gap = math.hypot(off_x - along * way_x, off_y - along * way_y)
            if gap < reach and gap < math.hypot(off_x, off_y) - 1e-3:
                hold[i] = True
                break

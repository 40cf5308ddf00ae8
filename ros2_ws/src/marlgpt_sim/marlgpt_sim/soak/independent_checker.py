"""A second opinion on the ground truth: an own plant and own contact geometry, nothing of the simulator's code.

`IndependentChecker` integrates the same commands as `FleetWorld` by itself, in complex numbers, and keeps its own poses
and speeds through the whole run. It takes the simulator's only where an outside force acted: a push, a contact, a
robot that was put down. Any other difference is a disagreement. Contacts are found on the own paths, as if nothing
could stop a robot, and compared with those that the simulator counts.

A robot's path over a step is cut into `CHORDS` chords. Two discs that move along chords are closest where their
relative motion, a segment, passes the origin; a disc and a wall where a segment is closest to a pixel's square.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numba
import numpy as np

CHORDS = 4
"""Chords of a step's arc: at 1.5 m/s and 3 rad/s over 25 ms they leave it by 22 micrometres."""
BAND = 5e-5
"""m; gaps this close to zero may be called a contact or not, both are right."""
DRIFT = 1e-6
"""m and rad by which the two plants may differ before they disagree."""
RELEASE = 1.5e-3
"""m; a contact ends, and may be counted again, at this gap; wider than the simulator's so that it ends no earlier."""
WALL = -1
"""Stands for the wall as the second body of a contact."""


@dataclass(frozen=True)
class Touch:
    """One contact that the checker found.

    Attributes:
        time: s at the end of the step in which the bodies met.
        a: index of the robot.
        b: index of the other robot, or ``WALL``.
        depth: m by which they would overlap if nothing had stopped them in this step.
    """

    time: float
    a: int
    b: int
    depth: float


class IndependentChecker:
    """Drives along with a simulated world and judges it.

    Attributes:
        touches: list of `Touch`.
        disagreements: sentences, one for each time the two differed.
        least_gap: m, smallest gap of two robots ever, between steps too; inf if none came within `LOOK`.
        position, yaw: complex128[n] m and float64[n] rad, own poses.
    """

    def __init__(
        self,
        occupied: np.ndarray,
        resolution: float,
        origin: tuple[float, float, float],
        poses: np.ndarray,
        radii: np.ndarray | float,
        holonomic: np.ndarray | bool,
        limits: np.ndarray,
        present: np.ndarray,
    ) -> None:
        """Start with robots that stand.

        Args:
            occupied: bool[H, W] pixels of the map, row 0 at the bottom; all outside is wall.
            resolution: m per pixel.
            origin: x, y (m) and yaw (rad) of the lower left corner in the map frame.
            poses: float[n, 3] x, y (m), yaw (rad).
            radii: float[n] or one for all, m.
            holonomic: bool[n] or one for all; others ignore lateral commands.
            limits: float[n, 4] or one row for all, speed, yaw rate, acceleration, yaw acceleration.
            present: bool[n] robots that have a body.
        """
        n = len(poses)
        self.occupied, self.resolution = np.ascontiguousarray(occupied, dtype=bool), float(resolution)
        self._origin, self._turn = complex(origin[0], origin[1]), complex(np.exp(-1j * origin[2]))
        self.radii = np.array(np.broadcast_to(np.asarray(radii, float), n))
        self.holonomic = np.array(np.broadcast_to(np.asarray(holonomic, bool), n))
        self.limits = np.array(np.broadcast_to(np.asarray(limits, float), (n, 4)))
        self.position = poses[:, 0] + 1j * poses[:, 1]
        self.yaw = np.array(poses[:, 2], float)
        self.velocity, self.rate = np.zeros(n, complex), np.zeros(n)
        self.present = np.array(present, bool)
        self.time, self.least_gap = 0.0, np.inf
        self.touches: list[Touch] = []
        self.disagreements: list[str] = []
        self._touching: set[tuple[int, int]] = set()
        self._path = np.empty((n, CHORDS + 2), complex)
        self._found = np.empty((max(16, 8 * n), 3))

    def trust(self, robot: int, pose: np.ndarray) -> None:
        """Take over that a robot stands at ``pose`` float[3]: it was put there."""
        self.position[robot], self.yaw[robot] = complex(pose[0], pose[1]), pose[2]
        self.velocity[robot], self.rate[robot] = 0.0, 0.0

    def step(
        self,
        commands: np.ndarray,
        dt: float,
        pushes: np.ndarray | None,
        poses: np.ndarray,
        velocities: np.ndarray,
        present: np.ndarray,
        contacts: list[tuple[int, int]],
    ) -> None:
        """Follow one step that the simulator has just made, and judge it.

        Args:
            commands: float[n, 3] body-frame vx, vy (m/s) and yaw rate (rad/s) that the bases obeyed.
            dt: s.
            pushes: float[n, 3] map-frame velocities that outside forces added (a push may have ended early), or None.
            poses: float[n, 3] the simulator's poses after the step.
            velocities: float[n, 3] its body-frame velocities then.
            present: bool[n] robots in the world during the step.
            contacts: pairs that the simulator says have met in this step; ``WALL`` for walls.
        """
        self.time += dt
        for i in np.flatnonzero(present & ~self.present):
            self.trust(i, poses[i])
        self.present = np.array(present, bool)
        truth = poses[:, 0] + 1j * poses[:, 1]
        pushed = np.zeros(len(poses), bool)
        if pushes is not None:
            pushed = pushes.any(axis=1) & self.present
        _integrate(
            self.position, self.yaw, self.velocity, self.rate, np.asarray(commands, float), self.holonomic,
            self.limits, self.present, dt, pushed, pushes if pushes is not None else commands, truth, self._path,
        )  # fmt: skip
        count, least = _near_pairs(self._path, self.radii, self.present, self._found)
        self.least_gap = min(self.least_gap, least)
        gaps = {(int(a), int(b)): gap for a, b, gap in self._found[:count].tolist()}
        count = _near_walls(
            self._path, self.radii, self.present, self.occupied, self.resolution, self._origin, self._turn,
            self._found,
        )  # fmt: skip
        walls = {(int(a), WALL): gap for a, _, gap in self._found[:count].tolist()}
        gaps.update({pair: gap for pair, gap in walls.items() if gap <= BAND})
        before = set(self._touching)  # whoever touched at first may have been stopped, and come apart since
        if gaps or contacts or self._touching:
            self._compare(gaps, contacts, truth, set(walls), pushed)
        self._compare_poses(truth, poses, velocities, before | gaps.keys() | set(contacts))

    def _compare(
        self, gaps: dict[tuple[int, int], float], contacts: list[tuple[int, int]], truth: np.ndarray,
        at_walls: set[tuple[int, int]],
        pushed: np.ndarray,
    ) -> None:  # fmt: skip
        """Note contacts, and those that only one of the two has found; end those whose bodies are apart again."""
        theirs = {(min(a, b), max(a, b)) if b != WALL else (a, b) for a, b in contacts}
        for pair in theirs:
            # Where a push ended is known only if nothing stopped the robot after it.
            unsure = any(k != WALL and pushed[k] for k in pair) or _shares(pair, gaps)
            if gaps.get(pair, np.inf) > BAND and not unsure:
                self._disagree(f"the simulator alone sees a contact of {_name(pair)}")
        for pair, gap in gaps.items():
            if gap < -BAND and pair not in self._touching:
                # A robot that something else has stopped in this step never got here.
                missed = pair not in theirs and not _shares(pair, theirs | set(gaps) - {pair})
                if missed:
                    self._disagree(
                        f"the simulator misses a contact of {_name(pair)}, {-1e3 * gap:.2f} mm deep"
                    )
                if missed or pair in theirs:
                    self.touches.append(Touch(self.time, *pair, -gap))
        self._touching |= theirs | {pair for pair, gap in gaps.items() if gap < -BAND}
        for pair in list(self._touching):
            a, b = pair
            apart = not self.present[a] or (b != WALL and not self.present[b])
            if b == WALL:
                apart |= pair not in at_walls
            else:
                apart |= abs(truth[a] - truth[b]) - self.radii[a] - self.radii[b] > RELEASE
            if apart:
                self._touching.discard(pair)

    def _compare_poses(
        self, truth: np.ndarray, poses: np.ndarray, velocities: np.ndarray, met: set[tuple[int, int]]
    ) -> None:
        """Note robots that are not where their commands take them; trust the simulator where something stopped them."""
        turned = np.abs(np.exp(1j * self.yaw) - np.exp(1j * poses[:, 2]))
        off = self.present & ((np.abs(self.position - truth) > DRIFT) | (turned > DRIFT))
        if not off.any():
            return
        held = {k for pair in (*met, *self._touching) for k in pair}
        for i in np.flatnonzero(off).tolist():
            if i not in held:
                away = abs(self.position[i] - truth[i])
                self._disagree(f"robot {i} is {1e3 * away:.3f} mm from where its commands take it")
            self.position[i], self.yaw[i] = truth[i], poses[i, 2]
            self.velocity[i], self.rate[i] = complex(velocities[i, 0], velocities[i, 1]), velocities[i, 2]

    def _disagree(self, sentence: str) -> None:
        self.disagreements.append(f"t = {self.time:.3f} s: {sentence}")


def _shares(pair: tuple[int, int], others: Iterable[tuple[int, int]]) -> bool:
    """Whether a robot of ``pair`` is in one of the ``others``."""
    return any(k != WALL and k in other for other in others for k in pair)


def _name(pair: tuple[int, int]) -> str:
    return f"robot {pair[0]} and " + ("a wall" if pair[1] == WALL else f"robot {pair[1]}")


@numba.njit(cache=True)
def _arc(angle):
    """(exp(i angle) - 1) / (i angle): how far a turning body gets, as a share of driving straight, and where to."""
    if abs(angle) < 1e-6:
        return 1.0 - angle * angle / 6.0 + 0.5j * angle
    return (np.exp(1j * angle) - 1.0) / (1j * angle)


@numba.njit(cache=True)
def _integrate(
    position, yaw, velocity, rate, commands, holonomic, limits, present, dt, pushed, pushes, truth, path
):
    """Drive all robots for dt s, in place, and write the vertices of their ways, the first of them a push's."""
    for i in range(len(position)):
        path[i, :] = position[i]
        if not present[i]:
            velocity[i], rate[i] = 0.0, 0.0
            continue
        wanted = complex(commands[i, 0], commands[i, 1] if holonomic[i] else 0.0)
        if abs(wanted) > limits[i, 0]:
            wanted *= limits[i, 0] / abs(wanted)
        change = wanted - velocity[i]
        most = limits[i, 2] * dt
        velocity[i] = wanted if abs(change) <= most else velocity[i] + change * (most / abs(change))
        turn = min(max(commands[i, 2], -limits[i, 1]), limits[i, 1])
        rate[i] += min(max(turn - rate[i], -limits[i, 3] * dt), limits[i, 3] * dt)
        if velocity[i] == 0.0 and rate[i] == 0.0 and not pushed[i]:
            continue
        start = position[i]
        if pushed[i]:
            yaw[i] += pushes[i, 2] * dt
            force = complex(pushes[i, 0], pushes[i, 1]) * dt
            driven = np.exp(1j * yaw[i]) * velocity[i] * _arc(rate[i] * dt) * dt
            if abs(force) > 0.0:  # it may have ended early, short of something, but not elsewhere
                along = ((truth[i] - start - driven) * force.conjugate()).real / abs(force) ** 2
                start += min(max(along, 0.0), 1.0) * force
            path[i, 1] = start
        for k in range(1, CHORDS + 1):
            t = dt * k / CHORDS
            path[i, k + 1] = start + np.exp(1j * yaw[i]) * velocity[i] * _arc(rate[i] * t) * t
        position[i] = path[i, CHORDS + 1]
        yaw[i] += rate[i] * dt


@numba.njit(cache=True)
def closest_approach(p, q, r, s):
    """Least distance of two points that move evenly from p to q and from r to s (complex, m) in the same time."""
    start, way = r - p, (s - q) - (r - p)
    length = way.real * way.real + way.imag * way.imag
    share = 0.0
    if length > 0.0:
        share = min(max(-(start.real * way.real + start.imag * way.imag) / length, 0.0), 1.0)
    return abs(start + share * way)


@numba.njit(cache=True)
def _reach(path):
    """float[n] m that each robot gets from its start at most."""
    reach = np.zeros(len(path))
    for i in range(len(path)):
        for k in range(1, path.shape[1]):
            reach[i] = max(reach[i], abs(path[i, k] - path[i, 0]))
    return reach


@numba.njit(cache=True)
def _near_pairs(path, radii, present, found):
    """Write (a, b, gap) of all pairs whose gap falls below BAND; their number, and the least gap of all pairs."""
    n, count, least = len(path), 0, np.inf
    reach = _reach(path)
    for i in range(n):
        if not present[i]:
            continue
        for j in range(i + 1, n):
            if not present[j]:
                continue
            both = radii[i] + radii[j]
            far = both + reach[i] + reach[j] + max(BAND, min(least, 0.1))
            dx, dy = path[i, 0].real - path[j, 0].real, path[i, 0].imag - path[j, 0].imag
            if dx * dx + dy * dy >= far * far:
                continue
            gap = abs(path[i, 0] - path[j, 0]) - both
            if reach[i] > 0.0 or reach[j] > 0.0:
                for k in range(1, path.shape[1]):
                    gap = min(
                        gap, closest_approach(path[i, k - 1], path[i, k], path[j, k - 1], path[j, k]) - both
                    )
            least = min(least, gap)
            if gap <= BAND and count < len(found):
                found[count, 0], found[count, 1], found[count, 2] = i, j, gap
                count += 1
    return count, least


@numba.njit(cache=True)
def square_distance(a, b, left, bottom, side):
    """Distance in m of the segment from a to b (complex) to the square with its lower left corner there."""
    # Where does the segment run inside the square's two bands? If both at once, it meets the square.
    enter, leave = 0.0, 1.0
    for k in range(2):
        start, way = (a.real, b.real - a.real) if k == 0 else (a.imag, b.imag - a.imag)
        low = left if k == 0 else bottom
        if way == 0.0:
            if start < low or start > low + side:
                leave = -1.0
        else:
            first, last = (low - start) / way, (low + side - start) / way
            enter, leave = max(enter, min(first, last)), min(leave, max(first, last))
    if enter <= leave:
        return 0.0
    # Otherwise they are closest at an end of the segment or at a corner of the square.
    least = np.inf
    for end in (a, b):
        dx = end.real - min(max(end.real, left), left + side)
        dy = end.imag - min(max(end.imag, bottom), bottom + side)
        least = min(least, np.hypot(dx, dy))
    for k in range(4):
        corner = complex(left + side * (k % 2), bottom + side * (k // 2))
        least = min(least, closest_approach(a, b, corner, corner))
    return least


@numba.njit(cache=True)
def _near_walls(path, radii, present, occupied, resolution, origin, turn, found):
    """Write (robot, -1, gap) of all robots whose gap to a wall falls below RELEASE on their way; their number."""
    rows, columns = occupied.shape
    count = 0
    for i in range(len(path)):
        if not present[i]:
            continue
        local = (path[i] - origin) * turn
        wide = radii[i] + RELEASE
        gap = np.inf
        bottom = int(np.floor((local.imag.min() - wide) / resolution))
        top = int(np.floor((local.imag.max() + wide) / resolution))
        left = int(np.floor((local.real.min() - wide) / resolution))
        right = int(np.floor((local.real.max() + wide) / resolution))
        for r in range(bottom, top + 1):
            for c in range(left, right + 1):
                if 0 <= r < rows and 0 <= c < columns and not occupied[r, c]:
                    continue
                for k in range(1, len(local)):
                    away = square_distance(local[k - 1], local[k], c * resolution, r * resolution, resolution)
                    gap = min(gap, away - radii[i])
        if gap <= RELEASE and count < len(found):
            found[count, 0], found[count, 1], found[count, 2] = i, WALL, gap
            count += 1
    return count

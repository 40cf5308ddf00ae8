"""Where the commands should have taken each robot: to brake where poses are missing, and to notice poses that lie."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

KEPT = 64
"""Control periods that are remembered."""
SHARE = 0.3
"""A robot may be off its dead reckoning by this share of the way driven; slip and slow wheels are seen as less."""
DRIFT = 0.01
"""Metres that a robot may at most get beside its way because it does not know how far it has turned."""
LATE = 1
"""Control periods from which on a pose is late."""
SLIPS = 0.3
"""Rad/s that a slipping robot may turn unnoticed ..."""
NOTICED = 0.15
"""... where its poses are older than this, s: before, the tracker corrects it."""


def drift(turned: np.ndarray, way: np.ndarray) -> np.ndarray:
    """Metres that robots get beside their ways, at most.

    Commands act some time within the latency. So where poses are late nobody knows which of the turns have been made.

    Args:
        turned: float64[n] rad that may or may not have been turned.
        way: float64[n] m driven since the heading was measured, and until the robot can have stopped.
    """
    return np.sin(np.minimum(turned, math.pi / 2)) * way


def displacement(yaw: np.ndarray, commands: np.ndarray, seconds: float) -> np.ndarray:
    """float[n, 3] (x, y, yaw) that body-frame commands float[n, 3] move robots within ``seconds``."""
    step = commands * seconds
    middle = yaw + step[:, 2] / 2
    cos, sin = np.cos(middle), np.sin(middle)
    return np.stack(
        [cos * step[:, 0] - sin * step[:, 1], sin * step[:, 0] + cos * step[:, 1], step[:, 2]], axis=1
    )


class DeadReckoning:
    """Sums of what the commands of n robots should have moved them."""

    def __init__(self, n: int) -> None:
        """Nothing was commanded yet."""
        self._times = np.full(KEPT, -np.inf)
        self._moved = np.zeros((KEPT, n, 5))  # sums of x, y, yaw, length of the way, angle turned
        self._at = 0
        self._since = np.zeros((n, 5))  # the sums at each robot's last believed pose

    def grow(self, count: int) -> None:
        """Add ``count`` robots."""
        self._moved = np.concatenate([self._moved, np.zeros((KEPT, count, 5))], axis=1)
        self._since = np.vstack([self._since, np.zeros((count, 5))])

    def forget_times(self) -> None:
        """The clock was set: sums go on, times start anew."""
        self._times[:] = -np.inf

    def note(self, moved: np.ndarray, now: float) -> None:
        """Add float[n, 3] (x, y, yaw), grid's frame, m and rad, moved until ``now`` s."""
        last = self._moved[self._at]
        self._at = (self._at + 1) % KEPT
        new = self._moved[self._at]
        new[:, :3] = last[:, :3] + moved
        new[:, 3] = last[:, 3] + np.hypot(moved[:, 0], moved[:, 1])
        new[:, 4] = last[:, 4] + np.abs(moved[:, 2])
        self._times[self._at] = now

    def after(self, times: np.ndarray) -> np.ndarray:
        """float64[n, 3] (x, y, yaw) that each robot should have moved from its time float[n], s, to the last note."""
        return self._moved_since(times)[:, :3]

    def driven_between(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """float64[n] metres of way that each robot was commanded between two times float[n], s."""
        return np.maximum(self._moved_since(start)[:, 3] - self._moved_since(end)[:, 3], 0.0)

    def disoriented(
        self,
        measured: np.ndarray,
        now: float,
        latency: float,
        period: float,
        speed: np.ndarray,
        acceleration: np.ndarray,
    ) -> np.ndarray:
        """Robots that might get more than ``DRIFT`` beside their ways: poses are late, and they have turned or slip.

        Args:
            measured: float64[n] s, times of their poses.
            now: s, time of the last :meth:`note`.
            latency: s within which a command acts.
            period: s, a control period.
            speed: float64[n] m/s that they roll at.
            acceleration: float64[n] m/s^2 by which they brake.

        Returns:
            bool[n].
        """
        late = now - measured > LATE * period + 1e-6
        if not late.any():
            return late
        driven = self._moved_since(measured)
        unknown = self._moved_since(measured - latency)[:, 4] - driven[:, 4]
        latest = self._moved_since(np.full(len(measured), now - latency))[:, 4]
        turned = SLIPS * np.clip(now - measured - NOTICED, 0.0, 10.0) + np.maximum(
            np.maximum(unknown, latest), 0.0
        )
        way = np.maximum(driven[:, 3], 0.0) + speed * period + speed**2 / (2 * acceleration)
        return late & (drift(turned, way) > DRIFT)

    def _moved_since(self, times: np.ndarray) -> np.ndarray:
        order = (self._at + 1 + np.arange(KEPT)) % KEPT  # oldest first
        kept, robots = self._times[order], np.arange(len(times))
        place = np.clip(np.searchsorted(kept, times, side="right") - 1, 0, KEPT - 2)
        start, end = kept[place], kept[place + 1]
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.nan_to_num((times - start) / (end - start), nan=1.0, posinf=1.0, neginf=0.0)
        share = np.clip(share, 0.0, 1.0)[:, None]
        before, then = self._moved[order[place], robots], self._moved[order[place + 1], robots]
        return self._moved[self._at] - before - share * (then - before)

    def believe(self, robot: int, when: float) -> None:
        """The robot's pose was believed; what it was commanded from ``when`` s on may move it away from there."""
        self._since[robot] = self._sum(robot, when)

    def _sum(self, robot: int, when: float) -> np.ndarray:
        at, times = self._at, self._times
        for _ in range(KEPT - 1):  # what is asked for is mostly a few periods ago
            if times[at] <= when:
                break
            at -= 1  # the oldest follows the first
        return self._moved[at, robot]

    def explains(
        self, robot: int, before: Sequence[float], pose: Sequence[float], when: float, tolerance: float
    ) -> bool:
        """Can the commands have taken the robot to a pose, all of the way or a part of it?

        Args:
            robot: Its index.
            before: Three floats: the pose (x, y, yaw) believed last.
            pose: Three floats: the pose at ``when`` s.
            when: s.
            tolerance: m, and twice as many rad, that poses may be off beside a share of the way driven.
        """
        x, y = float(pose[0] - before[0]), float(pose[1] - before[1])
        turned = (float(pose[2] - before[2]) + math.pi) % (2 * math.pi) - math.pi
        if math.hypot(x, y) <= tolerance and abs(turned) <= 2 * tolerance:
            return True
        moved = self._sum(robot, when) - self._since[robot]
        span = moved[:2]
        along = min(max((x * span[0] + y * span[1]) / max(float(span @ span), 1e-12), 0.0), 1.0)
        away = math.hypot(x - along * span[0], y - along * span[1])
        low, high = min(moved[2], 0.0), max(moved[2], 0.0)
        beyond = max(low - turned, turned - high, 0.0)
        if moved[4] > math.pi:
            beyond = 0.0  # it may have turned all the way round
        return bool(away <= tolerance + SHARE * moved[3] and beyond <= 2 * tolerance + SHARE * moved[4])

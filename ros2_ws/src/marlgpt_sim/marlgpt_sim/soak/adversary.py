"""An operator who means harm: pushes, stops and stalls at the moment and place that are worst for the fleet."""

from __future__ import annotations

import math

import numpy as np

from marlgpt_sim.soak.drivers import View
from marlgpt_sim.soak.scenario import PERIOD, Event, Scenario

PATIENCE = 30.0
"""s for which the adversary waits for its moment."""
PUSH_SPEED = 0.4
"""m/s of a hand that pushes."""
AHEAD = (0.15, 0.25)
"""m between a docking robot and one that is set down ahead of it."""
CLOSE = 0.15
"""m; a follower this close behind is worth stopping its leader for."""
AT_LIMIT = (-0.05, 0.005)
"""m beyond two radii and pose errors that a leader is from the cell it leaves: its follower waits just before it."""
THINKS_AGAIN = (2.0, 12.0)
"""s after which such a follower is sent elsewhere."""


class Adversary:
    """Waits for the worst moment.

    Every aim of the scenario is armed at random times, and lets go at the first good opportunity.
    """

    def __init__(self, scenario: Scenario, numbers: list[int]) -> None:
        """Draw when each aim is armed; ``numbers`` are the scenario's robots in the world, by row."""
        self.scenario, self.numbers = scenario, numbers
        self.random = np.random.default_rng((scenario.seed, 17))
        hours = scenario.ticks * PERIOD / 3600.0
        self._armed_at: list[tuple[int, str]] = []
        for aim, rate in scenario.aims.items():
            count = self.random.poisson(rate * hours)
            self._armed_at += [(int(tick), aim) for tick in self.random.integers(scenario.ticks, size=count)]
        self._armed_at.sort(reverse=True)
        self._armed: dict[str, int] = {}  # aim and the period until which it waits
        self._room = 0.0  # m of AT_LIMIT at which the leader that is waited for is to stall
        self._sent_elsewhere: list[tuple[int, int]] = []  # periods, and rows of followers

    def waits(self, tick: int) -> bool:
        """Whether it looks for an opportunity in this period."""
        while self._armed_at and self._armed_at[-1][0] <= tick:
            self._armed[self._armed_at.pop()[1]] = tick + round(PATIENCE / PERIOD)
        self._armed = {aim: until for aim, until in self._armed.items() if tick < until}
        return bool(self._armed) or any(due <= tick for due, _ in self._sent_elsewhere)

    def act(
        self, tick: int, view: View, poses: np.ndarray, speeds: np.ndarray, there: np.ndarray
    ) -> list[Event]:
        """What it does now.

        Args:
            tick: the period.
            view: what robots are doing.
            poses: float[n, 3] true poses, m and rad. ``speeds`` float[n, 2]: true velocities, map frame, m/s.
            speeds: see above.
            there: bool[n] robots that are in the world and that nothing else happens to.
        """
        events = []
        for aim in list(self._armed):
            event, done = getattr(self, f"_{aim}")(tick, view, poses, speeds, there)
            if event is not None:
                events.append(event)
            if done:
                del self._armed[aim]
        for due, row in [entry for entry in self._sent_elsewhere if entry[0] <= tick]:
            self._sent_elsewhere.remove((due, row))
            if there[row]:
                events.append(self._event(tick, "goal_replaced", row, 0.0, "stall_at_limit"))
        return events

    def _event(self, tick: int, kind: str, row: int, duration: float, aim: str, **size: float) -> Event:
        size = {name: float(value) for name, value in size.items()}
        return Event(tick, kind, self.numbers[row], float(duration), size, aim)

    def _push_beside_docking(self, tick, view, poses, speeds, there):
        """Push a robot into, or beside, the way of one that docks; if nobody does, push one off its way first."""
        aim = "push_beside_docking"
        docking = np.flatnonzero(view.docking & there & (np.hypot(*(view.end - poses[:, :2]).T) > 0.05))
        if not len(docking):
            standing = np.flatnonzero(view.docked & there)
            if tick % 20 or not len(standing):
                return None, False
            row, angle = self.random.choice(standing), self.random.uniform(-np.pi, np.pi)
            way = self.random.uniform(0.3, 0.5) * np.array([math.cos(angle), math.sin(angle)])
            return self._event(tick, "push", row, 0.8, aim, x=way[0], y=way[1], yaw=0.0), False
        d = self.random.choice(docking)
        way = view.end[d] - poses[d, :2]
        point = poses[d, :2] + self.random.uniform(0.3, 1.2) * way
        point += self.random.normal(scale=0.15, size=2)
        away = np.hypot(*(poses[:, :2] - point).T)
        others = np.flatnonzero(there & ~view.docking & (away < 1.2))
        if not len(others):
            return None, False
        row = others[np.argmin(away[others])]
        push = point - poses[row, :2]
        length = max(float(np.hypot(*push)), 0.05)
        push *= min(length, 0.8) / length
        duration = max(np.hypot(*push) / PUSH_SPEED, PERIOD)
        return self._event(tick, "push", row, duration, aim, x=push[0], y=push[1], yaw=0.0), True

    def _set_down_ahead(self, tick, view, poses, speeds, there):
        """Set a robot down a little ahead of one that docks."""
        speed = np.hypot(*speeds.T)
        docking = np.flatnonzero(view.docking & there & (speed > 0.03))
        if not len(docking):
            return self._push_beside_docking(tick, view, poses, speeds, there)[
                0
            ] if tick % 40 == 0 else None, False
        d = docking[np.argmax(speed[docking])]
        others = np.flatnonzero(there & ~view.docking & (speed < 0.02))
        others = others[others != d]
        if not len(others):
            return None, False
        gap = 2 * self.scenario.radius + self.random.uniform(*AHEAD)
        angle = math.atan2(speeds[d, 1], speeds[d, 0]) + self.random.normal(scale=0.15)
        x, y = poses[d, :2] + gap * np.array([math.cos(angle), math.sin(angle)])
        yaw = self.random.uniform(-np.pi, np.pi)
        row = self.random.choice(others)
        # Where it does not fit nothing happens; it tries again in the next period.
        return self._event(tick, "set_down", row, 0.0, "set_down_ahead", x=x, y=y, yaw=yaw), False

    def _convoy(self, view, poses, there):
        """Rows of the leader and the follower that are closest, the leader mid-edge, and the gap between them, m."""
        leaders = np.flatnonzero(view.moving & there & (view.progress > 0.15) & (view.progress < 0.85))
        if not len(leaders):
            return None
        followers = np.flatnonzero(view.moving & there)
        behind = (view.targets[followers][None] == view.cells[leaders][:, None]).all(axis=2)
        gap = np.hypot(*(poses[leaders][:, None, :2] - poses[followers][None, :, :2]).transpose(2, 0, 1))
        gap = np.where(behind & (leaders[:, None] != followers[None]), gap - 2 * self.scenario.radius, np.inf)
        k, m = np.unravel_index(np.argmin(gap), gap.shape)
        return (leaders[k], followers[m], float(gap[k, m])) if np.isfinite(gap[k, m]) else None

    def _patient(self, aim: str, tick: int) -> bool:
        """Whether there is still time for a better opportunity: in the first third of its patience."""
        return self._armed[aim] - tick > 0.67 * PATIENCE / PERIOD

    def _stop_in_convoy(self, tick, view, poses, speeds, there):
        """Stop a leader while its follower is closest, or the follower."""
        found = self._convoy(view, poses, there)
        if found is None or (found[2] > CLOSE and self._patient("stop_in_convoy", tick)):
            return None, False
        row = found[0] if self.random.random() < 0.7 else found[1]
        long = self.random.random() < 0.3
        duration = self.random.uniform(60.0, 300.0) if long else self.random.uniform(1.0, 20.0)
        return self._event(tick, "robot_stopped", row, duration, "stop_in_convoy"), True

    def _stall_in_queue(self, tick, view, poses, speeds, there):
        """Let a robot with others behind it stall in the middle of its edge, often for good."""
        found = self._convoy(view, poses, there)
        if found is None or (found[2] > 2 * CLOSE and self._patient("stall_in_queue", tick)):
            return None, False
        duration = 1e6 if self.random.random() < 0.4 else self.random.uniform(10.0, 120.0)
        return self._event(tick, "stall", found[0], duration, "stall_in_queue"), True

    def _stall_at_limit(self, tick, view, poses, speeds, there):
        """Let a robot stall where the one behind it must wait a few cm before a cell's centre, and send that elsewhere.

        Nobody may take such a follower for arrived: if it turns off or back, others come where it was.
        """
        self._room = self._room or self.random.uniform(*AT_LIMIT)
        speed, brakes = np.hypot(*speeds.T), np.array([self.scenario.row(k)[2] for k in self.numbers])
        stands = view.progress * view.cell_size + speed * PERIOD + speed**2 / (2 * brakes)
        late = stands - (2 * (self.scenario.radius + self.scenario.pose_error) + self._room)
        leaders = np.flatnonzero(view.moving & view.docked & there & (late >= 0.0) & (late < 0.025))
        for leader in leaders:
            behind = (view.targets == view.cells[leader]).all(axis=1) & view.moving & there
            followers = np.flatnonzero(behind)
            if len(followers):
                self._room = 0.0
                wait = self.random.uniform(*THINKS_AGAIN)
                self._sent_elsewhere.append((tick + round(wait / PERIOD), int(followers[0])))
                return self._event(tick, "stall", leader, 1e6, "stall_at_limit"), True
        return None, False

    def _fleet_stop_in_motion(self, tick, view, poses, speeds, there):
        """Stop everybody while many drive and two of them are close."""
        found = self._convoy(view, poses, there)
        fast = (np.hypot(*speeds.T) > 0.1).sum()
        patient = self._patient("fleet_stop_in_motion", tick)
        if found is None or fast < 2 or (patient and (found[2] > CLOSE or fast < 0.3 * there.sum())):
            return None, False
        return self._event(
            tick, "fleet_stopped", 0, self.random.uniform(0.5, 4.0), "fleet_stop_in_motion"
        ), True

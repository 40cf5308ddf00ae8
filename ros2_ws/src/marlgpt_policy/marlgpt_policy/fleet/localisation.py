"""Where the robots are: poses that are believed, poses that are not, and what commands have done since."""

from __future__ import annotations

import math

import numpy as np

from marlgpt_policy.fleet.fleet_config import FleetConfig
from marlgpt_policy.motion.dead_reckoning import DeadReckoning, displacement
from marlgpt_policy.robots.robot_state import Robots


class Localisation:
    """Takes the poses of ``robots``, and is the only one that writes them.

    Attributes:
        reckoning: Where commands should have taken each robot.
        jumps: How often a robot's poses began to lie too far from where it can have driven.
        jitter: s by which control periods have lately been late.
        last_tick: s, time of the last control period.
    """

    def __init__(self, robots: Robots, config: FleetConfig) -> None:
        """No pose yet."""
        self.robots, self.config = robots, config
        self.reckoning = DeadReckoning(len(robots))
        self.jumps = 0
        self.jitter = 0.0
        self.last_tick = -math.inf
        self._suspected_at = np.full(len(robots), -math.inf)  # s, stamps of the newest poses not believed

    @property
    def latency(self) -> float:
        """Seconds until a command acts, and how much longer the last one may have to hold if periods come late."""
        latency = self.config.latency
        return (self.config.control_period if latency is None else latency) + self.jitter

    def grow(self, count: int) -> None:
        """Robots were appended to the fleet."""
        self.reckoning.grow(count)
        self._suspected_at = np.append(self._suspected_at, np.full(count, -math.inf))

    def update_pose(self, robot: int, x: float, y: float, yaw: float, now: float) -> bool:
        """Take a pose in the grid's frame (m, rad) received at ``now`` s.

        Returns:
            Whether it is where a robot settled whose pose had jumped: what it held before is not where it is.

        Raises:
            ValueError: NaN or infinite values; the last good pose stays and goes stale.
        """
        robots = self.robots
        if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(yaw)):
            raise ValueError(f"pose of robot '{robots.names[robot]}' is not finite: ({x}, {y}, {yaw})")
        if robots.removed[robot]:
            return False
        # In plain numbers: thousands of poses come per second, and arrays of three cost more than they help.
        last, tolerance = robots.poses[robot], self.config.jump_distance
        before = last.tolist()
        known, settled = math.isfinite(before[0]), False
        if known and not self.reckoning.explains(robot, before, (x, y, yaw), now, tolerance):
            settled = self._suspect(robot, np.array((x, y, yaw)), now)
            if not settled:
                return False
        if math.isfinite(robots.suspect[robot, 0]):
            robots.suspect[robot] = np.nan
            robots.suspect_since[robot] = np.nan
        if not known:
            robots.first_pose[robot] = now
        robots.poses[robot] = x, y, yaw
        robots.pose_time[robot] = now
        self.reckoning.believe(robot, now - self.latency - self.config.control_period)
        return settled

    def _suspect(self, robot: int, pose: np.ndarray, now: float) -> bool:
        """Note a pose that is not believed; True once such poses have agreed for long enough."""
        robots = self.robots
        last = robots.suspect[robot]
        agrees = np.isfinite(last[0]) and math.hypot(*(pose - last)[:2]) <= 2 * self.config.jump_distance
        if not agrees:
            self.jumps += not np.isfinite(last[0])
            robots.suspect_since[robot] = now
        elif now - self._suspected_at[robot] > self.config.pose_timeout:
            # The clock jumped ahead, or poses were lost: nothing has agreed meanwhile.
            robots.suspect_since[robot] += now - self._suspected_at[robot]
        robots.suspect[robot] = pose
        self._suspected_at[robot] = now
        return now - robots.suspect_since[robot] >= self.config.jump_settle

    def fresh(self, now: float) -> np.ndarray:
        """bool[n] robots whose place is known now."""
        robots = self.robots
        age = now - robots.pose_time
        fresh = robots.seen & (age <= self.config.pose_timeout) & (age >= -2 * self.config.control_period)
        return fresh & ~np.isfinite(robots.suspect[:, 0])

    def clock_was_set_back(self, now: float) -> bool:
        """Whether time has gone back since the last control period."""
        return now < self.last_tick - 1e-6

    def clock_set_back(self, now: float) -> None:
        """No pose is known to be recent any more."""
        robots = self.robots
        robots.pose_time[:] = -np.inf
        robots.suspect_since[np.isfinite(robots.suspect_since)] = now
        robots.first_pose[:] = np.minimum(robots.first_pose, now)
        self.last_tick = -math.inf
        self.reckoning.forget_times()

    def advance(self, now: float) -> float | None:
        """Note how far commands have carried the robots since their poses were measured.

        Returns:
            None, or the s since the last period after a gap that is longer than bases wait for commands.
        """
        robots, period = self.robots, self.config.control_period
        elapsed = now - self.last_tick if math.isfinite(self.last_tick) else period
        if (
            elapsed > self.config.pose_timeout
        ):  # a freeze, or the clock jumped ahead: nothing was seen meanwhile
            settling = self.last_tick - robots.first_pose < self.config.first_settle
            robots.first_pose[settling] += elapsed
        late = elapsed > max(self.latency, 3 * period) + period
        gap, elapsed = elapsed, min(max(elapsed, 0.0), self.config.pose_timeout)
        self.last_tick = now
        self.jitter = max(elapsed - period, 0.98 * self.jitter)
        moved = displacement(robots.poses[:, 2] + robots.driven[:, 2], robots.rolling, elapsed)
        self.reckoning.note(np.nan_to_num(moved), now)
        robots.driven[:] = self.reckoning.after(robots.pose_time)
        return gap if late else None

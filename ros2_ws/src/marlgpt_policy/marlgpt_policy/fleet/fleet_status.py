"""What the robots of a fleet are doing, in words for operators."""

from __future__ import annotations

import numpy as np

from marlgpt_policy.fleet.fleet_config import FleetConfig
from marlgpt_policy.robots.robot_config import Status
from marlgpt_policy.robots.robot_state import Robots


class FleetStatus(Robots):
    """The part of :class:`marlgpt_policy.fleet.fleet.Fleet` that says what robots do and why they stand.

    Attributes:
        config: Timing.
        stopped: All robots stand.
    """

    config: FleetConfig
    stopped: bool

    def status(self, robot: int, now: float) -> tuple[Status, str]:
        """What a robot is doing and, where it stands still for a reason, why."""
        if self.removed[robot]:
            return Status.REMOVED, self.detail[robot]
        if not np.isfinite(self.poses[robot, 0]):
            return Status.NO_POSE, "no pose received yet"
        if np.isfinite(self.suspect[robot, 0]):
            x, y = self.suspect[robot, :2]
            return Status.JUMPED, f"its pose jumped to ({x:.2f}, {y:.2f}); it stands until the pose settles"
        age = now - self.pose_time[robot]
        if age > self.config.pose_timeout:
            return Status.STALE, f"last pose is {age:.2f} s old by its stamp"
        if self.stopped:
            return Status.STOPPED, "fleet is stopped until resumed"
        if self.halted[robot]:
            return Status.STOPPED, "robot is stopped until resumed"
        if now - self.first_pose[robot] < self.config.first_settle:
            return (
                Status.OFF_GRID,
                f"stands until its first poses have agreed for {self.config.first_settle:g} s",
            )
        if self.docking[robot]:
            return Status.DOCKING, ""
        if not self.docked[robot]:
            return Status.OFF_GRID, self.detail[robot]
        if (self.targets[robot] != self.cells[robot]).any():
            return Status.MOVING, ""
        return (Status.IDLE, self.detail[robot]) if self.goals[robot, 0] < 0 else (Status.WAITING, "")

    def statuses(self, now: float) -> list[tuple[Status, str]]:
        """:meth:`status` of every robot; those that drive as they should are not looked at one by one."""
        well = ~self.removed & self.seen & ~np.isfinite(self.suspect[:, 0]) & ~self.halted & self.docked
        well &= ~(now - self.pose_time > self.config.pose_timeout) & ~self.docking
        well &= ~(now - self.first_pose < self.config.first_settle)
        if self.stopped:
            well[:] = False
        moving, idle = self.moving.tolist(), (self.goals[:, 0] < 0).tolist()
        found = []
        for i, fine in enumerate(well.tolist()):
            if not fine:
                found.append(self.status(i, now))
            elif moving[i]:
                found.append((Status.MOVING, ""))
            else:
                found.append((Status.IDLE, self.detail[i]) if idle[i] else (Status.WAITING, ""))
        return found

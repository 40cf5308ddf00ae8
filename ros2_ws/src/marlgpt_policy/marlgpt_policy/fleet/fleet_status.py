"""What the robots of a fleet are doing, in words for operators."""

from __future__ import annotations

import numpy as np

from marlgpt_policy.fleet.fleet_config import FleetConfig
from marlgpt_policy.robots.robot_config import Status
from marlgpt_policy.robots.robot_state import Robots


def status(robots: Robots, config: FleetConfig, stopped: bool, robot: int, now: float) -> tuple[Status, str]:
    """What a robot is doing and, where it stands still for a reason, why."""
    if robots.removed[robot]:
        return Status.REMOVED, robots.detail[robot]
    if not np.isfinite(robots.poses[robot, 0]):
        return Status.NO_POSE, "no pose received yet"
    if np.isfinite(robots.suspect[robot, 0]):
        x, y = robots.suspect[robot, :2]
        return Status.JUMPED, f"its pose jumped to ({x:.2f}, {y:.2f}); it stands until the pose settles"
    age = now - robots.pose_time[robot]
    if age > config.pose_timeout:
        return Status.STALE, f"last pose is {age:.2f} s old by its stamp"
    if stopped:
        return Status.STOPPED, "fleet is stopped until resumed"
    if robots.halted[robot]:
        return Status.STOPPED, "robot is stopped until resumed"
    if now - robots.first_pose[robot] < config.first_settle:
        return (
            Status.OFF_GRID,
            f"stands until its first poses have agreed for {config.first_settle:g} s",
        )
    if robots.docking[robot]:
        return Status.DOCKING, ""
    if not robots.docked[robot]:
        return Status.OFF_GRID, robots.detail[robot]
    if (robots.targets[robot] != robots.cells[robot]).any():
        return Status.MOVING, ""
    return (Status.IDLE, robots.detail[robot]) if robots.goals[robot, 0] < 0 else (Status.WAITING, "")


def statuses(robots: Robots, config: FleetConfig, stopped: bool, now: float) -> list[tuple[Status, str]]:
    """:func:`status` of every robot; those that drive as they should are not looked at one by one."""
    well = ~robots.removed & robots.seen & ~np.isfinite(robots.suspect[:, 0]) & ~robots.halted & robots.docked
    well &= ~(now - robots.pose_time > config.pose_timeout) & ~robots.docking
    well &= ~(now - robots.first_pose < config.first_settle)
    if stopped:
        well[:] = False
    moving, idle = robots.moving.tolist(), (robots.goals[:, 0] < 0).tolist()
    found = []
    for i, fine in enumerate(well.tolist()):
        if not fine:
            found.append(status(robots, config, stopped, i, now))
        elif moving[i]:
            found.append((Status.MOVING, ""))
        else:
            found.append((Status.IDLE, robots.detail[i]) if idle[i] else (Status.WAITING, ""))
    return found

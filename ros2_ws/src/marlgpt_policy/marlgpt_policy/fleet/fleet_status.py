"""What the robots of a fleet are doing, in words for operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from marlgpt_policy.robots.robot_config import Status

if TYPE_CHECKING:
    from marlgpt_policy.fleet.fleet import Fleet


def status(fleet: Fleet, robot: int, now: float) -> tuple[Status, str]:
    """What a robot is doing and, where it stands still for a reason, why."""
    if fleet.removed[robot]:
        return Status.REMOVED, fleet.detail[robot]
    if not np.isfinite(fleet.poses[robot, 0]):
        return Status.NO_POSE, "no pose received yet"
    if np.isfinite(fleet.suspect[robot, 0]):
        x, y = fleet.suspect[robot, :2]
        return Status.JUMPED, f"its pose jumped to ({x:.2f}, {y:.2f}); it stands until the pose settles"
    age = now - fleet.pose_time[robot]
    if age > fleet.config.pose_timeout:
        return Status.STALE, f"last pose is {age:.2f} s old by its stamp"
    if fleet.stopped:
        return Status.STOPPED, "fleet is stopped until resumed"
    if fleet.halted[robot]:
        return Status.STOPPED, "robot is stopped until resumed"
    if now - fleet.first_pose[robot] < fleet.config.first_settle:
        return (
            Status.OFF_GRID,
            f"stands until its first poses have agreed for {fleet.config.first_settle:g} s",
        )
    if fleet.docking[robot]:
        return Status.DOCKING, ""
    if not fleet.docked[robot]:
        return Status.OFF_GRID, fleet.detail[robot]
    if (fleet.targets[robot] != fleet.cells[robot]).any():
        return Status.MOVING, ""
    return (Status.IDLE, fleet.detail[robot]) if fleet.goals[robot, 0] < 0 else (Status.WAITING, "")


def statuses(fleet: Fleet, now: float) -> list[tuple[Status, str]]:
    """:func:`status` of every robot; those that drive as they should are not looked at one by one."""
    well = ~fleet.removed & fleet.seen & ~np.isfinite(fleet.suspect[:, 0]) & ~fleet.halted & fleet.docked
    well &= ~(now - fleet.pose_time > fleet.config.pose_timeout) & ~fleet.docking
    well &= ~(now - fleet.first_pose < fleet.config.first_settle)
    if fleet.stopped:
        well[:] = False
    moving, idle = fleet.moving.tolist(), (fleet.goals[:, 0] < 0).tolist()
    found = []
    for i, fine in enumerate(well.tolist()):
        if not fine:
            found.append(status(fleet, i, now))
        elif moving[i]:
            found.append((Status.MOVING, ""))
        else:
            found.append((Status.IDLE, fleet.detail[i]) if idle[i] else (Status.WAITING, ""))
    return found

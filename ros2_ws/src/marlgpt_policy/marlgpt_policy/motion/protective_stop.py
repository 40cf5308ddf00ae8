"""Protective stops: whoever drives, on whatever way, looks in every period at the newest known place of everybody else.

Claims and coupling keep robots apart that do what they are told. This is for the others: a robot that was pushed or set
down into somebody's way, whose pose jumped, or that stands off the grid. It knows nothing of cells.
"""

from __future__ import annotations

import numpy as np

from marlgpt_policy.motion.clear_way import free_ahead
from marlgpt_policy.robots.robot_state import Robots


def newest_places(robots: Robots) -> tuple[np.ndarray, np.ndarray]:
    """Where robots are as far as the fleet knows: places believed, and those that are not believed yet.

    Returns:
        float64[m, 2] places, grid's frame, m, and int64[m] whose they are.
    """
    there = np.flatnonzero(robots.seen & ~robots.removed)
    jumped = there[np.isfinite(robots.suspect[there, 0])]
    places = np.concatenate([robots.poses[there, :2], robots.suspect[jumped, :2]])
    return places, np.concatenate([there, jumped])


def free_ways(robots: Robots, ends: np.ndarray, active: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """How far robots may drive straight towards ``ends`` before they would come too close to another one.

    Args:
        robots: All of them; ways begin where the commands should have taken each robot by now.
        ends: float64[n, 2] where their ways end, grid's frame, m.
        active: bool[n] robots that drive.
        reach: float64[n] m that each of them keeps between its centre and the places of others.

    Returns:
        float64[n] m; inf where the whole way is clear. Somebody who is too close already counts only if the robot
        would come nearer.
    """
    places, owners = newest_places(robots)
    return free_ahead(robots.poses[:, :2] + robots.driven[:, :2], ends, active, places, owners, reach)

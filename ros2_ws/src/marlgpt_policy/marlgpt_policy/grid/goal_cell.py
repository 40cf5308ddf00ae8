"""Which cell a goal means, and why some goals are refused."""

from __future__ import annotations


class GoalError(ValueError):
    """A goal cannot be accepted; the message names the robot, the goal and the reason."""

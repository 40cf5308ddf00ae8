"""Timing and choices of a fleet."""

from __future__ import annotations

import math
from dataclasses import dataclass

from marlgpt_policy.robots.robot_config import check_positive

EXECUTIONS = ("asynchronous", "synchronous")
SHARP = 0.2
"""Temperature of sampling behind the shield, on robots and in evaluation."""


@dataclass(frozen=True)
class FleetConfig:
    """Timing and choices of the fleet; the defaults are those of the fleet node.

    Attributes:
        execution: "asynchronous": a robot decides as soon as it is about to finish its cell; "synchronous": all
            decide together once all have.
        control_period: Seconds between ticks.
        pose_timeout: Age in s at which a pose is stale and its robot stops.
        step_timeout: Synchronous: seconds after a decision at which the next one is taken without late robots.
        step_minimum: Least seconds between decisions (when every robot waits, a step takes no time).
        goal_grace: Synchronous: seconds a decision waits for the next goal of a robot that has just reached one.
        latency: Seconds between a pose being measured and its command taking effect at the latest: robots brake so
            that it does no harm. None is one period.
        turn_latency: The same as it usually is, for turning on the spot. None is two periods, or ``latency`` where
            that is less.
        arrive_tolerance: Distance in m from a cell's centre that counts as there.
        pose_error: Bound in m on the error of each robot's poses; cells that leave too little for it are refused
            (``motion/safety_margins.py``). None: what fits into half of the room that the cells leave.
        temperature: Of sampling from the policy; 0 takes the most probable move. Above 0, it rises to 1 for robots
            that get no nearer to their goals (see ``deadlock/remedies.py``).
        seed: Of sampling and of tie-breaking.
        jump_distance: A pose this many m (or twice as many rad) off what the robot's commands explain is not
            believed: the robot stops.
        jump_settle: Seconds for which such poses must agree to be believed after all.
        first_settle: Seconds for which a robot stands after its first pose, to see whether the next ones agree: after
            a start there is nothing yet that a wrong pose would contradict.
    """

    execution: str = "asynchronous"
    control_period: float = 0.05
    pose_timeout: float = 0.5
    step_timeout: float = 0.6
    step_minimum: float = 0.2
    goal_grace: float = 0.15
    latency: float | None = 0.2
    turn_latency: float | None = None
    arrive_tolerance: float = 0.03
    pose_error: float | None = None
    temperature: float = SHARP
    seed: int = 0
    jump_distance: float = 0.1
    jump_settle: float = 4.0
    first_settle: float = 4.0

    def __post_init__(self) -> None:
        if self.execution not in EXECUTIONS:
            raise ValueError(f"execution must be one of {', '.join(EXECUTIONS)}, got {self.execution!r}")
        check_positive(
            self, "control_period", "pose_timeout", "step_timeout", "arrive_tolerance", "jump_distance"
        )
        if self.pose_error is not None and not (math.isfinite(self.pose_error) and self.pose_error >= 0):
            raise ValueError(f"pose_error must be a number of metres, 0 or more, got {self.pose_error!r}")

"""What the fleet knows of each robot: one array per quantity, one row per robot.

Each array has one owner, the module that alone writes it; all others only read.
"""

from __future__ import annotations

import numpy as np

from marlgpt_policy.grid.moves import HISTORY, NO_ACTION
from marlgpt_policy.robots.robot_config import RobotConfig

NO_CELL = (-1, -1)

PER_ROBOT: dict[str, tuple[object, type, int, str]] = {
    # name: (value of a robot that has just joined, type, columns, module that alone writes it)
    "poses": (np.nan, np.float64, 3, "localisation"),
    "pose_time": (-np.inf, np.float64, 0, "localisation"),
    "suspect": (np.nan, np.float64, 3, "localisation"),
    "suspect_since": (np.nan, np.float64, 0, "localisation"),
    "first_pose": (np.nan, np.float64, 0, "localisation"),
    "driven": (0.0, np.float64, 3, "localisation"),
    "removed": (False, np.bool_, 0, "fleet"),
    "halted": (False, np.bool_, 0, "fleet"),
    "docked": (False, np.bool_, 0, "docking"),
    "docking": (False, np.bool_, 0, "docking"),
    "dock_from": (np.nan, np.float64, 2, "docking"),
    "dock_blocked": (np.nan, np.float64, 0, "docking"),
    "cells": (-1, np.int64, 2, "edge_coupling"),
    "targets": (-1, np.int64, 2, "edge_coupling"),
    "next_targets": (-1, np.int64, 2, "edge_coupling"),
    "goals": (-1, np.int64, 2, "fleet"),
    "move": (0, np.int8, 0, "edge_coupling"),
    "next_move": (0, np.int8, 0, "edge_coupling"),
    "progress": (1.0, np.float64, 0, "edge_coupling"),
    "returning": (False, np.bool_, 0, "edge_coupling"),
    "progress_time": (-np.inf, np.float64, 0, "edge_coupling"),
    "progress_then": (1.0, np.float64, 0, "edge_coupling"),
    "unfit_since": (np.nan, np.float64, 0, "fleet"),
    "broken_until": (-np.inf, np.float64, 0, "edge_coupling"),
    "failures": (0, np.int64, 0, "edge_coupling"),
    "decided": (-np.inf, np.float64, 0, "decider"),
    "recorded": (-np.inf, np.float64, 0, "decider"),
    "history": (NO_ACTION, np.int8, HISTORY, "decider"),
    "waited": (0.0, np.float64, 0, "decider"),
    "commands": (0.0, np.float64, 3, "driving"),
    "rolling": (0.0, np.float64, 3, "driving"),
    "rest_at": (-np.inf, np.float64, 0, "driving"),
    "goals_reached": (0, np.int64, 0, "fleet"),
    "vetoes": (0, np.int64, 0, "decider"),
}


class Robots:
    """Arrays indexed by robot, in the order in which the robots joined.

    Attributes:
        robots: Their bodies.
        names: Their names.
        detail: Why each one stands still, in words; empty if all is well.
        drive: int8[n] values of ``Drive``.
        limits: float64[n, 4] rows of ``MotionLimits.as_row``.
        poses: float64[n, 3] last trusted pose (x, y, yaw), grid's frame, m and rad; NaN before the first.
        pose_time: float64[n] its time, s.
        suspect: float64[n, 3] newest pose where it lies too far from the trusted one to be true; NaN otherwise.
        suspect_since: float64[n] when such poses began, s.
        first_pose: float64[n] when its first pose was taken, s; NaN before.
        driven: float64[n, 3] what commands since the last pose was measured should have moved the robot, m and rad.
        removed: bool[n] taken out of the fleet.
        halted: bool[n] stopped until resumed.
        docked: bool[n] on the grid: at a cell's centre or on its edge.
        docking: bool[n] driving to the centre of ``cells`` from ``dock_from`` float64[n, 2].
        dock_blocked: float64[n] since when another robot has kept it from docking, s; NaN while none does.
        cells: int64[n, 2] cell (row, column) that the robot leaves or stands on; -1 for none.
        targets: int64[n, 2] cell that it drives to; ``cells`` if it stands.
        next_targets: int64[n, 2] cell after that, where it is decided already; -1 for none.
        goals: int64[n, 2] goal cells; -1 for none.
        move, next_move: int8[n] moves from ``cells`` to ``targets`` and from there to ``next_targets``.
        progress: float64[n] share of the edge driven, as measured.
        returning: bool[n] drives back on an edge that its leader does not free.
        progress_time, progress_then: float64[n] time and value of the last progress worth the name.
        unfit_since: float64[n] when the robot became unfit to drive, s; NaN while it is fit.
        broken_until: float64[n] until when a robot that did not obey is not relied on, s.
        failures: int64[n] how often it has not obeyed since it last finished an edge.
        decided: float64[n] time of its last decision, s. recorded: when its history last grew.
        history: int8[n, HISTORY] last moves, newest first.
        waited: float64[n] decisions since its last goal; the priority.
        commands: float64[n, 3] last commands (vx, vy, wz), body frame, m/s and rad/s.
        rolling: float64[n, 3] velocities as the commands explain them: after a stop they fade as slowly as the robot's
            acceleration allows, while ``commands`` are zero at once.
        rest_at: float64[n] from when it surely stands, s, if it gets no other commands.
        goals_reached, vetoes: int64[n] counts.
    """

    poses: np.ndarray
    cells: np.ndarray
    targets: np.ndarray

    def __init__(self, robots: list[RobotConfig]) -> None:
        """Start with ``robots``, none of which has a pose.

        Raises:
            ValueError: No robot, or duplicate names.
        """
        names = [robot.name for robot in robots]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"robot name used twice: {', '.join(twice)}; every robot needs a name of its own"
            )
        if not robots:
            raise ValueError("no robots configured; set the parameter 'robots'")
        self.robots: list[RobotConfig] = []
        self.names: list[str] = []
        self.detail: list[str] = []
        self.drive = np.zeros(0, dtype=np.int8)
        self.limits = np.zeros((0, 4))
        for name, (_, kind, columns, _) in PER_ROBOT.items():
            setattr(self, name, np.zeros((0, columns) if columns else 0, dtype=kind))
        self.grow(robots)

    def __len__(self) -> int:
        """Number of robots that ever were in the fleet."""
        return len(self.robots)

    def grow(self, robots: list[RobotConfig]) -> None:
        """Append robots; the indices of the others stay."""
        self.robots += robots
        self.names += [robot.name for robot in robots]
        self.detail += ["no pose received yet"] * len(robots)
        self.drive = np.append(self.drive, [robot.drive for robot in robots]).astype(np.int8)
        self.limits = np.vstack([self.limits, [robot.limits.as_row() for robot in robots]])
        for name, (value, kind, columns, _) in PER_ROBOT.items():
            rows = np.full((len(robots), columns) if columns else len(robots), value, dtype=kind)
            setattr(self, name, np.concatenate([getattr(self, name), rows]))

    def forget(self, robot: int) -> None:
        """Set everything about a robot back, but for its counts: as if it had just joined."""
        for name, (value, _, _, _) in PER_ROBOT.items():
            if name not in ("goals_reached", "vetoes"):
                getattr(self, name)[robot] = value
        self.detail[robot] = "no pose received yet"

    @property
    def ends(self) -> np.ndarray:
        """int64[n, 2] cell where each robot will stand once it has driven all that is decided; -1 for none."""
        return np.where(self.next_targets >= 0, self.next_targets, self.targets)

    @property
    def moving(self) -> np.ndarray:
        """bool[n] robots on their way from one cell to another."""
        return (self.cells != self.targets).any(axis=1)

    @property
    def seen(self) -> np.ndarray:
        """bool[n] robots whose pose is or was known."""
        return np.isfinite(self.poses[:, 0])

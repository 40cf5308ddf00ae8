"""Compile every kernel before robots drive, not in the control period that first needs it.

Numba compiles a kernel when it is first called with arguments of a kind, which takes seconds, or tenths of a second
where it is found in the cache of an earlier start. So a few robots of this process's own drive for some seconds
on a small map through everything that a fleet meets: they dock, couple, get stuck, plan together, are pushed away,
stop, and drive without a central node. Whoever adds a kernel need not add it here: what robots call is called.

``python -m marlgpt_policy.kernels.kernel_warmup`` fills the cache, for the image of a container.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
from numba.core.dispatcher import Dispatcher

import marlgpt_policy
from marlgpt_policy.deadlock.detours import OBSTACLE_AFTER
from marlgpt_policy.deadlock.right_of_way import FIRST_AFTER
from marlgpt_policy.decentralised.peer_state import Rules
from marlgpt_policy.decentralised.robot_controller import ControllerConfig, RobotController
from marlgpt_policy.fleet.fleet import Fleet
from marlgpt_policy.fleet.fleet_config import FleetConfig
from marlgpt_policy.grid.distance_field import DistanceField
from marlgpt_policy.grid.nav_grid import NavGrid, build_grid
from marlgpt_policy.grid.occupancy_map import OccupancyMap
from marlgpt_policy.policy.stand_in import shortest_ways
from marlgpt_policy.robots.robot_config import Drive, MotionLimits, RobotConfig

RADIUS, RESOLUTION, PERIOD = 0.22, 0.05, 0.05
CELL, BODY = 14, 11
"""Pixels of a cell of the smallest size for that radius, and of the width that a robot needs."""
SECONDS = 2.0
"""Simulated seconds of each of the drives."""
LIMITS = MotionLimits(1.0, 2.5, 2.0, 5.0)
NODES = f"{marlgpt_policy.__name__}.nodes"


class Kernels:
    """All kernels, compiled; tells which are compiled nevertheless later.

    Attributes:
        seconds: That compiling took.
        compiled, cached: Kernels compiled, and found in the cache [count].
    """

    def __init__(self, log: Callable[[str], None] = lambda text: None) -> None:
        """Call every kernel that a control period may call; ``log`` is told before and after."""
        log("compiling kernels; the first start on a machine takes half a minute")
        started = time.perf_counter()
        drive_everything()
        self.seconds = time.perf_counter() - started
        stats = [kernel.stats for kernel in dispatchers().values()]
        self.compiled = sum(sum(one.cache_misses.values()) for one in stats)
        self.cached = sum(sum(one.cache_hits.values()) for one in stats)
        self._known = signatures()
        log(
            f"compiling kernels took {self.seconds:.1f} s: {self.compiled} compiled, {self.cached} from the cache"
        )

    def news(self) -> list[str]:
        """Names of kernels that have been compiled, or fetched from the cache, since the last call or the start."""
        now = signatures()
        known, self._known = self._known, now
        return [name for name, found in now.items() if found - known.get(name, set())]


def dispatchers() -> dict[str, Dispatcher]:
    """All kernels of this package by module and name."""
    for module in pkgutil.walk_packages(marlgpt_policy.__path__, f"{marlgpt_policy.__name__}."):
        if not module.name.startswith(NODES):  # they need ROS, and have none
            importlib.import_module(module.name)
    return dict(_loaded())


def _loaded() -> Iterator[tuple[str, Dispatcher]]:
    for name, module in list(sys.modules.items()):
        if name.startswith(marlgpt_policy.__name__):
            for value in vars(module).values():
                if isinstance(value, Dispatcher) and value.py_func.__module__ == name:
                    yield f"{name}.{value.py_func.__name__}", value


def signatures() -> dict[str, set]:
    """Kinds of arguments that each kernel of the modules loaded so far is compiled for."""
    return {name: set(kernel.signatures) for name, kernel in _loaded()}


def drive_everything() -> None:
    """Drive a small fleet, and robots without a central node, through all that a control period may have to do."""
    pixels = np.zeros((2 * CELL + BODY, 3 * CELL + BODY), dtype=bool)
    pixels[CELL : CELL + BODY, CELL : CELL + BODY] = (
        True  # a ring of cells around a pillar, and a row beside it
    )
    map = OccupancyMap(pixels, np.zeros_like(pixels), RESOLUTION, (0.0, 0.0, 0.0))
    grid, distances = build_grid(map, RADIUS), DistanceField(map)
    len(grid.components)  # what the map is said to hold when it comes
    distances.clearance(np.zeros(2), np.ones(2), RADIUS)  # asked for where robots are beside their ways
    drive_fleet(grid, distances)
    drive_alone(grid, distances)


def drive_fleet(grid: NavGrid, distances: DistanceField) -> None:
    """A fleet of both drives: some start off the grid, all get stuck, one stands, one is pushed away."""
    cells = np.argwhere(grid.free)
    chosen = cells[[0, 1, 3, -1, -2]]
    drives = (Drive.DIFFERENTIAL, Drive.HOLONOMIC)
    robots = [RobotConfig(f"r{i}", RADIUS, drives[i % 2], LIMITS) for i in range(len(chosen))]
    config = FleetConfig(control_period=PERIOD, latency=2 * PERIOD, jump_settle=0.5, first_settle=0.0)
    fleet = Fleet(grid, shortest_ways, robots, config, distances)
    poses = np.column_stack([grid.centre(chosen), np.zeros(len(chosen))])
    poses[0, :2] += 0.05, 0.1  # off the grid

    def run(start: float) -> None:
        for now in np.arange(start, start + SECONDS, PERIOD):
            for i in np.flatnonzero(fleet.goals[:, 0] < 0):
                fleet.set_goal(int(i), *grid.centre(cells[(7 * i + fleet.goals_reached[i] + 3) % len(cells)]))
            for i, pose in enumerate(poses):
                fleet.update_pose(i, *pose, now)
            fleet.tick(now)
            poses[:] = moved(poses, fleet.commands)

    run(0.0)
    fleet.decider.stagnation.idle[:] = FIRST_AFTER + 1  # all are stuck: right of way and joint plans
    run(SECONDS)
    poses[1, :2] += 0.2, 0.15  # pushed away
    fleet.stop(2)  # and another one stands in the way ...
    run(2 * SECONDS)
    run(3 * SECONDS + OBSTACLE_AFTER)  # ... for so long that ways lead around it
    fleet.resume(2)
    fleet.remove_robot(3)
    fleet.add_robot(robots[3])
    fleet.replace_map(grid, distances)
    run(4 * SECONDS + OBSTACLE_AFTER)


def drive_alone(grid: NavGrid, distances: DistanceField) -> None:
    """Two robots without a central node, the first of which starts off the grid."""
    names, cells = ("a", "b"), np.argwhere(grid.free)[[0, -1]]
    rules = Rules(names, "warm-up", grid.cell_size / LIMITS.max_speed)
    robots = [
        RobotController(
            RobotConfig(name, RADIUS, drive, LIMITS),
            grid,
            shortest_ways,
            rules,
            1,
            ControllerConfig(PERIOD),
            distances,
        )
        for name, drive in zip(names, (Drive.DIFFERENTIAL, Drive.HOLONOMIC), strict=True)
    ]
    poses = np.column_stack([grid.centre(cells), np.zeros(2)])
    poses[0, :2] += 0.05, 0.1
    for now in np.arange(0.0, 2 * SECONDS, PERIOD):
        for robot, pose, goal in zip(robots, poses, cells[::-1], strict=True):
            robot.update_pose(*pose, now)
            if robot.docked and robot.choice.goal is None and not robot.goals_reached:
                robot.set_goal(*grid.centre(goal), now)
            message = robot.tick(now).message
            for other in robots:
                if message is not None and other is not robot:
                    other.receive(message)
        poses[:] = moved(poses, np.array([robot.command for robot in robots]))


def moved(poses: np.ndarray, commands: np.ndarray) -> np.ndarray:
    """float64[n, 3] (x, y, yaw) after body-frame commands float64[n, 3] have been obeyed for a period."""
    cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    vx, vy, wz = commands.T
    return poses + PERIOD * np.column_stack([cos * vx - sin * vy, sin * vx + cos * vy, wz])


if __name__ == "__main__":
    Kernels(print)

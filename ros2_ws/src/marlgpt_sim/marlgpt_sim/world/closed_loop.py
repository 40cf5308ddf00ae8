"""Fleet and simulated world in one process, without ROS: what benchmarks, the soak run and tests drive.

Each control period: poses are measured, the fleet ticks, the world moves for one period, and robots that reached
their goals get new ones. With the same seed the same happens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from marlgpt_policy.fleet.fleet import Fleet, Tick
from marlgpt_policy.fleet.fleet_config import FleetConfig
from marlgpt_policy.grid.distance_field import DistanceField
from marlgpt_policy.grid.nav_grid import build_grid
from marlgpt_policy.grid.occupancy_map import OccupancyMap
from marlgpt_policy.policy.onnx_policy import OnnxPolicy
from marlgpt_policy.robots.robot_config import Drive, MotionLimits, RobotConfig

from marlgpt_sim.world.fleet_world import FleetWorld
from marlgpt_sim.world.spawn import place_robots

PHYSICS_STEPS = 2
"""Steps of the world in one control period."""


class ClosedLoop:
    """A fleet on a map, its world, and endless goals.

    Attributes:
        fleet, world, grid: The parts.
        time: Simulated s.
        cells: int[k, 2] cells from which goals are drawn: the largest connected area.
        goals: Whether robots that reach their goals get new ones.
    """

    def __init__(
        self,
        map: OccupancyMap,
        robots: int,
        policy: OnnxPolicy,
        config: FleetConfig | None = None,
        radius: float = 0.22,
        limits: MotionLimits | list[MotionLimits] | None = None,
        drive: Drive = Drive.DIFFERENTIAL,
        seed: int = 0,
        noise: float = 0.0,
        places: np.ndarray | None = None,
    ) -> None:
        """Place ``robots`` at random cells; ``noise`` is the standard deviation of measured poses, m and rad.

        ``places`` int[k, 2] are the cells that starts and goals are drawn from, as for sites where robots do not rest
        everywhere; all connected ones if None.

        Raises:
            ValueError: Fewer ``places`` than robots.
        """
        self.grid = build_grid(map, radius)
        self.cells = np.argwhere(self.grid.components == 0) if places is None else np.asarray(places)
        each = limits if isinstance(limits, list) else [limits or MotionLimits()] * robots
        bodies = [RobotConfig(f"robot_{i}", radius, drive, each[i]) for i in range(robots)]
        poses = place_robots(self.grid, robots, seed) if places is None else self._starts(robots, seed)
        self.fleet = Fleet(self.grid, policy, bodies, config, DistanceField(map))
        self.world = FleetWorld(
            map, poses, radius, drive, np.array([limit.as_row() for limit in each]), seed, noise, noise,
            [body.name for body in bodies],
        )  # fmt: skip
        self.random = np.random.default_rng(seed)
        self.time = 0.0
        self.goals = True
        for i in range(robots):
            self.give_goal(i)

    def _starts(self, robots: int, seed: int) -> np.ndarray:
        """float[n, 3] poses on distinct cells of :attr:`cells`."""
        if robots > len(self.cells):
            raise ValueError(f"{robots} robots do not fit on {len(self.cells)} places")
        random = np.random.default_rng([seed, 3])
        cells = self.cells[random.permutation(len(self.cells))[:robots]]
        return np.column_stack([self.grid.centre(cells), random.uniform(-np.pi, np.pi, robots)])

    def give_goal(self, robot: int) -> None:
        """Send a robot to a random cell other than its own."""
        cell = self.cells[self.random.integers(len(self.cells))]
        self.fleet.set_goal(robot, *self.grid.centre(cell))

    def measure(self) -> None:
        """Tell the fleet where every robot is."""
        for i, pose in enumerate(self.world.measured_poses()):
            self.fleet.update_pose(i, *pose, self.time)

    def tick(self) -> Tick:
        """One control period."""
        period = self.fleet.config.control_period
        self.measure()
        result = self.fleet.tick(self.time)
        for _ in range(PHYSICS_STEPS):
            self.world.step(result.commands, period / PHYSICS_STEPS)
        self.time += period
        if self.goals:
            for i in result.reached:
                self.give_goal(i)
        return result

    def run(self, seconds: float, each: Callable[[Tick], None] | None = None) -> None:
        """Simulate ``seconds``."""
        for _ in range(round(seconds / self.fleet.config.control_period)):
            result = self.tick()
            if each is not None:
                each(result)

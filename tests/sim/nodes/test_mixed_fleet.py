"""Robots of different sizes, speeds and drives in one fleet, simulated in one process: goals, and no contact."""

import numpy as np
import pytest
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.fleet.fleet import Fleet
from marlgpt_policy.fleet.fleet_config import FleetConfig
from marlgpt_policy.grid.distance_field import DistanceField
from marlgpt_policy.grid.nav_grid import build_grid
from marlgpt_policy.grid.occupancy_map import OccupancyMap
from marlgpt_policy.policy.onnx_policy import OnnxPolicy
from marlgpt_policy.policy.shipped_files import shipped_policy
from marlgpt_policy.robots.robots_file import FleetFile
from marlgpt_sim.world.fleet_world import FleetWorld
from marlgpt_sim.world.spawn import place_robots

CONTENT = [
    {"radius": 0.30, "limits": {"max_speed": 0.25, "max_acceleration": 0.8}},
    {"radius": 0.12, "limits": {"max_speed": 1.0}, "drive": "holonomic"},
    {"radius": 0.22, "limits": {"max_speed": 0.5, "max_yaw_rate": 1.2, "max_yaw_acceleration": 2.0}},
    {"radius": 0.26, "limits": {"max_speed": 0.4}, "drive": "holonomic"},
]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_mixed_fleet_drives_without_contact(seed):
    robots = [FleetFile.default([f"r{i}"], **CONTENT[i % 4]).robots[0] for i in range(10)]
    fleet_file = FleetFile("map", tuple(robots))
    occupied = np.zeros((110, 150), bool)
    occupied[40:70, 60:90] = True
    map = OccupancyMap(occupied, np.zeros_like(occupied), 0.05, (0.0, 0.0, 0.0))
    grid = build_grid(map, fleet_file.radius)
    config = FleetConfig(seed=seed, latency=0.1, first_settle=0.0)
    policy = OnnxPolicy(shipped_policy(), POGEMA_LAYOUT, ("CPUExecutionProvider",))
    fleet = Fleet(grid, policy, [robot.config for robot in robots], config, DistanceField(map))
    limits = np.array([robot.limits.as_row() for robot in robots])
    world = FleetWorld(
        map, place_robots(grid, len(robots), seed), [robot.radius for robot in robots],
        [robot.drive for robot in robots], limits, seed, 0.003, 0.003, fleet_file.names,
    )  # fmt: skip
    random, cells, now, reached = (
        np.random.default_rng(seed),
        np.argwhere(grid.components == 0),
        0.0,
        np.zeros(10),
    )
    fastest = np.zeros(10)

    def send(robot):
        fleet.set_goal(robot, *grid.centre(cells[random.integers(len(cells))]))

    for robot in range(len(robots)):
        send(robot)
    while now < 90.0:
        for i, pose in enumerate(world.measured_poses()):
            fleet.update_pose(i, *pose, now)
        tick = fleet.tick(now)
        speeds = np.hypot(tick.commands[:, 0], tick.commands[:, 1])
        fastest = np.maximum(fastest, speeds)
        assert (speeds <= limits[:, 0] + 1e-9).all() and (
            np.abs(tick.commands[:, 2]) <= limits[:, 1] + 1e-9
        ).all()
        for _ in range(5):
            world.step(tick.commands, 0.01)
        now += 0.05
        for robot in tick.reached:
            reached[robot] += 1
            send(robot)
    assert (world.robot_contacts, world.wall_contacts) == (0, 0), world.contacts[:3]
    assert reached.sum() >= 20 and (reached > 0).all(), reached
    assert (fastest > 0.7 * limits[:, 0]).all(), fastest  # nobody is held to the pace of the slowest

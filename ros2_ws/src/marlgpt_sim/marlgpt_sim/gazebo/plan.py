"""What Gazebo is to simulate: a map, robots that it can play, and where each starts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from marlgpt_policy.grid.nav_grid import build_grid
from marlgpt_policy.grid.occupancy_map import OccupancyMap, load_map_yaml
from marlgpt_policy.robots.robot_config import MotionLimits
from marlgpt_policy.robots.robots_file import FleetFile, RobotEntry, load_robots

from marlgpt_sim.gazebo.names import check_names
from marlgpt_sim.world.spawn import place_fleet

BODY_LIMITS = MotionLimits(0.5, 2.0, 3.0, 6.0)
"""Of robots without a file: the fleet's usual speeds, and the accelerations of the project's own simulator."""


@dataclass(frozen=True)
class GazeboPlan:
    """Everything the world and the bridge are made of.

    Attributes:
        map: Walls.
        fleet: The robots as Gazebo plays them, every one with its start pose.
        changes: A sentence for each robot whose poses come another way than its file says.
    """

    map: OccupancyMap
    fleet: FleetFile
    changes: tuple[str, ...] = ()

    @property
    def poses(self) -> np.ndarray:
        """float64[n, 3]: x, y (m) and yaw (rad) in the map frame at which each robot starts."""
        return np.array([robot.initial_pose for robot in self.fleet.robots], float).reshape(-1, 3)


def robot_names(count: int) -> list[str]:
    """Names of ``count`` robots: robot_00, robot_01 and so on, as the launch files name them."""
    if count < 1:
        raise ValueError(f"{count} robots: give the number of robots, 1 or more")
    width = max(2, len(str(count - 1)))
    return [f"robot_{i:0{width}d}" for i in range(count)]


def plan_from_files(
    map_yaml: str | Path,
    robots_file: str | Path | None = None,
    robots: int = 8,
    radius: float = 0.22,
    drive: str = "differential",
    seed: int = 0,
) -> GazeboPlan:
    """Plan a world from a map file and either a robots file or a number of robots that are all alike.

    Args:
        map_yaml: Map in map_server's YAML format.
        robots_file: robots.yaml; then the three arguments after it are not looked at.
        robots: Number of robots, named robot_00, robot_01 and so on.
        radius: Of each, m.
        drive: Of each, ``differential`` or ``holonomic``.
        seed: Of the start poses that the file does not give; the same as in the project's own simulator.

    Raises:
        ValueError: A file is wrong, or the robots do not fit on the map; the message says which and why.
    """
    map_ = load_map_yaml(map_yaml)
    if robots_file:
        fleet = load_robots(robots_file)
    else:
        fleet = FleetFile.default(robot_names(robots), radius=radius, drive=drive, limits=BODY_LIMITS)
    return make_plan(map_, fleet, seed)


def make_plan(map_: OccupancyMap, fleet: FleetFile, seed: int = 0) -> GazeboPlan:
    """Place the robots and adapt where their poses come from to what Gazebo can give.

    Raises:
        ValueError: A robot's name is taken, or the robots do not fit on the map.
    """
    check_names(fleet)
    known = [robot.initial_pose for robot in fleet.robots]
    poses = place_fleet(build_grid(map_, fleet.radius), known, seed)
    played, changes = [], []
    for robot, pose in zip(fleet.robots, poses.tolist(), strict=True):
        adapted, change = as_gazebo_plays(dataclasses.replace(robot, initial_pose=tuple(pose)))
        played.append(adapted)
        changes += [change] if change else []
    return GazeboPlan(map_, FleetFile(fleet.map_frame, tuple(played), fleet.defaults), tuple(changes))


def as_gazebo_plays(robot: RobotEntry) -> tuple[RobotEntry, str]:
    """The robot with a source of poses that Gazebo has, and a sentence if that is another one.

    Gazebo knows the true pose and gives it as nav_msgs/Odometry in the map frame, or as a transform. Localisation
    that would publish PoseWithCovarianceStamped, PoseStamped or a map-to-odom transform is not simulated.
    """
    if robot.pose_source == "tf" or (robot.pose_source == "odom" and not robot.odom_through_tf):
        return robot, ""
    wanted = "odom_through_tf" if robot.odom_through_tf else f"pose_source {robot.pose_source}"
    topic = robot.pose_topic if robot.pose_source == "odom" else f"{robot.name}/odom"
    adapted = dataclasses.replace(robot, pose_source="odom", pose_topic=topic, odom_through_tf=False)
    return adapted, (
        f"robot '{robot.name}': {wanted} needs a localisation that Gazebo does not have; "
        f"its true pose comes as Odometry in the map frame on {topic}"
    )

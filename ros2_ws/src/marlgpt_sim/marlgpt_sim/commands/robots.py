"""``marlgpt robots``: a dry run of a robots file on a map, before anything moves.

What it says about the start poses comes from the fleet's own code: the robots are put where they start, and one
control period without goals tells which cells they would take, or why they could not.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
from marlgpt_policy.fleet.fleet import Fleet
from marlgpt_policy.fleet.fleet_config import FleetConfig
from marlgpt_policy.grid.distance_field import DistanceField
from marlgpt_policy.grid.grid_picture import draw_grid
from marlgpt_policy.grid.nav_grid import NavGrid, build_grid
from marlgpt_policy.grid.occupancy_map import load_map_yaml
from marlgpt_policy.robots.robot_config import Status
from marlgpt_policy.robots.robots_file import FleetFile, RobotEntry, load_robots

from marlgpt_sim.runs.output_folder import PICTURE, check_output_file

SOURCES = {
    "odom": "Odometry on {0.pose_topic}",
    "pose": "PoseWithCovarianceStamped on {0.pose_topic}",
    "pose_stamped": "PoseStamped on {0.pose_topic}",
    "tf": "{0.tf_topic}: {1} -> {0.base_frame}",
}


@dataclasses.dataclass
class Args:
    """Check a robots file and show what it means; with a map also whether the robots fit it, with a picture."""

    file: Path
    """The robots file."""
    map: Path | None = None
    """Map in map_server's YAML format; without one only the file is checked."""
    out: Path = Path("out/robots.png")
    """Picture to write: cells, moves, and the robots where they start."""
    margin: float = 0.05
    """Metres added to the cells beyond what the largest radius needs, as the parameter margin of the nodes."""
    cell_size: float = 0.0
    """Edge of a cell in m; 0 for the smallest that the largest radius allows."""
    unknown_is_free: bool = False
    """Whether robots may drive where the map is unknown."""


def main(args: Args) -> int:
    """Print the robots, the grid and what does not fit; 1 if something does not."""
    fleet = load_robots(args.file)
    print(f"{args.file}: {len(fleet)} robots in frame '{fleet.map_frame}'")
    for robot in fleet.robots:
        print("\n".join(described(robot, fleet.map_frame)))
    if any(robot.needs_tf for robot in fleet.robots) and importlib.util.find_spec("tf2_ros") is None:
        print("note: some robots need tf, and tf2_ros is not installed here; it must be where the nodes run")
    if args.map is None:
        return 0
    map = load_map_yaml(args.map)
    grid = build_grid(map, fleet.radius, args.margin, args.cell_size or None, args.unknown_is_free)
    print_grid(args.map, grid, fleet)
    distances = DistanceField(map, args.unknown_is_free)
    faults = check_starts(fleet, grid, distances)
    placed = [robot for robot in fleet.robots if robot.initial_pose is not None]
    check_output_file(args.out, PICTURE)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    starts = np.array([robot.initial_pose for robot in placed]).reshape(-1, 3)
    radii, names = [robot.radius for robot in placed], [robot.name for robot in placed]
    draw_grid(map, grid, args.out, starts, None, radii, names)
    print(f"written to {args.out}")
    for fault in faults:
        print(f"does not fit: {fault}")
    if not faults:
        missing = len(fleet) - len(placed)
        print("all fits" + (f"; {missing} robots have no initial_pose to check" if missing else ""))
    return 1 if faults else 0


def described(robot: RobotEntry, map_frame: str) -> list[str]:
    """Lines that say what a robot is and how it is reached."""
    limits = robot.limits
    poses = SOURCES[robot.pose_source].format(robot, map_frame)
    if robot.odom_through_tf:
        poses += (
            f" in '{robot.odom_frame}', carried over by {robot.tf_topic}: {map_frame} -> {robot.odom_frame}"
        )
    command = "TwistStamped" if robot.stamped_cmd_vel else "Twist"
    return [
        f"  {robot.name}: radius {robot.radius:g} m, {robot.drive.name.lower()}, {limits.max_speed:g} m/s, "
        f"{limits.max_yaw_rate:g} rad/s, {limits.max_acceleration:g} m/s^2, {limits.max_yaw_acceleration:g} rad/s^2",
        f"    poses: {poses}",
        f"    commands: {command} on {robot.cmd_vel_topic}    goals: PoseStamped on {robot.goal_topic}",
    ]


def print_grid(path: Path, grid: NavGrid, fleet: FleetFile) -> None:
    """Say how large the cells are, because of whom, and how many there are."""
    largest = [robot.name for robot in fleet.robots if robot.radius == fleet.radius]
    who = largest[0] if len(largest) == 1 else f"{len(largest)} robots"
    rows, cols = grid.free.shape
    parts = np.bincount(grid.components[grid.components >= 0])
    print(
        f"{path}: {rows} x {cols} cells of {grid.cell_size:.3f} m for the largest radius, {fleet.radius:g} m of {who}"
    )
    print(f"free cells {int(grid.free.sum())}, connected parts {parts.tolist()}")


def check_starts(fleet: FleetFile, grid: NavGrid, distances: DistanceField) -> list[str]:
    """Print the cell that each robot would take from its initial pose; what is wrong with the others, in words."""
    config = FleetConfig(first_settle=0.0)  # one period is all there is
    core = Fleet(grid, None, [robot.config for robot in fleet.robots], config, distances)  # decides nothing
    for i, robot in enumerate(fleet.robots):
        if robot.initial_pose is not None:
            core.update_pose(i, *robot.initial_pose, 0.0)
    core.tick(0.0)
    faults = []
    main = int((grid.components == 0).sum())
    for i, robot in enumerate(fleet.robots):
        if robot.initial_pose is None:
            print(f"  {robot.name}: no initial_pose")
            continue
        x, y, _ = robot.initial_pose
        where = f"robot '{robot.name}' at ({x:.2f}, {y:.2f})"
        room = float(distances.at(np.array([x, y]))) + np.sqrt(2.0) * distances.resolution
        if room < robot.radius:
            faults.append(
                f"{where} overlaps an obstacle or unknown area, or is off the map: its radius is {robot.radius:g} m, "
                f"the room there {max(room, 0.0):.2f} m"
            )
            continue
        status, detail = core.status(i, 0.0)
        if status == Status.OFF_GRID:
            faults.append(f"{where} cannot get onto the grid: {detail}")
            continue
        row, col = (int(v) for v in core.cells[i])
        away = float(np.hypot(*(grid.centre(core.cells[i]) - (x, y))))
        print(f"  {robot.name}: starts at cell ({row}, {col}), {away:.2f} m from its centre")
        part = int(grid.components[row, col])
        if part != 0:
            size = int((grid.components == part).sum())
            faults.append(
                f"{where} starts in a part of {size} cells, cut off from the {main} of the largest part for the "
                f"largest radius, {fleet.radius:g} m"
            )
    return faults

"""``marlgpt gazebo``: write a Gazebo world and the bridge's configuration for a map and a list of robots."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from marlgpt_policy.policy.shipped_files import shipped_file

from marlgpt_sim.gazebo.files import write_files
from marlgpt_sim.gazebo.plan import plan_from_files
from marlgpt_sim.gazebo.world import WorldOptions, wall_boxes

MAPS = shipped_file("marlgpt_sim", "maps")


@dataclasses.dataclass
class Args:
    """Write world.sdf, bridge.yaml and robots.yaml for Gazebo Harmonic; launch/gazebo.launch.py does it by itself."""

    map: Path = MAPS / "warehouse.yaml"
    """Map in map_server's YAML format."""
    out: Path = Path("out/gazebo")
    """Folder to write to."""
    robots_file: Path | None = None
    """robots.yaml that describes each robot; then robots, radius and drive are not looked at."""
    robots: int = 16
    """Number of robots."""
    radius: float = 0.22
    """Radius of the robots, m."""
    drive: str = "differential"
    """differential or holonomic."""
    seed: int = 0
    """Seed of the start poses that no file gives."""
    step: float = 0.005
    """Step of the physics, s."""
    real_time_factor: float = 1.0
    """Simulated seconds per wall second at most; 0 for as fast as possible."""
    unknown_is_wall: bool = False
    """Whether unknown pixels of the map are walls, too."""
    contacts: bool = False
    """Whether the bridge carries contacts (ros_gz_interfaces/msg/Contacts)."""


def main(args: Args) -> int:
    """Write the files and say what is in them."""
    plan = plan_from_files(args.map, args.robots_file, args.robots, args.radius, args.drive, args.seed)
    options = WorldOptions(args.step, args.real_time_factor, unknown_is_wall=args.unknown_is_wall)
    files = write_files(plan, args.out, options, args.contacts)
    for change in plan.changes:
        print(change)
    boxes = len(wall_boxes(plan.map, args.unknown_is_wall))
    print(
        f"{files.world}: {len(plan.fleet)} robots of up to {plan.fleet.radius} m radius, {boxes} boxes of wall"
    )
    print(f"{files.bridge}: for ros_gz_bridge's parameter_bridge, config_file")
    print(f"{files.robots}: for the fleet's robots_file, with the start poses")
    return 0

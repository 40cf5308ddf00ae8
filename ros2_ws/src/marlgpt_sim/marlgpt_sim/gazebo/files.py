"""Write world, bridge and robots into a folder, checked: what the launch file and ``marlgpt gazebo`` use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from marlgpt_sim.gazebo.bridge import bridge_yaml
from marlgpt_sim.gazebo.check import check_files
from marlgpt_sim.gazebo.plan import GazeboPlan
from marlgpt_sim.gazebo.world import WorldOptions, world_sdf
from marlgpt_sim.runs.output_folder import claim_folder


@dataclass(frozen=True)
class GazeboFiles:
    """Paths of what was written.

    Attributes:
        world: SDF world.
        bridge: Configuration of ros_gz_bridge.
        robots: The robots as Gazebo plays them, for the fleet's ``robots_file``.
    """

    world: Path
    bridge: Path
    robots: Path


def write_files(
    plan: GazeboPlan, folder: str | Path, options: WorldOptions | None = None, contacts: bool = False
) -> GazeboFiles:
    """Write the three files into a folder, which is made if it is not there.

    Raises:
        FolderError: The folder holds something else.
        WorldError: What was written contradicts itself, which would be a mistake of ours.
        OSError: The folder cannot be written.
    """
    folder = claim_folder(Path(folder).expanduser().resolve(), "Gazebo world")
    files = GazeboFiles(folder / "world.sdf", folder / "bridge.yaml", folder / "robots.yaml")
    files.world.write_text(world_sdf(plan, options), encoding="utf-8")
    files.bridge.write_text(bridge_yaml(plan, contacts), encoding="utf-8")
    plan.fleet.dump(files.robots)
    check_files(files.world, files.bridge, plan.fleet)
    return files

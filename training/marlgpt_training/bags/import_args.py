"""Options of ``marlgpt import-bag``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Args:
    """Import bags of driving fleets into a trajectory store."""

    bag: tuple[Path, ...] = ()
    """Bags: folders that ros2 bag or the recorder wrote, or single .mcap and .db3 files."""
    out: Path = Path("out/bags")
    """Folder of the store; shards of an earlier import of the same bag are replaced."""
    report: Path | None = None
    """HTML report; by default report.html beside the shards."""
    poses: bool = False
    """Infer everything from poses, even where the bag holds decisions."""
    robots: tuple[str, ...] = ()
    """Robots to take; all by default."""
    topics: tuple[str, ...] = ()
    """Topics of robots' poses as ROBOT=TOPIC, where names do not tell."""
    robots_file: Path | None = None
    """robots.yaml of the fleet: names, radius, topics and frames."""
    map: Path | None = None
    """Map in map_server's YAML format, for bags without one."""
    map_topic: str = ""
    """Topic of the map in the bag; found by its name and type if empty."""
    radius: float = 0.22
    """Radius of the robots, m, that decides on which cells they can stand."""
    margin: float = 0.05
    """Room for errors between two robots, m."""
    cell_size: float = 0.0
    """Edge of a cell, m; 0: the smallest safe one."""
    rest: float = 2.0
    """Seconds of standing that make a place a goal."""
    step: float = 0.0
    """Seconds of a step; 0: how long the robots took for a cell."""
    trust_frames: bool = False
    """Take poses whose frame no tf connects with the map as if they were in the map's frame."""

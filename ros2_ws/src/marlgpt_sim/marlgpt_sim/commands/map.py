"""``marlgpt map``: show the grid that a robot of a given radius can drive on a map."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from marlgpt_policy.grid.grid_picture import draw_grid
from marlgpt_policy.grid.nav_grid import build_grid
from marlgpt_policy.grid.occupancy_map import load_map_yaml

from marlgpt_sim.runs.output_folder import PICTURE, check_output_file


@dataclasses.dataclass
class Args:
    """Convert a map_server map into the grid a robot can drive, with a picture."""

    map: Path
    """Map in map_server's YAML format."""
    out: Path = Path("out/map.png")
    """Picture to write."""
    radius: float = 0.22
    """Radius of the robots, m."""
    margin: float = 0.05
    """Metres added to the cells beyond what the radius needs."""
    cell_size: float = 0.0
    """Edge of a cell in m; 0 for the smallest that the radius allows."""
    unknown_is_free: bool = False
    """Whether robots may drive where the map is unknown."""


def main(args: Args) -> int:
    """Print the figures of the grid and draw it."""
    map = load_map_yaml(args.map)
    grid = build_grid(map, args.radius, args.margin, args.cell_size or None, args.unknown_is_free)
    rows, cols = grid.free.shape
    parts = np.bincount(grid.components[grid.components >= 0])
    print(f"{args.map}: {rows} x {cols} cells of {grid.cell_size:.3f} m for a radius of {args.radius} m")
    print(
        f"free cells {int(grid.free.sum())}, edges {int(grid.moves[..., 1:].sum()) // 2}, "
        f"connected parts {parts.tolist()}"
    )
    check_output_file(args.out, PICTURE)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    draw_grid(map, grid, args.out)
    print(f"written to {args.out}")
    return 0

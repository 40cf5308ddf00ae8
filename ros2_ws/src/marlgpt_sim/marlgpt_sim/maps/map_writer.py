"""The command line of a module that draws a map."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from marlgpt_policy.grid.occupancy_map import MapError, OccupancyMap, save_map_yaml


def write_map(name: str, what: str, draw: Callable[[], OccupancyMap], args: list[str] | None = None) -> int:
    """Write the map that ``draw`` makes where the command line says; returns the exit status.

    Args:
        name: Of the command, in front of its errors.
        what: The map, in words, for the help text.
        draw: Makes the map.
        args: Command line; that of the process if None.
    """
    parser = argparse.ArgumentParser(description=f"Write {what} as map_server YAML and PGM.")
    parser.add_argument("out", type=Path, help="YAML file to write; the image goes beside it")
    out = parser.parse_args(args).out
    try:
        image = save_map_yaml(draw(), out)
    except (MapError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    print(f"{out} and {image}")
    return 0

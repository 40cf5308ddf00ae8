"""Everything a robot needs at run time: maps, encoders, policy, shield and motion (no ROS outside `nodes`).

The names below, and those of the folders, are the public API; docs/api.md documents them. They are imported when they
are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

from marlgpt_policy.kernels.kernel_cache import provide

provide()


def lazy_names(
    package: str, names: dict[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Make a package export names of its modules without importing these before they are used (PEP 562).

    Args:
        package: The package's ``__name__``.
        names: For each name that it exports, the module below it that defines it; as ``module:name`` where it is
            called otherwise there, since a module of that name would hide it.

    Returns:
        ``__getattr__``, ``__dir__`` and ``__all__`` of the package.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, original = names[name].partition(":")
        value = getattr(importlib.import_module(f"{package}.{module}"), original or name)
        setattr(sys.modules[package], name, value)
        return value

    def directory() -> list[str]:
        return sorted({*vars(sys.modules[package]), *names})

    return get, directory, sorted(names)


__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "CostToGo": "grid.cost_to_go",
        "DistanceField": "grid.distance_field",
        "Drive": "robots.robot_config",
        "Fleet": "fleet.fleet",
        "FleetConfig": "fleet.fleet_config",
        "GoalError": "grid.goal_cell",
        "LargeNeighbourhoodSearch": "mapf.large_neighbourhood_search",
        "MapError": "grid.occupancy_map",
        "MotionLimits": "robots.robot_config",
        "NavGrid": "grid.nav_grid",
        "OccupancyMap": "grid.occupancy_map",
        "OnnxPolicy": "policy.onnx_policy",
        "POGEMA_LAYOUT": "encoders.token_layout",
        "PolicyError": "policy.onnx_policy",
        "RobotConfig": "robots.robot_config",
        "Status": "robots.robot_config",
        "TokenLayout": "encoders.token_layout",
        "build_grid": "grid.nav_grid",
        "encode": "encoders.pogema",
        "load_map_yaml": "grid.occupancy_map",
        "load_robots": "robots.robots_file",
        "resolve": "mapf.pibt_shield",
        "shipped_policy": "policy.shipped_files",
    },
)

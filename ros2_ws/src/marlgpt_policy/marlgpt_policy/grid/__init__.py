"""Maps, and the grid of cells that robots drive on."""

from marlgpt_policy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "CostToGo": "cost_to_go",
        "UNREACHABLE": "cost_to_go",
        "DistanceField": "distance_field",
        "GoalError": "goal_cell",
        "draw_grid": "grid_picture",
        "MOVE_OFFSETS": "moves",
        "NavGrid": "nav_grid",
        "build_grid": "nav_grid",
        "smallest_cell_size": "nav_grid",
        "MapError": "occupancy_map",
        "OccupancyMap": "occupancy_map",
        "from_occupancy_grid": "occupancy_map",
        "load_map_yaml": "occupancy_map",
        "save_map_yaml": "occupancy_map",
    },
)

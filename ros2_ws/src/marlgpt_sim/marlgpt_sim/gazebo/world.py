"""The world: floor and walls of a map in one static model, all robots at their starts, and the systems they need.

The world's frame is the map's, so the true poses that Gazebo publishes are poses on the map.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import dataclass

import numpy as np
from marlgpt_policy.grid.occupancy_map import OccupancyMap

from marlgpt_sim.gazebo.names import MAP_MODEL, WORLD
from marlgpt_sim.gazebo.plan import GazeboPlan
from marlgpt_sim.gazebo.robot import add_robot
from marlgpt_sim.gazebo.sdf import VERSION, add, add_colour, add_friction, add_plugin, to_text, vector
from marlgpt_sim.gazebo.walls import merge_pixels

FLOOR_GRIP = 100.0
"""More than any wheel's: the lesser friction counts."""
BORDER = 0.2
"""m; thickness of the wall around the map, beyond which nobody knows what there is."""
WORLD_SYSTEMS = ("physics", "commands", "scene", "contact")


@dataclass(frozen=True)
class WorldOptions:
    """How the world is simulated.

    Attributes:
        step: Of the physics, s.
        real_time_factor: Simulated seconds per wall second at most; 0 for as fast as possible.
        wall_height: m.
        unknown_is_wall: Whether unknown pixels are walls, too.
    """

    step: float = 0.005
    real_time_factor: float = 1.0
    wall_height: float = 0.6
    unknown_is_wall: bool = False

    def __post_init__(self) -> None:
        """Check the values; ``ValueError`` naming the first that is out of range."""
        for name, low, high in (
            ("step", 1e-4, 0.02),
            ("real_time_factor", 0.0, 1000.0),
            ("wall_height", 0.05, 10.0),
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise ValueError(f"{name} is {value}; it must be {low:g} to {high:g}")


def world_sdf(plan: GazeboPlan, options: WorldOptions | None = None) -> str:
    """Return the world as SDF text."""
    options = options or WorldOptions()
    root = ET.Element("sdf", version=VERSION)
    world = add(root, "world", name=WORLD)
    physics = add(world, "physics", name="fleet_physics", type="dart")
    add(physics, "max_step_size", options.step)
    add(physics, "real_time_factor", options.real_time_factor)
    for key in WORLD_SYSTEMS:
        add_plugin(world, key)
    add(world, "gravity", vector((0.0, 0.0, -9.81)))
    _add_light(world)
    _add_map(world, plan.map, options)
    for i, robot in enumerate(plan.fleet.robots):
        add_robot(world, robot, plan.fleet.map_frame, i)
    return to_text(root)


def _add_light(world: ET.Element) -> None:
    """A sun, for those who look."""
    light = add(world, "light", name="sun", type="directional")
    add(light, "pose", vector((0.0, 0.0, 20.0, 0.0, 0.0, 0.0)))
    add(light, "cast_shadows", "false")
    add(light, "diffuse", vector((0.9, 0.9, 0.9, 1.0)))
    add(light, "specular", vector((0.1, 0.1, 0.1, 1.0)))
    add(light, "direction", vector((-0.4, 0.3, -0.9)))


def _add_map(world: ET.Element, map_: OccupancyMap, options: WorldOptions) -> None:
    """Floor and walls; the model's frame is that of the map's lower left pixel."""
    model = add(world, "model", name=MAP_MODEL)
    add(model, "static", "true")
    x, y, yaw = map_.origin
    add(model, "pose", vector((x, y, 0.0, 0.0, 0.0, yaw)))
    floor = add(model, "link", name="floor")
    height, width = (pixels * map_.resolution for pixels in map_.shape)
    for tag in ("collision", "visual"):
        part = add(floor, tag, name=f"floor_{tag}")
        add(part, "pose", vector((0.5 * width, 0.5 * height, 0.0, 0.0, 0.0, 0.0)))
        plane = add(add(part, "geometry"), "plane")
        add(plane, "normal", vector((0.0, 0.0, 1.0)))
        add(plane, "size", vector((width + 2.0 * BORDER, height + 2.0 * BORDER)))
        if tag == "collision":
            add_friction(part, FLOOR_GRIP)
        else:
            add_colour(part, (0.85, 0.85, 0.83))
    walls = add(model, "link", name="walls")
    for i, box in enumerate(wall_boxes(map_, options.unknown_is_wall)):
        _add_box(walls, f"wall_{i}", box, options.wall_height)


def wall_boxes(map_: OccupancyMap, unknown_is_wall: bool = False) -> np.ndarray:
    """The map's walls and a border around it.

    Returns:
        float64[n, 4]: x and y of the lower and of the upper corner of each box, m, along the map's pixel axes from
        its lower left corner. The last four are the border.
    """
    occupied = map_.occupied | map_.unknown if unknown_is_wall else map_.occupied
    boxes = merge_pixels(occupied)[:, [1, 0, 3, 2]] * map_.resolution
    height, width = (pixels * map_.resolution for pixels in map_.shape)
    border = [
        (-BORDER, -BORDER, width + BORDER, 0.0),
        (-BORDER, height, width + BORDER, height + BORDER),
        (-BORDER, 0.0, 0.0, height),
        (width, 0.0, width + BORDER, height),
    ]
    return np.concatenate([boxes, border])


def _add_box(link: ET.Element, name: str, box: np.ndarray, height: float) -> None:
    """One box as collision and visual."""
    x0, y0, x1, y1 = box.tolist()
    for tag in ("collision", "visual"):
        part = add(link, tag, name=f"{name}_{tag}")  # siblings need different names, whatever they are
        add(part, "pose", vector((0.5 * (x0 + x1), 0.5 * (y0 + y1), 0.5 * height, 0.0, 0.0, 0.0)))
        add(add(add(part, "geometry"), "box"), "size", vector((x1 - x0, y1 - y0, height)))
        if tag == "visual":
            add_colour(part, (0.45, 0.45, 0.48))

"""One robot as a model: a cylinder on sphere wheels, driven by Gazebo's systems.

The body is a cylinder of exactly the robot's radius, so Gazebo's contacts are those of the disc that the fleet plans
with; wheels and casters lie within it. Wheels are spheres: they touch the floor in one point, where a cylinder's edge
wanders and the robot turns further than its wheels say.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import dataclass

from marlgpt_policy.robots.robots_file import RobotEntry

from marlgpt_sim.gazebo.names import (
    BASE_LINK,
    BODY,
    CASTERS,
    CONTACT_SENSOR,
    SIDES,
    is_differential,
    joint,
    names_of,
    wheel,
)
from marlgpt_sim.gazebo.sdf import add, add_colour, add_friction, add_inertial, add_plugin, number, vector

AREA_DENSITY = 200.0
"""kg/m^2 of the disc; a robot of 0.22 m radius weighs 10 kg, as a small mobile base does."""
WHEEL_SHARE = 0.03
"""Share of that mass in each wheel."""
GRIP, SLIDE = 1.5, 0.0
"""Friction of driven wheels (rubber) and of casters. The floor has more, and the lesser one counts."""
ODOMETRY_RATE = 20.0
"""Hz of simulated time, as in the project's own simulator; the fleet decides as often."""
UNLIMITED = 1e16
"""rad; what SDF takes for no limit of a joint."""
COLOURS = ((0.16, 0.44, 0.70), (0.85, 0.37, 0.11), (0.20, 0.58, 0.28), (0.58, 0.32, 0.65))


@dataclass(frozen=True)
class Shape:
    """Sizes of a robot of a given radius, m; everything lies in the disc of that radius.

    Attributes:
        radius: Of the body.
        wheel_radius: Of a wheel; its centre lies as high.
        wheel_offset: Distance of each wheel's centre from the middle.
        caster_radius: Of a caster.
        caster_offset: Distance of each caster's centre from the middle.
        clearance: Height of the body above the floor.
        height: Of the body itself.
    """

    radius: float
    wheel_radius: float
    wheel_offset: float
    caster_radius: float
    caster_offset: float
    clearance: float
    height: float

    @classmethod
    def of(cls, radius: float) -> Shape:
        """The sizes for a radius in m."""
        return cls(radius, 0.30 * radius, 0.60 * radius, 0.15 * radius, 0.75 * radius, 0.10 * radius, radius)

    @property
    def mass(self) -> float:
        """Of the whole robot, kg."""
        return AREA_DENSITY * self.radius**2

    @property
    def track(self) -> float:
        """Distance between the wheels, m."""
        return 2.0 * self.wheel_offset


def add_robot(world: ET.Element, robot: RobotEntry, map_frame: str, number_: int = 0) -> ET.Element:
    """Append a robot at its start pose to a world whose frame is the map's.

    Args:
        world: Element to append to.
        robot: With an initial pose.
        map_frame: Frame of the poses it publishes.
        number_: Chooses its colour.

    Raises:
        ValueError: The robot has no initial pose.
    """
    if robot.initial_pose is None:
        raise ValueError(f"robot '{robot.name}' has no initial_pose; where in the world does it start?")
    shape = Shape.of(robot.radius)
    x, y, yaw = robot.initial_pose
    model = add(world, "model", name=names_of(robot).model)
    add(model, "pose", vector((x, y, 0.0, 0.0, 0.0, yaw)))
    _add_base(model, robot, shape, COLOURS[number_ % len(COLOURS)])
    if is_differential(robot):
        for side, sign in zip(SIDES, (1.0, -1.0), strict=True):
            _add_wheel(model, side, sign * shape.wheel_offset, shape)
        _add_diff_drive(model, robot, shape)
    else:
        add_plugin(model, "velocity", topic=names_of(robot).cmd_vel)
    names = names_of(robot)
    add_plugin(
        model,
        "odometry",
        odom_frame=map_frame,
        robot_base_frame=robot.base_frame,
        odom_topic=names.odometry,
        tf_topic=names.transforms,
        odom_publish_frequency=ODOMETRY_RATE,
        dimensions="2",
    )
    return model


def _add_base(model: ET.Element, robot: RobotEntry, shape: Shape, rgb: tuple[float, float, float]) -> None:
    """The body, its casters and the sensor of its contacts."""
    link = add(model, "link", name=BASE_LINK)
    differential = is_differential(robot)
    mass = shape.mass * (1.0 - (2.0 * WHEEL_SHARE if differential else 0.0))
    side = mass * (3.0 * shape.radius**2 + shape.height**2) / 12.0
    add_inertial(link, mass, (side, side, 0.5 * mass * shape.radius**2), shape.wheel_radius)
    pose = vector((0.0, 0.0, shape.clearance + 0.5 * shape.height, 0.0, 0.0, 0.0))
    body = add(link, "collision", name=BODY)
    visual = add(link, "visual", name=f"{BODY}_visual")
    for part in (body, visual):
        add(part, "pose", pose)
        cylinder = add(add(part, "geometry"), "cylinder")
        add(cylinder, "radius", shape.radius)
        add(cylinder, "length", shape.height)
    add_colour(visual, rgb)
    nose = add(link, "visual", name="nose_visual")  # shows where the front is
    top = shape.clearance + shape.height
    add(nose, "pose", vector((0.6 * shape.radius, 0.0, top, 0.0, 0.0, 0.0)))
    size = (0.6 * shape.radius, 0.15 * shape.radius, 0.1 * shape.radius)
    add(add(add(nose, "geometry"), "box"), "size", vector(size))
    add_colour(nose, (0.95, 0.95, 0.95))
    places = ((1, 0), (-1, 0), (0, 1), (0, -1))[: 2 if differential else 4]
    for name, (dx, dy) in zip(CASTERS, places, strict=False):
        offset = shape.caster_offset
        caster = add(link, "collision", name=name)
        add(caster, "pose", vector((dx * offset, dy * offset, shape.caster_radius, 0.0, 0.0, 0.0)))
        add(add(add(caster, "geometry"), "sphere"), "radius", shape.caster_radius)
        add_friction(caster, SLIDE)
    sensor = add(link, "sensor", name=CONTACT_SENSOR, type="contact")
    add(sensor, "always_on", "1")
    contact = add(sensor, "contact")
    add(contact, "collision", BODY)
    add(contact, "topic", names_of(robot).contacts)


def _add_wheel(model: ET.Element, side: str, y: float, shape: Shape) -> None:
    """A wheel and its joint; turning about +y drives forward."""
    link = add(model, "link", name=wheel(side))
    add(link, "pose", vector((0.0, y, shape.wheel_radius, 0.0, 0.0, 0.0)))
    mass = WHEEL_SHARE * shape.mass
    add_inertial(link, mass, (0.4 * mass * shape.wheel_radius**2,) * 3, 0.0)
    collision = add(link, "collision", name="tyre")
    add(add(add(collision, "geometry"), "sphere"), "radius", shape.wheel_radius)
    add_friction(collision, GRIP)
    visual = add(link, "visual", name="tyre_visual")
    add(visual, "pose", vector((0.0, 0.0, 0.0, math.pi / 2, 0.0, 0.0)))
    cylinder = add(add(visual, "geometry"), "cylinder")
    add(cylinder, "radius", shape.wheel_radius)
    add(cylinder, "length", 0.3 * shape.wheel_radius)
    add_colour(visual, (0.1, 0.1, 0.1))
    axle = add(model, "joint", name=joint(side), type="revolute")
    add(axle, "parent", BASE_LINK)
    add(axle, "child", wheel(side))
    axis = add(axle, "axis")
    add(axis, "xyz", vector((0.0, 1.0, 0.0)))
    limit = add(axis, "limit")
    add(limit, "lower", number(-UNLIMITED))
    add(limit, "upper", number(UNLIMITED))


def _add_diff_drive(model: ET.Element, robot: RobotEntry, shape: Shape) -> None:
    """The drive, with the speeds and accelerations of the robot's base."""
    names, limits = names_of(robot), robot.limits
    bounds: dict[str, float] = {}
    for what, linear, angular in (
        ("velocity", limits.max_speed, limits.max_yaw_rate),
        ("acceleration", limits.max_acceleration, limits.max_yaw_acceleration),
    ):
        for kind, value in (("linear", linear), ("angular", angular)):
            bounds[f"min_{kind}_{what}"], bounds[f"max_{kind}_{what}"] = -value, value
    add_plugin(
        model,
        "diff_drive",
        left_joint=joint("left"),
        right_joint=joint("right"),
        wheel_separation=shape.track,
        wheel_radius=shape.wheel_radius,
        topic=names.cmd_vel,
        odom_topic=names.wheel_odometry,
        tf_topic=names.wheel_transforms,
        frame_id=robot.odom_frame,
        child_frame_id=robot.base_frame,
        odom_publish_frequency=ODOMETRY_RATE,
        **bounds,
    )

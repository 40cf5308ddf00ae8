"""Small helpers to write SDF: elements with text, vectors, poses, and files that are laid out to be read."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass

VERSION = "1.9"


@dataclass(frozen=True)
class Plugin:
    """A system: the file it is loaded from, its class, the world or model it belongs to, and its parameters.

    Attributes:
        file: Library, without ``lib`` and ``.so``.
        cls: C++ class.
        parent: ``world`` or ``model``.
        required: Parameters that must be given.
        optional: Parameters that may be given.
    """

    file: str
    cls: str
    parent: str
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


_LIMITS = tuple(
    f"{end}_{kind}_{what}"
    for what in ("velocity", "acceleration")
    for kind in ("linear", "angular")
    for end in ("min", "max")
)
PLUGINS = {
    "physics": Plugin("gz-sim-physics-system", "gz::sim::systems::Physics", "world"),
    "commands": Plugin("gz-sim-user-commands-system", "gz::sim::systems::UserCommands", "world"),
    "scene": Plugin("gz-sim-scene-broadcaster-system", "gz::sim::systems::SceneBroadcaster", "world"),
    "contact": Plugin("gz-sim-contact-system", "gz::sim::systems::Contact", "world"),
    "diff_drive": Plugin(
        "gz-sim-diff-drive-system",
        "gz::sim::systems::DiffDrive",
        "model",
        ("left_joint", "right_joint", "wheel_separation", "wheel_radius", "topic", "odom_topic", *_LIMITS),
        ("tf_topic", "frame_id", "child_frame_id", "odom_publish_frequency"),
    ),
    "velocity": Plugin(
        "gz-sim-velocity-control-system", "gz::sim::systems::VelocityControl", "model", ("topic",)
    ),
    "odometry": Plugin(
        "gz-sim-odometry-publisher-system",
        "gz::sim::systems::OdometryPublisher",
        "model",
        ("odom_frame", "robot_base_frame", "odom_topic", "odom_publish_frequency", "dimensions"),
        ("tf_topic",),
    ),
}
"""Every system that a world of ours may load."""


def number(value: float) -> str:
    """A number as text, to a nanometre."""
    return f"{value:.9g}" if value else "0"


def vector(values: Iterable[float]) -> str:
    """Numbers with spaces between them."""
    return " ".join(number(value) for value in values)


def add(parent: ET.Element, tag: str, text: str | float | None = None, **attributes: str) -> ET.Element:
    """Append an element; numbers as text."""
    element = ET.SubElement(parent, tag, attributes)
    if text is not None:
        element.text = text if isinstance(text, str) else number(text)
    return element


def add_plugin(parent: ET.Element, key: str, **parameters: str | float) -> ET.Element:
    """Append a system of :data:`PLUGINS` with its parameters."""
    system = PLUGINS[key]
    element = add(parent, "plugin", filename=system.file, name=system.cls)
    for name, value in parameters.items():
        add(element, name, value)
    return element


def add_inertial(link: ET.Element, mass: float, moments: tuple[float, float, float], height: float) -> None:
    """Append mass (kg), principal moments of inertia (kg m^2) and the height of the centre of mass (m)."""
    inertial = add(link, "inertial")
    add(inertial, "pose", vector((0.0, 0.0, height, 0.0, 0.0, 0.0)))
    add(inertial, "mass", mass)
    tensor = add(inertial, "inertia")
    for name, value in zip(("ixx", "iyy", "izz"), moments, strict=True):
        add(tensor, name, value)
    for name in ("ixy", "ixz", "iyz"):
        add(tensor, name, 0.0)


def add_friction(collision: ET.Element, mu: float) -> None:
    """Append Coulomb friction, the same in both directions."""
    ode = add(add(add(collision, "surface"), "friction"), "ode")
    add(ode, "mu", mu)
    add(ode, "mu2", mu)


def add_colour(visual: ET.Element, rgb: tuple[float, float, float]) -> None:
    """Append a material of one colour."""
    material = add(visual, "material")
    for tag in ("ambient", "diffuse"):
        add(material, tag, vector((*rgb, 1.0)))


def to_text(root: ET.Element) -> str:
    """The document, indented."""
    ET.indent(root)
    return "<?xml version='1.0'?>\n" + ET.tostring(root, encoding="unicode") + "\n"

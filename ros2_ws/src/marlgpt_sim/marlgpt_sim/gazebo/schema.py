"""Which elements a world of ours may have: an unknown one is an error, where Gazebo only warns and goes on without it.

The table covers what :mod:`marlgpt_sim.gazebo.world` writes, not all of SDF. A key is a tag with how often it may come
(``tag`` once, ``tag?`` at most once, ``tag*`` any number of times); a value is another table, or the kind of text.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections import Counter
from typing import Any

from marlgpt_sim.gazebo.sdf import PLUGINS, VERSION

_NAME = {"@name": "text"}
_ROTATION_FREE = {"normal": "vec3", "size": "vec2"}
_GEOMETRY = {
    "box?": {"size": "vec3"},
    "cylinder?": {"radius": "length", "length": "length"},
    "sphere?": {"radius": "length"},
    "plane?": _ROTATION_FREE,
}
_COLLISION = _NAME | {
    "pose?": "vec6",
    "geometry": _GEOMETRY,
    "surface?": {"friction": {"ode": {"mu": "number", "mu2": "number"}}},
}
_VISUAL = _NAME | {
    "pose?": "vec6",
    "geometry": _GEOMETRY,
    "material": {"ambient": "vec4", "diffuse": "vec4"},
}
_INERTIA = {name: "number" for name in ("ixx", "iyy", "izz", "ixy", "ixz", "iyz")}
_SENSOR = _NAME | {"@type": "text", "always_on": "bool", "contact": {"collision": "text", "topic": "topic"}}
_LINK = _NAME | {
    "pose?": "vec6",
    "inertial?": {"pose": "vec6", "mass": "length", "inertia": _INERTIA},
    "collision*": _COLLISION,
    "visual*": _VISUAL,
    "sensor*": _SENSOR,
}
_JOINT = _NAME | {
    "@type": "text",
    "parent": "text",
    "child": "text",
    "axis": {"xyz": "vec3", "limit": {"lower": "number", "upper": "number"}},
}
_PLUGIN = {"@name": "text", "@filename": "text"}
_MODEL = _NAME | {
    "static?": "bool",
    "pose": "vec6",
    "link*": _LINK,
    "joint*": _JOINT,
    "plugin*": _PLUGIN,
}
_WORLD = _NAME | {
    "physics": _NAME | {"@type": "text", "max_step_size": "length", "real_time_factor": "number"},
    "plugin*": _PLUGIN,
    "gravity": "vec3",
    "light*": _NAME
    | {
        "@type": "text",
        "pose": "vec6",
        "cast_shadows": "bool",
        "diffuse": "vec4",
        "specular": "vec4",
        "direction": "vec3",
    },
    "model*": _MODEL,
}
SCHEMA: dict[str, Any] = {"@version": "text", "world": _WORLD}
"""Of the root element, ``sdf``."""
_VECTORS = {"vec2": 2, "vec3": 3, "vec4": 4, "vec6": 6}


def structure_problems(root: ET.Element) -> list[str]:
    """Everything about elements, attributes, systems and texts that the table does not allow; empty if all is well."""
    found: list[str] = []
    if root.tag != "sdf":
        return [f"<{root.tag}> is not <sdf>"]
    if root.get("version") != VERSION:
        found.append(f"sdf version is {root.get('version')!r}, not {VERSION!r}")
    _check(root, SCHEMA, "sdf", found)
    return found


def _check(element: ET.Element, table: dict[str, Any], where: str, found: list[str]) -> None:
    """Check an element against its table, and what is below it."""
    attributes = {key[1:] for key in table if key.startswith("@")}
    for name in sorted(set(element.attrib) - attributes):
        found.append(f"{where}: attribute '{name}' is unknown")
    for name in sorted(attributes - set(element.attrib)):
        found.append(f"{where}: attribute '{name}' is missing")
    if element.tag == "plugin":
        _check_plugin(element, where, found)
        return
    children = {key.rstrip("?*"): (key, value) for key, value in table.items() if not key.startswith("@")}
    counts = Counter(child.tag for child in element)
    for tag, (key, _) in children.items():
        if counts[tag] == 0 and key[-1] not in "?*":
            found.append(f"{where}: <{tag}> is missing")
        if counts[tag] > 1 and key[-1] != "*":
            found.append(f"{where}: <{tag}> is there {counts[tag]} times")
    if element.tag == "geometry" and len(element) != 1:
        found.append(f"{where}: holds {len(element)} shapes, not one")
    for child in element:
        here = f"{where}/{child.tag}" + (f"[{child.get('name')}]" if child.get("name") else "")
        if child.tag not in children:
            found.append(f"{where}: <{child.tag}> is unknown")
            continue
        value = children[child.tag][1]
        if isinstance(value, dict):
            _check(child, value, here, found)
        else:
            _check_text(child, value, here, found)
    # Gazebo refuses a collision and a visual of one name, too; plugins alone may share one.
    names = Counter(child.get("name") for child in element if child.get("name") and child.tag != "plugin")
    found += [f"{where}: {count} elements are named '{name}'" for name, count in names.items() if count > 1]


def _check_text(element: ET.Element, kind: str, where: str, found: list[str]) -> None:
    """Check the text of an element without children."""
    text = (element.text or "").strip()
    if len(element) or element.attrib:
        found.append(f"{where}: must hold text only")
    if not text:
        found.append(f"{where}: is empty")
    elif kind == "bool":
        if text not in ("true", "false", "0", "1"):
            found.append(f"{where}: '{text}' is not true or false")
    elif kind == "topic":
        if not text.startswith("/") or " " in text:
            found.append(f"{where}: '{text}' is not an absolute topic")
    elif kind != "text":
        values = _numbers(text)
        count = _VECTORS.get(kind, 1)
        if values is None or len(values) != count:
            found.append(f"{where}: '{text}' is not {count} finite number{'s' if count > 1 else ''}")
        elif kind == "length" and values[0] <= 0.0:
            found.append(f"{where}: {text} must be above zero")


def _check_plugin(element: ET.Element, where: str, found: list[str]) -> None:
    """Check a system: file, class, where it stands, and its parameters."""
    file, cls = element.get("filename"), element.get("name")
    known = {plugin.file: plugin for plugin in PLUGINS.values()}.get(file)
    if known is None:
        found.append(f"{where}: file '{file}' is none of {', '.join(p.file for p in PLUGINS.values())}")
        return
    if known.cls != cls:
        found.append(f"{where}: class of {file} is '{known.cls}', not '{cls}'")
    parent = "world" if where.count("/") == 2 else "model"
    if known.parent != parent:
        found.append(f"{where}: {file} belongs into a <{known.parent}>, not a <{parent}>")
    counts = Counter(child.tag for child in element)
    for tag in known.required:
        if counts[tag] != 1:
            found.append(f"{where}: {file} needs <{tag}> once, has it {counts[tag]} times")
    for tag in counts:
        if tag not in known.required + known.optional:
            found.append(f"{where}: {file} has no parameter <{tag}>")
    for child in element:
        kind = "topic" if child.tag.endswith("topic") else "text"
        numeric = child.tag.startswith(("min_", "max_", "wheel_", "dimensions")) or "frequency" in child.tag
        _check_text(child, "number" if numeric else kind, f"{where}/{child.tag}", found)


def _numbers(text: str) -> list[float] | None:
    """Numbers with spaces between; None if one of them is not a finite number."""
    try:
        values = [float(part) for part in text.split()]
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None

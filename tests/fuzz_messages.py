"""Arbitrary ROS messages for fuzz tests, and a list of the callbacks in the sources of nodes."""

from __future__ import annotations

import ast
import copy
import functools
import importlib
import math
from pathlib import Path

from hypothesis import strategies as st
from rosidl_parser.definition import (
    AbstractNestedType,
    AbstractString,
    Array,
    BasicType,
    NamespacedType,
)

NAMES = [
    "a",
    "b",
    "c",
    "fleet",
    "a__b",
    "/a",
    "a b",
    "1a",
    "é",
    "a" * 65,
    "a" * 5000,
    "",
    "map",
    "odom",
    "\n",
]
TEXTS = st.sampled_from(["map", "map", *NAMES]) | st.text(st.characters(codec="utf-8"), max_size=12)
INTEGERS = {
    name: (0, 2**bits - 1) if name.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    for bits in (8, 16, 32, 64)
    for name in (f"int{bits}", f"uint{bits}")
}
DOUBLES = st.floats() | st.sampled_from([0.0, 0.1, 1.0, 0.7, -1.0, 1e300, -1e300, math.nan, math.inf, 5e-324])
SINGLES = st.floats(width=32) | st.sampled_from([0.0, 0.5, math.nan, math.inf, -math.inf])


def values(slot):
    """Any value of a field of type ``slot``."""
    if isinstance(slot, BasicType):
        kind = slot.typename
        if kind == "boolean":
            return st.booleans()
        if kind in ("byte", "octet"):
            return st.binary(min_size=1, max_size=1)
        if kind in INTEGERS:
            low, high = INTEGERS[kind]
            return st.integers(max(low, -2), min(high, 6)) | st.integers(low, high)
        return DOUBLES if kind == "double" else SINGLES
    if isinstance(slot, AbstractString):
        return TEXTS
    if isinstance(slot, NamespacedType):
        return messages(getattr(importlib.import_module(".".join(slot.namespaces)), slot.name))
    if isinstance(slot, Array):
        return st.lists(values(slot.value_type), min_size=slot.size, max_size=slot.size)
    assert isinstance(slot, AbstractNestedType), slot
    return st.lists(values(slot.value_type), max_size=6)


@functools.cache
def messages(kind):
    """Any message of type ``kind``."""
    names = [name.removeprefix("_") for name in kind.__slots__ if name != "_check_fields"]
    fields = dict(zip(names, map(values, kind.SLOT_TYPES), strict=True))
    return st.fixed_dictionaries(fields).map(lambda found: kind(**found))


@st.composite
def like(draw, good):
    """A copy of a good message in which up to three fields have any value."""
    message = copy.deepcopy(good)
    for _ in range(draw(st.integers(0, 3))):
        place = message
        while True:
            index = draw(st.integers(0, len(place.SLOT_TYPES) - 1))
            name, slot = place.__slots__[index].removeprefix("_"), place.SLOT_TYPES[index]
            if not isinstance(slot, NamespacedType) or draw(st.integers(0, 9)) == 0:
                break
            place = getattr(place, name)
        setattr(place, name, draw(values(slot)))
    return message


def callbacks(folder: Path) -> dict[str, set[str]]:
    """Every callback for messages, requests and action goals that the sources in ``folder`` register, by file."""
    found: dict[str, set[str]] = {}
    for path in sorted(folder.glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            keywords = {k.arg: k.value for k in call.keywords}
            if name in ("create_subscription", "create_service", "listen", "serve"):
                given = [call.args[2] if len(call.args) > 2 else keywords["callback"]]
            elif name == "ActionServer":
                given = [call.args[3], *(keywords[k] for k in keywords if k.endswith("_callback"))]
            elif name == "add_done_callback":
                given = call.args[:1]
            else:
                continue
            found.setdefault(path.name, set()).update(map(ast.unparse, given))
    return found


def ours(callback) -> bool:
    """Whether a callback of a node is this project's and not one of ROS itself."""
    inner = callback.func if isinstance(callback, functools.partial) else callback
    return (getattr(inner, "__module__", "") or "").startswith("marlgpt")

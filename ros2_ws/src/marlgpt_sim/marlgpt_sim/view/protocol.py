"""What the browser may say: commands as JSON texts, checked before anything is done with them.

A command is one JSON object with a ``type``. Those that act on the fleet also carry an ``id``, which the answer
repeats:

- ``{"type": "hello", "token": "..."}``: asks for the right to command.
- ``{"type": "stop", "id": 1}`` and ``resume``: all robots.
- ``{"type": "stop_robot", "id": 1, "robot": "..."}`` and ``resume_robot``: one robot.
- ``{"type": "goal", "id": 1, "robot": "...", "x": 1.0, "y": 2.0, "yaw": 0.0}``: in the map frame, m and rad;
  ``yaw`` may be left out.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from marlgpt_policy.robots.robots_keys import LONGEST_NAME

LARGEST_MESSAGE = 4096
"""Bytes of a message from a browser."""
LARGEST_ID = 2**53 - 1
"""Largest ``id``: the largest whole number that JavaScript holds exactly."""
LONGEST_TOKEN = 256
"""Characters."""
FARTHEST = 1e6
"""Metres from the map frame's origin beyond which a goal is a mistake."""

FLEET_WIDE = ("stop", "resume")
ONE_ROBOT = ("stop_robot", "resume_robot")
FIELDS: dict[str, tuple[set[str], set[str]]] = {  # type -> fields that must and that may be there
    "hello": (set(), {"token"}),
    **{kind: ({"id"}, set()) for kind in FLEET_WIDE},
    **{kind: ({"id", "robot"}, set()) for kind in ONE_ROBOT},
    "goal": ({"id", "robot", "x", "y"}, {"yaw"}),
}


class ProtocolError(ValueError):
    """A message that is refused.

    Attributes:
        id: The message's ``id`` if it has a usable one, for the answer.
    """

    def __init__(self, text: str, id: int | None = None) -> None:
        super().__init__(text)
        self.id = id


@dataclass(frozen=True)
class Command:
    """One checked message.

    Attributes:
        kind: Its ``type``.
        id: Repeated by the answer; 0 for ``hello``.
        robot: Name of the robot, empty for commands to all.
        x: Goal in the map frame, m.
        y: Goal in the map frame, m.
        yaw: Heading at the goal, rad.
        token: Of ``hello``.
    """

    kind: str
    id: int = 0
    robot: str = ""
    x: float = 0.0
    y: float = 0.0
    yaw: float = 0.0
    token: str = ""


def parse(text: str) -> Command:
    """Check one message.

    Raises:
        ProtocolError: It is too long, no JSON object, of an unknown type, or a field is missing, foreign or wrong.
    """
    if len(text.encode("utf-8", "surrogatepass")) > LARGEST_MESSAGE:
        raise ProtocolError(f"the message is longer than {LARGEST_MESSAGE} bytes")
    try:
        message = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the message is not JSON: {str(error)[:80]}") from None
    if not isinstance(message, dict):
        raise ProtocolError("the message is not a JSON object")
    id = message.get("id")
    known_id = id if _is_id(id) else None
    kind = message.get("type")
    if not isinstance(kind, str) or kind not in FIELDS:
        raise ProtocolError(f"unknown type {str(kind)[:40]!r}; known: {', '.join(FIELDS)}", known_id)
    _check_fields(kind, message, known_id)
    return _command(kind, message, known_id)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_ID


def _check_fields(kind: str, message: dict, id: int | None) -> None:
    needed, optional = FIELDS[kind]
    missing = needed - message.keys()
    if missing:
        raise ProtocolError(f"{kind}: {', '.join(sorted(missing))} missing", id)
    foreign = message.keys() - needed - optional - {"type"}
    if foreign:
        raise ProtocolError(f"{kind}: unknown field {sorted(foreign)[0][:40]!r}", id)
    if "id" in needed and id is None:
        raise ProtocolError(f"{kind}: id must be a whole number from 0 to {LARGEST_ID}")


def _command(kind: str, message: dict, id: int | None) -> Command:
    robot, token = message.get("robot", ""), message.get("token", "")
    if not isinstance(robot, str) or ("robot" in FIELDS[kind][0] and not 0 < len(robot) <= LONGEST_NAME):
        raise ProtocolError(f"{kind}: robot must be a name of 1 to {LONGEST_NAME} characters", id)
    if not robot.isascii():  # as in all names of ROS; it also keeps halves of characters out
        raise ProtocolError(f"{kind}: a robot's name has no characters outside ASCII", id)
    if not (isinstance(token, str) and len(token) <= LONGEST_TOKEN):
        raise ProtocolError(f"{kind}: token must be a text of at most {LONGEST_TOKEN} characters", id)
    numbers = {}
    for name in ("x", "y", "yaw"):
        value = message.get(name, 0.0)
        if type(value) not in (int, float) or abs(value) > FARTHEST or not math.isfinite(value):
            raise ProtocolError(
                f"{kind}: {name} must be a number between -{FARTHEST:.0f} and {FARTHEST:.0f}", id
            )
        numbers[name] = float(value)
    return Command(kind, id or 0, robot, token=token, **numbers)

"""What the view knows of the fleet, and the messages in which browsers get it.

ROS messages come in as they are (or anything with their fields) on one thread, texts go out on another; a lock keeps
them apart. What changes rarely has a version: map, grid, roster (the names) and the history's beginning. A browser
gets these when their version is new to it, and frames all the time. In frames the robots are columns in the order of
the roster, since hundreds of robots as objects would be three times as long.
"""

from __future__ import annotations

import base64
import io
import json
import math
import struct
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from marlgpt_policy.grid.geometry import rotate, yaw_of
from marlgpt_policy.grid.occupancy_map import OccupancyMap
from PIL import Image

from marlgpt_sim.view.history import History

PROTOCOL = 1
"""Version of the messages; the page reloads itself when the server's is another."""
FREE, UNKNOWN, OCCUPIED = 0, 127, 255
"""Grey levels of the map's picture; the page colours them."""
SHOWN_VALUES = 40
"""Values shown of one diagnostic status."""
LONGEST_TEXT = 200
"""Characters passed on of any text in a message."""
CELLS = ("row", "col", "target_row", "target_col", "goal_row", "goal_col", "goals_reached", "vetoes")
PREFIX = "marlgpt: "
NEVER = -1.0
"""Age of a pose that never was."""
SILENT_SIM = 5.0
"""Seconds after which the simulator's last status is no longer shown."""


def dump(message: dict) -> str:
    """A message as compact JSON; NaN would not be JSON and is refused."""
    return json.dumps(message, separators=(",", ":"), allow_nan=False)


def number(value: float, digits: int = 3) -> float | None:
    """A rounded number, None for what is not finite."""
    return round(float(value), digits) if math.isfinite(value) else None


class Picture:
    """The fleet as it was last heard of.

    Args:
        now: Clock of this process, s; only differences count.
        radius: Robots' radius in m until another is set; None if unknown.
    """

    def __init__(self, now: Callable[[], float], radius: float | None = None) -> None:
        self._now, self._lock = now, threading.Lock()
        self.history = History()
        self._map: bytes | None = None
        self._grid: dict | None = None
        self._free = np.zeros((0, 0), bool)
        self._state: Any = None
        self._state_at = -math.inf
        self._news = 0
        self._sim: Any = None
        self._sim_at = -math.inf
        self._diagnostics: list[dict] = []
        self._latency: float | None = None
        self._names: tuple[str, ...] = ()
        self._radii: dict[str, float] = {}
        self._radius = radius
        self._body: tuple[Any, dict] | None = None
        self.versions = {"map": 0, "grid": 0, "roster": 0, "history": 0, "diagnostics": 0}
        self.fleet_is_there: Callable[[], bool] = lambda: True

    # In -------------------------------------------------------------------------------------------------

    def set_map(self, map_: OccupancyMap) -> None:
        """Take a new map."""
        height, width = map_.shape
        pixels = np.full(map_.shape, FREE, np.uint8)
        pixels[map_.unknown], pixels[map_.occupied] = UNKNOWN, OCCUPIED
        file = io.BytesIO()
        Image.fromarray(pixels[::-1]).save(file, "PNG", compress_level=6)  # pictures begin at the top
        header = dump({
            "type": "map", "width": width, "height": height, "resolution": map_.resolution,
            "origin": list(map_.origin), "frame": map_.frame_id[:LONGEST_TEXT],
        }).encode()  # fmt: skip
        with self._lock:
            self._map = struct.pack("<I", len(header)) + header + file.getvalue()
            self.versions["map"] += 1

    def set_grid(self, message: Any) -> None:
        """Take a ``marlgpt_msgs/Grid``; one whose pose or size is no number is ignored."""
        position, q = message.origin.position, message.origin.orientation
        try:
            yaw = yaw_of((q.x, q.y, q.z, q.w))
        except ValueError:
            return
        values = [position.x, position.y, yaw, message.cell_size]
        if not all(map(math.isfinite, values)) or message.cell_size <= 0.0:
            return
        rows, cols = int(message.rows), int(message.cols)
        free = np.asarray(message.free, dtype=bool)
        if free.size != rows * cols:
            return
        with self._lock:
            self._free = free.reshape(rows, cols)
            self._grid = {
                "type": "grid", "rows": rows, "cols": cols, "cell": message.cell_size, "origin": values[:3],
                "free": base64.b64encode(np.packbits(free, bitorder="little").tobytes()).decode(),
            }  # fmt: skip
            self.versions["grid"] += 1

    def set_radii(self, radius: float | None, radii: dict[str, float]) -> None:
        """Take the robots' radii in m: of those in ``radii``, and of all others."""
        with self._lock:
            self._radius, self._radii = radius, dict(radii)
            self.versions["roster"] += 1

    def set_state(self, message: Any) -> None:
        """Take a ``marlgpt_msgs/FleetState``."""
        stamp = message.header.stamp
        t = stamp.sec + stamp.nanosec * 1e-9
        names = tuple(robot.name[:LONGEST_TEXT] for robot in message.robots)
        with self._lock:
            self._state, self._state_at = message, self._now()
            self._news += 1
            if names != self._names:
                self._names = names
                self.versions["roster"] += 1
            sim = self._fresh_sim()
            gap = None if sim is None or len(names) < 2 else float(sim.separation)
            epoch = self.history.epoch
            self.history.add(t, message.goals_reached, message.vetoes, gap, self._latency)
            if self.history.epoch != epoch:
                self.versions["history"] += 1

    def set_sim(self, message: Any) -> None:
        """Take a ``marlgpt_msgs/SimStatus``."""
        with self._lock:
            self._sim, self._sim_at = message, self._now()

    def set_diagnostics(self, message: Any) -> None:
        """Take a ``diagnostic_msgs/DiagnosticArray``; statuses of others than the fleet are left out."""
        ours = [status for status in message.status if status.name.startswith(PREFIX)]
        if not any(status.name == f"{PREFIX}fleet" for status in ours):
            return  # of somebody else, such as one robot's driver
        found = [
            {
                "name": status.name[len(PREFIX) :][:LONGEST_TEXT], "level": _level(status.level),
                "text": status.message[:LONGEST_TEXT],
                "values": {v.key[:LONGEST_TEXT]: v.value[:LONGEST_TEXT] for v in status.values[:SHOWN_VALUES]},
            }
            for status in ours
        ]  # fmt: skip
        fleet = next(status for status in found if status["name"] == "fleet")
        with self._lock:
            self._diagnostics, self._latency = found, _float(fleet["values"].get("decision_ms_p50"))
            self.versions["diagnostics"] += 1

    # Out ------------------------------------------------------------------------------------------------

    @property
    def news(self) -> int:
        """Grows with every state."""
        return self._news

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the robots, in the order of the columns of frames."""
        return self._names

    @property
    def map_frame(self) -> str:
        """Frame of poses and goals; empty until a state has come."""
        state = self._state
        return "" if state is None else state.header.frame_id

    def why_not(self, robot: str, x: float, y: float) -> str:
        """What is probably wrong with a goal at x, y (m) that the fleet refused without a word."""
        with self._lock:
            if robot not in self._names:
                return f"the fleet has no robot named '{robot}'"
            if self._grid is None:
                return "the fleet has no map yet"
            x0, y0, yaw = self._grid["origin"]
            east, south = rotate(np.array([x - x0, y - y0]), -yaw) * (1.0, -1.0) / self._grid["cell"]
            row, col = round(south), round(east)
            if not (0 <= row < self._free.shape[0] and 0 <= col < self._free.shape[1]):
                return "the goal lies outside the map"
            if not self._free[max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2].any():
                return "the goal lies in a wall or too close to one"
        return "no way leads there from where the robot is, or the fleet takes no goals now"

    def message(self, part: str) -> str | bytes | None:
        """The message of one versioned part, or None if there is nothing to say yet."""
        with self._lock:
            if part == "map":
                return self._map
            if part == "grid":
                return None if self._grid is None else dump(self._grid)
            if part == "history":
                return dump({"type": "history", **self.history.columns()})
            if part == "diagnostics":
                return dump({"type": "diagnostics", "items": self._diagnostics})
            radii = [number(self._radii.get(name, self._radius or math.nan)) for name in self._names]
            return dump({
                "type": "roster", "id": self.versions["roster"], "names": self._names, "radii": radii,
            })  # fmt: skip

    def frame(self) -> str:
        """The frame of this moment, for all browsers."""
        with self._lock:
            now, message = self._now(), {"type": "frame", "roster": self.versions["roster"]}
            message["age"] = number(now - self._state_at)
            message["there"] = bool(self.fleet_is_there())
            sim = self._fresh_sim()
            if sim is not None:
                message["sim"] = {
                    "gap": number(sim.separation), "least": number(sim.min_separation),
                    "robot_contacts": int(sim.robot_contacts), "wall_contacts": int(sim.wall_contacts),
                    "rtf": number(sim.real_time_factor, 2),
                }  # fmt: skip
            if self._state is not None:
                message |= self._columns()
            if self.history.latest is not None:
                message["sample"] = asdict(self.history.latest)
            return dump(message)

    def _fresh_sim(self) -> Any:
        return self._sim if self._now() - self._sim_at < SILENT_SIM else None

    def _columns(self) -> dict:
        """The last state, column by column; computed once per state."""
        if self._body is None or self._body[0] is not self._state:
            self._body = self._state, columns_of(self._state)
        return self._body[1]


def columns_of(state: Any) -> dict:
    """A FleetState as columns: poses in m and rad (None where there is none), cells, counters and details by robot."""
    robots, stamp = state.robots, state.header.stamp
    poses = [_planar(robot) for robot in robots]
    columns: dict[str, Any] = {
        "x": [p[0] for p in poses], "y": [p[1] for p in poses], "yaw": [p[2] for p in poses],
        "status": [int(robot.status) for robot in robots],
        "pose_age": [number(robot.pose_age, 2) if robot.pose_age >= 0.0 else None for robot in robots],
    }  # fmt: skip
    columns |= {name: [int(getattr(robot, name)) for robot in robots] for name in CELLS}
    return {
        "t": round(stamp.sec + stamp.nanosec * 1e-9, 3),
        "step": int(state.step), "stopped": bool(state.stopped), "decisions": int(state.decisions),
        "all_vetoes": int(state.vetoes), "all_goals": int(state.goals_reached),
        "rejected": int(state.rejected_messages), "policy": state.policy[:LONGEST_TEXT],
        "provider": state.provider[:LONGEST_TEXT], "robots": columns,
        "detail": {str(i): robot.detail[:LONGEST_TEXT] for i, robot in enumerate(robots) if robot.detail},
    }  # fmt: skip


def _planar(robot: Any) -> tuple[float | None, float | None, float | None]:
    """x, y, yaw; None three times where there never was a pose or it is no pose."""
    position, q = robot.pose.position, robot.pose.orientation
    nowhere = (None, None, None)
    if not (math.isfinite(position.x) and math.isfinite(position.y)) or robot.pose_age == NEVER:
        return nowhere
    yaw = math.atan2(
        2.0 * (q.w * q.z + q.x * q.y), 1.0 - 2.0 * (q.y * q.y + q.z * q.z)
    )  # of unit quaternions
    return (number(position.x), number(position.y), number(yaw)) if math.isfinite(yaw) else nowhere


def _level(level: Any) -> int:
    return level[0] if isinstance(level, bytes) else int(level)


def _float(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None

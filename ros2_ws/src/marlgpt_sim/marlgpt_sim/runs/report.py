"""The report of a run: one HTML page that plays it back, and a still picture.

`write_report` embeds everything in the page (see `encode_trace` for the format), so the file can be mailed,
archived or opened from disk without a network. The page itself is ``report_page.html``.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from marlgpt_policy.grid.nav_grid import NavGrid
from marlgpt_policy.grid.occupancy_map import OccupancyMap
from PIL import Image

from marlgpt_sim.runs.report_picture import picture
from marlgpt_sim.runs.run_trace import (
    LARGEST_SAMPLES,
    STATUS_NAMES,
    RunTrace,
    bounds_of,
    thinned,
    throughput,
    view_of,
)

__all__ = ["LARGEST_SAMPLES", "RunTrace", "encode_trace", "picture", "throughput", "write_report"]

MISSING = -32768
"""Quantised coordinate of a robot without pose or goal."""

LARGEST_IMAGE_SIDE = 2048
"""Pixels; a larger map is reduced for the page, every obstacle kept."""

_FLOOR, _UNKNOWN, _WALL = 0, 128, 255
_PAGE = Path(__file__).with_name("report_page.html")


def encode_trace(trace: RunTrace) -> dict[str, Any]:
    """Return the trace as JSON-ready values; arrays are base64 of little-endian numbers.

    - ``times`` float32[T], s after ``start``; ``separation`` float32[T], m; ``throughput`` float32[T],
      1/min; ``vetoes`` int32[T].
    - ``poses`` int16[3, T, n]: ``x = box[0] + (value + 32767) * box[2]``, y with ``box[1]``, and
      ``yaw = value * pi / 32768``; x and y of -32768 mark a missing pose.
    - ``goals`` (x, y as above), ``status`` and ``reached`` are lists of changes: int32 ``frame``, int16
      ``robot`` and the new values; a value holds until the next change and is missing or 0 before the first.
    - ``map.image`` is a PNG, row 0 at the top: 0 floor, 128 unknown, 255 wall; ``map.origin`` is the pose of
      its lower left corner. ``grid.free`` are packed bits, row-major.
    """
    trace = thinned(trace)
    x0, y0, x1, y1 = bounds_of(trace)
    quantum = max(x1 - x0, y1 - y0, 1e-3) / 65534.0

    def quantise(xy: np.ndarray) -> np.ndarray:
        xy = np.asarray(xy, dtype=np.float64)
        missing = ~np.isfinite(xy).all(axis=-1, keepdims=True)
        cells = np.rint((np.where(missing, 0.0, xy) - (x0, y0)) / quantum) - 32767.0
        return np.where(missing, MISSING, np.clip(cells, -32767, 32767)).astype("<i2")

    poses = np.asarray(trace.poses, dtype=np.float64)
    known = np.isfinite(poses).all(axis=-1)
    positions = quantise(np.where(known[..., None], poses[..., :2], np.nan))
    turns = np.where(known, poses[..., 2], 0.0) / (2.0 * np.pi)
    yaw = np.rint((turns - np.floor(turns + 0.5)) * 65536.0)
    yaw = np.where(yaw >= 32768, -32768, yaw)
    goals = quantise(trace.goals)
    rate, window = throughput(trace)
    separation = np.asarray(trace.separation, dtype=np.float64)
    return {
        "title": trace.title,
        "robots": list(trace.robots),
        "radius": trace.radius,
        "start": float(trace.times[0]),
        "frames": len(trace.times),
        "times": _pack(trace.times - trace.times[0], "<f4"),
        "box": [x0, y0, quantum],
        "view": view_of(trace),
        "poses": _pack(np.stack([positions[..., 0], positions[..., 1], yaw]), "<i2"),
        "goals": _changes(goals, MISSING, "<i2"),
        "status": _changes(np.asarray(trace.status)[..., None], 0, "<u1"),
        "reached": _changes(np.asarray(trace.goals_reached)[..., None], 0, "<i4"),
        "separation": _pack(np.where(np.isfinite(separation), separation, np.nan), "<f4"),
        "throughput": _pack(rate, "<f4"),
        "window": window,
        "vetoes": _pack(trace.vetoes, "<i4"),
        "statuses": list(STATUS_NAMES),
        "map": _encode_map(trace.map),
        "grid": _encode_grid(trace.grid),
        "cards": _cards(trace),
        "summary": [[str(key), _text(value)] for key, value in trace.summary.items()],
    }


def write_report(trace: RunTrace, path: str | Path) -> Path:
    """Write the run as one HTML page that needs nothing else: no network, no other file.

    Args:
        trace: the run; more than `LARGEST_SAMPLES` poses are thinned.
        path: the page to write; replaced in one step if it exists.

    Returns:
        `path`.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    data = json.dumps(encode_trace(trace), separators=(",", ":"), allow_nan=False)
    for character in "<>&":  # nothing in a name can end the script element or open another
        data = data.replace(character, f"\\u{ord(character):04x}")
    parts = {"TITLE": html.escape(trace.title), "DATA": data}
    page = re.sub(r"\{\{(TITLE|DATA)\}\}", lambda match: parts[match[1]], _PAGE.read_text(encoding="utf-8"))
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(page, encoding="utf-8")
    unfinished.replace(path)
    return path


def _pack(values: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode("ascii")


def _changes(values: np.ndarray, before: int, dtype: str) -> dict[str, Any]:
    """Changes of [T, n, k] values against the sample before; `before` comes before the first."""
    padded = np.concatenate([np.full_like(values[:1], before), values])
    frame, robot = np.nonzero((padded[1:] != padded[:-1]).any(axis=-1))
    new = values[frame, robot]
    columns = [_pack(new[:, k], dtype) for k in range(values.shape[-1])]
    return {"frame": _pack(frame, "<i4"), "robot": _pack(robot, "<i2"), "values": columns}


def _encode_map(occupancy_map: OccupancyMap) -> dict[str, Any]:
    classes = np.full(occupancy_map.shape, _FLOOR, np.uint8)
    classes[occupancy_map.unknown] = _UNKNOWN
    classes[occupancy_map.occupied] = _WALL
    factor = math.ceil(max(classes.shape) / LARGEST_IMAGE_SIDE)
    if factor > 1:
        padding = [(0, -side % factor) for side in classes.shape]
        classes = np.pad(classes, padding, constant_values=_UNKNOWN)
        height, width = (side // factor for side in classes.shape)
        classes = classes.reshape(height, factor, width, factor).max(axis=(1, 3))
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(classes[::-1])).save(stream, format="PNG", optimize=True)
    return {
        "image": base64.b64encode(stream.getvalue()).decode("ascii"),
        "width": classes.shape[1],
        "height": classes.shape[0],
        "resolution": occupancy_map.resolution * factor,
        "origin": list(occupancy_map.origin),
    }


def _encode_grid(grid: NavGrid | None) -> dict[str, Any] | None:
    if grid is None:
        return None
    return {
        "rows": grid.shape[0],
        "columns": grid.shape[1],
        "cell": grid.cell_size,
        "origin": list(grid.origin),
        "free": base64.b64encode(np.packbits(grid.free).tobytes()).decode("ascii"),
    }


def _cards(trace: RunTrace) -> list[dict[str, str]]:
    """The headline numbers: label, value, unit, note and tone ("good", "bad" or "")."""
    minutes = max(trace.duration, 1e-9) / 60.0
    goals = int(np.sum(trace.goals_reached[-1]))
    vetoes = int(trace.vetoes[-1])
    steps = np.linalg.norm(np.diff(np.asarray(trace.poses)[..., :2], axis=0), axis=-1)
    distance = float(np.nansum(steps))
    robots = len(trace.robots)
    speed = distance / robots / max(trace.duration, 1e-9)

    def card(label: str, value: str, unit: str = "", note: str = "", tone: str = "") -> dict[str, str]:
        return {"label": label, "value": value, "unit": unit, "note": note, "tone": tone}

    rate = goals / minutes
    cards = [
        card("Goals reached", f"{goals:,}", "", f"{goals / robots:.1f} per robot"),
        card("Throughput", f"{rate:.1f}", "goals/min", f"{rate / robots:.2f} per robot"),
    ]
    gaps = np.asarray(trace.separation, dtype=np.float64)
    if np.isfinite(gaps).any():
        where = int(np.argmin(np.where(np.isfinite(gaps), gaps, np.inf)))
        note = f"at {_clock(float(trace.times[where] - trace.times[0]))}"
        tone = "good" if gaps[where] > 0.0 else "bad"
        cards.append(card("Smallest gap", f"{gaps[where]:.3f}", "m", note, tone))
    contacts = [value for key, value in trace.summary.items() if key.lower() == "contacts"]
    if contacts:
        tone = "bad" if contacts[0] else "good"
        cards.append(card("Contacts", _text(contacts[0]), "", "ground truth", tone))
    cards.append(card("Vetoes", f"{vetoes:,}", "", f"{vetoes / minutes:.1f} per minute"))
    cards.append(card("Fleet distance", f"{distance:,.0f}", "m", f"mean {speed:.2f} m/s"))
    samples = (len(trace.times) - 1) / max(trace.duration, 1e-9)
    cards.append(card("Duration", _clock(trace.duration), "", f"{samples:.3g} samples/s"))
    return cards


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(seconds, 0.0), 60.0)
    return f"{int(minutes)}:{rest:04.1f}"


def _text(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    if isinstance(value, float | np.floating):
        return f"{float(value):,.4g}" if math.isfinite(value) else "none"
    return str(value)

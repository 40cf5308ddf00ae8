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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from marlgpt_policy.geometry import rotate
from marlgpt_policy.grid import NavGrid
from marlgpt_policy.occupancy import OccupancyMap
from PIL import Image

STATUS_NAMES = ("no pose", "idle", "waiting", "moving", "stale", "stopped", "off grid", "docking")
"""Index: the constants of `marlgpt_msgs/RobotState`."""

MISSING = -32768
"""Quantised coordinate of a robot without pose or goal."""

LARGEST_IMAGE_SIDE = 2048
"""Pixels; a larger map is reduced for the page, every obstacle kept."""

LARGEST_SAMPLES = 500_000
"""Robot poses in one page (6 bytes each); a longer run is thinned."""

_FLOOR, _UNKNOWN, _WALL = 0, 128, 255
_PAGE = Path(__file__).with_name("report_page.html")


@dataclass(frozen=True, eq=False)
class RunTrace:
    """What happened in a run: T samples of n robots, in the map frame.

    Attributes:
        map: the map the robots drove on.
        robots: n names.
        radius: radius of a robot, m.
        times: float[T], increasing, s.
        poses: float[T, n, 3], (x, y, yaw) in m and rad; NaN where unknown.
        goals: float[T, n, 2], (x, y) in m; NaN for none.
        status: uint8[T, n], constants of `marlgpt_msgs/RobotState`, see `STATUS_NAMES`.
        goals_reached: int[T, n], goals reached since the start.
        separation: float[T], gap between the surfaces of the two nearest robots, m; NaN or inf if there are
            no two.
        vetoes: int[T], proposals changed by the shield since the start, all robots.
        grid: the cells the robots drove on, if they are to be shown.
        title: headline of the report.
        summary: more facts, label to value, in the order to show; an entry "contacts" becomes a card.
    """

    map: OccupancyMap
    robots: list[str]
    radius: float
    times: np.ndarray
    poses: np.ndarray
    goals: np.ndarray
    status: np.ndarray
    goals_reached: np.ndarray
    separation: np.ndarray
    vetoes: np.ndarray
    grid: NavGrid | None = None
    title: str = "Fleet run"
    summary: dict[str, str | int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            ValueError: naming the field, if a shape is wrong, there is no robot or sample, times do not
                increase, the radius is not positive or a status is unknown.
        """
        t, n = len(self.times), len(self.robots)
        if t == 0 or n == 0:
            raise ValueError(f"a trace needs at least one sample and one robot, got {t} and {n}")
        shapes = {
            "times": (t,),
            "poses": (t, n, 3),
            "goals": (t, n, 2),
            "status": (t, n),
            "goals_reached": (t, n),
            "separation": (t,),
            "vetoes": (t,),
        }
        for name, shape in shapes.items():
            if np.shape(getattr(self, name)) != shape:
                raise ValueError(f"{name} must have shape {shape}, got {np.shape(getattr(self, name))}")
        if not np.all(np.diff(self.times) > 0.0) or not np.all(np.isfinite(self.times)):
            raise ValueError("times must be finite and increase")
        if not (math.isfinite(self.radius) and self.radius > 0.0):
            raise ValueError(f"radius must be a positive number of metres, got {self.radius}")
        if np.max(self.status) >= len(STATUS_NAMES):
            raise ValueError(f"status must be below {len(STATUS_NAMES)}, got {np.max(self.status)}")

    @property
    def duration(self) -> float:
        """Time from the first to the last sample, s."""
        return float(self.times[-1] - self.times[0])


def throughput(trace: RunTrace, window: float | None = None) -> tuple[np.ndarray, float]:
    """Return float[T] goals per minute in the window centred on each sample, and the window in s.

    Near both ends the window is shifted to lie inside the run. The default window is a sixth of the run,
    between 5 and 30 s; it is never longer than the run.
    """
    if window is None:
        window = max(5.0, min(30.0, trace.duration / 6.0))
    window = min(window, trace.duration)
    times = np.asarray(trace.times, dtype=np.float64)
    reached = np.sum(trace.goals_reached, axis=1, dtype=np.float64)
    begin = np.clip(times - window / 2.0, times[0], times[-1] - window)
    gained = _count_at(begin + window, times, reached) - _count_at(begin, times, reached)
    return 60.0 * gained / max(window, 1e-9), float(window)


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
    trace = _thinned(trace)
    x0, y0, x1, y1 = _bounds(trace)
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
        "view": _view(trace),
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


def picture(trace: RunTrace, path_png: str | Path, time: float | None = None, trail: float = 8.0) -> Path:
    """Write a still of the run as PNG: map, cells, robots with heading, trails and goals.

    Args:
        trace: the run.
        path_png: the picture to write.
        time: the moment to show, s in the trace's time; default the last sample.
        trail: length of the trails, s.

    Returns:
        `path_png`.

    Raises:
        ValueError: `time` lies outside the run.
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    times = np.asarray(trace.times, dtype=np.float64)
    time = float(times[-1]) if time is None else float(time)
    if not times[0] <= time <= times[-1]:
        raise ValueError(f"time {time} s lies outside the run, {times[0]} to {times[-1]} s")
    now = int(np.searchsorted(times, time, side="right")) - 1
    x0, y0, x1, y1 = _view(trace)
    width = 9.0
    figure = Figure(figsize=(width, float(np.clip(width * (y1 - y0) / (x1 - x0), 3.0, 14.0))), dpi=160)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(x0, x1), ylim=(y0, y1), aspect="equal")
    axes.axis("off")
    figure.set_facecolor("#eef1f5")
    _draw_map(axes, trace)
    _draw_trails(axes, trace, int(np.searchsorted(times, time - trail)), now)
    _draw_robots(axes, trace, now)
    path_png = Path(path_png)
    figure.savefig(path_png, format="png", facecolor=figure.get_facecolor())
    return path_png


_COLOURS = {
    "floor": "#ffffff",
    "unknown": "#dfe4ea",
    "wall": "#2b3442",
    "cell": "#c9d2de",
    "trail": "#2563eb",
    "goal": "#c026d3",
}
_STATUS_COLOURS = ("#94a3b8", "#94a3b8", "#7c9bd8", "#2563eb", "#d97706", "#dc2626", "#ea580c", "#0d9488")


def _draw_map(axes: Any, trace: RunTrace) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.transforms import Affine2D

    grid_map = trace.map
    pixels = np.empty((*grid_map.shape, 3))
    pixels[:] = to_rgb(_COLOURS["floor"])
    pixels[grid_map.unknown] = to_rgb(_COLOURS["unknown"])
    pixels[grid_map.occupied] = to_rgb(_COLOURS["wall"])
    height, width = np.array(grid_map.shape) * grid_map.resolution
    x, y, yaw = grid_map.origin
    image = axes.imshow(pixels, origin="lower", extent=(0.0, width, 0.0, height), interpolation="antialiased")
    image.set_transform(Affine2D().rotate(yaw).translate(x, y) + axes.transData)
    view = _view(trace)  # imshow moved the limits
    axes.set(xlim=(view[0], view[2]), ylim=(view[1], view[3]))
    if trace.grid is not None:
        centres = trace.grid.centre(np.argwhere(trace.grid.free))
        axes.scatter(*centres.T, s=4.0, c=_COLOURS["cell"], linewidths=0.0, zorder=2)


def _draw_trails(axes: Any, trace: RunTrace, begin: int, now: int) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgba

    track = np.asarray(trace.poses)[begin : now + 1, :, :2]
    if len(track) < 2:
        return
    segments = np.stack([track[:-1], track[1:]], axis=2)  # [steps, n, 2 ends, 2]
    known = np.isfinite(segments).all(axis=(2, 3))
    for band in np.array_split(np.arange(len(segments)), 12):  # one shade each: no beads where pieces meet
        if len(band):
            shade = to_rgba(_COLOURS["trail"], 0.5 * (band[-1] + 1) / len(segments))
            robots = range(len(trace.robots))
            lines = [piece for robot in robots for piece in _pieces(segments, known, band, robot)]
            axes.add_collection(LineCollection(lines, colors=shade, linewidths=2.4, zorder=3))


def _pieces(segments: np.ndarray, known: np.ndarray, band: np.ndarray, robot: int) -> list[np.ndarray]:
    """Polylines [k, 2] of one robot within a range of steps, cut where its pose is unknown."""
    runs = np.split(band, np.flatnonzero(~known[band, robot]))
    runs = [run[known[run, robot]] for run in runs]
    return [np.vstack([segments[run, robot, 0], segments[run[-1:], robot, 1]]) for run in runs if len(run)]


def _draw_robots(axes: Any, trace: RunTrace, now: int) -> None:
    from matplotlib.patches import Circle, Polygon

    radius = trace.radius
    nose = radius * np.array([[0.72, 0.0], [-0.38, 0.46], [-0.14, 0.0], [-0.38, -0.46]])
    for pose, goal, status in zip(trace.poses[now], trace.goals[now], trace.status[now], strict=True):
        if not np.isfinite(pose).all():
            continue
        if np.isfinite(goal).all():
            axes.plot(*zip(pose[:2], goal, strict=True), color=_COLOURS["goal"], lw=0.7, alpha=0.25, zorder=4)
            axes.plot(*goal, marker="D", ms=5.0, mfc="white", mec=_COLOURS["goal"], mew=1.4, zorder=5)
        axes.add_patch(
            Circle(pose[:2], radius, facecolor=_STATUS_COLOURS[status], edgecolor="white", lw=0.8, zorder=6)
        )
        axes.add_patch(
            Polygon(rotate(nose, float(pose[2])) + pose[:2], facecolor="white", edgecolor="none", zorder=7)
        )


def _count_at(moments: np.ndarray, times: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Value of a step function at other times."""
    return counts[np.maximum(np.searchsorted(times, moments, side="right") - 1, 0)]


def _thinned(trace: RunTrace) -> RunTrace:
    """Every k-th sample, so that a page stays small; the separation keeps its minima."""
    frames, robots = len(trace.times), len(trace.robots)
    stride = math.ceil(frames * robots / LARGEST_SAMPLES)
    if stride == 1:
        return trace
    keep = np.unique(np.append(np.arange(0, frames, stride), frames - 1))
    separation = np.where(np.isfinite(trace.separation), trace.separation, np.inf)
    picked = {
        name: np.asarray(getattr(trace, name))[keep]
        for name in ("times", "poses", "goals", "status", "goals_reached", "vetoes")
    }
    return RunTrace(
        map=trace.map,
        robots=trace.robots,
        radius=trace.radius,
        separation=np.minimum.reduceat(separation, keep),
        grid=trace.grid,
        title=trace.title,
        summary=trace.summary,
        **picked,
    )


def _corners(occupancy_map: OccupancyMap) -> np.ndarray:
    """Corners float[4, 2] of the observed part of the map, map frame, m."""
    seen = ~occupancy_map.unknown
    if not seen.any():
        seen = np.ones_like(seen)
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    low = np.array([columns[0], rows[0]]) * occupancy_map.resolution
    high = np.array([columns[-1] + 1, rows[-1] + 1]) * occupancy_map.resolution
    corners = np.array([low, [high[0], low[1]], high, [low[0], high[1]]])
    return rotate(corners, occupancy_map.origin[2]) + occupancy_map.origin[:2]


def _box_of(points: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    stacked = np.concatenate([np.asarray(part, dtype=np.float64).reshape(-1, 2) for part in points])
    stacked = stacked[np.isfinite(stacked).all(axis=1)]
    return stacked.min(axis=0), stacked.max(axis=0)


def _bounds(trace: RunTrace) -> tuple[float, float, float, float]:
    """Box around everything that is quantised, map frame, m."""
    low, high = _box_of([_corners(trace.map), trace.poses[..., :2], trace.goals])
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _view(trace: RunTrace) -> list[float]:
    """Box to show at first: the map, the robots and a margin; x0, y0, x1, y1 in the map frame, m."""
    low, high = _box_of([_corners(trace.map), trace.poses[..., :2]])
    margin = max(trace.radius, 0.015 * float(np.max(high - low)))
    return [float(value) for value in (*(low - margin), *(high + margin))]


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

"""A still picture of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from marlgpt_policy.grid.geometry import rotate

from marlgpt_sim.runs.run_trace import RunTrace, view_of

_COLOURS = {
    "floor": "#ffffff",
    "unknown": "#dfe4ea",
    "wall": "#2b3442",
    "cell": "#c9d2de",
    "trail": "#2563eb",
    "goal": "#c026d3",
}
_STATUS_COLOURS = ("#94a3b8", "#94a3b8", "#7c9bd8", "#2563eb", "#d97706", "#dc2626", "#ea580c", "#0d9488")


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
    x0, y0, x1, y1 = view_of(trace)
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
    view = view_of(trace)  # imshow moved the limits
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

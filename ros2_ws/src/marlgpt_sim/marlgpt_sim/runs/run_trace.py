"""What happened in a run, sample by sample: what the report and its picture are made from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from marlgpt_policy.grid.geometry import rotate
from marlgpt_policy.grid.nav_grid import NavGrid
from marlgpt_policy.grid.occupancy_map import OccupancyMap

STATUS_NAMES = ("no pose", "idle", "waiting", "moving", "stale", "stopped", "off grid", "docking")
"""Index: the constants of `marlgpt_msgs/RobotState`."""

LARGEST_SAMPLES = 500_000
"""Robot poses in one page (6 bytes each); a longer run is thinned."""


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


def _count_at(moments: np.ndarray, times: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Value of a step function at other times."""
    return counts[np.maximum(np.searchsorted(times, moments, side="right") - 1, 0)]


def thinned(trace: RunTrace) -> RunTrace:
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


def bounds_of(trace: RunTrace) -> tuple[float, float, float, float]:
    """Box around everything that is quantised, map frame, m."""
    low, high = _box_of([_corners(trace.map), trace.poses[..., :2], trace.goals])
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def view_of(trace: RunTrace) -> list[float]:
    """Box to show at first: the map, the robots and a margin; x0, y0, x1, y1 in the map frame, m."""
    low, high = _box_of([_corners(trace.map), trace.poses[..., :2]])
    margin = max(trace.radius, 0.015 * float(np.max(high - low)))
    return [float(value) for value in (*(low - margin), *(high + margin))]

"""Distance from points of the map frame to the nearest obstacle."""

from __future__ import annotations

import math

import numba
import numpy as np
from scipy import ndimage

from marlgpt_policy.grid.geometry import rotate
from marlgpt_policy.grid.occupancy_map import OccupancyMap

BAND = 2_000_000
"""Pixels worked on at a time, where intermediate results are larger than the result."""


def squared_distances(clear: np.ndarray) -> np.ndarray:
    """Squared distance from every pixel to the nearest one that is not clear, in pixels.

    Args:
        clear: bool[H, W], at least one of them False; the nearest one within 46,000 pixels of every pixel.

    Returns:
        int32[H, W], exact; the transform itself takes 8 more bytes per pixel while it runs.
    """
    nearest = ndimage.distance_transform_edt(clear, return_distances=False, return_indices=True)
    rows, cols = clear.shape
    found = nearest[0]  # overwritten row by row: nothing below a row depends on it
    columns = np.arange(cols, dtype=np.int32)
    height = max(1, BAND // cols)
    for top in range(0, rows, height):
        band = slice(top, min(top + height, rows))
        down = nearest[0, band] - np.arange(band.start, band.stop, dtype=np.int32)[:, None]
        right = nearest[1, band] - columns
        found[band] = down * down + right * right
    return found.copy()  # without the other half of the indices


class DistanceField:
    """Distance to the nearest occupied (or unknown) pixel, looked up per point."""

    def __init__(self, map: OccupancyMap, unknown_is_free: bool = False) -> None:
        """Transform ``map`` once; everything outside the image counts as an obstacle."""
        padded = np.ones((map.shape[0] + 2, map.shape[1] + 2), dtype=bool)
        np.copyto(padded[1:-1, 1:-1], map.occupied)
        if not unknown_is_free:
            padded[1:-1, 1:-1] |= map.unknown
        # Squares of whole pixels: exact, and half as large as distances in double precision.
        self._squared = squared_distances(~padded)
        self.resolution = map.resolution
        """Edge of a pixel, m."""
        self._origin = map.origin

    def at(self, xy: np.ndarray) -> np.ndarray:
        """Lower bound in m of the distance from points float[..., 2] to the nearest obstacle; 0 outside."""
        resolution = self.resolution
        local = rotate(np.asarray(xy, dtype=float) - self._origin[:2], -self._origin[2]) / resolution
        column, row = np.floor(local[..., 0]).astype(int), np.floor(local[..., 1]).astype(int)
        rows, cols = self._squared.shape[0] - 2, self._squared.shape[1] - 2
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < cols)
        found = self._squared[np.clip(row, 0, rows - 1) + 1, np.clip(column, 0, cols - 1) + 1]
        found = np.sqrt(found.astype(float)) * resolution
        # From pixel centres to the point itself and to the obstacle pixel's near edge: a pixel's diagonal.
        return np.where(inside, np.maximum(found - np.sqrt(2.0) * resolution, 0.0), 0.0)

    def along(self, start: np.ndarray, end: np.ndarray) -> float:
        """Lower bound in m of the clearance of the straight segment between two points float[2]."""
        length = float(np.hypot(*(np.asarray(end) - start)))
        steps = max(2, int(np.ceil(length / (0.5 * self.resolution))) + 1)
        points = np.linspace(start, end, steps)
        return float(self.at(points).min())

    def clearance(self, start: np.ndarray, end: np.ndarray, reach: float) -> float:
        """Exact clearance in m of the straight segment between two points float[2]; ``reach`` m where it is more.

        The map's border counts as an obstacle.
        """
        local = rotate(np.stack([start, end]) - self._origin[:2], -self._origin[2]) / self.resolution
        (ax, ay), (bx, by) = local.tolist()
        return self.resolution * _segment_clearance(self._squared, ax, ay, bx, by, reach / self.resolution)


@numba.njit(cache=True)
def _segment_clearance(squared, ax, ay, bx, by, reach):
    """Pixels from a segment to the nearest square of an obstacle, ``reach`` at most; ``squared`` is padded by one."""
    rows, columns = squared.shape
    low_r, high_r = math.floor(min(ay, by) - reach) + 1, math.floor(max(ay, by) + reach) + 1
    low_c, high_c = math.floor(min(ax, bx) - reach) + 1, math.floor(max(ax, bx) + reach) + 1
    if low_r < 0 or low_c < 0 or high_r >= rows or high_c >= columns:
        border = min(min(ax, bx), min(ay, by), columns - 2 - max(ax, bx), rows - 2 - max(ay, by))
        reach = min(reach, max(border, 0.0))
    least = reach
    for r in range(max(low_r, 0), min(high_r + 1, rows)):
        for c in range(max(low_c, 0), min(high_c + 1, columns)):
            if squared[r, c] == 0:
                least = min(least, _segment_to_square(ax, ay, bx, by, c - 1.0, r - 1.0))
    return least


@numba.njit(cache=True)
def _segment_to_square(ax, ay, bx, by, x, y):
    """Distance of a segment from the unit square whose lower left corner is (x, y); 0 where they meet."""
    first, last = 0.0, 1.0  # the part of the segment within the square (Liang and Barsky)
    meets = True
    for p, way, low in ((ax, bx - ax, x), (ay, by - ay, y)):
        if way == 0.0:
            meets = meets and low <= p <= low + 1.0
        else:
            t, u = (low - p) / way, (low + 1.0 - p) / way
            first, last = max(first, min(t, u)), min(last, max(t, u))
    if meets and first <= last:
        return 0.0
    least = min(_point_to_square(ax, ay, x, y), _point_to_square(bx, by, x, y))
    length = (bx - ax) ** 2 + (by - ay) ** 2
    for cx, cy in ((x, y), (x + 1.0, y), (x, y + 1.0), (x + 1.0, y + 1.0)):
        share = 0.0
        if length > 0.0:
            share = min(max(((cx - ax) * (bx - ax) + (cy - ay) * (by - ay)) / length, 0.0), 1.0)
        least = min(least, math.hypot(cx - ax - share * (bx - ax), cy - ay - share * (by - ay)))
    return least


@numba.njit(cache=True)
def _point_to_square(px, py, x, y):
    """Distance of a point from the unit square whose lower left corner is (x, y)."""
    return math.hypot(max(x - px, 0.0, px - x - 1.0), max(y - py, 0.0, py - y - 1.0))

"""Distance from points of the map frame to the nearest obstacle."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from marlgpt_policy.geometry import rotate
from marlgpt_policy.occupancy import OccupancyMap


class DistanceField:
    """Distance to the nearest occupied (or unknown) pixel, looked up per point."""

    def __init__(self, map: OccupancyMap, unknown_is_free: bool = False) -> None:
        """Transform ``map`` once; everything outside the image counts as an obstacle."""
        obstacle = map.occupied if unknown_is_free else map.occupied | map.unknown
        padded = np.pad(obstacle, 1, constant_values=True)
        self._distance = ndimage.distance_transform_edt(~padded)[1:-1, 1:-1] * map.resolution
        self._map = map

    @property
    def resolution(self) -> float:
        """Edge of a pixel, m."""
        return self._map.resolution

    def at(self, xy: np.ndarray) -> np.ndarray:
        """Lower bound in m of the distance from points float[..., 2] to the nearest obstacle; 0 outside."""
        resolution = self._map.resolution
        local = rotate(np.asarray(xy, dtype=float) - self._map.origin[:2], -self._map.origin[2]) / resolution
        column, row = np.floor(local[..., 0]).astype(int), np.floor(local[..., 1]).astype(int)
        rows, cols = self._distance.shape
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < cols)
        found = self._distance[np.clip(row, 0, rows - 1), np.clip(column, 0, cols - 1)]
        # From pixel centres to the point itself and to the obstacle pixel's near edge: a pixel's diagonal.
        return np.where(inside, np.maximum(found - np.sqrt(2.0) * resolution, 0.0), 0.0)

    def along(self, start: np.ndarray, end: np.ndarray) -> float:
        """Lower bound in m of the clearance of the straight segment between two points float[2]."""
        length = float(np.hypot(*(np.asarray(end) - start)))
        steps = max(2, int(np.ceil(length / (0.5 * self._map.resolution))) + 1)
        points = np.linspace(start, end, steps)
        return float(self.at(points).min())

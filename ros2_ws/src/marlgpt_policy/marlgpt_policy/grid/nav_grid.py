"""The cells a disc-shaped robot can really drive: built from a map so that every free edge is clear.

Cells are laid on a lattice of pixel corners (pixels optionally divided by a small whole number). On that
lattice a Euclidean distance transform is exact: the point of a pixel square nearest to a lattice point is
itself a lattice point. And between two neighbouring lattice points the distance to any one square is
monotone, so the smallest clearance along an axis-aligned segment is found at its lattice points. No sampling
error remains, and no safety factor is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np

from marlgpt_policy.grid.distance_field import BAND, squared_distances
from marlgpt_policy.grid.geometry import rotate
from marlgpt_policy.grid.moves import MOVE_OFFSETS
from marlgpt_policy.grid.occupancy_map import MapError, OccupancyMap

LARGEST_DIVISION = 5
"""A pixel is divided into at most this many lattice steps to fit a cell size."""

STEPS_PER_CELL = 10
"""Lattice steps per cell aimed at when the cell size is ours to choose."""

LARGEST_LATTICE = 40_000_000
"""Lattice points; larger maps are not divided."""

ROUNDING = 1e-9
"""m; allowance for the rounding of distances."""


@dataclass(frozen=True, eq=False)
class NavGrid:
    """A grid of cells and the moves between them; row 0 at the top, as in POGEMA.

    Attributes:
        free: bool[R, C], a robot can stand at the centre of the cell.
        moves: bool[R, C, 5], wait, up (row - 1), down (row + 1), left (column - 1), right (column + 1);
            symmetric, `moves[..., 0] == free`. The one edge set for cost-to-go, action masks and shield.
        cell_size: distance between neighbouring centres, m.
        origin: (x, y, yaw) in m and rad, the pose in `frame_id` of the centre of cell (0, 0). The centre of
            cell (r, c) is `origin_xy + R(yaw) @ (c * cell_size, -r * cell_size)`.
        frame_id: name of the fixed frame.
    """

    free: np.ndarray
    moves: np.ndarray
    cell_size: float
    origin: tuple[float, float, float]
    frame_id: str = "map"

    def __post_init__(self) -> None:
        """Keep read-only copies and check that they agree.

        Raises:
            ValueError: if shapes or types are wrong, moves are not symmetric, lead into blocked cells or
                out of the grid, or the cell size or origin is out of range.
        """
        free, moves = np.array(self.free, order="C"), np.array(self.moves, order="C")
        if free.dtype != np.bool_ or free.ndim != 2 or free.size == 0:
            raise ValueError(f"free must be bool[R, C], got {free.dtype}{list(free.shape)}")
        if moves.dtype != np.bool_ or moves.shape != (*free.shape, 5):
            raise ValueError(f"moves must be bool{[*free.shape, 5]}, got {moves.dtype}{list(moves.shape)}")
        if np.any(moves[..., 0] != free):
            raise ValueError("moves[..., 0] must equal free")
        if not _within(moves, free):
            raise ValueError("moves lead into blocked cells or out of the grid")
        if np.any(moves[1:, :, 1] != moves[:-1, :, 2]) or np.any(moves[:, 1:, 3] != moves[:, :-1, 4]):
            raise ValueError("moves must be symmetric: up of a cell is down of the one above, left of right")
        if not (math.isfinite(self.cell_size) and self.cell_size > 0.0):
            raise ValueError(f"cell_size must be a positive number of metres, got {self.cell_size}")
        if len(self.origin) != 3 or not all(math.isfinite(value) for value in self.origin):
            raise ValueError(f"origin must be three finite numbers (x, y, yaw), got {self.origin}")
        free.flags.writeable = moves.flags.writeable = False
        object.__setattr__(self, "free", free)
        object.__setattr__(self, "moves", moves)
        object.__setattr__(self, "cell_size", float(self.cell_size))
        object.__setattr__(self, "origin", tuple(float(value) for value in self.origin))

    @classmethod
    def from_cells(cls, free: np.ndarray, cell_size: float = 1.0) -> NavGrid:
        """Return the grid of a pure grid world: bool[R, C] cells, every two free neighbours connected.

        The centre of cell (r, c) is (c * cell_size, -r * cell_size) m.

        Raises:
            ValueError: if `free` is not bool[R, C].
        """
        free = np.asarray(free)
        if free.dtype != np.bool_ or free.ndim != 2:
            raise ValueError(f"free must be bool[R, C], got {free.dtype}{list(free.shape)}")
        return cls(free, _neighbour_moves(free), cell_size, (0.0, 0.0, 0.0))

    @property
    def shape(self) -> tuple[int, int]:
        """(R, C) in cells."""
        return self.free.shape

    def centre(self, cells: np.ndarray) -> np.ndarray:
        """Return float64[..., 2], the centres (x, y) in m of cells int[..., 2] (row, column).

        Cells outside the grid are continued at the same spacing.
        """
        cells = np.asarray(cells, dtype=np.float64)
        x, y, yaw = (float(v) for v in self.origin)
        cosine, sine = self.cell_size * math.cos(yaw), self.cell_size * math.sin(yaw)
        centres = np.empty(cells.shape)  # filled in place: this is called many times in each control period
        centres[..., 0] = cosine * cells[..., 1] + sine * cells[..., 0] + x
        centres[..., 1] = sine * cells[..., 1] - cosine * cells[..., 0] + y
        return centres

    def centres(self) -> np.ndarray:
        """Return float64[R, C, 2], the centres (x, y) in m of all cells; read-only, made once."""
        return self._centres

    @cached_property
    def _centres(self) -> np.ndarray:
        rows, cols = self.free.shape
        centres = np.empty((rows, cols, 2))
        cells = np.stack([np.zeros(cols, np.int64), np.arange(cols)], axis=-1)
        for row in range(rows):
            cells[:, 0] = row
            centres[row] = self.centre(cells)
        centres.flags.writeable = False
        return centres

    def cell_of(self, xy: np.ndarray) -> np.ndarray:
        """Return int64[..., 2], the cell (row, column) whose centre is nearest to xy float[..., 2] in m.

        The cell may be blocked or lie outside the grid; see `inside`.

        Raises:
            ValueError: if a coordinate is not finite.
        """
        xy = np.asarray(xy, dtype=np.float64)
        if not np.all(np.isfinite(xy)):
            raise ValueError(f"positions must be finite, got {xy[~np.isfinite(xy).all(axis=-1)].tolist()}")
        local = rotate(xy - self.origin[:2], -self.origin[2]) / self.cell_size
        # Half way between two centres belongs to the right or the upper one.
        column, row = np.floor(local[..., 0] + 0.5), np.ceil(-local[..., 1] - 0.5)
        limit = 2.0**31
        return np.clip(np.stack([row, column], axis=-1), -limit, limit).astype(np.int64)

    def inside(self, cells: np.ndarray) -> np.ndarray:
        """Return bool[...], whether cells int[..., 2] lie within the array bounds (free or not)."""
        cells = np.asarray(cells)
        return np.all((cells >= 0) & (cells < np.array(self.shape)), axis=-1)

    @cached_property
    def components(self) -> np.ndarray:
        """int32[R, C], the connected component of every cell: 0 the largest, -1 blocked; read-only.

        Equally large components are numbered in reading order.
        """
        labels, count = _label(self.moves)
        sizes = np.bincount(labels[labels >= 0], minlength=count)
        rank = np.empty(count, dtype=np.int32)
        rank[np.argsort(-sizes, kind="stable")] = np.arange(count, dtype=np.int32)
        components = np.append(rank, np.int32(-1))[labels]  # -1 is the last
        components.flags.writeable = False
        return components

    def nearest_free(
        self, xy: np.ndarray, max_distance: float, component: int | None = None
    ) -> tuple[int, int] | None:
        """Return the free cell (row, column) whose centre is nearest to a position, or None.

        Args:
            xy: float[2], position in m.
            max_distance: farthest centre to accept, m.
            component: accept only cells of this connected component (see `components`).

        Raises:
            ValueError: if the position is not finite or `max_distance` is negative or NaN.
        """
        xy = np.asarray(xy, dtype=np.float64)
        if xy.shape != (2,) or not np.all(np.isfinite(xy)):
            raise ValueError(f"xy must be two finite numbers, got {xy.tolist()}")
        if not max_distance >= 0.0:
            raise ValueError(f"max_distance must be at least 0 m, got {max_distance}")
        cells = np.argwhere(self.free if component is None else self.components == component)
        if len(cells) == 0:
            return None
        distance = np.linalg.norm(self.centre(cells) - xy, axis=-1)
        best = int(np.argmin(distance))
        return (int(cells[best, 0]), int(cells[best, 1])) if distance[best] <= max_distance else None


def smallest_cell_size(radius: float, margin: float) -> float:
    """Return 2 * sqrt(2) * radius + margin in m.

    A follower and a leader that turns away are closest at `cell_size / sqrt(2)`, which is then at least
    `2 * radius + margin / sqrt(2)`.
    """
    return 2.0 * math.sqrt(2.0) * radius + margin


def build_grid(
    occupancy_map: OccupancyMap,
    radius: float,
    margin: float = 0.05,
    cell_size: float | None = None,
    unknown_is_free: bool = False,
) -> NavGrid:
    """Lay the grid that a disc-shaped robot can drive over a map.

    A cell is free if its centre, and an edge exists if the whole segment between two centres, is at least
    `radius + margin / 2` away from every obstacle. Everything outside the image is an obstacle. The offset of
    the grid is the one, of all whole lattice steps, with the largest connected component, then the most
    edges, then the smallest shift up and to the right. Outer rows and columns without free cells are dropped.

    Args:
        occupancy_map: the map; the grid is aligned with its pixels, also where the map is rotated.
        radius: radius of the robot, m.
        margin: room for tracking and localisation error, m: between two robots, and half of it to walls.
        cell_size: distance between centres, m; by default the smallest safe one, rounded up to the lattice.
        unknown_is_free: drive over unknown pixels instead of treating them as obstacles.

    Raises:
        MapError: if `cell_size` is too small or no multiple of a fraction of the resolution, if `radius` or
            `margin` is out of range, or if no cell is free; the message says what would fit.
    """
    if not (math.isfinite(radius) and radius > 0.0):
        raise MapError(f"radius must be a positive number of metres, got {radius}")
    if not (math.isfinite(margin) and margin >= 0.0):
        raise MapError(f"margin must be at least 0 m, got {margin}")
    division, steps = _lattice(occupancy_map, radius, margin, cell_size)
    obstacle = occupancy_map.occupied if unknown_is_free else occupancy_map.occupied | occupancy_map.unknown
    step = occupancy_map.resolution / division
    needed = radius + margin / 2.0
    clear, widest = clear_points(obstacle, occupancy_map.resolution, division, needed)
    if not clear.any():
        fits = f"a radius up to {widest - margin / 2.0:.3f} m" if widest > margin / 2.0 else "no radius"
        raise MapError(
            f"no cell is free for radius {radius} m and margin {margin} m: that needs {needed:.3f} m to the "
            f"nearest obstacle and the widest place of the map has {widest:.3f} m; {fits} would fit"
        )
    right, up = _clear_run(clear, steps, axis=1), _clear_run(clear, steps, axis=0)
    sizes, edges = _score_offsets(clear, right, up, steps)
    # lexsort is stable and ascending: largest component, then most edges, then the first offset.
    bottom, left = divmod(int(np.lexsort((-edges.ravel(), -sizes.ravel()))[0]), steps)
    free = clear[bottom::steps, left::steps]
    moves = np.zeros((*free.shape, 5), dtype=bool)
    moves[..., 0] = free
    moves[..., 4], moves[:, 1:, 3] = _pair(right[bottom::steps, left::steps], axis=1)
    moves[..., 1], moves[1:, :, 2] = _pair(up[bottom::steps, left::steps], axis=0)
    rows, columns = np.flatnonzero(free.any(axis=1)), np.flatnonzero(free.any(axis=0))
    kept = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    top_left = np.array([left + columns[0] * steps, bottom + rows[-1] * steps]) * step
    x, y = rotate(top_left, occupancy_map.origin[2]) + occupancy_map.origin[:2]
    return NavGrid(
        free[kept][::-1],
        moves[kept][::-1],
        steps * step,
        (float(x), float(y), occupancy_map.origin[2]),
        occupancy_map.frame_id,
    )


def clear_points(
    obstacle: np.ndarray, resolution: float, division: int, needed: float
) -> tuple[np.ndarray, float]:
    """Return which lattice points are at least ``needed`` m away from every obstacle, and the largest clearance.

    Works band by band: what is further away from a band than ``needed`` decides nothing in it.

    Args:
        obstacle: bool[H, W], pixels as closed squares; everything outside the image is an obstacle too.
        resolution: edge of a pixel, m.
        division: lattice steps per pixel, k.
        needed: clearance, m.

    Returns:
        bool[H * k + 1, W * k + 1], and the largest clearance in m, exact if it is below ``needed``.
    """
    height, width = obstacle.shape
    clear = np.empty((height * division + 1, width * division + 1), dtype=bool)
    halo = math.ceil(needed / resolution) + 1
    band = max(1, BAND // (width * division * division + 1))
    widest = 0.0
    for top in range(0, height, band):
        first, last = max(0, top - halo), min(height, top + band + halo)
        clearance = lattice_clearance(obstacle[first:last], resolution, division, first > 0, last < height)
        begin, end = (
            top * division,
            (height * division + 1 if top + band >= height else (top + band) * division),
        )
        part = clearance[begin - first * division : end - first * division]
        np.greater_equal(part, needed - ROUNDING, out=clear[begin:end])
        widest = max(widest, float(part.max()))
    return clear, widest


def lattice_clearance(
    obstacle: np.ndarray,
    resolution: float,
    division: int = 1,
    more_below: bool = False,
    more_above: bool = False,
) -> np.ndarray:
    """Return the exact distance in m from every lattice point to the nearest obstacle.

    Args:
        obstacle: bool[H, W], pixels as closed squares; everything outside the image is an obstacle too.
        resolution: edge of a pixel, m.
        division: lattice steps per pixel, k.
        more_below: whether the image is a part, below whose row 0 there is more that decides nothing.
        more_above: the same for the last row.

    Returns:
        float64[H * k + 1, W * k + 1]; point (i, j) lies at (j, i) * resolution / k from the image's lower
        left corner.
    """
    height, width = obstacle.shape
    clear = np.zeros((height * division + 1, width * division + 1), dtype=bool)
    clear[0, 1:-1], clear[-1, 1:-1] = more_below, more_above
    fine = np.repeat(np.repeat(~obstacle, division, axis=0), division, axis=1)
    # A lattice point is clear of the closed squares if all four lattice squares around it are.
    clear[1:-1, 1:-1] = fine[:-1, :-1] & fine[1:, :-1] & fine[:-1, 1:] & fine[1:, 1:]
    return np.sqrt(squared_distances(clear).astype(float)) * (resolution / division)


def _lattice(
    occupancy_map: OccupancyMap, radius: float, margin: float, cell_size: float | None
) -> tuple[int, int]:
    """Return lattice steps per pixel and lattice steps per cell."""
    smallest, resolution = smallest_cell_size(radius, margin), occupancy_map.resolution
    pixels = occupancy_map.occupied.size
    divisions = [k for k in range(1, LARGEST_DIVISION + 1) if k == 1 or pixels * k * k <= LARGEST_LATTICE]
    if cell_size is None:
        division = next((k for k in divisions if resolution / k <= smallest / STEPS_PER_CELL), divisions[-1])
        return division, max(1, math.ceil(smallest * division / resolution - 1e-6))
    if not cell_size >= smallest * (1.0 - 1e-6) or not math.isfinite(cell_size):
        raise MapError(
            f"cell_size {cell_size} m is too small: radius {radius} m and margin {margin} m need at least "
            f"2 * sqrt(2) * {radius} + {margin} = {smallest:.4f} m"
        )
    for division in divisions:
        steps = round(cell_size * division / resolution)
        if abs(steps * resolution / division - cell_size) <= 1e-4 * cell_size:
            return division, steps
    step = resolution / divisions[-1]
    raise MapError(
        f"cell_size {cell_size} m is no multiple of a pixel ({resolution} m) divided by 1..{divisions[-1]}; "
        f"use {math.ceil(max(cell_size, smallest) / step) * step:.4f} m"
    )


def _within(moves: np.ndarray, free: np.ndarray) -> bool:
    """Return whether no move leads into a blocked cell or out of the grid."""
    inside = free[1:] & free[:-1]
    if np.any(moves[0, :, 1]) or np.any(moves[-1, :, 2]) or np.any(moves[1:, :, 1] > inside):
        return False
    if np.any(moves[:-1, :, 2] > inside):
        return False
    inside = free[:, 1:] & free[:, :-1]
    outside = np.any(moves[:, 0, 3]) or np.any(moves[:, -1, 4])
    return not (outside or np.any(moves[:, 1:, 3] > inside) or np.any(moves[:, :-1, 4] > inside))


def _neighbour_moves(free: np.ndarray) -> np.ndarray:
    """Return bool[R, C, 5], moves between all neighbouring free cells."""
    moves = np.zeros((*free.shape, 5), dtype=bool)
    moves[..., 0] = free
    moves[1:, :, 1] = moves[:-1, :, 2] = free[1:] & free[:-1]
    moves[:, 1:, 3] = moves[:, :-1, 4] = free[:, 1:] & free[:, :-1]
    return moves


def _pair(edges: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return edges towards higher indices, and the same edges seen from their far end."""
    return edges, edges[:, :-1] if axis == 1 else edges[:-1]


def _clear_run(clear: np.ndarray, steps: int, axis: int) -> np.ndarray:
    """Return whether a point and the next `steps` points along an axis are all clear, in its shape."""
    runs = np.zeros(clear.shape, dtype=bool)
    _find_runs(clear if axis == 1 else clear.T, steps, runs if axis == 1 else runs.T)
    return runs


@numba.njit(cache=True)
def _find_runs(clear: np.ndarray, steps: int, runs: np.ndarray) -> None:
    """Set runs[i, j] where clear[i, j : j + steps + 1] lies within the array and is all True."""
    lines, length = clear.shape
    ahead = np.zeros(lines, dtype=np.int32)  # clear points from here on, in each line
    for j in range(length - 1, -1, -1):
        for i in range(lines):
            ahead[i] = ahead[i] + 1 if clear[i, j] else 0
            runs[i, j] = ahead[i] > steps


@numba.njit(cache=True)
def _score_offsets(
    clear: np.ndarray, right: np.ndarray, up: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return int64[steps, steps] largest component and number of edges for every offset of the grid."""
    height, width = clear.shape
    seen = np.zeros((height, width), dtype=np.bool_)
    stack = np.empty(height * width // max(1, steps * steps) + height + width + 1, dtype=np.int32)
    sizes = np.zeros((steps, steps), dtype=np.int64)
    edges = np.zeros((steps, steps), dtype=np.int64)
    for i in range(height):
        for j in range(width):
            if not clear[i, j]:
                continue
            a, b = i % steps, j % steps
            edges[a, b] += int(right[i, j]) + int(up[i, j])
            if seen[i, j]:
                continue
            seen[i, j] = True
            stack[0] = i * width + j
            depth, size = 1, 0
            while depth > 0:
                depth -= 1
                y, x = stack[depth] // width, stack[depth] % width
                size += 1
                for move in range(4):
                    if move == 0:
                        ok, y2, x2 = right[y, x], y, x + steps
                    elif move == 1:
                        ok, y2, x2 = up[y, x], y + steps, x
                    elif move == 2:
                        ok, y2, x2 = x >= steps and right[y, x - steps], y, x - steps
                    else:
                        ok, y2, x2 = y >= steps and up[y - steps, x], y - steps, x
                    if ok and not seen[y2, x2]:
                        seen[y2, x2] = True
                        stack[depth] = y2 * width + x2
                        depth += 1
            sizes[a, b] = max(sizes[a, b], size)
    return sizes, edges


@numba.njit(cache=True)
def _label(moves: np.ndarray) -> tuple[np.ndarray, int]:
    """Return int32[R, C] component numbers in reading order (-1 blocked) and their count."""
    rows, columns = moves.shape[0], moves.shape[1]
    labels = np.full((rows, columns), -1, dtype=np.int32)
    stack = np.empty(rows * columns, dtype=np.int32)
    count = 0
    for r in range(rows):
        for c in range(columns):
            if not moves[r, c, 0] or labels[r, c] >= 0:
                continue
            labels[r, c] = count
            stack[0] = r * columns + c
            depth = 1
            while depth > 0:
                depth -= 1
                y, x = stack[depth] // columns, stack[depth] % columns
                for move in range(1, 5):
                    y2, x2 = y + MOVE_OFFSETS[move, 0], x + MOVE_OFFSETS[move, 1]
                    if moves[y, x, move] and labels[y2, x2] < 0:
                        labels[y2, x2] = count
                        stack[depth] = y2 * columns + x2
                        depth += 1
            count += 1
    return labels, count


Cell = tuple[int, int]

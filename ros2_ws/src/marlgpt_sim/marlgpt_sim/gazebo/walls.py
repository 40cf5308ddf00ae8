"""The occupied pixels of a map as few rectangles: fewer shapes, a faster simulation."""

from __future__ import annotations

import numpy as np


def merge_pixels(occupied: np.ndarray) -> np.ndarray:
    """Cover the occupied pixels exactly with rectangles that do not overlap.

    Runs of pixels in a line that repeat in the next lines become one rectangle. Both directions of lines are
    tried and the fewer rectangles returned: a greedy cover, not the smallest possible.

    Args:
        occupied: bool[H, W].

    Returns:
        int64[n, 4]: first row, first column, one past the last row and one past the last column of each.
    """
    occupied = np.asarray(occupied, bool)
    by_rows = _merge_runs(occupied)
    by_columns = _merge_runs(occupied.T)[:, [1, 0, 3, 2]]
    return by_rows if len(by_rows) <= len(by_columns) else by_columns


def _merge_runs(occupied: np.ndarray) -> np.ndarray:
    """The cover made of runs in rows."""
    padded = np.pad(occupied, 1).astype(np.int8)
    change = np.diff(padded[1:-1], axis=1)
    done: list[tuple[int, int, int, int]] = []
    open_: dict[tuple[int, int], int] = {}  # first and past-the-last column -> first row
    for row in range(len(occupied)):
        starts, ends = np.flatnonzero(change[row] == 1), np.flatnonzero(change[row] == -1)
        runs = set(zip(starts.tolist(), ends.tolist(), strict=True))
        for run in [run for run in open_ if run not in runs]:
            done.append((open_.pop(run), run[0], row, run[1]))
        for run in runs:
            open_.setdefault(run, row)
    done += [(first, run[0], len(occupied), run[1]) for run, first in open_.items()]
    return np.array(sorted(done), np.int64).reshape(-1, 4)

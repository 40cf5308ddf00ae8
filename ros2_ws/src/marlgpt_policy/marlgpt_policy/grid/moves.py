"""The moves of a robot on the grid, as numbers: wait, up, down, left, right."""

from __future__ import annotations

import numpy as np

MOVE_OFFSETS = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], dtype=np.int64)
"""Row and column displacement of the moves wait, up, down, left, right."""
HISTORY = 5
"""Moves of each robot that are remembered."""
NO_ACTION = -1
"""History entry of a step that has not happened yet."""

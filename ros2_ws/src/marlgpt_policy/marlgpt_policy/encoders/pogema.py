"""POGEMA observations as token values, batched over robots (used for training and on robots alike)."""

from __future__ import annotations

import numba
import numpy as np

from marlgpt_policy.encoders.token_layout import (
    AGENT_VALUES,
    BLOCKED,
    CLIP,
    FAR,
    MAX_ACTIONS,
    POGEMA_AGENTS,
    POGEMA_LAYOUT,
    WINDOW,
    WINDOW_RADIUS,
)
from marlgpt_policy.grid.cost_to_go import UNREACHABLE
from marlgpt_policy.grid.moves import HISTORY, NO_ACTION
from marlgpt_policy.grid.moves import MOVE_OFFSETS as MOVES

_NEIGHBOURS = WINDOW * WINDOW


def _ring_order() -> np.ndarray:
    """Window offsets, nearest (Manhattan distance) first, ties by row then column; int64[121, 2]."""
    span = range(-WINDOW_RADIUS, WINDOW_RADIUS + 1)
    offsets = [(abs(r) + abs(c), r, c) for r in span for c in span]
    return np.array([(r, c) for _, r, c in sorted(offsets)], dtype=np.int64)


_ORDER = _ring_order()


@numba.njit(cache=True, nogil=True)
def _encode(
    which, fields, field_of, cells, goals, history, moves, occupant, environment, values, valid, mask
):
    rows, cols = moves.shape[0], moves.shape[1]
    for out in range(which.shape[0]):
        i = which[out]
        r, c = cells[i, 0], cells[i, 1]
        field = fields[field_of[i]]
        here = field[r, c]
        k = 0
        for dr in range(-WINDOW_RADIUS, WINDOW_RADIUS + 1):
            for dc in range(-WINDOW_RADIUS, WINDOW_RADIUS + 1):
                rr, cc = r + dr, c + dc
                value = BLOCKED
                if 0 <= rr < rows and 0 <= cc < cols and field[rr, cc] < UNREACHABLE and here < UNREACHABLE:
                    delta = field[rr, cc] - here
                    value = FAR if delta > CLIP or delta < -CLIP else delta / CLIP
                values[out, k] = value
                valid[out, k] = True
                k += 1
        seen = 0
        for n in range(_NEIGHBOURS):
            rr, cc = r + _ORDER[n, 0], c + _ORDER[n, 1]
            if rr < 0 or rr >= rows or cc < 0 or cc >= cols:
                continue
            j = occupant[rr, cc]
            if j < 0:
                continue
            values[out, k] = _ORDER[n, 0] / WINDOW_RADIUS
            values[out, k + 1] = _ORDER[n, 1] / WINDOW_RADIUS
            values[out, k + 2] = min(max(goals[j, 0] - r, -CLIP), CLIP) / CLIP
            values[out, k + 3] = min(max(goals[j, 1] - c, -CLIP), CLIP) / CLIP
            for m in range(4):
                valid[out, k + m] = True
            for t in range(HISTORY):
                action = history[j, t]
                if action >= 0:
                    values[out, k + 4 + 2 * t] = MOVES[action, 0]
                    values[out, k + 5 + 2 * t] = MOVES[action, 1]
                    valid[out, k + 4 + 2 * t] = True
                    valid[out, k + 5 + 2 * t] = True
            theirs = fields[field_of[j]]
            for m in range(1, 5):
                closer = 0.0
                if moves[rr, cc, m] and theirs[rr + MOVES[m, 0], cc + MOVES[m, 1]] < theirs[rr, cc]:
                    closer = 1.0
                values[out, k + 3 + 2 * HISTORY + m] = closer
                valid[out, k + 3 + 2 * HISTORY + m] = True
            k += AGENT_VALUES
            seen += 1
            if seen == POGEMA_AGENTS:
                break
        last = values.shape[1] - 1
        values[out, last] = environment
        valid[out, last] = True
        for m in range(5):
            mask[out, m] = moves[r, c, m]


def encode(
    fields: np.ndarray,
    cells: np.ndarray,
    goals: np.ndarray,
    history: np.ndarray,
    moves: np.ndarray,
    which: np.ndarray | None = None,
    field_of: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Encode what each robot sees.

    Args:
        fields: int32[f, R, C] cost-to-go (cells) towards goals, ``UNREACHABLE`` where there is no way.
        cells: int[n, 2] distinct cells (row, column) of all robots.
        goals: int[n, 2] goal cells.
        history: int8[n, 5] last executed moves, newest first, -1 where there was none.
        moves: bool[R, C, 5] edges of the grid (wait, up, down, left, right).
        which: int[m] robots to encode; all by default.
        field_of: int[n] index into ``fields`` of each robot's field; 0..n-1 by default.

    Returns:
        values float32[m, 356], valid bool[m, 356], action_mask bool[m, 20] for ``POGEMA_LAYOUT``.

    Raises:
        ValueError: A robot stands outside the grid, an index or move is out of range, or shapes disagree.
    """
    cells = np.ascontiguousarray(cells, dtype=np.int64)
    goals = np.ascontiguousarray(goals, dtype=np.int64)
    n = len(cells)
    rows, cols = moves.shape[:2]
    if cells.shape != (n, 2) or goals.shape != (n, 2) or history.shape != (n, HISTORY):
        raise ValueError(
            f"cells {cells.shape}, goals {goals.shape}, history {history.shape}: expected ({n}, 2) twice and "
            f"({n}, {HISTORY})"
        )
    if fields.ndim != 3 or fields.shape[1:] != (rows, cols) or moves.shape != (rows, cols, 5):
        raise ValueError(f"fields {fields.shape} do not match moves {moves.shape}")
    outside = (cells < 0).any(axis=1) | (cells >= (rows, cols)).any(axis=1)
    if outside.any():
        i = int(np.flatnonzero(outside)[0])
        raise ValueError(f"robot {i} is at cell {tuple(cells[i])}, outside the {rows} x {cols} grid")
    which = np.arange(n) if which is None else np.ascontiguousarray(which, dtype=np.int64)
    field_of = np.arange(n) if field_of is None else np.ascontiguousarray(field_of, dtype=np.int64)
    if n and (len(field_of) != n or field_of.min() < 0 or field_of.max() >= len(fields)):
        raise ValueError(f"field_of must hold {n} indices into the {len(fields)} fields")
    # Compiled code does not check indices.
    if len(which) and (which.min() < 0 or which.max() >= n):
        raise ValueError(f"which must hold indices of the {n} robots, got {which.tolist()}")
    if n and (history.min() < NO_ACTION or history.max() >= len(MOVES)):
        raise ValueError(f"history must hold moves 0..{len(MOVES) - 1} or {NO_ACTION}")
    values = np.zeros((len(which), len(POGEMA_LAYOUT)), dtype=np.float32)
    valid = np.zeros(values.shape, dtype=np.bool_)
    mask = np.zeros((len(which), MAX_ACTIONS), dtype=np.bool_)
    occupant = np.full((rows, cols), -1, dtype=np.int32)
    occupant[cells[:, 0], cells[:, 1]] = np.arange(n)
    environment = np.float32(POGEMA_LAYOUT.environment_value)
    _encode(
        which,
        fields,
        field_of,
        cells,
        goals,
        np.ascontiguousarray(history, dtype=np.int8),
        np.ascontiguousarray(moves, dtype=np.bool_),
        occupant,
        environment,
        values,
        valid,
        mask,
    )
    return values, valid, mask

"""The observation tokens of MAPF-GPT as packed values of the layout ``pogema-1``.

256 tokens (Andreychuk et al. 2024, arXiv 2409.00134, and the public sources at commit f771c3b): 121 of the cost-to-go
window, 13 agents x 10 (relative row and column, relative goal row and column, the last five moves oldest first, which
of the four moves bring it closer), 5 of padding.

The same world gives the same values by our own encoder, with two exceptions. MAPF-GPT orders agents by path length, we
by Manhattan distance: the decoder sorts them anew, but where more than 13 are in sight the two may keep different ones.
And it leaves out agents that no path leads to.
"""

from __future__ import annotations

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
from marlgpt_policy.grid.moves import HISTORY, MOVE_OFFSETS

from marlgpt_training.store.sample_shards import INVALID

SCALE = 20
"""Packed values are multiples of 1/20 (see data.compress)."""
TOKENS = 256
CELLS = WINDOW * WINDOW
AGENT_TOKENS = 5 + HISTORY

# The vocabulary: -20..20, blocked, below and above that range, six moves, sixteen sets of greedy moves, padding.
BLOCKED_TOKEN, BELOW, ABOVE = 41, 42, 43
NO_MOVE = 44
"""No move yet; wait, up, down, left and right follow."""
GREEDY = 50
"""No move brings the agent closer; bits 8, 4, 2, 1 are up, down, left, right."""
PAD = 66


class DataFormatError(ValueError):
    """A file is not in a published format that this version knows."""


def _table(pairs: dict[int, int]) -> np.ndarray:
    """int16[128] token -> packed value, -32768 where the token may not stand."""
    table = np.full(128, np.iinfo(np.int16).min, dtype=np.int16)
    table[list(pairs)] = list(pairs.values())
    return table


_NUMBERS = {CLIP + v: v for v in range(-CLIP, CLIP + 1)}
_MARKS = {BLOCKED_TOKEN: int(BLOCKED * SCALE), BELOW: int(FAR * SCALE), ABOVE: int(FAR * SCALE)}
_WINDOW = _table(_NUMBERS | _MARKS)
_PLACE = _table({t: v * SCALE // WINDOW_RADIUS for t, v in _NUMBERS.items() if abs(v) <= WINDOW_RADIUS})
_GOAL = _table(_NUMBERS)
_MOVED = [
    _table({NO_MOVE: INVALID} | {NO_MOVE + 1 + m: int(MOVE_OFFSETS[m, axis]) * SCALE for m in range(5)})
    for axis in (0, 1)
]
_CLOSER = [_table({GREEDY + bits: (bits >> (3 - way) & 1) * SCALE for bits in range(16)}) for way in range(4)]


def decode_tokens(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """MAPF-GPT's observations as packed values of ``POGEMA_LAYOUT``.

    Args:
        tokens: int[n, 256].

    Returns:
        packed int8[n, 356], masks bool[n, 20] (moves onto cells that the window shows as free).

    Raises:
        DataFormatError: A token where it may not stand; names row, place and token.
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 2 or tokens.shape[1] != TOKENS:
        raise DataFormatError(f"observations of shape {tokens.shape}, expected (n, {TOKENS}) tokens")
    outside = (tokens < 0) | (tokens > PAD)
    if outside.any():
        _refuse(tokens, outside, 0, f"tokens are 0..{PAD}")
    packed = np.full((len(tokens), len(POGEMA_LAYOUT)), INVALID, dtype=np.int8)
    packed[:, :CELLS] = _look_up(_WINDOW, tokens, slice(0, CELLS), "a cost-to-go")
    packed[:, -1] = round(POGEMA_LAYOUT.environment_value * SCALE)
    centre = CELLS // 2
    _demand(tokens, tokens[:, [centre]] == CLIP, centre, "the cost-to-go of the own cell, 0")
    last = CELLS + POGEMA_AGENTS * AGENT_TOKENS
    _demand(tokens, tokens[:, last:] == PAD, last, "padding")
    agents = _agents(tokens)
    packed[:, CELLS:-1] = agents.reshape(len(tokens), POGEMA_AGENTS * AGENT_VALUES)
    masks = np.zeros((len(tokens), MAX_ACTIONS), dtype=np.bool_)
    for move, (row, col) in enumerate(MOVE_OFFSETS):
        masks[:, move] = tokens[:, centre + WINDOW * row + col] != BLOCKED_TOKEN
    return packed, masks


def _agents(tokens: np.ndarray) -> np.ndarray:
    """int8[n, 13, 18] agents, the observer first, then by Manhattan distance, row and column."""
    first, last = CELLS, CELLS + POGEMA_AGENTS * AGENT_TOKENS
    blocks = tokens[:, first:last].reshape(len(tokens), POGEMA_AGENTS, AGENT_TOKENS)
    absent = (blocks == PAD).all(axis=2)
    # Padding reads as an agent here and now that has done nothing; what it decodes to is thrown away.
    filled = np.where(absent[:, :, None], [CLIP] * 4 + [NO_MOVE] * HISTORY + [GREEDY], blocks)
    filled = np.concatenate(
        [tokens[:, :first], filled.reshape(len(tokens), POGEMA_AGENTS * AGENT_TOKENS)], axis=1
    )
    found = np.empty((len(tokens), POGEMA_AGENTS, AGENT_VALUES), dtype=np.int8)

    def put(value: int, table: np.ndarray, place: int, what: str) -> None:
        found[:, :, value] = _look_up(table, filled, slice(first + place, last, AGENT_TOKENS), what)

    for axis in (0, 1):
        put(axis, _PLACE, axis, f"a position within {WINDOW_RADIUS} cells")
        put(2 + axis, _GOAL, 2 + axis, f"a goal within {CLIP} cells")
        for ago in range(HISTORY):  # ours are newest first
            put(4 + 2 * ago + axis, _MOVED[axis], 4 + HISTORY - 1 - ago, "a move")
    for way in range(4):
        put(4 + 2 * HISTORY + way, _CLOSER[way], AGENT_TOKENS - 1, "a set of moves")
    own = filled[:, first : first + 2] == CLIP
    _demand(tokens, own & ~absent[:, :1], first, "the observer at (0, 0)")
    row, col = (found[:, :, axis].astype(np.int64) * WINDOW_RADIUS // SCALE for axis in (0, 1))
    order = (np.abs(row) + np.abs(col)) * CELLS + row * WINDOW + col
    order = np.argsort(np.where(absent, np.iinfo(np.int64).max, order), axis=1, kind="stable")
    found[absent] = INVALID
    return np.take_along_axis(found, order[:, :, None], axis=1)


def _look_up(table: np.ndarray, tokens: np.ndarray, where: slice, what: str) -> np.ndarray:
    values = table[tokens[:, where]]
    wrong = values == np.iinfo(np.int16).min
    if wrong.any():
        _refuse(tokens, wrong, where.start, f"expected {what}", where.step or 1)
    return values.astype(np.int8)


def _demand(tokens: np.ndarray, holds: np.ndarray, first: int, what: str) -> None:
    if not holds.all():
        _refuse(tokens, ~holds, first, f"expected {what}")


def _refuse(tokens: np.ndarray, wrong: np.ndarray, first: int, why: str, stride: int = 1) -> None:
    row, column = (int(k) for k in np.argwhere(wrong)[0])
    place = first + column * stride
    raise DataFormatError(f"observation {row}: token {tokens[row, place]} at place {place}; {why}")

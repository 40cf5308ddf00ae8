"""Layouts and frame encoders by name, e.g. for reading stores and policy files of any game."""

from __future__ import annotations

import importlib

from marlgpt_policy.encoders.frames import FrameEncoder
from marlgpt_policy.layout import POGEMA_LAYOUT, LayoutError, TokenLayout

GAMES = {
    "smax": "marlgpt_policy.encoders.smax",
    "smacv2": "marlgpt_policy.encoders.smacv2",
    "grf": "marlgpt_policy.encoders.grf",
}
"""First part of a layout's name -> module whose ``encoder_named(name)`` gives its encoder (None: unknown)."""


def frame_encoder(name: str) -> FrameEncoder:
    """The frame encoder whose layout is called ``name``.

    Raises:
        LayoutError: No game has such a layout.
    """
    module = GAMES.get(name.split("-")[0])
    found = importlib.import_module(module).encoder_named(name) if module else None
    if found is None:
        known = ", ".join([POGEMA_LAYOUT.name, *(f"{game}-..." for game in GAMES)])
        raise LayoutError(f"unknown token layout '{name}'; this version knows {known}")
    return found


def layout_named(name: str) -> TokenLayout:
    """The token layout called ``name``; ``LayoutError`` if no game has it."""
    return POGEMA_LAYOUT if name == POGEMA_LAYOUT.name else frame_encoder(name).layout

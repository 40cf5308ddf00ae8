"""Layouts and frame encoders by name, e.g. for reading stores and policy files of any game."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable
from importlib.metadata import entry_points

from marlgpt_policy.encoders.frames import FrameEncoder
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT, LayoutError, TokenLayout


def _module(name: str):
    return importlib.import_module(f"marlgpt_policy.encoders.{name}")


def _smax(scenario: str) -> FrameEncoder:
    allies, enemies = re.fullmatch(r"(\d+)v(\d+)", scenario).groups()
    return _module("smax").smax_encoder(int(allies), int(enemies))


def _smacv2(scenario: str) -> FrameEncoder:
    race, allies, enemies = re.fullmatch(r"([a-z]+)[-_](\d+)v(\d+)", scenario).groups()
    return _module("smacv2").smacv2_encoder(race, int(allies), int(enemies))


def _grf(_: str) -> FrameEncoder:
    return _module("grf").ENCODER


GAMES: dict[str, Callable[[str], FrameEncoder]] = {"smax": _smax, "smacv2": _smacv2, "grf": _grf}
"""Game -> encoder of a scenario, named as in the environment or as in the layout's name. A layout is called
GAME-SCENARIO-VERSION, or GAME-VERSION where all scenarios share it. A new game adds a line here, or its package
names such a function as an entry point in :data:`GROUP` (docs/new-environment.md)."""
GROUP = "marlgpt.layouts"
"""Group of the entry points by which other packages add games."""


@functools.cache
def encoders(game: str) -> Callable[[str], FrameEncoder]:
    """The function in :data:`GAMES` or in an installed package that makes the encoders of ``game``.

    Raises:
        ValueError: Unknown game.
    """
    if game in GAMES:
        return GAMES[game]
    for entry in entry_points(group=GROUP, name=game):
        return entry.load()
    known = ", ".join(["pogema", *GAMES, *sorted(entry_points(group=GROUP).names)])
    raise ValueError(f"unknown game '{game}'; choose one of {known}")


def frame_encoder(name: str) -> FrameEncoder:
    """The frame encoder whose layout is called ``name``.

    Raises:
        LayoutError: No game has such a layout.
    """
    game, _, rest = name.partition("-")
    try:
        found = encoders(game)(rest.rpartition("-")[0])
    except (AttributeError, ValueError):
        found = None
    if found is None or found.layout.name != name:
        games = [*GAMES, *sorted(entry_points(group=GROUP).names)]
        known = ", ".join([POGEMA_LAYOUT.name, *(f"{game}-..." for game in games)])
        raise LayoutError(f"unknown token layout '{name}'; this version knows {known}")
    return found


def layout_named(name: str) -> TokenLayout:
    """The token layout called ``name``; ``LayoutError`` if no game has it."""
    return POGEMA_LAYOUT if name == POGEMA_LAYOUT.name else frame_encoder(name).layout


def layout_of(game: str) -> TokenLayout:
    """The token layout of GAME/SCENARIO, without starting the game; of POGEMA for ``pogema``.

    Raises:
        ValueError: Unknown game, or a scenario that has no layout.
    """
    name, _, scenario = game.partition("/")
    if name == "pogema":
        return POGEMA_LAYOUT
    find = encoders(name)
    try:
        return find(scenario).layout
    except AttributeError:
        raise ValueError(f"unknown scenario '{scenario}' of {name}") from None

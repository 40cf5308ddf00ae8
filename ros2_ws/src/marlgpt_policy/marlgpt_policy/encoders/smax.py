"""Tokens of SMAX, JaxMARL's StarCraft-like micromanagement: the observer, its allies, its enemies, in that order.

Actions mean the same for every number of units: 0 north, 1 east, 2 south, 3 west, 4 stop, 5 + k attack enemy k.
"""

from __future__ import annotations

import functools

from marlgpt_policy.encoders import starcraft
from marlgpt_policy.encoders.frames import MAX_TOKENS, FrameEncoder, Slot
from marlgpt_policy.encoders.token_layout import ENVIRONMENT_IDS, LayoutError

MOVES = 5
"""North, east, south, west and stop; attacks follow."""
STOP = 4
MOST_UNITS = 10
"""Largest side: two of them fill the 20 agent slots of the published model."""
FRAMES = 4
"""Frames of history where they fit: two seconds of the game."""

MOVED_X = starcraft.LAST_ACTION
MOVED_Y = starcraft.LAST_ACTION + 1
SHOT = starcraft.LAST_ACTION + 2
"""An ally's last action was an attack (1) or not (0)."""
AIMS_AT_ME = 40
"""An enemy's last action was an attack on the observer (1) or not (0)."""
FOCUS = 41
"""Tenths of an ally: how many allies in sight, the observer included, attacked this enemy in the last step."""

UNIT_TYPES = tuple(starcraft.UNIT_TYPE + k for k in range(6))
"""Marine, marauder, stalker, zealot, zergling, hydralisk."""
OWN = (starcraft.HEALTH, starcraft.POSITION_X, starcraft.POSITION_Y, starcraft.COOLDOWN, *UNIT_TYPES)
_SEEN = (starcraft.HEALTH, starcraft.RELATIVE_X, starcraft.RELATIVE_Y, MOVED_X, MOVED_Y)
ALLY = (*_SEEN, SHOT, starcraft.COOLDOWN, *UNIT_TYPES)
ENEMY = (*_SEEN, AIMS_AT_ME, starcraft.COOLDOWN, *UNIT_TYPES, FOCUS)
"""Attributes of a unit's features, in their order. Health and cooldown are shares of the unit type's full values, the
own position a share of the map, relative positions shares of the observer's sight range, movements unit vectors."""


@functools.cache
def smax_encoder(allies: int, enemies: int) -> FrameEncoder:
    """Layout and encoder for ``allies`` against ``enemies``, one entity per unit.

    Up to 4 frames; as many as fit into 700 values where there are many units (5v5 and 5v6 4, 10v10 2).

    Raises:
        LayoutError: A side has no unit or more than 10.
    """
    if not (1 <= allies <= MOST_UNITS and 1 <= enemies <= MOST_UNITS):
        raise LayoutError(f"smax {allies}v{enemies}: each side needs 1 to {MOST_UNITS} units")
    units = [(OWN, 1, 0)]
    units += [(ALLY, 1, agent) for agent in range(1, allies)]
    units += [(ENEMY, 2, agent) for agent in range(enemies)]
    slots = [
        Slot(attr, team, agent, entity) for entity, (attrs, team, agent) in enumerate(units) for attr in attrs
    ]
    frames = min(FRAMES, (MAX_TOKENS - 1) // len(slots))
    return FrameEncoder(f"smax-{allies}v{enemies}-1", ENVIRONMENT_IDS["smac"], MOVES + enemies, slots, frames)

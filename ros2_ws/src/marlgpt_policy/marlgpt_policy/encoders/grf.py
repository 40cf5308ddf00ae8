"""Google Research Football's ``simple115v2`` as tokens: 115 values in each of 6 frames, newest first.

The values are the game's own, in another order: those of one player stand together, so that a player is one token in
the ``entity`` reading. :data:`ORDER` is that permutation. Players keep the game's numbering (the own keeper is 0);
which of them the observer controls is one of the values.
"""

from __future__ import annotations

import numpy as np

from marlgpt_policy.encoders.frames import FrameEncoder, Slot
from marlgpt_policy.encoders.token_layout import ENVIRONMENT_IDS

PLAYERS = 11
"""Players of a team."""
FEATURES = 115
FRAMES = 6
ACTIONS = 19

# Attribute ids. POGEMA fills 0..127 and StarCraft 0..39, so these share ids with no StarCraft feature.
POSITION, DIRECTION, ACTIVE = (
    90,
    92,
    94,
)  # x and y, change of x and y per step, "the observer controls this player"
BALL, BALL_DIRECTION = 95, 98  # x, y, z
BALL_OWNER = 101  # nobody, own team, opponents
GAME_MODE = 104  # normal, kick-off, goal kick, free kick, corner, throw-in, penalty

# Where simple115v2 keeps what.
LEFT, LEFT_DIRECTION, RIGHT, RIGHT_DIRECTION = 0, 22, 44, 66
BALL_AT, BALL_DIRECTION_AT, OWNER_AT, ACTIVE_AT, MODE_AT = 88, 91, 94, 97, 108


def _table() -> tuple[np.ndarray, list[Slot]]:
    """Index into simple115v2 and meaning of each feature of a frame: own players, opponents, ball, game mode."""
    order, slots = [], []

    def add(index: int, attr: int, team: int, agent: int, entity: int) -> None:
        order.append(index)
        slots.append(Slot(attr, team, agent, entity))

    for team, place, direction in ((1, LEFT, LEFT_DIRECTION), (2, RIGHT, RIGHT_DIRECTION)):
        for player in range(PLAYERS):
            entity = (team - 1) * PLAYERS + player
            for axis in range(2):
                add(place + 2 * player + axis, POSITION + axis, team, player, entity)
            for axis in range(2):
                add(direction + 2 * player + axis, DIRECTION + axis, team, player, entity)
            if team == 1:
                add(ACTIVE_AT + player, ACTIVE, team, player, entity)
    ball, rest = 2 * PLAYERS, 2 * PLAYERS + 1
    for first, attr in ((BALL_AT, BALL), (BALL_DIRECTION_AT, BALL_DIRECTION), (OWNER_AT, BALL_OWNER)):
        for k in range(3):
            add(first + k, attr + k, 0, 0, ball)
    for k in range(7):
        add(MODE_AT + k, GAME_MODE + k, 0, 0, rest)
    return np.array(order), slots


ORDER, SLOTS = _table()
"""``frame = simple115v2[ORDER]``: int[115], the index in simple115v2 of each feature; and the features' meaning."""
ORDER.flags.writeable = False

ENCODER = FrameEncoder("grf-1", ENVIRONMENT_IDS["grf"], ACTIONS, SLOTS, FRAMES)


def present(own: int, opponents: int) -> np.ndarray:
    """Features of players who are on the field (and of ball and game mode).

    Args:
        own: Players of the own team.
        opponents: Players of the other team.

    Returns:
        bool[115]; simple115v2 fills the features of missing players with -1, which means nothing.
    """
    on_field = {0: PLAYERS, 1: own, 2: opponents}
    return np.array([slot.agent < on_field[slot.team] for slot in SLOTS])

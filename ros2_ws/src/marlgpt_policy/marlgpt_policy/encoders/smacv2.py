"""Tokens of SMACv2, StarCraft II micromanagement: the observer, its allies and its enemies, in that order.

An observation of the ``smacv2`` package is one vector: 4 bits of free moves, a block per enemy, a block per other
ally, then the own block. Here the free moves join the own block and the observer comes first, as in SMAX. Unit types
have one attribute each, the same ones as in SMAX where it has the unit, so that a marine is a marine in both games.

Actions: 0 nothing (the dead), 1 stop, 2 north, 3 south, 4 east, 5 west, 6 + k attack enemy k. For a medivac 6 + k heals
ally k, in the package's numbering of all allies, which its own observation leaves out; the package itself has it so.
"""

from __future__ import annotations

import functools

import numpy as np

from marlgpt_policy.encoders import starcraft
from marlgpt_policy.encoders.frames import MAX_TOKENS, FrameEncoder, Slot
from marlgpt_policy.encoders.token_layout import AGENTS, ENVIRONMENT_IDS, MAX_ACTIONS, TIMES, LayoutError

FIRST_TARGET = 6
"""Attack or heal actions start here."""
MOVES = 4
"""North, south, east, west."""

# SMAX numbers its six types; these are the others.
_MARINE, _MARAUDER, _STALKER, _ZEALOT, _ZERGLING, _HYDRALISK, _COLOSSUS, _MEDIVAC, _BANELING = range(
    starcraft.UNIT_TYPE, starcraft.UNIT_TYPE + 9
)
UNIT_TYPES = {
    "protoss": (_STALKER, _ZEALOT, _COLOSSUS),
    "terran": (_MARINE, _MARAUDER, _MEDIVAC),
    "zerg": (_ZERGLING, _HYDRALISK, _BANELING),
}
"""Attributes of a race's three type bits, in the package's order."""


class Smacv2Encoder(FrameEncoder):
    """Encoder of one race and one number of units a side.

    Attributes:
        race: protoss, terran or zerg.
        allies: Own units n.
        enemies: Enemy units m.
    """

    def __init__(self, race: str, allies: int, enemies: int) -> None:
        """Describe ``allies`` against ``enemies`` of one race; as many frames as fit, at most 10.

        Raises:
            LayoutError: Unknown race, a side without units, more than 20 allies, or more than 14 targets.
        """
        if race not in UNIT_TYPES:
            raise LayoutError(f"smacv2: unknown race '{race}'; choose {', '.join(UNIT_TYPES)}")
        # The package widens the actions for medivacs where a terran team has more allies than enemies.
        targets = max(allies, enemies) if race == "terran" else enemies
        if not (1 <= allies <= AGENTS and 1 <= enemies) or targets > MAX_ACTIONS - FIRST_TARGET:
            raise LayoutError(
                f"smacv2 {race} {allies}v{enemies}: needs 1 to {AGENTS} allies and 1 to {MAX_ACTIONS - FIRST_TARGET} "
                f"enemies, terran at most {MAX_ACTIONS - FIRST_TARGET} allies, for {MAX_ACTIONS} actions to suffice"
            )
        self.race, self.allies, self.enemies = race, allies, enemies
        full = (starcraft.HEALTH, starcraft.SHIELD) if race == "protoss" else (starcraft.HEALTH,)
        place = (starcraft.DISTANCE, starcraft.RELATIVE_X, starcraft.RELATIVE_Y)
        own = (*range(starcraft.CAN_MOVE, starcraft.CAN_MOVE + MOVES), *full)
        own += (starcraft.POSITION_X, starcraft.POSITION_Y, *UNIT_TYPES[race])
        other = (*place, *full, *UNIT_TYPES[race])
        units = [(own, 1, 0)]
        units += [((starcraft.VISIBLE, *other), 1, agent) for agent in range(1, allies)]
        units += [((starcraft.ATTACKABLE, *other), 2, agent) for agent in range(enemies)]
        slots = [Slot(attr, team, agent, e) for e, (attrs, team, agent) in enumerate(units) for attr in attrs]
        super().__init__(
            f"smacv2-{race}-{allies}v{enemies}-1",
            ENVIRONMENT_IDS["smac"],
            FIRST_TARGET + targets,
            slots,
            min(TIMES, (MAX_TOKENS - 1) // len(slots)),
        )
        self._unit = np.array([slot.entity for slot in slots])
        self._source = self._package_order(len(own), 1 + len(other))

    def _package_order(self, own: int, other: int) -> np.ndarray:
        """int[F] where each slot's feature stands in the package's observation."""
        enemies = MOVES + np.arange(self.enemies * other)
        allies = MOVES + self.enemies * other + np.arange((self.allies - 1) * other)
        rest = self.features - (own - MOVES) + np.arange(own - MOVES)
        return np.concatenate([np.arange(MOVES), rest, allies, enemies])

    def frame(self, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features in the order of the layout, and which of them mean something.

        Args:
            observations: float[n, F] the package's observations, one row per agent.

        Returns:
            features float32[n, F], visible bool[n, F]: False for units out of sight or dead (all zeros), and for all
            of a dead observer's.

        Raises:
            ValueError: Another number of features.
        """
        observations = np.asarray(observations, dtype=np.float32)
        if observations.ndim != 2 or observations.shape[1] != self.features:
            raise ValueError(
                f"{self.layout.name}: observations {observations.shape}, expected (n, {self.features}): obs_own_pos "
                "and obs_all_health on, no other option that changes it"
            )
        features = observations[:, self._source]
        seen = np.zeros((len(features), self.allies + self.enemies), dtype=np.bool_)
        for unit in range(seen.shape[1]):  # a unit in sight has at least its type bit set
            seen[:, unit] = features[:, self._unit == unit].any(axis=1)
        return features, seen[:, self._unit]


@functools.cache
def smacv2_encoder(race: str, allies: int, enemies: int) -> Smacv2Encoder:
    """The one encoder of ``race`` and unit numbers, layout ``smacv2-RACE-AvB-1``; raises as the class does."""
    return Smacv2Encoder(race, allies, enemies)

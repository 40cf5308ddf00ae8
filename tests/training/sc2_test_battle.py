"""Test double of StarCraft II, the fight: units with rough numbers on a flat map. IT IS NOT THE GAME.

Speeds, ranges and damage resemble the real ones so that episodes look alike; nothing is balanced, and who wins here
says nothing about who would win in StarCraft II. Time is in game loops, space in cells.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

SIZE = 32
"""Edge of the map; the outermost ring of cells cannot be entered."""
MOVE, STOP, ATTACK, HEAL = 16, 4, 23, 386
"""Abilities that units understand."""
FIRST_OWN_TYPE = 2000
"""The SMAC maps add nine types, in alphabetical order, behind all of the game's own."""


@dataclass(frozen=True)
class Kind:
    """A unit type: health, shield, damage per hit, range, loops between hits, cells per loop."""

    name: str
    game_type: int
    health: float
    shield: float
    damage: float
    reach: float
    period: int
    speed: float
    flies: bool = False
    hits_air: bool = False
    blast: float = 0.0


KINDS = (
    Kind("baneling", 9, 30, 0, 18, 0.25, 1, 0.16, blast=2.2),
    Kind("colossus", 4, 200, 150, 15, 7, 24, 0.14),
    Kind("hydralisk", 107, 90, 0, 12, 5, 10, 0.14, hits_air=True),
    Kind("marauder", 51, 125, 0, 10, 6, 25, 0.14),
    Kind("marine", 48, 45, 0, 6, 5, 14, 0.14, hits_air=True),
    Kind("medivac", 54, 150, 0, 0, 4, 200, 0.16, flies=True),
    Kind("stalker", 74, 80, 80, 13, 6, 30, 0.18, hits_air=True),
    Kind("zealot", 73, 100, 50, 16, 0.1, 19, 0.14),
    Kind("zergling", 105, 35, 0, 5, 0.1, 11, 0.18),
)
BY_TYPE = {FIRST_OWN_TYPE + n: kind for n, kind in enumerate(KINDS)} | {k.game_type: k for k in KINDS}
HEALED_PER_LOOP = 0.5
REACH_OF_BODIES = 1.0
"""Two radii: ranges are measured from edge to edge."""


@dataclass
class Unit:
    """One unit. ``order`` is (ability, target), the target a tag or a place; None when idle."""

    tag: int
    unit_type: int
    owner: int
    x: float
    y: float
    health: float
    shield: float
    energy: float
    cooldown: int = 0
    order: tuple | None = None

    @property
    def kind(self) -> Kind:
        """Its type."""
        return BY_TYPE[self.unit_type]

    def distance(self, other: Unit) -> float:
        """Between centres."""
        return math.hypot(other.x - self.x, other.y - self.y)


def pathable(x: float, y: float) -> bool:
    """Whether the cell at (x, y) may be entered."""
    return 1 <= x < SIZE - 1 and 1 <= y < SIZE - 1


@dataclass
class Battle:
    """All units of both players.

    Attributes:
        seed: Of the enemy's misses, a tenth of its hits.
        peaceful: Nobody fires without an order, and the enemy gets none.
        strength: Factor on the enemy's damage.
    """

    seed: int
    peaceful: bool = False
    strength: float = 1.0
    loop: int = 0
    units: dict[int, Unit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._next_tag = 1
        self._pending: list[Unit] = []
        self._doomed: set[int] = set()

    def create(self, unit_type: int, owner: int, x: float, y: float) -> None:
        """Add a unit with the next step, on the nearest cell that it can stand on."""
        kind = BY_TYPE[unit_type]
        low, high = 1.0, SIZE - 1.0 - 1e-3
        self._pending.append(
            Unit(
                self._next_tag, unit_type, owner, min(max(x, low), high), min(max(y, low), high),
                kind.health, kind.shield, energy=50.0 if kind.flies else 0.0, cooldown=kind.period + 1,
            )
        )  # fmt: skip
        self._next_tag += 1

    def kill(self, tags: list[int]) -> None:
        """Remove units with the next step; unknown tags are ignored."""
        self._doomed.update(tags)

    def command(self, tags: list[int], ability: int, target: int | tuple[float, float] | None) -> None:
        """Order own units; what a unit cannot do, such as hitting a flier from the ground, it drops when it tries."""
        for tag in tags:
            unit = self.units.get(tag)
            if unit is not None and unit.owner == 1:
                unit.order = None if ability == STOP else (ability, target)

    def step(self, loops: int) -> None:
        """Let ``loops`` game loops pass."""
        for tag in self._doomed:
            self.units.pop(tag, None)
        self.units.update({unit.tag: unit for unit in self._pending})
        self._doomed, self._pending = set(), []
        for _ in range(loops):
            self.loop += 1
            for unit in list(self.units.values()):
                if unit.tag in self.units:
                    self._act(unit)

    def _act(self, unit: Unit) -> None:
        unit.cooldown = max(0, unit.cooldown - 1)
        ability, target = unit.order or self._own_will(unit)
        if ability == MOVE:
            self._walk(unit, *target)
            if math.hypot(target[0] - unit.x, target[1] - unit.y) < 1e-3:
                unit.order = None
        elif ability in (ATTACK, HEAL):
            other = self.units.get(target)
            if other is None or not self._may(unit, ability, other):
                unit.order = None
            elif unit.distance(other) > unit.kind.reach + REACH_OF_BODIES:
                self._walk(unit, other.x, other.y)
            elif ability == HEAL:
                other.health = min(other.kind.health, other.health + HEALED_PER_LOOP)
            elif unit.cooldown == 0:
                self._hit(unit, other)

    @staticmethod
    def _may(unit: Unit, ability: int, other: Unit) -> bool:
        if ability == HEAL:
            return unit.kind.flies and other.owner == unit.owner and not other.kind.flies
        return (
            unit.kind.damage > 0
            and other.owner != unit.owner
            and (unit.kind.hits_air or not other.kind.flies)
        )

    def _own_will(self, unit: Unit) -> tuple:
        """What a unit without an order does: the enemy seeks a fight, an own unit fires at what comes into range."""
        if self.peaceful:
            return None, None
        ability = HEAL if unit.kind.flies else ATTACK
        others = [other for other in self.units.values() if self._may(unit, ability, other)]
        if ability == HEAL:
            others = [other for other in others if other.health < other.kind.health]
        if unit.owner == 1:
            others = [other for other in others if unit.distance(other) <= unit.kind.reach + REACH_OF_BODIES]
        if not others:
            return None, None
        return ability, min(others, key=lambda other: (unit.distance(other), other.tag)).tag

    @staticmethod
    def _walk(unit: Unit, x: float, y: float) -> None:
        """One loop towards (x, y), along a wall where it stands in the way."""
        far = math.hypot(x - unit.x, y - unit.y)
        share = min(1.0, unit.kind.speed / far) if far else 0.0
        dx, dy = share * (x - unit.x), share * (y - unit.y)
        if pathable(unit.x + dx, unit.y):
            unit.x += dx
        if pathable(unit.x, unit.y + dy):
            unit.y += dy

    def _hit(self, unit: Unit, other: Unit) -> None:
        unit.cooldown = unit.kind.period
        damage = unit.kind.damage * (self.strength if unit.owner == 2 else 1.0)
        if unit.owner == 2 and self._random.random() < 0.1:
            damage = 0.0
        struck = [other]
        if unit.kind.blast:
            self.units.pop(unit.tag)
            near = [u for u in self.units.values() if other.distance(u) <= unit.kind.blast]
            struck = [u for u in near if self._may(unit, ATTACK, u)]
        for victim in struck:
            soaked = min(victim.shield, damage)
            victim.shield -= soaked
            victim.health -= damage - soaked
            if victim.health <= 0:
                self.units.pop(victim.tag, None)

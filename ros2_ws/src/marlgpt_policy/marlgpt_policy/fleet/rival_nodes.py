"""Exactly one fleet node drives a robot: which one stays when several claim it, told from their heartbeats.

Each node says in its heartbeats which robots it claims, since when (its *incarnation*), and in which *phase* it is. Of
two that claim one robot the one with the smaller (phase, incarnation, node) stays and the other gives way: who drives
stays before who waits for a map, who waits before who only wants to begin, and among equals the older one. Within an
incarnation the phase only falls, and who has given way says nothing more; so never do both give way: each would have to
have seen the other ahead of itself. Nor do both stay once each has heard the other.

A node that begins, or that comes back after it was frozen, listens before it drives and is a *candidate* meanwhile. One
that died says nothing any more: a single heartbeat may be the last word of a dead process and bars nobody; two do, as
long as they are fresh.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum

REMEMBERED = 64
"""Senders remembered at most; beyond them the one that has been silent longest is forgotten."""


class Phase(IntEnum):
    """What a fleet node is about, as in Heartbeat."""

    DRIVING = 0
    WAITING = 1
    CANDIDATE = 2
    WITHDRAWN = 3


@dataclass
class Claim:
    """What one node said last.

    Attributes:
        phase, incarnation, node: Who it is and how far it is.
        robots: Names that it claims, those that it holds at standstill included.
        sequence: Number of its last heartbeat.
        heard: When that came, own steady clock, s.
        beats: Different heartbeats of this incarnation that came here.
    """

    phase: Phase
    incarnation: int
    node: str
    robots: frozenset[str] = frozenset()
    sequence: int = -1
    heard: float = 0.0
    beats: int = 1

    @property
    def rank(self) -> tuple[int, int, str]:
        """The smaller stays."""
        return int(self.phase), self.incarnation, self.node


class Rivals:
    """Other fleet nodes as one of them hears them; ``now`` is its own steady clock, s.

    Attributes:
        own: What this node says of itself; its robots are not kept here.
    """

    def __init__(self, node: str, silence: float) -> None:
        """``node`` names this node to people; one that is silent for ``silence`` s is dead or frozen."""
        self.own = Claim(Phase.WITHDRAWN, 0, node)
        self.silence = silence
        self._mine: set[tuple[int, str]] = set()
        self._others: dict[tuple[int, str], Claim] = {}
        self._listens_until = 0.0

    def begin(self, incarnation: int, now: float, seconds: float) -> None:
        """Become a candidate that listens for ``seconds``; ``incarnation`` is the wall's time in ns."""
        while (incarnation, self.own.node) in self._mine:
            incarnation += 1
        self._mine.add((incarnation, self.own.node))
        self.own = Claim(Phase.CANDIDATE, incarnation, self.own.node)
        self._listens_until = now + seconds

    def advance(self, phase: Phase) -> None:
        """Go on to a later phase; within an incarnation there is no way back, but for withdrawing."""
        if phase is Phase.WITHDRAWN or phase < self.own.phase:
            self.own.phase = phase

    def hear(self, said: Claim, now: float) -> None:
        """Take a heartbeat of any node; one's own and copies are no news."""
        key = said.incarnation, said.node
        if key in self._mine:
            return
        last = self._others.get(key)
        if last is not None:
            if said.sequence <= last.sequence:
                return
            said.beats = last.beats + 1
        if said.phase is Phase.WITHDRAWN:
            self._others.pop(key, None)
            return
        said.heard = now
        self._others[key] = said
        if len(self._others) > REMEMBERED:
            del self._others[min(self._others, key=lambda k: self._others[k].heard)]

    def _living(self, robots: Collection[str], now: float) -> list[Claim]:
        """Others that claim one of ``robots`` and were heard within ``silence``, who stays before whom."""
        found = [
            other for other in self._others.values()
            if now - other.heard < self.silence and not other.robots.isdisjoint(robots)
        ]  # fmt: skip
        return sorted(found, key=lambda other: other.rank)

    def ahead(self, robots: Collection[str], now: float) -> Claim | None:
        """Who lives and stays before this node, claiming one of its ``robots``; None if nobody does."""
        living = [other for other in self._living(robots, now) if other.beats > 1]
        return living[0] if living and living[0].rank < self.own.rank else None

    def listening(self, robots: Collection[str], now: float) -> bool:
        """Must this node still listen: its time is not over, or who was heard once may yet turn out to live?"""
        if now < self._listens_until:
            return True
        once = [other for other in self._living(robots, now) if other.beats == 1]
        return self.own.phase is Phase.CANDIDATE and any(other.rank < self.own.rank for other in once)

    def driving(self, robots: Collection[str], now: float) -> Claim | None:
        """Who else drives one of ``robots`` now, whoever stays."""
        found = [other for other in self._living(robots, now) if other.phase is Phase.DRIVING]
        return found[0] if found else None

"""What a watchdog beside the fleet knows: which robots must be held at standstill, and which stops must be repeated.

It hears the fleet's heartbeats and the emergency stops. Three rules:

- *Silence.* Once a fleet has driven, silence longer than the timeout holds every robot that it drove last, until
  heartbeats return.
- *Emergency stops are latched here too.* A stop ends only when a fleet that has confirmed it in its heartbeats
  confirms the opposite, as it does after a resume service; not because a restarted fleet knows nothing of it.
- *A restarted fleet inherits the stops.* What it does not confirm is to be repeated to it. If it does not know a
  robot that was driven before, that robot stays held and the whole fleet is stopped, since nobody else would keep
  clear of it.
"""

from __future__ import annotations

REPEAT_AFTER = 0.25
"""Seconds that a fleet has to confirm a stop before it is repeated, and between repetitions."""


class Watchdog:
    """Times are those of one steady clock, s.

    Attributes:
        known: Robots named at the start or in any heartbeat, in that order.
        driven: Robots of the last heartbeat: neither removed from the fleet nor stopped one by one.
        stopped: The whole fleet is stopped.
        halted: Robots stopped one by one.
        orphans: Robots that an earlier fleet drove and the present one does not know.
        silent: Heartbeats were overdue when last looked at.
    """

    def __init__(self, robots: list[str], timeout: float) -> None:
        """Watch ``robots`` and those that heartbeats name; ``timeout`` is in s."""
        self.known: dict[str, None] = dict.fromkeys(robots)
        self.timeout = timeout
        self.driven: frozenset[str] = frozenset()
        self.stopped = False
        self.halted: set[str] = set()
        self.orphans: set[str] = set()
        self.silent = False
        self._heard: float | None = None
        self._sequence = -1
        self._confirmed = False  # the last heartbeat said that the fleet is stopped
        self._seen: set[str] = set()  # robots that the present fleet has named
        self._repeated: dict[str | None, float] = {}  # when a stop came or was last repeated

    def age(self, now: float) -> float | None:
        """Seconds since the last heartbeat; None before the first."""
        return None if self._heard is None else now - self._heard

    def emergency_stop(self, robot: str | None, now: float) -> None:
        """Latch the stop of one robot, or of all (None)."""
        if robot is None:
            self.stopped = True
        else:
            self.known.setdefault(robot)
            self.halted.add(robot)
        self._repeated.setdefault(robot, now)

    def heartbeat(self, sequence: int, stopped: bool, robots: list[str], now: float) -> None:
        """Take a sign of life: number of the control period, whether all are stopped, and who is driven."""
        if sequence == self._sequence and not self.overdue(now):
            return  # a copy is no sign of life
        named = frozenset(robots)
        if self._heard is not None and (sequence < self._sequence or self.overdue(now)):
            self._restarted(named, now)
        else:
            self._follow(stopped, named)
        if stopped:
            self.stopped = True
        self.known.update(dict.fromkeys(robots))
        self.orphans -= named
        self._seen |= named
        self._heard, self._sequence, self._confirmed, self.driven = now, sequence, stopped, named
        self.silent = False

    def _restarted(self, named: frozenset[str], now: float) -> None:
        """Heartbeats of a fleet that may have forgotten everything."""
        standing = self._seen - self.driven  # stopped one by one, or removed, when last heard
        for robot in standing & named:
            self.emergency_stop(robot, now)
        lost = self.driven - named
        if lost:
            self.orphans |= lost
            self.emergency_stop(None, now)
        self._seen = set()

    def _follow(self, stopped: bool, named: frozenset[str]) -> None:
        """The next heartbeat of the same fleet: it may confirm that a stop has ended."""
        if self._confirmed and not stopped:
            self.stopped = False
            self.orphans.clear()
            self._repeated.pop(None, None)
        for robot in self.halted & (self._seen - self.driven) & named:
            self.halted.discard(robot)
            self._repeated.pop(robot, None)

    def overdue(self, now: float) -> bool:
        """Has a fleet that has driven been silent for the timeout?"""
        return self._heard is not None and now - self._heard >= self.timeout

    def hold(self, now: float) -> list[str]:
        """Robots that must be commanded to stand now, in the order of ``known``."""
        self.silent = self.overdue(now)
        if self.stopped:
            return list(self.known)
        held = self.halted | self.orphans | (self.driven if self.silent else frozenset())
        return [robot for robot in self.known if robot in held]

    def repeats(self, now: float) -> list[str | None]:
        """Stops to send again (None: of all), because a living fleet has not confirmed them."""
        if self._heard is None or self.overdue(now):
            return []
        open_stops: list[str | None] = [None] if self.stopped and not self._confirmed else []
        open_stops += sorted(self.halted & self.driven)
        due = [stop for stop in open_stops if now - self._repeated.get(stop, -1e9) >= REPEAT_AFTER]
        self._repeated.update(dict.fromkeys(due, now))
        return due

"""What a watchdog beside the fleet knows: which robots must be held at standstill, and which stops must be repeated.

It hears the fleet's heartbeats, that robots get commands, and the emergency stops. Five rules:

- *Silence.* Once a fleet has driven, silence longer than the timeout holds every robot that it drove last, until
  heartbeats return.
- *No commands.* A robot that has got commands and gets none for the timeout is held until they return, whatever
  heartbeats say: who sends them may not be who commands it.
- *One sender.* Heartbeats count if they come from one process. Another one that drives any of these robots takes over
  when the first is silent; while both speak, for longer than it takes one to give way, the fleet is stopped. Who drives
  other robots is not heard at all.
- *Emergency stops are latched here too.* A stop ends only when a fleet that has confirmed it in its heartbeats
  confirms the opposite, as it does after a resume service; not because a restarted fleet knows nothing of it.
- *A restarted fleet inherits the stops.* What it does not confirm is to be repeated to it. If it does not know a
  robot that was driven before, that robot stays held and the whole fleet is stopped, since nobody else would keep
  clear of it.
"""

from __future__ import annotations

from collections.abc import Collection

REPEAT_AFTER = 0.25
"""Seconds that a fleet has to confirm a stop before it is repeated, and between repetitions."""
CONTEST = 0.4
"""Seconds in which one of two fleet nodes that drive the same robots gives way to the other by itself."""

Sender = tuple[int, str]
"""Incarnation and name of a fleet node, as in its heartbeats."""


class Watchdog:
    """Times are those of one steady clock, s.

    Attributes:
        known: Robots named at the start or in any heartbeat, in that order.
        driven: Robots of the last heartbeat: neither removed from the fleet nor stopped one by one.
        stopped: The whole fleet is stopped.
        halted: Robots stopped one by one.
        orphans: Robots that an earlier fleet drove and the present one does not know.
        uncommanded: Robots that the fleet says it drives, but that get no commands; as when last looked at.
        sender: The process whose heartbeats count; None before the first.
        contest: Names of two processes that drove at once, since the stop that followed; empty otherwise.
        foreign: Heartbeats of fleets of other robots.
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
        self.uncommanded: frozenset[str] = frozenset()
        self.sender: Sender | None = None
        self.contest: tuple[str, ...] = ()
        self.foreign = 0
        self.silent = False
        self._heard: float | None = None
        self._commanded: dict[str, float] = {}  # when the last command of a robot was heard
        self._second: tuple[Sender, float, float] | None = None  # another sender, first and last heard
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

    def command(self, robot: str, now: float) -> None:
        """Somebody else than this watchdog commanded ``robot``."""
        self._commanded[robot] = now

    def concerns(self, sender: Sender, robots: Collection[str]) -> bool:
        """Whether heartbeats of ``sender`` about ``robots`` are about this fleet; those that are not are counted."""
        ours = sender == self.sender or not self.known or not self.known.keys().isdisjoint(robots)
        self.foreign += not ours
        return ours

    def heartbeat(
        self, sequence: int, stopped: bool, robots: Collection[str], now: float, sender: Sender = (0, ""),
        standing: Collection[str] = (),
    ) -> None:  # fmt: skip
        """Take a sign of life of a fleet node that drives.

        Args:
            sequence: Its number; it grows while ``sender`` stays the same.
            stopped: Whether all robots are stopped.
            robots: Who is driven.
            now: When it came, s.
            sender: Who says so.
            standing: Robots of the fleet that are stopped one by one.
        """
        named = frozenset(robots)
        if sender != self.sender:
            if not self.concerns(sender, (*robots, *standing)):
                return
            if self._heard is not None and not self.overdue(now):
                self._note_second(sender, now)
                return
        elif sequence <= self._sequence:
            return  # a copy is no sign of life
        else:
            self._look_for_contest(now)
        if self._heard is not None and (sender != self.sender or self.overdue(now)):
            self._restarted(named, now)
        else:
            self._follow(stopped, named)
        if stopped:
            self.stopped = True
        if sender == self.sender:
            # Who joins may get its first command just after. Who is taken over is held until it gets one.
            self._commanded.update(dict.fromkeys((named - self.driven) & self._commanded.keys(), now))
        self.known.update(dict.fromkeys(robots))
        self.orphans -= named
        self._seen |= named
        if sender != self.sender:
            self.sender, self._second = sender, None
        self._heard, self._sequence, self._confirmed, self.driven = now, sequence, stopped, named
        self.silent = False

    def _note_second(self, sender: Sender, now: float) -> None:
        """Another process says that it drives these robots while the first one lives."""
        first = self._second[1] if self._second is not None and self._second[0] == sender else now
        self._second = sender, first, now

    def _look_for_contest(self, now: float) -> None:
        """The first process speaks: does the second one go on, too?"""
        if self._second is None:
            return
        other, first, last = self._second
        if now - last > CONTEST / 2:
            self._second = None
        elif last - first >= CONTEST:
            self.contest = self.sender[1], other[1]
            self._second = None
            self.emergency_stop(None, now)

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
            self.stopped, self.contest = False, ()
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
        self.uncommanded = frozenset(
            robot for robot in self.driven if now - self._commanded.get(robot, now) >= self.timeout
        )
        if self.stopped:
            return list(self.known)
        held = self.halted | self.orphans | self.uncommanded | (self.driven if self.silent else frozenset())
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

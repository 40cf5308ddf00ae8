"""Cells without a central node: how robots that only hear each other share a grid, whatever messages are lost.

Every robot broadcasts its newest state: the cells it holds, the one cell it asks for, and of each other robot the
newest message it has heard. A robot stands and drives only in cells it holds. It takes the cell T it asks for (its
*grant*) when each other robot k either

1. has *let it pass*: k's newest state was sent after k had heard the request, does not hold T, and contains no request
   for T that goes first (smaller request clock, then name) - Ricart and Agrawala 1981, doi:10.1145/358527.358537 -, or
2. *surely does not hold T*, because T lies farther from the cells in k's newest state than k can have got since
   (`Peers.reach`), or because k would have had to ask this robot and has not (`Peers.must_ask`).

**Two robots never hold one cell.** Suppose i and k do, and i took T at time t, after k. Case 2 is excluded, because k
holds T. So k's newest state at i was sent before k's grant, for it does not hold T, and after k had heard i's request.
At its own grant k thus knew a state of i that contains the request, for it stood until t. T is a neighbour of the cells
in that state, so k could not use case 2: i had let it pass, in a state sent after i had heard k's request. Hence each
knew the other's request when it took T and found that the other's does not go first. But one of two does.
Contradiction. No bound on delays, no order of messages and no common time is needed for this. (The logical clock makes
the oldest request go first, so that nobody starves; safety needs only some order that both see alike.)

**How far a robot can have got.** A grant is a neighbour of a held cell and comes at least `cell_time` after the one
before, so at most floor(d / cell_time) + 1 grants fit into d seconds. The age d of k's state is measured on the own
clock, from the sending of the newest own message that k's state acknowledges. A robot k that has fallen silent would
soon be possible anywhere, so there is a second bound. A robot takes cells only while a *quorum*, more than half of all
members, itself included, has acknowledged messages that it sent within the last `quorum_age` seconds A. Let W be
ceil(n / 2) members other than k (the asking robot counts), e the stamp of the newest message of k that any of W had
heard when it sent the newest state known here, and w the time since the oldest of these states. Every quorum of k
contains one of W. What that one acknowledged for a grant of k it had either heard before it sent the known state, and
then the grant was no later than e + A on k's own clock, or after it, and then the grant lies within the last w seconds.
So since its newest state, with stamp s, k has taken at most steps(e + A - s) + steps(w) cells, and for a robot that
nobody hears any more e no longer grows.

**Who must ask.** If each message that this robot sent since the one that k is known to have heard contains a cell
next to T, k cannot use the distance for T. If k's newest state contains no cell next to T, k cannot use this argument
in turn (it sent that state after the one that it knows this robot to have heard). So k takes T only after this robot
has heard k's request and answered, which has not happened while k's newest state does not ask for T. Hence a robot
near one that died can still step away from it.

**Restarts.** A process that starts has forgotten what it held and what it has heard. It stands still, claims the cells
around it as held, and *joins* - may move and counts as one of W - once every member has acknowledged the claim in a
state that does not hold these cells. (Of two that join on common cells, the one that stands on them goes first, then
the one with fewer cells, then the smaller name.) Nobody takes a claimed cell after having heard of the claim, so
nobody holds it then. Acknowledgements name the incarnation: what W reports about another incarnation of k than the
known one does not bound it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from marlgpt_policy.decentralised.peer_state import Rules, Shown, State
from marlgpt_policy.grid.nav_grid import Cell

REMEMBERED = 512
"""Own messages whose time of sending is kept; an acknowledgement of an older one says nothing about age."""


@dataclass
class Known:
    """What a robot knows of another one.

    Attributes:
        state: Its newest state.
        since: Own time in s at which it surely had not sent that state yet: when the newest own message that it
            acknowledges was sent; -inf if there is none.
        foreign: It follows other rules.
    """

    state: State
    since: float
    foreign: bool

    def distance(self, cell: Cell) -> int:
        """Moves from the nearest of its cells to ``cell``, without walls: never more than it really takes."""
        return min(abs(r - cell[0]) + abs(c - cell[1]) for r, c in self.state.held)


class Peers:
    """One robot's side of the protocol. Times are seconds on its own clock, which must never run backwards."""

    def __init__(self, name: str, rules: Rules, incarnation: int, absent: Iterable[str] = ()) -> None:
        """Start silent and holding nothing.

        Args:
            name: This robot, one of ``rules.members``.
            rules: What the fleet agrees on.
            incarnation: Larger than that of any earlier process of this robot.
            absent: Members of which the operator vouches that they are not on the floor. They still count for the
                size of a quorum. One that speaks again is no longer absent.

        Raises:
            ValueError: ``name`` or a name in ``absent`` is not a member.
        """
        strangers = sorted({name, *absent} - set(rules.members))
        if strangers:
            raise ValueError(f"{', '.join(strangers)}: not among the robots {', '.join(rules.members)}")
        self.name, self.rules, self.incarnation = name, rules, incarnation
        self.key = rules.key
        self.absent = set(absent)
        self.known: dict[str, Known] = {}
        self.held: list[Cell] = []
        self.joined = False
        self.usurped = False
        """Another, newer process speaks under this robot's name; this one must never move again."""
        self.request: Cell | None = None
        self.request_clock = 0
        self.clock = 0
        self.sequence = 0
        self._asked = 0  # sequence of the first message that carries the request
        self._sent: dict[int, float] = {}
        self._shown_held: deque[tuple[int, tuple[Cell, ...]]] = deque(
            maxlen=64
        )  # (first message, cells in it)
        self._last_grant = -math.inf

    # Messages -------------------------------------------------------------------------------------------

    def receive(self, state: State) -> bool:
        """Take another robot's state; False if it is not news.

        Raises:
            ValueError: The state holds no cell.
        """
        if not state.held:
            raise ValueError(f"state of '{state.name}' holds no cell")
        if state.name == self.name:
            self.usurped |= state.incarnation > self.incarnation
            return False
        last = self.known.get(state.name)
        if last is not None:
            seen = last.state
            if (state.incarnation, state.sequence) <= (seen.incarnation, seen.sequence):
                return False
        self.clock = max(self.clock, state.clock)
        incarnation, sequence, _ = state.heard.get(self.name, (0, 0, 0.0))
        since = -math.inf
        if incarnation == self.incarnation:
            since = self._sent.get(sequence, -math.inf)
        self.usurped |= incarnation > self.incarnation
        self.absent.discard(state.name)
        foreign = state.key != self.key or state.name not in self.rules.members
        self.known[state.name] = Known(state, since, foreign)
        return True

    def message(self, now: float, shown: Shown | None = None) -> State:
        """The state to broadcast now; only once cells are claimed (`claim`)."""
        self.sequence += 1
        self._sent[self.sequence] = now
        self._sent.pop(self.sequence - REMEMBERED, None)
        if not self._shown_held or self._shown_held[-1][1] != tuple(self.held):
            self._shown_held.append((self.sequence, tuple(self.held)))
        heard = {
            name: (known.state.incarnation, known.state.sequence, now - known.state.stamp)
            for name, known in self.known.items()
        }
        request, request_clock = (self.request, self.request_clock) if self.joined else (self.held[0], 0)
        return State(
            self.name, self.incarnation, self.sequence, now, self.clock, self.key, tuple(self.held), request,
            request_clock, heard, shown or Shown(),
        )  # fmt: skip

    # Cells ----------------------------------------------------------------------------------------------

    def claim(self, cells: Iterable[Cell]) -> None:
        """Claim the cells around the place where the robot stands, its own first, to join.

        Raises:
            ValueError: No cell, or cells are claimed already (a robot that was moved starts a new incarnation).
        """
        cells = list(dict.fromkeys(cells))
        if not cells or self.held:
            raise ValueError("claim one or more cells, once per incarnation")
        self.held = cells

    def ask(self, cell: Cell) -> None:
        """Ask for a neighbour of a held cell; keeps its place if it is asked for already.

        Raises:
            ValueError: The robot has not joined, holds the cell, or holds none of its neighbours.
        """
        if cell == self.request:
            return
        if not self.joined or cell in self.held or not self._beside(cell):
            raise ValueError(
                f"'{self.name}' cannot ask for {cell}, it holds {self.held}, joined: {self.joined}"
            )
        self.clock += 1
        self.request, self.request_clock = cell, self.clock
        self._asked = self.sequence + 1

    def drop(self) -> None:
        """Ask for nothing any more."""
        self.request = None

    def _beside(self, cell: Cell) -> bool:
        return any(abs(r - cell[0]) + abs(c - cell[1]) == 1 for r, c in self.held)

    def release(self, cell: Cell) -> None:
        """Give up a cell that the robot has left, and a request that is no neighbour of the others.

        Raises:
            ValueError: It does not hold the cell, or no other one.
        """
        if cell not in self.held or len(self.held) == 1:
            raise ValueError(f"'{self.name}' cannot release {cell}, it holds {self.held}")
        self.held.remove(cell)
        if self.request is not None and not self._beside(self.request):
            self.drop()

    def tick(self, now: float) -> Cell | None:
        """Join, or take the cell that is asked for, where the rules allow it now; the cell taken."""
        if self.usurped or not self.held:
            return None
        if not self.joined:
            self.joined = self.waits_for() is None
            return None
        cell = self.request
        if cell is None or now - self._last_grant < self.rules.cell_time or not self.quorum(now):
            return None
        if not all(self._passes(name, cell, now) for name in self._others()):
            return None
        self.held.append(cell)
        self.request = None
        self._last_grant = now
        return cell

    def waits_for(self) -> tuple[str, str] | None:
        """(robot, why) that keeps this one from joining; None for nobody."""
        claimed = set(self.held)
        for name in self._others():
            known = self.known.get(name)
            if known is None:
                return name, "not heard yet"
            if known.foreign:
                if not claimed.isdisjoint(known.state.held):
                    return name, "is on another map or follows other rules, and is too close"
                continue
            if known.state.heard.get(self.name, (0,))[0] != self.incarnation:
                return name, "has not heard this robot yet"
            if not claimed.isdisjoint(known.state.held):
                if not (known.state.joining and self._joins_before(known.state)):
                    return name, "is too close"
        return None

    def _joins_before(self, other: State) -> bool:
        """Whether this one goes first of two that join on common cells; nobody where both stand on them."""
        if other.held[0] in self.held or self.held[0] in other.held:
            return other.held[0] not in self.held
        return (len(self.held), self.name) < (len(other.held), other.name)

    def quorum(self, now: float) -> bool:
        """Whether more than half of all members hear this robot, as far as it knows."""
        oldest = now - self.rules.quorum_age
        others = sum(known.since >= oldest and not known.foreign for known in self.known.values())
        return 2 * (others + 1) > len(self.rules.members)

    def _others(self) -> list[str]:
        """Members present and everybody else that was heard."""
        names = dict.fromkeys((*self.rules.members, *self.known))
        return [name for name in names if name != self.name and name not in self.absent]

    def _passes(self, name: str, cell: Cell, now: float) -> bool:
        """Whether robot ``name`` lets this one take ``cell``, or surely does not hold it."""
        known = self.known.get(name)
        if known is None:
            return False
        state = known.state
        incarnation, sequence, _ = state.heard.get(self.name, (0, 0, 0.0))
        heard = incarnation == self.incarnation and sequence >= self._asked and not known.foreign
        if heard and cell not in state.held:
            first = (state.request_clock, name) < (self.request_clock, self.name)
            if state.request != cell or not first:
                return True
        return not self.may_hold(name, cell, now)

    def may_hold(self, name: str, cell: Cell, now: float) -> bool:
        """Whether robot ``name`` possibly holds ``cell`` now."""
        known = self.known.get(name)
        if known is None:
            return True
        return known.distance(cell) <= self.reach(name, now) and not self.must_ask(known, cell)

    def must_ask(self, known: Known, cell: Cell) -> bool:
        """Whether a robot does not hold ``cell`` because it would have had to ask this one for it and has not."""
        state = known.state
        incarnation, sequence, _ = state.heard.get(self.name, (0, 0, 0.0))
        if (
            incarnation != self.incarnation
            or known.foreign
            or known.distance(cell) <= 1
            or cell == state.request
        ):
            return False
        for first, held in reversed(self._shown_held):
            if not any(abs(r - cell[0]) + abs(c - cell[1]) <= 1 for r, c in held):
                return False
            if first <= sequence:
                return True
        return False

    def reach(self, name: str, now: float) -> float:
        """Moves from its known cells that robot ``name`` can have got to by now; may be infinite.

        See the top of this file for the two bounds and why they hold.
        """
        known = self.known.get(name)
        if known is None:
            return math.inf
        by_age = self.rules.steps(now - known.since)
        if known.foreign or by_age == 1:
            return by_age
        state = known.state
        witnesses = [(now, state.stamp)]  # (not sent before, newest stamp of the robot heard)
        for other, its in self.known.items():
            if other == name or its.foreign or its.state.joining or its.since == -math.inf:
                continue
            incarnation, _, age = its.state.heard.get(name, (0, 0, 0.0))
            if incarnation > state.incarnation:
                witnesses.append((its.since, math.inf))
            else:
                stamp = its.state.stamp - age if incarnation == state.incarnation else -math.inf
                witnesses.append((its.since, stamp))
        needed = (len(self.rules.members) + 1) // 2
        if len(witnesses) < needed:
            return by_age
        witnesses = sorted(witnesses, reverse=True)[:needed]
        last = max(stamp for _, stamp in witnesses) + self.rules.quorum_age
        oldest = witnesses[-1][0]
        return min(by_age, self.rules.steps(last - state.stamp) + self.rules.steps(now - oldest))

"""What the robots of a decentralised fleet agree on, and what they tell each other (see :mod:`peers`)."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

from marlgpt_policy.grid.nav_grid import Cell


@dataclass(frozen=True)
class Rules:
    """What all robots of a fleet must agree on; robots with other rules do not share cells.

    Attributes:
        members: Names of all robots of the fleet.
        grid: Hash of the grid they drive on.
        cell_time: Least seconds between two cells that a robot takes: cell size over the fleet's top speed.
        quorum_age: A robot takes cells only while a majority has acknowledged what it sent within these seconds.
        clock_slack: Seconds by which two robots' clocks may differ about the length of one interval: drift, jumps and
            coarseness of simulated time. They need not agree on the time of day.
    """

    members: tuple[str, ...]
    grid: str
    cell_time: float
    quorum_age: float = 1.0
    clock_slack: float = 0.1

    def __post_init__(self) -> None:
        """Raise ``ValueError`` that names the first value out of range."""
        if len(set(self.members)) != len(self.members) or not self.members:
            raise ValueError(f"members must be distinct names, got {list(self.members)}")
        for name in ("cell_time", "quorum_age", "clock_slack"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number of seconds, got {value!r}")

    @property
    def key(self) -> str:
        """Hash of everything agreed on; travels as the message's ``grid``."""
        text = repr((sorted(self.members), self.grid, round(self.cell_time, 6), self.quorum_age))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def steps(self, seconds: float) -> float:
        """Cells that a robot can take within ``seconds``; infinite for an infinite time."""
        if seconds == math.inf:
            return math.inf
        return math.floor((max(seconds, 0.0) + self.clock_slack) / self.cell_time) + 1


@dataclass(frozen=True)
class Shown:
    """The part of a state that the protocol carries but does not need.

    Attributes:
        pose: (x, y, yaw) in the map frame, m and rad.
        stopped: It stands still until resumed, or for a fault.
        goal: Goal cell; None for none.
        waited: Seconds in which it has got no nearer to its goal.
        history: Last moves, newest first; -1 for none.
    """

    pose: tuple[float, float, float] = (0.0, 0.0, 0.0)
    stopped: bool = False
    goal: Cell | None = None
    waited: float = 0.0
    history: tuple[int, ...] = ()


@dataclass(frozen=True)
class State:
    """One broadcast of a robot, as ``marlgpt_msgs/PeerState``.

    Attributes:
        name: Who speaks.
        incarnation: Larger for every start of its process.
        sequence: Counts the messages of this incarnation, from 1.
        stamp: Time of sending on the speaker's clock, s.
        clock: Logical (Lamport) clock.
        key: `Rules.key` of the speaker.
        held: Cells that it holds, its own first; never empty. While it joins, the cells that it claims.
        request: Cell that it asks for; its own first cell while it joins; None for none.
        request_clock: Logical clock of the request.
        heard: Per robot (incarnation, sequence, age in s by its stamp) of the newest message heard.
        shown: What the others' policies look at.
    """

    name: str
    incarnation: int
    sequence: int
    stamp: float
    clock: int
    key: str
    held: tuple[Cell, ...]
    request: Cell | None = None
    request_clock: int = 0
    heard: dict[str, tuple[int, int, float]] = field(default_factory=dict)
    shown: Shown = field(default_factory=Shown)

    @property
    def joining(self) -> bool:
        """Whether it claims its cells but does not hold them for sure."""
        return self.request is not None and self.request == self.held[0]

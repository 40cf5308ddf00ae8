"""Log lines with fields, without floods: what repeats is counted and told again at intervals."""

from __future__ import annotations

import time
from collections import Counter

from rclpy.impl.rcutils_logger import RcutilsLogger

EVERY = 5.0
"""Seconds between two lines with the same key."""
LONGEST = 200
"""Characters of a value that came in a message; the rest is cut."""


def short(text: object) -> str:
    """A value from a message as it may be logged: printable, and cut where it is long."""
    shown = str(text)[: LONGEST + 1]
    shown = "".join(c if c.isprintable() else "?" for c in shown)
    return shown if len(shown) <= LONGEST else shown[:LONGEST] + "..."


class EventLog:
    """Writes lines ``text [event=... field=...]``; counts refused messages.

    Attributes:
        rejected: Refused messages by kind, such as pose, goal or map.
    """

    def __init__(self, logger: RcutilsLogger) -> None:
        """Write to ``logger``."""
        self._logger = logger
        self.rejected: Counter[str] = Counter()
        self._last: dict[str, float] = {}
        self._silenced: Counter[str] = Counter()

    def write(self, level: str, event: str, text: str, **fields: object) -> None:
        """One line at once; ``level`` is info, warning or error."""
        shown = "".join(f" {name}={short(value)}" for name, value in fields.items())
        line = f"{text} [event={event}{shown}]"
        # rclpy binds a line of code to one severity; so each has its own.
        if level == "error":
            self._logger.error(line)
        elif level == "warning":
            self._logger.warning(line)
        else:
            self._logger.info(line)

    def repeat(self, level: str, key: str, event: str, text: str, **fields: object) -> None:
        """As :meth:`write`, at most every ``EVERY`` s for one ``key``; says how many lines were left out."""
        now = time.monotonic()
        if now - self._last.get(key, -EVERY) < EVERY:
            self._silenced[key] += 1
            return
        self._last[key] = now
        silenced = self._silenced.pop(key, 0)
        self.write(level, event, text, **fields, **({"left_out": silenced} if silenced else {}))

    def reject(self, kind: str, text: str, which: str = "") -> None:
        """Count a refused message and say why, once every ``EVERY`` s for each kind and ``which``.

        ``which`` is a robot of the fleet or a reason: one of few, never something that a message made up.
        """
        self.rejected[kind] += 1
        self.repeat("warning", f"{kind} {which}", f"{kind}_refused", text, **({"of": which} if which else {}))

    @property
    def refusals(self) -> int:
        """Messages refused so far."""
        return self.rejected.total()

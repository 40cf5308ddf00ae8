"""How the fleet did over the last minutes: goals per minute, vetoes, separation and latency, once a second."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import astuple, dataclass

PERIOD = 1.0
"""Seconds of the fleet's time between two samples."""
SPAN = 600
"""Samples kept."""
WINDOW = 60.0
"""Seconds over which goals and vetoes per minute are taken."""
SHORTEST = 5.0
"""Seconds that must have passed before anything is said about a minute."""
COLUMNS = ("t", "goals", "vetoes", "gap", "latency")


@dataclass(frozen=True)
class Sample:
    """One second.

    Attributes:
        t: Time of the fleet, s.
        goals: Goals per minute; None until enough has been seen.
        vetoes: Vetoes per minute; likewise.
        gap: Smallest separation between two robots now, m; None where nobody measures it.
        latency: Median wall time of a decision, ms; None if unknown.
    """

    t: float
    goals: float | None
    vetoes: float | None
    gap: float | None
    latency: float | None


class History:
    """Samples in order of time; begins anew when time or a counter goes back, as after a restart."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int, int]] = deque()
        self._samples: deque[Sample] = deque(maxlen=SPAN)
        self.epoch = 0
        """Grows whenever the history begins anew."""

    @property
    def latest(self) -> Sample | None:
        """The newest sample."""
        return self._samples[-1] if self._samples else None

    def add(
        self, t: float, goals: int, vetoes: int, gap: float | None, latency: float | None
    ) -> Sample | None:
        """Take the counters of one state of the fleet.

        Args:
            t: Time of the state, s.
            goals: Goals reached since activation.
            vetoes: Vetoes since activation.
            gap: As in `Sample`.
            latency: As in `Sample`.

        Returns:
            The new sample, if it was time for one.
        """
        if not math.isfinite(t):
            return None
        if self._counts and _went_back(self._counts[-1], (t, goals, vetoes)):
            self._counts.clear()
            self._samples.clear()
            self.epoch += 1
        if self._counts and t - self._counts[-1][0] < PERIOD - 1e-6:
            return None
        self._counts.append((t, goals, vetoes))
        while t - self._counts[0][0] > WINDOW + 1e-6:
            self._counts.popleft()
        first_t, first_goals, first_vetoes = self._counts[0]
        span = t - first_t
        known = span >= SHORTEST
        sample = Sample(
            round(t, 2),
            round((goals - first_goals) * 60.0 / span, 2) if known else None,
            round((vetoes - first_vetoes) * 60.0 / span, 2) if known else None,
            _rounded(gap),
            _rounded(latency),
        )
        self._samples.append(sample)
        return sample

    def columns(self) -> dict[str, list]:
        """All samples, column by column, named as in ``COLUMNS``."""
        rows = [astuple(sample) for sample in self._samples]
        return {name: [row[k] for row in rows] for k, name in enumerate(COLUMNS)}


def _went_back(old: tuple[float, int, int], new: tuple[float, int, int]) -> bool:
    return any(b < a for a, b in zip(old, new, strict=True))


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)

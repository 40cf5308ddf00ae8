"""Swap the policy of a running fleet, and go back to the one before if the new one fails.

Files are checked when they are loaded; what shows only while driving is caught here: an inference that fails or
answers with NaN on real observations, and one that is too slow for the control period. The decision in which that
happens is taken by the policy before, so that no robot stops.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np

from marlgpt_policy.layout import TokenLayout
from marlgpt_policy.policy import OnnxPolicy, PolicyError, PolicyOutput

PROBATION = 200
"""Decisions in which a new policy must be fast enough; later, a busy machine is to blame."""
SLOW_DECISIONS = 5
"""Slow inferences one after the other that end the probation."""
SLOWER = 2.0
"""A policy is not too slow, whatever the limit, unless it takes this many times as long as the one before."""
KEPT = 64
"""Durations that the median of the policy before is taken over."""


class PolicySwap:
    """Stands where a policy stands and asks the one in use; see the module.

    Attributes:
        current: The policy in use.
        previous: The one before, kept to go back to; None if there is none (any more).
        rollbacks: How often it was gone back to [count].
        reason: Why, the last time; empty if never.
    """

    def __init__(
        self,
        policy: OnnxPolicy,
        slowest: float,
        on_rollback: Callable[[str, str], None] = lambda failed, reason: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Begin with ``policy``.

        Args:
            policy: Used until another one comes; there is nothing to go back to from it.
            slowest: Most seconds of an inference, the control period.
            on_rollback: Called with the failed policy's name and the reason.
            clock: Seconds, for durations.
        """
        self.current, self.previous = policy, None
        self.rollbacks, self.reason = 0, ""
        self._slowest, self._on_rollback, self._clock = slowest, on_rollback, clock
        self._durations: deque[float] = deque(maxlen=KEPT)
        self._usual = 0.0  # s that the policy before took
        self._slow = 0  # slow inferences in a row
        self._made = 0  # decisions of the current policy

    def swap(self, policy: OnnxPolicy) -> None:
        """Decide with ``policy`` from the next decision on; the one in use is kept."""
        self._usual = float(np.median(self._durations)) if self._durations else 0.0
        self.previous, self.current = self.current, policy
        self._durations.clear()
        self._slow = self._made = 0

    def __call__(self, values: np.ndarray, valid: np.ndarray, action_mask: np.ndarray) -> PolicyOutput:
        """Decide as :class:`~marlgpt_policy.policy.OnnxPolicy` does.

        Raises:
            PolicyError: The policy failed and there is none to go back to, or that one failed, too.
        """
        started = self._clock()
        try:
            output = self.current(values, valid, action_mask)
        except PolicyError as error:
            if self.previous is None:
                raise
            self._roll_back(str(error))
            return self.current(values, valid, action_mask)
        if len(values):
            self._time(self._clock() - started)
        return output

    def _time(self, seconds: float) -> None:
        """Note how long an inference took; go back after several slow ones of a new policy."""
        self._made += 1
        self._durations.append(seconds)
        if self.previous is None or self._made > PROBATION:
            return
        slow = seconds > max(self._slowest, SLOWER * self._usual)
        self._slow = self._slow + 1 if slow else 0
        if self._slow == SLOW_DECISIONS:
            took = 1e3 * float(np.median(list(self._durations)[-SLOW_DECISIONS:]))
            self._roll_back(
                f"policy {self.current.path}: {SLOW_DECISIONS} inferences one after the other took too long, "
                f"{took:.0f} ms, where {1e3 * self._slowest:.0f} ms are allowed and the policy before took "
                f"{1e3 * self._usual:.0f} ms; export a smaller model, or use a faster provider"
            )

    def _roll_back(self, reason: str) -> None:
        failed, self.current, self.previous = self.current, self.previous, None
        self.rollbacks += 1
        self.reason = reason
        self._durations.clear()
        self._slow = 0
        self._on_rollback(failed.name, reason)

    @property
    def path(self) -> Path:
        """File of the policy in use."""
        return self.current.path

    @property
    def layout(self) -> TokenLayout:
        """Its layout."""
        return self.current.layout

    @property
    def name(self) -> str:
        """Its name."""
        return self.current.name

    @property
    def sha256(self) -> str:
        """Its hash."""
        return self.current.sha256

    @property
    def provider(self) -> str:
        """Its execution provider."""
        return self.current.provider

    @property
    def metadata(self) -> dict[str, str]:
        """What its file says of itself."""
        return self.current.metadata

"""Swap the policy of a running fleet, and go back to the one before if the new one fails.

Files are checked when they are loaded; what shows only while driving is caught here: an inference that fails or
answers with NaN on real observations, one that never returns, and one that is too slow for the control period. The
decision in which that happens is taken by the policy before, so that no robot stops. While an answer is late, robots
take their shortest ways (``policy/stand_in.py``): nobody waits longer than a control period for a policy.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np

from marlgpt_policy.encoders.token_layout import TokenLayout
from marlgpt_policy.policy.onnx_policy import OnnxPolicy, PolicyError, PolicyLate, PolicyOutput
from marlgpt_policy.policy.policy_process import Observed, PolicyProcess
from marlgpt_policy.policy.stand_in import shortest_ways

PROBATION = 200
"""Decisions in which a new policy must be fast enough; later, a busy machine is to blame."""
SLOW_DECISIONS = 5
"""Slow inferences one after the other that end the probation."""
SLOWER = 2.0
"""A policy is not too slow, whatever the limit, unless it takes this many times as long as the one before."""
KEPT = 64
"""Durations that the median of the policy before is taken over."""


RECENT = 4
"""Decisions whose observations are kept, to try the next policy out on."""
Policy = OnnxPolicy | PolicyProcess


class PolicySwap:
    """Stands where a policy stands and asks the one in use; see the module.

    Attributes:
        current: The policy in use.
        previous: The one before, kept to go back to; None if there is none (any more).
        rollbacks: How often it was gone back to [count].
        reason: Why, the last time; empty if never.
        late: Decisions that a policy was too late for, so that the stand-in took them [count].
        recent: Observations of the last decisions.
    """

    def __init__(
        self,
        policy: Policy,
        slowest: float,
        on_rollback: Callable[[str, str], None] = lambda failed, reason: None,
        clock: Callable[[], float] = time.perf_counter,
        stand_in: Callable[[np.ndarray, np.ndarray, np.ndarray], PolicyOutput] = shortest_ways,
    ) -> None:
        """Begin with ``policy``.

        Args:
            policy: Used until another one comes; there is nothing to go back to from it.
            slowest: Most seconds of an inference, the control period.
            on_rollback: Called with the failed policy's name and the reason.
            clock: Seconds, for durations.
            stand_in: Decides for a policy that is late.
        """
        self.current: Policy = policy
        self.previous: Policy | None = None
        self.rollbacks, self.reason, self.late = 0, "", 0
        self.recent: deque[Observed] = deque(maxlen=RECENT)
        self._slowest, self._on_rollback, self._clock = slowest, on_rollback, clock
        self._stand_in = stand_in
        self._durations: deque[float] = deque(maxlen=KEPT)
        self._usual = 0.0  # s that the policy before took
        self._slow = 0  # slow inferences in a row
        self._made = 0  # decisions of the current policy

    def swap(self, policy: Policy) -> None:
        """Decide with ``policy`` from the next decision on; the one in use is kept unless it cannot be asked."""
        self._usual = float(np.median(self._durations)) if self._durations else 0.0
        before, self.previous, self.current = self.previous, self.current, policy
        if not self.previous.alive:
            self.previous = None
        if before is not None:
            before.close()
        self._durations.clear()
        self._slow = self._made = 0

    def watch(self) -> None:
        """Find out, also while nobody asks for decisions, that a policy is stuck; call it once in a while."""
        try:
            self.current.check()
        except PolicyError as error:
            if self.previous is not None:
                self._roll_back(str(error))  # else the next decision tells

    def close(self) -> None:
        """End the processes of all policies; nothing can be decided any more."""
        for policy in (self.current, self.previous):
            if policy is not None:
                policy.close()

    def __call__(self, values: np.ndarray, valid: np.ndarray, action_mask: np.ndarray) -> PolicyOutput:
        """Decide as :class:`~marlgpt_policy.policy.onnx_policy.OnnxPolicy` does.

        Raises:
            PolicyError: The policy failed and there is none to go back to, or that one failed, too.
        """
        if len(values):
            self.recent.append((values, valid, action_mask))
        started = self._clock()
        try:
            output = self.current(values, valid, action_mask)
        except PolicyLate:
            self.late += 1
            self._time(self._clock() - started, late=True)
            return self._stand_in(values, valid, action_mask)
        except PolicyError as error:
            if self.previous is None:
                raise
            self._roll_back(str(error))
            return self(values, valid, action_mask)
        if len(values):
            self._time(self._clock() - started)
        return output

    def _time(self, seconds: float, late: bool = False) -> None:
        """Note how long an inference took; go back after several slow ones of a new policy."""
        self._made += 1
        if not late:
            self._durations.append(seconds)
        if self.previous is None or self._made > PROBATION:
            return
        slow = late or seconds > max(self._slowest, SLOWER * self._usual)
        self._slow = self._slow + 1 if slow else 0
        if self._slow == SLOW_DECISIONS:
            last = list(self._durations)[-SLOW_DECISIONS:]
            took = f"{1e3 * float(np.median(last)):.0f} ms" if last and not late else "no answer in time"
            self._roll_back(
                f"policy {self.current.path}: {SLOW_DECISIONS} inferences one after the other took too long, "
                f"{took}, where {1e3 * self._slowest:.0f} ms are allowed and the policy before took "
                f"{1e3 * self._usual:.0f} ms; export a smaller model, or use a faster provider"
            )

    def _roll_back(self, reason: str) -> None:
        failed, self.current, self.previous = self.current, self.previous, None
        self.rollbacks += 1
        self.reason = reason
        self._durations.clear()
        self._slow = 0
        failed.close()
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

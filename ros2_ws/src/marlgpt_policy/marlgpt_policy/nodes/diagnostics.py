"""/diagnostics of the fleet: how fast it decides, whether it keeps its period, who needs a look."""

from __future__ import annotations

import math
from collections import Counter, deque

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

from marlgpt_policy.fleet.fleet import Fleet
from marlgpt_policy.nodes.event_log import EventLog, short
from marlgpt_policy.robots.robot_config import Status

WINDOW = 512
"""Decisions that the latency's percentiles are taken over."""
LATE = 1.5
"""Periods between two ticks from which the second counts as late."""
SHOWN = 8
"""Names listed in one text."""
ATTENTION = {
    Status.NO_POSE: DiagnosticStatus.WARN,
    Status.STALE: DiagnosticStatus.ERROR,
    Status.OFF_GRID: DiagnosticStatus.ERROR,
    Status.JUMPED: DiagnosticStatus.ERROR,
}
"""Robots that need a look, and how urgently."""


def listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest


class Health:
    """Collects what the diagnostics say, and logs robots that begin or cease to need a look.

    Attributes:
        late: Control periods that began late.
        latest: The longest time between two of them, s.
        late_decisions: Decisions that the policy was too late for.
        rollbacks, rollback_reason: How often a policy failed and the one before came back, and why the last time.
    """

    def __init__(self, event_log: EventLog, period: float) -> None:
        """``period`` is the control period in s."""
        self._event_log, self._period = event_log, period
        self._decision_ms: deque[float] = deque(maxlen=WINDOW)
        self.late, self.latest = 0, 0.0
        self._needing: dict[str, Status] = {}
        self.late_decisions = 0
        self.rollbacks, self.rollback_reason = 0, ""

    def tick(self, elapsed: float) -> None:
        """A control period began ``elapsed`` s after the one before."""
        self.late += elapsed > LATE * self._period
        self.latest = max(self.latest, elapsed)

    def decision(self, milliseconds: float) -> None:
        """A decision took that long."""
        self._decision_ms.append(milliseconds)

    def rolled_back(self, reason: str) -> None:
        """A policy failed while driving, and the one before drives again."""
        self.rollbacks += 1
        self.rollback_reason = short(reason)

    def message(self, fleet: Fleet, header: Header, now: float, listeners: int) -> DiagnosticArray:
        """One status of the fleet, and one of each robot that needs a look or is stopped by itself.

        ``listeners`` is the number of those that hear the heartbeat; without any there is no watchdog.
        """
        states = fleet.statuses(now)
        counts = Counter(status for status, _ in states)
        statuses = [self._summary(fleet, states, counts, now, listeners)]
        for i, (name, (status, detail)) in enumerate(zip(fleet.names, states, strict=True)):
            if status in ATTENTION or (fleet.halted[i] and status == Status.STOPPED):
                level = ATTENTION.get(status, DiagnosticStatus.WARN)
                one = DiagnosticStatus(level=level, name=f"marlgpt: {name}", hardware_id=name)
                one.message = f"{status.name}: {detail}"
                age = now - fleet.pose_time[i]
                if math.isfinite(age):
                    one.values = [KeyValue(key="pose_age_s", value=f"{age:.2f}")]
                statuses.append(one)
        self._log_changes(fleet.names, states)
        return DiagnosticArray(header=header, status=statuses)

    def _summary(
        self, fleet: Fleet, states: list, counts: Counter, now: float, listeners: int
    ) -> DiagnosticStatus:
        lost = [name for name, (status, _) in zip(fleet.names, states, strict=True) if status in ATTENTION]
        level = DiagnosticStatus.WARN if lost or fleet.stopped or fleet.halted.any() else DiagnosticStatus.OK
        text = "driving"
        if fleet.stopped:
            text = "stopped until fleet/resume is called"
        elif lost:
            text = f"standing still: {listed(lost)}"
        ages = now - fleet.pose_time[np.isfinite(fleet.pose_time) & ~fleet.removed]
        values = {
            "provider": fleet.policy.provider,
            "policy": fleet.policy.name,
            "policy_sha256": fleet.policy.sha256,
            "late_decisions": self.late_decisions,
            "policy_rollbacks": self.rollbacks,
            "policy_rollback_reason": self.rollback_reason or "none",
            "execution": fleet.config.execution,
            **self._latency(),
            "late_periods": self.late,
            "longest_period_s": f"{self.latest:.3f}",
            "robots": int((~fleet.removed).sum()),
            "removed_robots": int(fleet.removed.sum()),
            "stopped_robots": int((fleet.halted & ~fleet.removed).sum()),
            "stale_robots": counts[Status.STALE],
            "jumped_robots": counts[Status.JUMPED],
            "robots_off_grid": counts[Status.OFF_GRID],
            "robots_without_pose": counts[Status.NO_POSE],
            "waiting_robots": counts[Status.WAITING],
            "moving_robots": counts[Status.MOVING],
            "oldest_pose_s": f"{ages.max():.2f}" if len(ages) else "none",
            "heartbeat_listeners": listeners,
            "decisions": fleet.decisions,
            "vetoes": int(fleet.vetoes.sum()),
            "goals_reached": int(fleet.goals_reached.sum()),
            **{f"remedy_{name}": count for name, count in fleet.remedies.items()},
            "rejected_messages": self._event_log.refusals,
            **{f"rejected_{kind}": count for kind, count in sorted(self._event_log.rejected.items())},
        }
        status = DiagnosticStatus(level=level, name="marlgpt: fleet", message=text, hardware_id="fleet")
        status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        return status

    def _latency(self) -> dict[str, str]:
        if not self._decision_ms:
            return dict.fromkeys(("decision_ms_last", "decision_ms_p50", "decision_ms_p99"), "none")
        p50, p99 = np.percentile(self._decision_ms, [50, 99])
        return {
            "decision_ms_last": f"{self._decision_ms[-1]:.2f}",
            "decision_ms_p50": f"{p50:.2f}",
            "decision_ms_p99": f"{p99:.2f}",
        }

    def _log_changes(self, names: list[str], states: list) -> None:
        """One line for each kind of trouble that robots got into or out of since the last look."""
        needing = {
            name: status for name, (status, _) in zip(names, states, strict=True) if status in ATTENTION
        }
        begun: dict[Status, list[str]] = {}
        for name, status in needing.items():
            if self._needing.get(name) != status:
                begun.setdefault(status, []).append(name)
        well = [name for name in self._needing if name not in needing]
        self._needing = needing
        for status, robots in begun.items():
            self._event_log.write(
                "warning", "robots_stand", f"{status.name}: {listed(robots)}",
                status=status.name, robots=len(robots),
            )  # fmt: skip
        if well:
            self._event_log.write("info", "robots_recovered", f"recovered: {listed(well)}", robots=len(well))

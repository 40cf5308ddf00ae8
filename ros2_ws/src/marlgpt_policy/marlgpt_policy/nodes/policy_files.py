"""Policies of the nodes: files from parameters or services, each in a process of its own, with deadlines."""

from __future__ import annotations

import time
from pathlib import Path

from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.nodes.parameters import Settings
from marlgpt_policy.policy.policy_process import Observed, PolicyProcess

WAIT_SHARE = 0.8
"""Share of a control period for which a decision is waited for; the rest is for what else a period has to do."""


def start_policy(settings: Settings, path: str | Path, sha256: str) -> PolicyProcess:
    """Begin to load a file; returns at once. Call it from the main thread."""
    return PolicyProcess(
        path, POGEMA_LAYOUT, tuple(settings.providers), settings.threads, sha256,
        wait=WAIT_SHARE / settings.control_rate, give_up=settings.decision_timeout,
    )  # fmt: skip


def finish(policy: PolicyProcess, batches: list[Observed], timeout: float) -> PolicyProcess:
    """``policy``, loaded and tried out on ``batches``; raises ``PolicyError`` if that fails or takes longer."""
    end = time.monotonic() + timeout
    policy.wait_loaded(timeout)
    return policy.try_out(batches, max(0.1, end - time.monotonic()))

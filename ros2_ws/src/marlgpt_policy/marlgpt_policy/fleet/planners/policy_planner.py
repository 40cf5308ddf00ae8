"""The policy as a planner: encode what each robot sees, ask the policy, and sample."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from marlgpt_policy.encoders import pogema
from marlgpt_policy.fleet.planners.planner import Proposal
from marlgpt_policy.fleet.snapshot import Snapshot
from marlgpt_policy.policy.onnx_policy import OnnxPolicy, PolicyOutput, choose

Policy = OnnxPolicy | Callable[[np.ndarray, np.ndarray, np.ndarray], PolicyOutput]


class PolicyPlanner:
    """A policy that sees a window around each robot.

    Attributes:
        policy: The policy in use; another one may take its place between two decisions.
    """

    resolves_deadlocks = False

    def __init__(self, policy: Policy) -> None:
        """Plan with ``policy``."""
        self.policy = policy

    def propose(self, snapshot: Snapshot, random: np.random.Generator) -> Proposal:
        """One inference for all robots that decide; stuck ones are sampled at higher temperatures."""
        started = time.perf_counter()
        values, valid, _ = pogema.encode(
            snapshot.fields, snapshot.cells, snapshot.goals, snapshot.history, snapshot.moves, snapshot.which
        )
        encoded = time.perf_counter()
        output = self.policy(values, valid, snapshot.mask)
        inferred = time.perf_counter()
        return Proposal(
            choose(output.probabilities, snapshot.temperatures, random),
            output.logits,
            output.probabilities,
            output.q,
            1e3 * (encoded - started),
            1e3 * (inferred - encoded),
        )

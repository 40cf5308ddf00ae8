"""Time of a decision of a policy in a process of its own, with deadlines, against the same policy called directly.

Both are asked in turn, so that whatever else the machine does hits both. The answers must be equal bit by bit.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from common import MODELS, finish, options, progress, scene
from marlgpt_policy.encoders import pogema
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.policy.onnx_policy import OnnxPolicy
from marlgpt_policy.policy.policy_process import PolicyProcess

FLEETS = (1, 16, 64, 256)
SECONDS = 4.0
CPU = ("CPUExecutionProvider",)
LIMIT = 1.10
"""Largest ratio of medians for 16 robots and more."""


def in_turn(calls: list, seconds: float) -> np.ndarray:
    """Seconds [rounds, calls] that each of ``calls`` took, one after the other."""
    durations, started = [], time.perf_counter()
    while time.perf_counter() - started < seconds:
        row = []
        for call in calls:
            begun = time.perf_counter()
            call()
            row.append(time.perf_counter() - begun)
        durations.append(row)
    return np.array(durations)


def main() -> int:
    args = options(__doc__)
    path = MODELS / "pogema.onnx"
    direct = OnnxPolicy(path, POGEMA_LAYOUT, CPU, 1)
    process = PolicyProcess(path, POGEMA_LAYOUT, CPU, 1, wait=10.0).wait_loaded()
    results: dict = {"fleets": {}}
    print(
        f"{'robots':>6} | {'direct p50':>10} {'p99':>8} | {'process p50':>11} {'p99':>8} | ratio of p50 (ms)"
    )
    for robots in FLEETS:
        env = scene(robots)
        observed = pogema.encode(env.fields, env.cells, env.goals, env.history, env.moves)
        here, there = direct(*observed), process(*observed)
        if any((getattr(here, k) != getattr(there, k)).any() for k in ("logits", "q", "probabilities")):
            print("the answers differ", file=sys.stderr)
            return 1
        progress(f"{robots} robots ...")
        took = 1e3 * in_turn([lambda o=observed: direct(*o), lambda o=observed: process(*o)], SECONDS)
        progress("")
        (p50, ours50), (p99, ours99) = np.percentile(took, (50, 99), axis=0)
        ratio = ours50 / p50
        print(f"{robots:>6} | {p50:10.2f} {p99:8.2f} | {ours50:11.2f} {ours99:8.2f} | {ratio:.3f}")
        results["fleets"][robots] = {"direct_p50_ms": p50, "process_p50_ms": ours50, "ratio": ratio}
        results["fleets"][robots] |= {"direct_p99_ms": p99, "process_p99_ms": ours99}
    process.close()
    largest = max(found["ratio"] for robots, found in results["fleets"].items() if robots >= 16)
    results["limit_met"] = bool(largest <= LIMIT)
    print(
        f"within {LIMIT:g} of a direct call from 16 robots on: {'met' if results['limit_met'] else 'NOT met'}"
    )
    finish(args, "policy_process", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())

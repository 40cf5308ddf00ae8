"""Time of a fleet decision (encode, policy, shield) on the CPU, against NumPy, PyTorch and plain Python.

Uses the shipped policy where it lies in the models folder, a random one of the ``tiny`` preset elsewhere.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from common import MODELS, finish, numpy_encode, options, progress, python_pibt, scene, timed
from marlgpt_policy.encoders import pogema
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.mapf.pibt_shield import rank_moves, resolve, shielded
from marlgpt_policy.policy.onnx_policy import OnnxPolicy, choose
from marlgpt_training.export.export import to_onnx
from marlgpt_training.model.checkpoint import load_checkpoint
from marlgpt_training.model.model import MarlGpt, preset

FLEETS = (16, 64, 256)
LIMIT_MS = {64: 25.0}
CPU = ("CPUExecutionProvider",)


def policies() -> tuple[str, OnnxPolicy, MarlGpt]:
    """(what it is, ONNX policy, the same model in PyTorch), each on one thread."""
    onnx, weights = MODELS / "pogema.onnx", MODELS / "pogema.safetensors"
    if onnx.is_file() and weights.is_file():
        model = load_checkpoint(weights, POGEMA_LAYOUT)[0].eval()
        return "shipped policy", OnnxPolicy(onnx, POGEMA_LAYOUT, CPU, 1), model
    torch.manual_seed(0)
    model = MarlGpt(preset("tiny"), POGEMA_LAYOUT).eval()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch on its own exporter
        to_onnx(model, POGEMA_LAYOUT, Path(folder) / "tiny.onnx", {}, "random weights")
        return "random tiny policy", OnnxPolicy(Path(folder) / "tiny.onnx", POGEMA_LAYOUT, CPU, 1), model


def main() -> int:
    args = options(__doc__)
    torch.set_num_threads(1)
    label, policy, model = policies()
    results = {"policy": label, "fleets": {}}
    print(f"{label}, one thread; ms per decision of the whole fleet (CPU: time the process really ran)")
    columns = f"{'p50':>8} {'p99':>8} {'CPU p50':>8}"
    print(f"{'robots':>6} {columns} | baseline {columns} | ratio")
    for robots in FLEETS:
        env = scene(robots)
        inputs = (env.fields, env.cells, env.goals, env.history, env.moves)
        random = np.random.default_rng(0)
        priority = random.random(robots)

        def ours(env=env, inputs=inputs, random=random, priority=priority):
            observed = pogema.encode(*inputs)
            out = policy(*observed)
            proposed = choose(out.probabilities, 0.5, random)
            return shielded(out.logits, proposed, observed[2], env.cells, priority, env.moves, 0)

        def plain(env=env, inputs=inputs, random=random, priority=priority):
            observed = numpy_encode(*inputs)
            with torch.inference_mode():
                logits = model(*(torch.from_numpy(a) for a in observed))[0]
                probabilities = logits[:, :5].softmax(dim=1).numpy()
            ranking = rank_moves(logits.numpy(), choose(probabilities, 0.5, random), observed[2])
            return python_pibt(env.cells, ranking, priority, env.moves)

        ranking = np.argsort(np.random.default_rng(1).random((robots, 5)), axis=1).astype(np.int8)
        proposal = (env.cells, ranking, priority, env.moves)
        if (resolve(*proposal) != python_pibt(*proposal)).any():
            print("the two shields disagree", file=sys.stderr)
            return 1
        progress(f"{robots} robots ...")
        (fast, cpu), (fast99, _) = 1e3 * np.percentile(timed(ours, 4.0), (50, 99), axis=0)
        progress(f"{robots} robots, baseline ...")
        (slow, slow_cpu), (slow99, _) = 1e3 * np.percentile(timed(plain, 4.0), (50, 99), axis=0)
        progress("")
        left = f"{robots:>6} {fast:8.2f} {fast99:8.2f} {cpu:8.2f}"
        print(f"{left} |          {slow:8.2f} {slow99:8.2f} {slow_cpu:8.2f} | {slow / fast:4.1f}x")
        entry = {"p50_ms": fast, "p99_ms": fast99, "cpu_p50_ms": cpu, "baseline_p50_ms": slow}
        entry |= {"baseline_p99_ms": slow99, "baseline_cpu_p50_ms": slow_cpu, "ratio": slow / fast}
        results["fleets"][robots] = entry
    for robots, limit in LIMIT_MS.items():
        found = results["fleets"][robots]
        results["limit_met"] = bool(found["p50_ms"] <= limit)
        verdict = "met" if results["limit_met"] else "NOT met"
        print(
            f"{robots} robots within {limit:g} ms (p50): {verdict}; {found['cpu_p50_ms']:.1f} ms of CPU time"
        )
    finish(args, "decision", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())

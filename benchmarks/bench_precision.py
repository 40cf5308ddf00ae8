"""Policy files in fp16 and int8 against fp32: time of an inference, size, and loss of quality, on the CPU.

Uses the shipped policy where it lies in the models folder, a random one of the ``tiny`` preset elsewhere, and
observations of ``out/store`` where there are some, of robots after random moves elsewhere.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from common import MODELS, finish, options, progress, scene
from marlgpt_policy.encoders import pogema
from marlgpt_policy.encoders.token_layout import MAX_ACTIONS, POGEMA_LAYOUT
from marlgpt_policy.policy.onnx_policy import OnnxPolicy
from marlgpt_training.dataloader.samples import compress, expand
from marlgpt_training.export.export import observations, to_proto
from marlgpt_training.export.quantisation import PRECISIONS, compare, convert
from marlgpt_training.model.checkpoint import load_checkpoint
from marlgpt_training.model.model import MarlGpt, preset

FLEETS = (1, 16, 64, 256)
OBSERVATIONS = 10_000
SECONDS = 6.0
STORE = Path("out/store")


def model() -> tuple[str, MarlGpt]:
    """(what it is, the model)."""
    weights = MODELS / "pogema.safetensors"
    if weights.is_file():
        return "shipped policy", load_checkpoint(weights, POGEMA_LAYOUT)[0]
    torch.manual_seed(0)
    return "random tiny policy", MarlGpt(preset("tiny"), POGEMA_LAYOUT)


def samples() -> tuple[str, np.ndarray, np.ndarray]:
    """(where from, packed observations, allowed moves)."""
    if any(STORE.glob("*.parquet")):
        return str(STORE), *observations(STORE, OBSERVATIONS)
    parts = []
    for seed in range(-(-OBSERVATIONS // 64)):
        env = scene(64, seed)
        values, valid, mask = pogema.encode(env.fields, env.cells, env.goals, env.history, env.moves)
        parts.append((compress(values, valid), mask[:, :5]))
    packed, masks = (np.concatenate(arrays)[:OBSERVATIONS] for arrays in zip(*parts, strict=True))
    return "robots after random moves", packed, masks


def race(policies: dict[str, OnnxPolicy], inputs: tuple[np.ndarray, ...]) -> dict[str, float]:
    """Median seconds of a call by policy, called in turn so that all meet the same load."""
    durations = {name: [] for name in policies}
    started = time.perf_counter()
    while len(durations["fp32"]) < 10 or time.perf_counter() - started < SECONDS:
        for name, policy in policies.items():
            before = time.perf_counter()
            policy(*inputs)
            durations[name].append(time.perf_counter() - before)
    return {name: float(np.median(found[2:])) for name, found in durations.items()}


def main() -> int:
    args = options(__doc__)
    torch.set_num_threads(1)
    label, network = model()
    source, packed, masks = samples()
    results = {"policy": label, "observations": source, "precisions": {}, "fleets": {}}
    policies = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch on its own exporter
        exact = to_proto(network, POGEMA_LAYOUT, {}, label)
        print(f"{label}, one thread; {len(packed):,} observations of {source}")
        print("       size   same best action  logits mean, max      KL (nats)")
        for precision in PRECISIONS:
            path = Path(folder) / f"{precision}.onnx"
            path.write_bytes(convert(exact, precision).SerializeToString())
            policies[precision] = OnnxPolicy(path, POGEMA_LAYOUT, ("CPUExecutionProvider",), 1)
            loss = compare(policies["fp32"], policies[precision], packed, masks)
            size = path.stat().st_size / 1e6
            results["precisions"][precision] = {"megabytes": size, **loss}
            print(
                f"{precision}  {size:4.2f} MB  {loss['agreement']:9.2%}         {loss['logit_mean']:.1e}, "
                f"{loss['logit_max']:.1e}      {loss['kl']:.1e}"
            )
        print("ms per inference of the whole fleet; speed against fp32")
        for robots in FLEETS:
            progress(f"{robots} robots ...")
            values, valid = expand(packed[:robots])
            mask = np.zeros((robots, MAX_ACTIONS), dtype=bool)
            mask[:, :5] = masks[:robots]
            found = race(policies, (values, valid, mask))
            progress("")
            shown = [f"{name} {1e3 * s:7.2f} ({found['fp32'] / s:.2f}x)" for name, s in found.items()]
            print(f"{robots:>6} robots: " + "  ".join(shown))
            results["fleets"][robots] = {
                name: {"p50_ms": 1e3 * s, "ratio": found["fp32"] / s} for name, s in found.items()
            }
    finish(args, "precision", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())

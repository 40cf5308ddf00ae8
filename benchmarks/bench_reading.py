"""Training samples per second of the ``entity`` reading against the ``scalar`` one, same width and depth."""

from __future__ import annotations

import sys

import numpy as np
import torch
from common import finish, options, progress, scene, timed
from marlgpt_policy.encoders import pogema
from marlgpt_policy.layout import POGEMA_LAYOUT
from marlgpt_training.data import compress
from marlgpt_training.model import MarlGpt, ModelConfig
from marlgpt_training.train import behaviour_cloning

WIDTH, HEADS, SHARED, BATCH = 64, 4, 1, 64


def rate(reading: str, packed: np.ndarray, labels: np.ndarray, masks: np.ndarray) -> tuple[float, int]:
    """(samples per second of whole optimiser steps, parameters)."""
    torch.manual_seed(0)
    model = MarlGpt(ModelConfig(WIDTH, HEADS, SHARED, reading), POGEMA_LAYOUT).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step():
        behaviour_cloning(model, packed, labels, masks, "cpu")[0].backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return BATCH / float(np.median(timed(step, 8.0), axis=0)[0]), model.parameters_count()


def main() -> int:
    args = options(__doc__)
    torch.set_num_threads(1)
    env = scene(BATCH)
    values, valid, mask = pogema.encode(env.fields, env.cells, env.goals, env.history, env.moves)
    batch = compress(values, valid), np.zeros(BATCH, dtype=np.int64), mask[:, :5]
    found = {}
    for reading in ("entity", "scalar"):
        progress(f"{reading} reading ...")
        found[reading] = rate(reading, *batch)
    progress("")
    ratio = found["entity"][0] / found["scalar"][0]
    print(f"width {WIDTH}, {SHARED + 1} blocks to the logits, batch {BATCH}, one thread; training samples/s")
    for reading, (samples, parameters) in found.items():
        print(f"  {reading:<6} {samples:9,.0f}  ({parameters:,} parameters)")
    print(f"entity is {ratio:.1f} times as fast as scalar")
    rates = {f"{reading}_samples_per_s": samples for reading, (samples, _) in found.items()}
    finish(args, "reading", {**rates, "ratio": ratio})
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How much faster samples are drawn, replayed and encoded than the trainer consumes them, on one core each.

The trainer is the shipped preset in the entity reading, the fastest consumer there is; loading is measured with and
without the transitions that the critic needs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import finish, options, progress, timed
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_training.collection.pogema_rollouts import collect_shard
from marlgpt_training.dataloader.sample_stream import SampleStream
from marlgpt_training.dataloader.sampling import SamplingConfig, make_round
from marlgpt_training.model.losses import LossConfig, Objective
from marlgpt_training.model.model import MarlGpt, preset

BATCH, CHUNKS, SECONDS = 512, 4, 10.0


def main() -> int:
    args = options(__doc__)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        for k in range(2):
            progress(f"expert episodes {k + 1}/2 ...")
            collect_shard(store / f"lns-{k}.parquet", k, 12, 64, "lns")
        paths = sorted(store.glob("*.parquet"))
        size = sum(path.stat().st_size for path in paths)
        rates = {}
        for name, drawing in {
            "load": SamplingConfig(),
            "load transitions": SamplingConfig(transitions=True),
        }.items():
            progress(f"{name} ...")
            sizes = []

            def load(drawing=drawing, sizes=sizes) -> None:
                sizes.append(len(make_round(paths, (0, len(sizes)), drawing)[0]))

            cpu = timed(load, SECONDS)[:, 1]
            rates[name] = float(np.mean(sizes)) / float(np.median(cpu))
        model = MarlGpt(preset("tiny"), POGEMA_LAYOUT).train()
        objective = Objective(model, LossConfig())
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        samples = SampleStream(store, 0).next(BATCH)
        order = np.argsort((samples.packed != -128).sum(axis=1))

        def train() -> None:
            for piece in np.array_split(order, CHUNKS):
                (objective(samples.take(piece).tensors("cpu"))[0] / BATCH).backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        progress("train ...")
        rates["train"] = BATCH / float(np.median(timed(train, SECONDS), axis=0)[1])
        progress("")
        import pyarrow.parquet as pq

        labels = sum(len(row) for path in paths for row in pq.read_table(path)["labels"].to_pylist())
    for name, rate in rates.items():
        print(f"{name:<17} {rate:9,.0f} samples per CPU second")
    ratio = rates["load"] / rates["train"]
    print(
        f"loading is {ratio:.1f} times as fast as training; the store takes {size / labels:.2f} bytes per agent step"
    )
    finish(args, "load", {**rates, "ratio": ratio, "bytes_per_agent_step": size / labels})
    return 0


if __name__ == "__main__":
    sys.exit(main())

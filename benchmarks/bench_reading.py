"""Training samples per second: ``entity`` against ``scalar`` reading, ``scalar`` against a plain nanoGPT-style loop.

All three have the same width, depth and heads. The plain loop is what one writes first, after nanoGPT: observations
from a token file of one byte per value, all tokens (padding as well) through all blocks, heads on the last one.
Ours draws, replays and encodes its samples from the trajectory store inside the measured time, round by round.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import finish, options, progress
from marlgpt_policy.encoders.token_layout import MAX_ACTIONS, POGEMA_LAYOUT
from marlgpt_training.collection.pogema_rollouts import collect_shard
from marlgpt_training.dataloader.sample_stream import SampleStream
from marlgpt_training.dataloader.sampling import SamplingConfig
from marlgpt_training.model.losses import LossConfig, Objective
from marlgpt_training.model.model import Block, MarlGpt, ModelConfig, ScalarEmbedding
from torch import nn
from torch.nn import functional as F

WIDTH, HEADS, SHARED, BATCH, CHUNKS = 64, 4, 1, 64, 4
SECONDS = 10.0
EVERYDAY, ROUND = SamplingConfig(), SamplingConfig(shards=1)
"""The trainer's drawing, and the same work per sample in small rounds, so that a measurement covers whole ones."""


class PlainGpt(nn.Module):
    """Embedding, ``SHARED`` + 1 blocks over every token, a head on the last token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = ScalarEmbedding(WIDTH, 1)
        self.ids = ScalarEmbedding.ids_of(POGEMA_LAYOUT, 1)
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS) for _ in range(SHARED + 1))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, MAX_ACTIONS, bias=False)

    def forward(self, values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Logits float[b, 20] of values float[b, L] and valid bool[b, L]."""
        x, keys = self.embedding(values, valid, self.ids)
        bias = torch.zeros(keys.shape).masked_fill(~keys, -1e9)[:, None, None]
        for block in self.blocks:
            x = block(x, bias)
        return self.head(self.norm(x)[:, -1])


def plain_loop(file: Path, labels: np.ndarray):
    """One optimiser step of the plain loop over a token file, as a function."""
    tokens = np.memmap(file, dtype=np.int8, mode="r").reshape(-1, len(POGEMA_LAYOUT))
    model = PlainGpt().train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    rng = np.random.default_rng(0)

    def step() -> None:
        pick = rng.integers(len(tokens), size=BATCH)
        raw = torch.from_numpy(tokens[pick])
        logits = model((raw.float() / 20).masked_fill(raw == -128, 0), raw != -128)
        F.cross_entropy(logits, torch.from_numpy(labels[pick])).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


class OurLoop:
    """Optimiser steps of the trainer, data included; ``stream`` says where in its round of samples it is."""

    def __init__(
        self,
        model: MarlGpt,
        store: Path,
        rate: float = 1e-4,
        warmup: int = 0,
        drawing: SamplingConfig = EVERYDAY,
    ) -> None:
        self.model, self.rate, self.warmup, self.steps = model.train(), rate, warmup, 0
        self.objective = Objective(model, LossConfig())
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.98))
        self.stream = SampleStream(store, 0, drawing=drawing)

    def __call__(self) -> None:
        """Make one step."""
        self.steps += 1
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * min(1.0, self.steps / max(1, self.warmup))
        samples = self.stream.next(BATCH).shortest_first()
        for piece in np.array_split(np.arange(BATCH), CHUNKS):
            (self.objective(samples.take(piece).tensors("cpu"))[0] / BATCH).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)


def samples_per_second(loop) -> float:
    """All samples by all CPU seconds, over whole rounds of samples: making one belongs to its steps."""
    loop()  # warms up
    stream = getattr(loop, "stream", None)
    whole = len(stream.samples) // BATCH if stream else 1  # steps to a round
    steps, spent = 0, 0.0
    while spent < SECONDS:
        started = time.process_time()
        for _ in range(whole):
            loop()
        spent, steps = spent + time.process_time() - started, steps + whole
    return BATCH * steps / spent


def main() -> int:
    args = options(__doc__)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        progress("expert episodes ...")
        collect_shard(store / "lns.parquet", 0, 12, 64, "lns")
        found = SampleStream(store, 1).next(4096)
        file = Path(folder) / "tokens.bin"
        found.packed.tofile(file)
        models = {
            reading: MarlGpt(ModelConfig(WIDTH, HEADS, SHARED, reading), POGEMA_LAYOUT).train()
            for reading in ("entity", "scalar")
        }
        loops = {
            **{reading: OurLoop(model, store, drawing=ROUND) for reading, model in models.items()},
            "plain": plain_loop(file, found.labels),
        }
        rates = {}
        for name, step in loops.items():
            progress(f"{name} ...")
            rates[name] = samples_per_second(step)
        progress("")
    print(
        f"width {WIDTH}, {SHARED + 1} blocks to the logits, batch {BATCH}, one thread; training samples per CPU second"
    )
    for name, rate in rates.items():
        print(f"  {name:<6} {rate:9,.0f}")
    ratio, against_plain = rates["entity"] / rates["scalar"], rates["scalar"] / rates["plain"]
    print(
        f"entity is {ratio:.1f} times as fast as scalar, scalar {against_plain:.2f} times as fast as the plain loop"
    )
    results = {f"{name}_samples_per_s": rate for name, rate in rates.items()}
    finish(args, "reading", {**results, "ratio": ratio, "scalar_against_plain": against_plain})
    return 0


if __name__ == "__main__":
    sys.exit(main())

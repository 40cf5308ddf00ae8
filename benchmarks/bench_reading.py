"""Training samples per second: ``entity`` against ``scalar`` reading, ``scalar`` against a plain nanoGPT-style loop.

All three have the same width, depth and heads. The plain loop is what one writes first, after nanoGPT: observations
from a token file of one byte per value, all tokens (padding as well) through all blocks, heads on the last one.
Ours draws, replays and encodes its samples from the trajectory store inside the measured time.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import finish, options, progress, timed
from marlgpt_policy.layout import MAX_ACTIONS, POGEMA_LAYOUT
from marlgpt_training.collect import collect_shard
from marlgpt_training.data import SampleStream
from marlgpt_training.losses import LossConfig, Objective
from marlgpt_training.model import Block, MarlGpt, ModelConfig, ScalarEmbedding
from torch import nn
from torch.nn import functional as F

WIDTH, HEADS, SHARED, BATCH, CHUNKS = 64, 4, 1, 64, 4
SECONDS = 10.0


class PlainGpt(nn.Module):
    """Embedding, ``SHARED`` + 1 blocks over every token, a head on the last token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = ScalarEmbedding(WIDTH, POGEMA_LAYOUT)
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS) for _ in range(SHARED + 1))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, MAX_ACTIONS, bias=False)

    def forward(self, values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Logits float[b, 20] of values float[b, L] and valid bool[b, L]."""
        x, keys = self.embedding(values, valid)
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


def our_loop(model: MarlGpt, store: Path, rate: float = 1e-4):
    """One optimiser step of the trainer, data included, as a function."""
    objective = Objective(model, LossConfig())
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    stream = SampleStream(store, 0)

    def step() -> None:
        samples = stream.next(BATCH)
        order = np.argsort((samples.packed != -128).sum(axis=1))
        for piece in np.array_split(order, CHUNKS):
            (objective(samples.take(piece).tensors("cpu"))[0] / BATCH).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


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
            **{reading: our_loop(model, store) for reading, model in models.items()},
            "plain": plain_loop(file, found.labels),
        }
        rates = {}
        for name, step in loops.items():
            progress(f"{name} ...")
            rates[name] = BATCH / float(np.median(timed(step, SECONDS), axis=0)[1])
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

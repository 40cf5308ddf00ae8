"""Data aggregation beside the trainer: roll out the newest student, label with the expert, add shards.

DAgger (Ross et al. 2011, arXiv 1011.0686). Runs as a process of its own; the trainer reads the growing store.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from marlgpt_policy.layout import POGEMA_LAYOUT

from marlgpt_training.checkpoint import load_checkpoint, torch_forward
from marlgpt_training.collect import collect_shard
from marlgpt_training.store import shards


def run(
    store: Path,
    student: Path,
    seed: int,
    worker: int,
    episodes: int,
    steps: int,
    expert: str,
    keep: int,
    device: str = "cpu",
) -> None:
    """Collect shards until the parent dies; the oldest are dropped beyond ``keep`` shards per worker."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer ends its workers itself
    torch.set_num_threads(1)
    os.nice(5)
    prefix = f"dagger-{worker}-"
    existing = [p for p in shards(store) if p.name.startswith(prefix)]
    count = int(existing[-1].stem.rsplit("-", 1)[1]) + 1 if existing else 0
    parent = os.getppid()
    while os.getppid() == parent:
        if not student.exists():
            time.sleep(1)
            continue
        model, _ = load_checkpoint(student, POGEMA_LAYOUT)
        path = store / f"{prefix}{count:06d}.parquet"
        collect_shard(
            path, hash((seed, worker, count)) % 2**31, episodes, steps, expert, torch_forward(model, device)
        )
        count += 1
        mine = [p for p in shards(store) if p.name.startswith(prefix)]
        for old in mine[:-keep]:
            old.unlink(missing_ok=True)

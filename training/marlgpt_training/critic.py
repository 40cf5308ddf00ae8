"""Train the critic of a finished policy: Monte-Carlo policy evaluation with value bins, trunk and actor frozen.

The target of Q(s, a) for the executed move a is the discounted return of the episode from there,
G_t = sum_k gamma^k r_{t+k}, spread over the two nearest of the model's value bins (two-hot); the loss is the
cross entropy with the categorical critic (Farebrother et al. 2024, arXiv 2403.03950).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from marlgpt_policy.layout import POGEMA_LAYOUT
from tqdm import tqdm

from marlgpt_training.checkpoint import load_checkpoint, save_checkpoint
from marlgpt_training.losses import temporal_difference
from marlgpt_training.model import MarlGpt
from marlgpt_training.replay import Replay
from marlgpt_training.store import read_shard, shards


@dataclasses.dataclass
class Args:
    """Train the critic of a finished policy; its actions do not change."""

    checkpoint: Path = Path("out/train/best.safetensors")
    """Policy whose critic is trained."""
    out: Path = Path("out/train/critic.safetensors")
    """Checkpoint to write."""
    store: Path = Path("out/train/dagger")
    """Trajectory store; the episodes that the student drove itself say most about its returns."""
    steps: int = 600
    """Optimiser steps."""
    batch: int = 512
    """Samples in a batch."""
    learning_rate: float = 1e-3
    """Peak learning rate, linear decay to zero."""
    gamma: float = 0.95
    """Discount per step."""
    highest: float = 2.0
    """Return of the highest value bin; the lowest is 0."""
    seed: int = 0
    """Seed of batches."""
    threads: int = 1
    """CPU threads."""


def returns(rewards: np.ndarray, gamma: float) -> np.ndarray:
    """float32[T, n] discounted returns of ``rewards`` [T, n], zero after the episode's end."""
    found = np.zeros(rewards.shape, dtype=np.float32)
    ahead = np.zeros(rewards.shape[1], dtype=np.float32)
    for step in range(len(rewards) - 1, -1, -1):
        ahead = rewards[step].astype(np.float32) + gamma * ahead
        found[step] = ahead
    return found


def split(store: Path) -> tuple[list[Path], list[Path]]:
    """Shards to train on and every tenth one held out.

    Raises:
        ValueError: Fewer than two shards.
    """
    paths = shards(store)
    if len(paths) < 2:
        raise ValueError(f"{store}: {len(paths)} shards, at least 2 are needed; run marlgpt collect first")
    return [path for k, path in enumerate(paths) if k % 10], paths[::10]


def samples(paths: list[Path], seed: int, batch: int, gamma: float) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield (values, valid, executed moves, returns) for ever; the last steps of cut episodes are left out."""
    rng = np.random.default_rng(seed)
    cut = int(np.ceil(np.log(0.05) / np.log(gamma)))
    parts: list[tuple[np.ndarray, ...]] = []
    while True:
        for episode in read_shard(paths[rng.integers(len(paths))]):
            steps, agents = episode.actions.shape
            last = steps if episode.ended else steps - cut
            if last < 1 or not episode.spec.get("lifelong", True):
                continue
            replay, found = Replay(episode), returns(episode.rewards, gamma)
            for step in rng.permutation(last)[:4]:
                which = rng.permutation(agents)[:24]
                values, valid, _ = replay.encode(int(step), which)
                parts.append(
                    (values, valid, episode.actions[step, which].astype(np.int64), found[step, which])
                )
            if sum(len(part[0]) for part in parts) >= 8 * batch:
                stacked = [np.concatenate(field) for field in zip(*parts, strict=True)]
                order = rng.permutation(len(stacked[0]))
                for start in range(0, len(order) - batch + 1, batch):
                    pick = order[start : start + batch]
                    yield tuple(field[pick] for field in stacked)
                parts = []


def critic_loss(model: MarlGpt, values, valid, actions, targets) -> torch.Tensor:
    """Mean cross entropy between the two-hot returns and the value bins of the executed moves."""
    with torch.no_grad():
        x, bias = model.trunk_forward(values, valid)
    return temporal_difference(model.critic(x, bias), actions, targets, model.bin_values, "two-hot").mean()


def explained_variance(model: MarlGpt, batches: list[tuple]) -> float:
    """1 - Var(G - Q) / Var(G) over ``batches``; 1 is perfect, 0 no better than the mean."""
    predicted, actual = [], []
    with torch.no_grad():
        for values, valid, actions, found in batches:
            x, bias = model.trunk_forward(torch.from_numpy(values), torch.from_numpy(valid))
            q = (model.critic(x, bias).softmax(-1) * model.bin_values).sum(-1)
            predicted.append(q[torch.arange(len(actions)), torch.from_numpy(actions)].numpy())
            actual.append(found)
    error = np.concatenate(actual) - np.concatenate(predicted)
    return float(1 - error.var() / np.concatenate(actual).var())


def main(args: Args) -> int:
    """Train, report the explained variance on held-out batches, save."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model, facts = load_checkpoint(args.checkpoint, POGEMA_LAYOUT)
    model.config.value_range = (0.0, args.highest)
    model.bin_values = torch.linspace(0.0, args.highest, model.config.bins)
    model.eval()
    parts = [model.critic_block, model.critic_norm, model.critic_head]
    parameters = [parameter for part in parts for parameter in part.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=0.01)
    train, test = split(args.store)
    stream = samples(train, args.seed, args.batch, args.gamma)
    unseen = samples(test, args.seed, args.batch, args.gamma)
    held_out = [next(unseen) for _ in range(6)]
    started = time.time()
    with tqdm(total=args.steps, unit="step") as bar:
        for step in range(args.steps):
            for group in optimiser.param_groups:
                group["lr"] = args.learning_rate * min(1.0, (step + 1) / 50) * (1 - step / args.steps)
            tensors = [torch.from_numpy(field) for field in next(stream)]
            loss = critic_loss(model, *tensors)
            if not torch.isfinite(loss):
                raise ValueError(f"critic loss is {float(loss)} at step {step}; lower --learning-rate")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            bar.update()
            bar.set_postfix_str(f"loss {loss.item():.3f}")
    explained = explained_variance(model, held_out)
    facts["critic"] = {
        "steps": args.steps, "samples": args.steps * args.batch, "gamma": args.gamma,
        "explained_variance": round(explained, 4),
    }  # fmt: skip
    save_checkpoint(args.out, model, POGEMA_LAYOUT, facts)
    print(
        f"{args.out}: explained variance {explained:.3f} on held-out shards, {(time.time() - started) / 60:.1f} min"
    )
    return 0

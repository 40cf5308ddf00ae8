"""Train the critic of a finished policy: Monte-Carlo policy evaluation with value bins, trunk and actor frozen.

The target of Q(s, a) for the executed move a is the discounted return of the episode from there,
G_t = sum_k gamma^k r_{t+k}, spread over the two nearest of the model's value bins (two-hot); the loss is the
cross entropy with the categorical critic (Farebrother et al. 2024, arXiv 2403.03950).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from marlgpt_policy.encoders.registry import layout_named
from marlgpt_sim.runs.output_folder import check_output_file
from tqdm import tqdm

from marlgpt_training.dataloader.episode_unrolling import unroll
from marlgpt_training.dataloader.mixture import by_layout
from marlgpt_training.dataloader.sample_stream import Source
from marlgpt_training.model.checkpoint import (
    MARKS,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    trained_layouts,
)
from marlgpt_training.model.losses import temporal_difference
from marlgpt_training.model.model import MarlGpt
from marlgpt_training.store.sample_shards import is_sample_shard
from marlgpt_training.store.shards import StoreError, read_shard, shards


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


def check(args: Args) -> None:
    """``ValueError`` naming the option that cannot be."""
    for name in ("steps", "batch", "threads"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)}: at least 1 is needed")
    if not 0 < args.gamma < 1:
        raise ValueError(f"--gamma {args.gamma}: choose a discount between 0 and 1, both excluded")
    for name in ("learning_rate", "highest"):
        if not 0 < getattr(args, name) < math.inf:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} {getattr(args, name)}: choose a number above 0")
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: at least 0 is needed")


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


def samples(
    paths: list[Path], seed: int, batch: int, gamma: float, layout: str
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield (values, valid, executed moves, returns) for ever.

    The last steps of cut episodes are left out, as too much of their return is missing, and so are one-shot
    episodes. Shards that cannot be used are skipped with a message.

    Args:
        paths: Shards.
        seed: Seed of the choice.
        batch: Samples to yield at once.
        gamma: Discount per step, 0 < gamma < 1.
        layout: Name of the token layout that the episodes must have.

    Raises:
        ValueError: No shard has a usable episode; naming the reasons.
    """
    rng = np.random.default_rng(seed)
    usable, reasons = list(paths), []
    parts: list[tuple[np.ndarray, ...]] = []
    while usable:
        path = usable[rng.integers(len(usable))]
        try:
            found = list(shard_samples(path, rng, gamma, layout))
        except StoreError as error:
            found, reason = [], str(error) if str(path) in str(error) else f"{path}: {error}"
            reasons.append(reason)
            print(f"skipped: {reason}", flush=True)
        if not found:
            usable.remove(path)
        parts += found
        if sum(len(part[0]) for part in parts) >= 8 * batch:
            stacked = [np.concatenate(field) for field in zip(*parts, strict=True)]
            order = rng.permutation(len(stacked[0]))
            for start in range(0, len(order) - batch + 1, batch):
                pick = order[start : start + batch]
                yield tuple(field[pick] for field in stacked)
            parts = []
    why = "; ".join(reasons) or (
        f"returns need lifelong episodes, or games, that are longer than {_cut(gamma)} steps or ended by themselves "
        f"(--gamma {gamma})"
    )
    raise ValueError(f"{paths[0].parent}: no usable episode in {len(paths)} shards; {why}")


def _cut(gamma: float) -> int:
    """Last steps of a cut episode whose return misses more than a twentieth of the weight."""
    return int(np.ceil(np.log(0.05) / np.log(gamma)))


def shard_samples(
    path: Path, rng: np.random.Generator, gamma: float, layout: str
) -> Iterator[tuple[np.ndarray, ...]]:
    """A few samples of every usable episode of a shard.

    Raises:
        StoreError: Not readable, without rewards, or of another layout.
    """
    if is_sample_shard(path):
        raise StoreError(f"{path}: holds single observations, without the rewards that a critic learns from")
    for episode in read_shard(path):
        if episode.layout != layout:
            raise StoreError(f"{path}: holds observations of {episode.layout}, the others are of {layout}")
        if episode.kind == "fleet":
            raise StoreError(
                f"{path}: holds recordings, cut where the recorder cut them; name collected stores"
            )
        steps = len(episode.actions)
        last = steps if episode.ended else steps - _cut(gamma)
        if last < 1 or not episode.spec.get("lifelong", True):
            continue
        replay = unroll(episode)
        found = returns(replay.rewards(gamma), gamma)
        for step in rng.permutation(last)[:4]:
            which = rng.permutation(episode.actions.shape[1])[:24]
            values, valid, mask = replay.encode(int(step), which)
            moves = episode.actions[step, which].astype(np.int64)
            made = (moves >= 0) & np.take_along_axis(mask, np.maximum(moves, 0)[:, None], axis=1)[:, 0]
            yield values[made], valid[made], moves[made], found[step, which][made]


def critic_loss(model: MarlGpt, layout: str, values, valid, actions, targets) -> torch.Tensor:
    """Mean cross entropy between the two-hot returns and the value bins of the executed moves."""
    with torch.no_grad():
        x, bias = model.trunk_forward(values, valid, layout)
    return temporal_difference(model.critic(x, bias), actions, targets, model.bin_values, "two-hot").mean()


def explained_variance(model: MarlGpt, layout: str, batches: list[tuple]) -> float:
    """1 - Var(G - Q) / Var(G) over ``batches``; 1 is perfect, 0 no better than the mean (or nothing to explain)."""
    predicted, actual = [], []
    with torch.no_grad():
        for values, valid, actions, found in batches:
            x, bias = model.trunk_forward(torch.from_numpy(values), torch.from_numpy(valid), layout)
            q = (model.critic(x, bias).softmax(-1) * model.bin_values).sum(-1)
            predicted.append(q[torch.arange(len(actions)), torch.from_numpy(actions)].numpy())
            actual.append(found)
    wanted = np.concatenate(actual)
    error, spread = wanted - np.concatenate(predicted), wanted.var()
    return float(1 - error.var() / spread) if spread > 0 else 0.0


def load(args: Args) -> tuple[MarlGpt, dict, str]:
    """The policy with all its layouts and facts, and the layout of the store.

    Raises:
        ValueError: The checkpoint was not trained on the store's layout, or either cannot be read.
    """
    layout = next(iter(by_layout([Source(args.store)])))
    trained = trained_layouts(args.checkpoint)
    if layout not in trained:
        raise CheckpointError(
            f"{args.checkpoint}: trained on {', '.join(trained)}, but {args.store} holds observations of {layout}"
        )
    model, facts = load_checkpoint(args.checkpoint, [layout_named(name) for name in trained])
    model.set_value_range(0.0, args.highest)
    return model.eval(), facts, layout


def main(args: Args) -> int:
    """Train, report the explained variance on held-out batches, save.

    Raises:
        ValueError: An option that cannot be, or nothing to learn from in the store.
        FloatingPointError: The training diverged.
    """
    check(args)
    check_output_file(args.out, *MARKS)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    train, test = split(args.store)
    model, facts, layout = load(args)
    parts = [model.critic_block, model.critic_norm, model.critic_head]
    parameters = [parameter for part in parts for parameter in part.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=0.01)
    stream = samples(train, args.seed, args.batch, args.gamma, layout)
    unseen = samples(test, args.seed, args.batch, args.gamma, layout)
    held_out = [next(unseen) for _ in range(6)]
    started = time.time()
    with tqdm(total=args.steps, unit="step") as bar:
        for step in range(args.steps):
            for group in optimiser.param_groups:
                group["lr"] = args.learning_rate * min(1.0, (step + 1) / 50) * (1 - step / args.steps)
            tensors = [torch.from_numpy(field) for field in next(stream)]
            loss = critic_loss(model, layout, *tensors)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"critic loss is {float(loss)} at step {step}; lower --learning-rate"
                )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            bar.update()
            bar.set_postfix_str(f"loss {loss.item():.3f}")
    explained = explained_variance(model, layout, held_out)
    facts["critic"] = {
        "steps": args.steps, "samples": args.steps * args.batch, "gamma": args.gamma,
        "explained_variance": round(explained, 4),
    }  # fmt: skip
    save_checkpoint(args.out, model, list(model.layouts.values()), facts)
    print(
        f"{args.out}: explained variance {explained:.3f} on held-out shards, {(time.time() - started) / 60:.1f} min"
    )
    return 0

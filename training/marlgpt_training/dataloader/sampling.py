"""Which samples are drawn from shards, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from marlgpt_policy.encoders.registry import layout_named

from marlgpt_training.dataloader.episode_unrolling import transition, unroll
from marlgpt_training.dataloader.samples import Samples, compress
from marlgpt_training.store.fleet_episode import FleetEpisode
from marlgpt_training.store.frame_episode import FrameEpisode
from marlgpt_training.store.grid_episode import Episode
from marlgpt_training.store.sample_shards import is_sample_shard, read_samples
from marlgpt_training.store.shards import StoreError, read_shard


@dataclass(frozen=True)
class SamplingConfig:
    """How samples are drawn from shards."""

    shards: int = 6
    """Shards in one round."""
    per_episode: int = 192
    """Samples taken from an episode each time its shard is drawn."""
    per_step: int = 24
    """Most agents taken from one step."""
    transitions: bool = False
    """Whether executed moves, rewards and next observations are needed (critic)."""
    gamma: float = 0.95
    """Discount per step, for transitions."""
    td_steps: int = 1
    """Steps between an observation and its next one, for transitions."""
    layout: str = ""
    """Token layout that the shards must have; empty: that of the first one."""


def episode_samples(
    episode: Episode | FrameEpisode | FleetEpisode, rng: np.random.Generator, drawing: SamplingConfig
) -> Iterator[Samples]:
    """Samples of random agents at random steps of ``episode``; unlabelled ones only for the critic."""
    if isinstance(episode, FleetEpisode):
        yield from fleet_samples(episode, rng, drawing)
        return
    replay = unroll(episode)
    steps, agents = episode.actions.shape
    per_step = min(agents, drawing.per_step)
    rewards = replay.rewards(drawing.gamma) if drawing.transitions else None
    for step in rng.permutation(steps)[: max(1, drawing.per_episode // per_step)]:
        which = rng.permutation(agents)[:per_step]
        # The critic also learns what those that no longer act are worth to their team.
        labels = np.where(replay.acting(int(step)), episode.labels[step], -1)
        if not drawing.transitions:
            which = which[labels[which] >= 0]
        if not len(which):
            continue
        values, valid, mask = replay.encode(int(step), which)
        found = Samples(
            compress(values, valid, episode.layout),
            _narrow(mask, episode),
            labels[which].astype(np.int64),
            layout=episode.layout,
        )
        if drawing.transitions:
            total, bootstrap, last = transition(
                episode, rewards, int(step), which, drawing.td_steps, drawing.gamma
            )
            values, valid, mask = replay.encode(last, which)
            found.actions = episode.actions[step, which].astype(np.int64)
            found.rewards = total
            found.bootstraps = np.full(len(which), bootstrap, dtype=np.float32)
            found.next_packed = compress(values, valid, episode.layout)
            found.next_masks = _narrow(mask, episode)
        yield found


def fleet_samples(
    episode: FleetEpisode, rng: np.random.Generator, drawing: SamplingConfig
) -> Iterator[Samples]:
    """Samples of random decisions of a driving fleet; few robots decide at once, so more decisions are drawn."""
    replay = unroll(episode)
    left = drawing.per_episode
    for step in rng.permutation(len(episode.actions)):
        if left <= 0:
            return
        found = episode.actions[step] if drawing.transitions else episode.labels[step]
        which = rng.permutation(np.flatnonzero(found >= 0))[: min(drawing.per_step, left)]
        ahead = None
        if drawing.transitions:
            ahead = {
                int(i): replay.transition(int(step), int(i), drawing.td_steps, drawing.gamma) for i in which
            }
            which = np.array([i for i in which if ahead[int(i)] is not None], dtype=np.int64)
        if not len(which):
            continue
        left -= len(which)
        values, valid, mask = replay.encode(int(step), which)
        samples = Samples(
            compress(values, valid), mask[:, :5], episode.labels[step, which].astype(np.int64),
            layout=episode.layout,
        )  # fmt: skip
        if ahead is not None:
            follow = [ahead[int(i)] for i in which]
            after = [
                replay.encode(last, np.array([i])) for i, (_, _, last) in zip(which, follow, strict=True)
            ]
            values, valid, mask = (np.concatenate(part) for part in zip(*after, strict=True))
            samples.actions = episode.actions[step, which].astype(np.int64)
            samples.rewards = np.array([reward for reward, _, _ in follow], dtype=np.float32)
            samples.bootstraps = np.array([factor for _, factor, _ in follow], dtype=np.float32)
            samples.next_packed, samples.next_masks = compress(values, valid), mask[:, :5]
        yield samples


def _narrow(mask: np.ndarray, episode: Episode | FrameEpisode) -> np.ndarray:
    """``mask`` without the columns that no POGEMA move needs."""
    return mask[:, :5] if isinstance(episode, Episode) else mask


def shard_samples(path: Path, rng: np.random.Generator, drawing: SamplingConfig) -> Iterator[Samples]:
    """Samples of one shard, of episodes or of single observations.

    Raises:
        StoreError: Not readable, or without what ``drawing`` asks for.
    """
    if not is_sample_shard(path):
        for episode in read_shard(path):
            yield from episode_samples(episode, rng, drawing)
        return
    if drawing.transitions:
        raise StoreError(f"{path}: single observations train no critic; leave this store out of the mixture")
    shard = read_samples(path)
    index = rng.permutation(len(shard))[: 16 * drawing.per_episode]
    labels = shard.labels[index].astype(np.int64)
    masks = shard.masks[index, : layout_named(shard.layout).actions]
    yield Samples(shard.packed[index], masks, labels, layout=shard.layout)


def make_round(
    paths: list[Path], seed: tuple[int, ...], drawing: SamplingConfig
) -> tuple[Samples | None, dict[Path, str]]:
    """Shuffled samples of ``paths`` (None if none is readable), and why shards could not be read."""
    rng = np.random.default_rng(seed)
    parts: list[Samples] = []
    bad: dict[Path, str] = {}
    for path in paths:
        if path in bad:
            continue
        try:
            found = list(shard_samples(path, rng, drawing))
            if not found:
                continue
            wanted = drawing.layout or (parts or found)[0].layout
            if any(samples.layout != wanted for samples in found):
                raise StoreError(
                    f"holds observations of {found[0].layout}, the others are of {wanted}; keep each layout in a "
                    "folder of its own"
                )
            parts += found
        except StoreError as error:
            bad[path] = str(error) if str(path) in str(error) else f"{path}: {error}"
    if not parts:
        return None, bad
    together = Samples.concatenate(parts)
    return together.take(rng.permutation(len(together))), bad

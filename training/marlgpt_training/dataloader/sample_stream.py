"""From trajectory shards to training batches: weighted mixtures, replayed and encoded on the fly, resumable.

A stream works in rounds. Each round draws a few shards by the mixture's weights, takes samples from every episode in
them and shuffles these. What a round holds depends on the seed, the stream's number, the round's number and the
shards that were there, on nothing else, so that a stream continues exactly where a saved state left it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from marlgpt_policy.encoders.registry import layout_named
from marlgpt_policy.encoders.token_layout import MAX_ACTIONS, POGEMA_LAYOUT

from marlgpt_training.dataloader.episode_unrolling import transition, unroll
from marlgpt_training.store.fleet_episode import FleetEpisode
from marlgpt_training.store.frame_episode import FrameEpisode
from marlgpt_training.store.sample_shards import is_sample_shard, read_samples
from marlgpt_training.store.shards import Episode, StoreError, read_shard, shards

INVALID = -128
_SCALE = 20.0
MOST_EMPTY_ROUNDS = 50
"""Rounds without a single usable sample after which a stream gives up."""


def compress(values: np.ndarray, valid: np.ndarray, layout: str = POGEMA_LAYOUT.name) -> np.ndarray:
    """Observations as they wait for training, in one array [n, L].

    POGEMA: int8, exact, since values are multiples of 1/20; -128 where not valid. Other layouts: float16, NaN where
    not valid.
    """
    if layout == POGEMA_LAYOUT.name:
        return np.where(valid, np.rint(values * _SCALE), INVALID).astype(np.int8)
    return np.where(valid, values, np.nan).astype(np.float16)


def expand(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of :func:`compress`: values float32[n, L], valid bool[n, L]."""
    valid = present(packed)
    plain = packed.astype(np.float32) / (_SCALE if packed.dtype == np.int8 else 1)
    return np.where(valid, plain, np.float32(0)), valid


def present(packed: np.ndarray) -> np.ndarray:
    """bool[n, L] valid values of compressed observations."""
    return packed != INVALID if packed.dtype == np.int8 else ~np.isnan(packed)


@dataclass
class Samples:
    """n samples of one layout. The last five arrays are there only for the critic's terms, otherwise None.

    Attributes:
        packed: int8 or float16[n, L] compressed observations.
        masks: bool[n, k] allowed moves, k at most 20.
        labels: int64[n] the expert's moves, -1 where it was not asked.
        actions: int64[n] executed moves.
        rewards: float32[n] discounted sum of the rewards up to the next observation.
        bootstraps: float32[n] discount of the next observation's value, 0 after an end.
        next_packed: [n, L] next observations.
        next_masks: bool[n, k] moves allowed there.
        layout: Name of the token layout.
    """

    packed: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    actions: np.ndarray | None = None
    rewards: np.ndarray | None = None
    bootstraps: np.ndarray | None = None
    next_packed: np.ndarray | None = None
    next_masks: np.ndarray | None = None
    layout: str = POGEMA_LAYOUT.name

    def __len__(self) -> int:
        return len(self.labels)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are there, by name."""
        names = (f.name for f in fields(self) if f.name != "layout")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def take(self, index: np.ndarray) -> Samples:
        """The samples at ``index``."""
        return Samples(layout=self.layout, **{name: array[index] for name, array in self.arrays().items()})

    @staticmethod
    def concatenate(parts: list[Samples]) -> Samples:
        """All samples of ``parts``, which are of one layout, in order."""
        names = parts[0].arrays()
        together = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return Samples(layout=parts[0].layout, **together)

    def shortest_first(self) -> Samples:
        """Sorted by the number of valid values, so that neighbours need little padding."""
        return self.take(np.argsort(present(self.packed).sum(axis=1), kind="stable"))

    def tensors(self, device: str) -> dict[str, torch.Tensor]:
        """What :class:`marlgpt_training.model.losses.Objective` takes, on ``device``."""

        def to(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array).to(device, non_blocking=True)

        def observation(packed: np.ndarray, allowed: np.ndarray, prefix: str) -> dict[str, torch.Tensor]:
            raw = to(packed)  # one byte per value crosses to the GPU, or two
            exact = raw.dtype == torch.int8
            valid = raw != INVALID if exact else ~raw.isnan()
            mask = torch.zeros(len(packed), MAX_ACTIONS, dtype=torch.bool, device=raw.device)
            mask[:, : allowed.shape[1]] = to(allowed)
            values = (raw.float() / (_SCALE if exact else 1)).masked_fill(~valid, 0.0)
            return {f"{prefix}values": values, f"{prefix}valid": valid, f"{prefix}mask": mask}

        found = {**observation(self.packed, self.masks, ""), "label": to(self.labels)}
        if self.actions is not None:
            found |= observation(self.next_packed, self.next_masks, "next_")
            found |= {
                "action": to(self.actions),
                "reward": to(self.rewards),
                "bootstrap": to(self.bootstraps),
            }
        return found


@dataclass(frozen=True)
class Drawing:
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
    episode: Episode | FrameEpisode | FleetEpisode, rng: np.random.Generator, drawing: Drawing
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


def fleet_samples(episode: FleetEpisode, rng: np.random.Generator, drawing: Drawing) -> Iterator[Samples]:
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


def shard_samples(path: Path, rng: np.random.Generator, drawing: Drawing) -> Iterator[Samples]:
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
    paths: list[Path], seed: tuple[int, ...], drawing: Drawing
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


@dataclass(frozen=True)
class Source:
    """A folder of shards with its weight in the mixture."""

    folder: Path
    weight: float = 1.0
    fresh: bool = False
    """Prefer the newest half of the shards (a student's own episodes); may be empty until there are some."""


def parse_mixture(entries: list[str]) -> list[Source]:
    """Sources from ``FOLDER`` or ``FOLDER=WEIGHT``.

    Raises:
        ValueError: No entry, a weight that is not a number >= 0, or weights that sum to zero.
    """
    if not entries:
        raise ValueError("the mixture is empty; name at least one store, e.g. --store out/store")
    sources = []
    for entry in entries:
        folder, _, weight = str(entry).partition("=")
        try:
            sources.append(Source(Path(folder), float(weight) if weight else 1.0))
        except ValueError:
            raise ValueError(f"--store {entry}: '{weight}' is not a weight; write FOLDER=NUMBER") from None
        if not 0 <= sources[-1].weight < float("inf"):
            raise ValueError(f"--store {entry}: a weight must be 0 or more")
    if sum(source.weight for source in sources) <= 0:
        raise ValueError(
            f"the weights of {', '.join(map(str, entries))} sum to zero; give one a weight above 0"
        )
    return sources


class SampleStream:
    """Endless shuffled samples from growing stores. A shard that cannot be read is reported once and skipped."""

    def __init__(
        self,
        sources: list[Source] | str | Path,
        seed: int,
        number: int = 0,
        drawing: Drawing = Drawing(),  # noqa: B008 (frozen)
        executor: Executor | None = None,
        ahead: int = 1,
    ) -> None:
        """Stream ``number`` of a run; streams of different numbers are independent.

        Args:
            sources: The mixture, or one folder.
            seed: Seed of the run.
            number: Number of the stream.
            drawing: How samples are drawn.
            executor: Prepares the next ``ahead`` rounds; None prepares a round when it is needed.
            ahead: Rounds in preparation.
        """
        self.sources = [Source(Path(sources))] if isinstance(sources, str | Path) else sources
        self.seed, self.number, self.drawing = seed, number, drawing
        self.executor, self.ahead = executor, ahead
        self.bad: dict[Path, str] = {}
        self.round, self.offset = -1, 0
        self.samples: Samples | None = None
        self._drawn: deque[list[Path]] = deque()  # shards of the current round and of those in preparation
        self._futures: deque[Future] = deque()

    def _listing(self) -> list[tuple[Source, list[Path]]]:
        """The sources with their usable shards; a fresh one may have none, any other one must not lose them."""
        found = []
        for source in self.sources:
            if source.weight <= 0:
                continue
            paths = [path for path in shards(source.folder) if path not in self.bad]
            if paths:
                found.append((source, paths))
            elif not source.fresh:
                reasons = "; ".join(
                    reason for path, reason in self.bad.items() if path.parent == source.folder
                )
                raise StoreError(
                    f"{source.folder}: no readable shard. {reasons or 'Run marlgpt collect first.'}"
                )
        if not found:
            where = ", ".join(str(source.folder) for source in self.sources)
            raise StoreError(f"{where}: no readable shard. Run marlgpt collect first.")
        return found

    def draw(self, index: int) -> list[Path]:
        """The shards of round ``index``, from what the folders hold now."""
        rng = np.random.default_rng([self.seed, self.number, index])
        listing = self._listing()
        weights = np.array([source.weight for source, _ in listing])
        paths = []
        for k in rng.choice(len(listing), size=self.drawing.shards, p=weights / weights.sum()):
            source, candidates = listing[k]
            if source.fresh and rng.random() < 0.5:
                candidates = candidates[len(candidates) // 2 :]
            paths.append(candidates[rng.integers(len(candidates))])
        return paths

    def _job(self, index: int) -> tuple:
        return (
            make_round,
            self._drawn[index - max(self.round, 0)],
            (self.seed, self.number, index, 1),
            self.drawing,
        )

    def _prepare(self) -> None:
        """Draw the rounds ahead and hand them to the executor."""
        first = max(self.round, 0)
        wanted = 1 + (self.ahead if self.executor else 0)
        while len(self._drawn) < wanted:
            self._drawn.append(self.draw(first + len(self._drawn)))
        if self.executor:
            while len(self._futures) < len(self._drawn):
                self._futures.append(self.executor.submit(*self._job(first + len(self._futures))))

    def _load(self) -> None:
        """Make the round at the head of the queue the current one."""
        self._prepare()
        if self.executor:
            try:
                self.samples, bad = self._futures.popleft().result()
            except BrokenExecutor as error:
                raise ChildProcessError(
                    "a process that prepares samples has died (out of memory?); use fewer --loaders"
                ) from error
        else:
            function, *arguments = self._job(max(self.round, 0))
            self.samples, bad = function(*arguments)
        self.round = max(self.round, 0)
        for path, reason in bad.items():
            if path.exists() and path not in self.bad:  # a student's old shards are deleted while we read
                self.bad[path] = reason
                print(f"skipped: {reason}", flush=True)

    def _advance(self) -> None:
        if self.round >= 0:
            self._drawn.popleft()
            self.round += 1
        self.offset = 0
        self._load()

    def next(self, size: int) -> Samples:
        """The next ``size`` samples.

        Raises:
            StoreError: A source has no readable shard, or no round in many had a usable sample.
        """
        empty = 0
        while self.samples is None or self.offset + size > len(self.samples):
            if self.samples is not None and self.offset == 0 and len(self.samples) < size:
                repeat = np.random.default_rng([self.seed, self.number, self.round, 2])
                self.offset = size  # a store smaller than a batch: its samples come more than once
                return self.samples.take(repeat.integers(len(self.samples), size=size))
            self._advance()
            empty = empty + 1 if self.samples is None else 0
            if empty == MOST_EMPTY_ROUNDS:
                where = ", ".join(str(source.folder) for source in self.sources)
                raise StoreError(
                    f"{where}: no usable sample in {empty} rounds; imitation needs episodes with the expert's moves"
                )
        self.offset += size
        return self.samples.take(np.arange(self.offset - size, self.offset))

    def state(self) -> dict:
        """Where the stream is: a small dictionary of plain values for :meth:`restore`."""
        return {
            "round": self.round,
            "offset": self.offset,
            "drawn": [[str(path) for path in paths] for paths in self._drawn],
            "bad": {str(path): reason for path, reason in self.bad.items()},
        }

    def restore(self, state: dict) -> None:
        """Go on after ``state``; the current round is made again."""
        self.bad = {Path(path): reason for path, reason in state["bad"].items()}
        self.round, self.samples = state["round"], None
        self._drawn = deque([Path(path) for path in paths] for paths in state["drawn"])
        self._futures.clear()
        if self.round >= 0:
            self._load()
        self.offset = state["offset"]

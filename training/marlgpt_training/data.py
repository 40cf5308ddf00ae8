"""From trajectory shards to training batches: episodes are replayed and encoded on the fly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from marlgpt_policy.cost_to_go import CostToGo
from marlgpt_policy.encoders import pogema
from marlgpt_policy.layout import HISTORY, POGEMA_LAYOUT

from marlgpt_training.grid_env import edges
from marlgpt_training.store import Episode, StoreError, read_shard, shards

INVALID = -128
_SCALE = 20.0


def compress(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """int8[n, L]: POGEMA values are multiples of 1/20, so this is exact; -128 where not valid."""
    return np.where(valid, np.rint(values * _SCALE), INVALID).astype(np.int8)


def expand(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of :func:`compress`: values float32[n, L], valid bool[n, L]."""
    valid = packed != INVALID
    return np.where(valid, packed.astype(np.float32) / _SCALE, np.float32(0)), valid


class Replay:
    """Positions, goals and histories of every step of one episode."""

    def __init__(self, episode: Episode) -> None:
        """Unroll ``episode``; ``StoreError`` if its moves or goals lie outside the free cells."""
        steps, agents = episode.actions.shape
        self.episode = episode
        self.moves = edges(episode.free)
        walked = np.cumsum(pogema.MOVES[episode.actions], axis=0)
        self.cells = np.concatenate([episode.starts[None].astype(np.int64), episode.starts + walked])
        rows, cols = episode.free.shape
        inside = (self.cells >= 0).all() and (self.cells < (rows, cols)).all()
        if not inside or not episode.free[self.cells[..., 0], self.cells[..., 1]].all():
            raise StoreError("an episode's moves leave its free cells")
        if not episode.free[episode.goal_events[:, 2], episode.goal_events[:, 3]].all():
            raise StoreError("an episode has a goal in a wall")
        self.goals = np.zeros((steps + 1, agents, 2), dtype=np.int64)
        for step, agent, row, col in episode.goal_events:
            self.goals[step:, agent] = (row, col)
        padded = np.concatenate([np.full((HISTORY, agents), -1, np.int8), episode.actions])
        self.history = np.stack(
            [padded[HISTORY - 1 - k : HISTORY - 1 - k + steps + 1] for k in range(HISTORY)], axis=2
        )
        self.costs = CostToGo(self.moves, capacity=4096)

    def encode(self, step: int, which: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Observations of agents ``which`` before move ``step``."""
        goals = self.goals[step]
        return pogema.encode(
            self.costs.fields(goals), self.cells[step], goals, self.history[step], self.moves, which
        )


class SampleStream:
    """Endless shuffled samples from a growing store.

    Shards are chosen anew each time: ``fresh_share`` of them among student-driven ones (DAgger), the newest
    half twice as likely, the rest among expert-driven ones. A bad shard is skipped once and reported.
    """

    def __init__(
        self,
        folder: str | Path,
        seed: int,
        fresh_share: float = 0.6,
        per_episode: int = 192,
        buffer: int = 60_000,
    ) -> None:
        """Read from ``folder``; ``per_episode`` samples are taken from an episode each time it is drawn."""
        self.folder, self.fresh_share, self.per_episode = Path(folder), fresh_share, per_episode
        self.random = np.random.default_rng(seed)
        self.packed = np.empty((buffer, len(POGEMA_LAYOUT)), dtype=np.int8)
        self.labels = np.empty(buffer, dtype=np.int64)
        self.masks = np.empty((buffer, 5), dtype=bool)
        self.filled = 0
        self.bad: dict[Path, str] = {}

    def _choose(self) -> Path:
        paths = [path for path in shards(self.folder) if path not in self.bad]
        if not paths:
            reasons = "; ".join(self.bad.values())
            raise StoreError(f"{self.folder}: no readable shard. {reasons or 'Run marlgpt collect first.'}")
        fresh = sorted((p for p in paths if p.name.startswith("dagger")), key=lambda p: p.name)
        base = [p for p in paths if not p.name.startswith("dagger")]
        if fresh and (not base or self.random.random() < self.fresh_share):
            half = fresh[len(fresh) // 2 :] if self.random.random() < 0.5 else fresh
            return half[self.random.integers(len(half))]
        return base[self.random.integers(len(base))]

    def _samples(self, episode: Episode) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        replay = Replay(episode)
        steps, agents = episode.actions.shape
        per_step = min(agents, 24)
        for step in self.random.permutation(steps)[: max(1, self.per_episode // per_step)]:
            which = self.random.permutation(agents)[:per_step]
            which = which[episode.labels[step, which] >= 0]
            if len(which):
                values, valid, mask = replay.encode(int(step), which)
                yield compress(values, valid), episode.labels[step, which].astype(np.int64), mask[:, :5]

    def _fill(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        while True:
            path = self._choose()
            try:
                for episode in read_shard(path):
                    yield from self._samples(episode)
            except StoreError as error:
                named = str(error) if str(path) in str(error) else f"{path}: {error}"
                self.bad[path] = named
                print(f"skipped: {named}")

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (packed int8[size, L], labels int64[size], mask bool[size, 5]) for ever."""
        source = self._fill()
        capacity = len(self.labels)
        minimum = min(capacity, max(size, capacity // 2))
        new = 0
        while True:
            while self.filled < minimum or new < size:
                packed, labels, mask = next(source)
                for k in range(len(labels)):
                    slot = self.filled if self.filled < capacity else int(self.random.integers(capacity))
                    self.packed[slot], self.labels[slot], self.masks[slot] = packed[k], labels[k], mask[k]
                    self.filled = min(self.filled + 1, capacity)
                new += len(labels)
            new = 0 if self.filled < capacity else new - size
            pick = self.random.integers(self.filled, size=size)
            yield self.packed[pick], self.labels[pick], self.masks[pick]

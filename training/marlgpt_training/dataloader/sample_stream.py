"""From trajectory shards to training batches: weighted mixtures, replayed and encoded on the fly, resumable.

A stream works in rounds. Each round draws a few shards by the mixture's weights, takes samples from every episode in
them and shuffles these. What a round holds depends on the seed, the stream's number, the round's number and the
shards that were there, on nothing else, so that a stream continues exactly where a saved state left it.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from marlgpt_training.dataloader.samples import Samples
from marlgpt_training.dataloader.sampling import SamplingConfig, make_round
from marlgpt_training.store.shards import StoreError, shards

MOST_EMPTY_ROUNDS = 50
"""Rounds without a single usable sample after which a stream gives up."""


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
        drawing: SamplingConfig = SamplingConfig(),  # noqa: B008 (frozen)
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

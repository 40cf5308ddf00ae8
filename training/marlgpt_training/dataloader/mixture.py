"""What a batch is made of: a fixed share of samples from each token layout, which come from streams of their own.

Layouts never share a forward pass, so that no observation is padded to the length of another game's.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import numpy as np
from marlgpt_policy.encoders.registry import layout_named
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT, LayoutError, TokenLayout

from marlgpt_training.dataloader.sample_stream import SampleStream, Source
from marlgpt_training.dataloader.samples import Samples
from marlgpt_training.dataloader.sampling import SamplingConfig
from marlgpt_training.store.sample_shards import shard_layout
from marlgpt_training.store.shards import StoreError, shards


def dagger_folder(out: Path, layout: str) -> Path:
    """Where a run keeps the student's own episodes of a layout."""
    return out / ("dagger" if layout == POGEMA_LAYOUT.name else f"dagger-{layout}")


def by_layout(sources: list[Source]) -> dict[str, list[Source]]:
    """Sources with a weight above 0, grouped by the layout of their first readable shard, in order of appearance.

    Raises:
        StoreError: A source without a readable shard, or of a layout that this version does not know.
    """
    groups: dict[str, list[Source]] = {}
    for source in sources:
        if source.weight <= 0:
            continue
        name, reasons = None, []
        for path in shards(source.folder):
            try:
                name = shard_layout(path)
                layout_named(name)
                break
            except StoreError as error:
                reasons.append(str(error))
            except LayoutError as error:
                raise StoreError(f"{path}: {error}") from error
        if name is None:
            reason = "; ".join(reasons) or "Run marlgpt collect first."
            raise StoreError(f"{source.folder}: no readable shard. {reason}")
        groups.setdefault(name, []).append(source)
    return groups


def sizes(weights: list[float], total: int) -> list[int]:
    """``total`` samples shared out by ``weights``, at least one each (largest remainders first).

    Raises:
        ValueError: Fewer samples than weights.
    """
    if total < len(weights):
        raise ValueError(f"{total} samples are too few for {len(weights)} token layouts; raise --batch")
    exact = np.array(weights) / sum(weights) * total
    found = np.maximum(np.floor(exact).astype(int), 1)
    while found.sum() > total:
        found[np.argmax(np.where(found > 1, found - exact, -np.inf))] -= 1
    while found.sum() < total:
        found[np.argmax(exact - found)] += 1
    return found.tolist()


class Mixture:
    """The streams of one process: for each of its parts of the batch, one per layout.

    Attributes:
        layouts: The layouts, in the order in which a batch lists them.
        sizes: Samples of each layout in one part of the batch.
    """

    def __init__(
        self,
        sources: list[Source],
        out: Path,
        dagger_share: float,
        part_size: int,
        parts: list[int],
        seed: int,
        drawing: SamplingConfig,
        executor: Executor | None = None,
        ahead: int = 1,
    ) -> None:
        """Open the streams.

        Args:
            sources: The stores with their weights.
            out: Folder of the run, where the student's own episodes appear.
            dagger_share: Share of a layout's samples that come from those, once there are any.
            part_size: Samples in one part of the batch.
            parts: Numbers of this process's parts.
            seed: Seed of the run.
            drawing: How samples are drawn.
            executor: Prepares rounds of samples; None prepares them when they are needed.
            ahead: Rounds in preparation.

        Raises:
            StoreError: A store without a readable shard.
            ValueError: Fewer samples in a part than layouts.
        """
        groups = by_layout(sources)
        self.layouts: list[TokenLayout] = [layout_named(name) for name in groups]
        self.sizes = sizes([sum(s.weight for s in group) for group in groups.values()], part_size)
        rest = max(1 - dagger_share, 1e-9)  # the stores are all there is until the first DAgger shard
        self.streams: list[list[SampleStream]] = [[] for _ in parts]
        for k, (name, group) in enumerate(groups.items()):
            total = sum(source.weight for source in group)
            mixed = [Source(source.folder, source.weight / total * rest) for source in group]
            mixed.append(Source(dagger_folder(out, name), dagger_share, fresh=True))
            for streams, part in zip(self.streams, parts, strict=True):
                number = part * len(groups) + k
                own = replace(drawing, layout=name)
                streams.append(SampleStream(mixed, seed, number, own, executor, ahead))

    def batch(self) -> list[Samples]:
        """This process's samples of the next batch, one entry per layout, those with few tokens first."""
        found = []
        for k, size in enumerate(self.sizes):
            parts = [streams[k].next(size) for streams in self.streams]
            found.append(Samples.concatenate(parts).shortest_first())
        return found

    def state(self) -> list[list[dict]]:
        """Where the streams are, part by part."""
        return [[stream.state() for stream in streams] for streams in self.streams]

    def restore(self, state: list[list[dict]]) -> bool:
        """Go on after ``state``; False, and nothing changed, if it is of another mixture."""
        if [len(part) for part in state] != [len(streams) for streams in self.streams]:
            return False
        for streams, part in zip(self.streams, state, strict=True):
            for stream, saved in zip(streams, part, strict=True):
                stream.restore(saved)
        return True

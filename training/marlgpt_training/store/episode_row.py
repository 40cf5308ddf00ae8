"""What rows of all kinds of episodes share in the trajectory store: common columns, and how packed ones are read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_COMMON = {
    "environment": pa.string(),
    "scenario": pa.string(),
    "spec": pa.string(),
    "seed": pa.int64(),
    "source": pa.string(),
    "agents": pa.int32(),
    "steps": pa.int32(),
    "actions": pa.binary(),
    "labels": pa.binary(),
    "rewards": pa.binary(),
}


MOST_ROWS = 20_000_000
"""Rows of a shard that are believed; a few bytes can claim any number of them."""
LARGEST_SHARD = 2**32
"""Bytes of a shard in memory."""
_STEP = 16
"""Rows that are decoded at a time; each may be an episode."""


class StoreError(ValueError):
    """A shard is torn, foreign, or of another schema version."""


def schema_of(**own: pa.DataType) -> pa.Schema:
    """The columns of a kind of episode: the common ones, then its own."""
    return pa.schema([*_COMMON.items(), *own.items()])


def common_row(episode: Any) -> dict[str, Any]:
    """The common columns of an episode with T steps of n agents."""
    steps, agents = episode.actions.shape
    return {
        "environment": episode.environment,
        "scenario": episode.scenario,
        "spec": json.dumps(episode.spec),
        "seed": episode.seed,
        "source": episode.source,
        "agents": agents,
        "steps": steps,
        "actions": episode.actions.astype("i1").tobytes(),
        "labels": episode.labels.astype("i1").tobytes(),
        "rewards": episode.rewards.astype("<f2").tobytes(),
    }


@contextmanager
def contradictions() -> Iterator[None]:
    """Where a row is decoded and checked: whatever does not fit together becomes a ``StoreError``."""
    try:
        yield
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"an episode's fields contradict each other: {error}") from error


class RowReader:
    """Reads the packed columns of one row; each read raises ``ValueError`` if its bytes are too many or too few.

    Args:
        row: The row.
        sizes: Names of its columns that are sizes, besides ``agents`` and ``steps``.

    Attributes:
        agents, steps: Of the episode.

    Raises:
        ValueError: A size is negative.
    """

    def __init__(self, row: dict, *sizes: str) -> None:
        self._row = row
        self.agents, self.steps = row["agents"], row["steps"]
        for name in ("agents", "steps", *sizes):
            if row[name] < 0:
                raise ValueError(f"{name} is {row[name]}, a size is not negative")

    def bits(self, name: str, *shape: int) -> np.ndarray:
        """bool[shape] of a column of packed bits."""
        data, count = self._row[name], int(np.prod(shape))
        if len(data) != -(-count // 8):
            raise ValueError(f"{len(data)} bytes of {name} for {count} bits")
        return np.unpackbits(np.frombuffer(data, np.uint8), count=count).reshape(shape).astype(bool)

    def numbers(self, name: str, kind: str, *shape: int) -> np.ndarray:
        """Array [shape] of a column of numbers; a size of -1 is as large as the bytes make it."""
        data = self._row[name]
        try:
            return np.frombuffer(data, kind).reshape(shape)
        except ValueError:
            raise ValueError(f"{len(data)} bytes of {name} are no {kind}{list(shape)}") from None

    def common(self) -> dict[str, Any]:
        """Fields of every kind of episode: what :func:`common_row` wrote."""
        row, shape = self._row, (self.steps, self.agents)
        return {
            "environment": row["environment"],
            "scenario": row["scenario"],
            "spec": spec_of(row["spec"]),
            "seed": row["seed"],
            "source": row["source"],
            "actions": self.numbers("actions", "i1", *shape),
            "labels": self.numbers("labels", "i1", *shape),
            "rewards": self.numbers("rewards", "<f2", *shape),
        }


def spec_of(text: str) -> dict:
    """The free description of an episode; ``ValueError`` if it is no JSON object."""
    spec = json.loads(text)
    if not isinstance(spec, dict):
        raise ValueError(f"spec is a {type(spec).__name__}, not an object")
    return spec


def read_table(path: str | Path) -> pa.Table:
    """The table of a Parquet file, decoded in parts, so that what expands beyond any shard is noticed on the way.

    Raises:
        StoreError: More rows or bytes than any shard has.
        OSError, pyarrow.ArrowException: Not a readable Parquet file.
    """
    with pq.ParquetFile(path) as file:
        facts = file.metadata
        size = sum(facts.row_group(k).total_byte_size for k in range(facts.num_row_groups))
        if facts.num_rows > MOST_ROWS or size > LARGEST_SHARD:
            raise StoreError(
                f"{path}: claims {facts.num_rows:,} rows of {size:,} bytes, more than any shard has; delete it"
            )
        parts, size = [], 0
        step = _STEP if facts.num_rows <= 4096 else facts.num_rows // 256
        for batch in file.iter_batches(batch_size=step):
            size += batch.nbytes
            if size > LARGEST_SHARD:
                raise StoreError(f"{path}: takes more than {LARGEST_SHARD:,} bytes in memory; delete it")
            parts.append(batch)
        return pa.Table.from_batches(parts, schema=file.schema_arrow)

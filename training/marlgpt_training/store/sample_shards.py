"""Shards of single observations: what data sets become that hold no episodes to rebuild them from.

Parquet, one row per sample: the observation as :func:`marlgpt_training.dataloader.samples.compress` packs it
(one byte per token value, -128 where there is none), the allowed moves as bits, the expert's move. The file's
metadata holds the version, the layout's name and hash, and where the samples come from. Such a sample has no next
observation and no reward: it trains the policy by imitation, never the critic.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from marlgpt_policy.encoders.token_layout import MAX_ACTIONS, TokenLayout

from marlgpt_training.store.episode_row import read_table
from marlgpt_training.store.shards import StoreError, layout_of, write_shard

VERSION = 1
KEY = b"marlgpt_samples"
"""Metadata entry that tells a shard of samples from one of episodes; its value is the version."""
INVALID = -128
_BITS = 1 << np.arange(MAX_ACTIONS, dtype=np.int32)


@dataclass
class SampleShard:
    """n samples of one layout.

    Attributes:
        packed: int8[n, L] packed observations, -128 where not valid.
        masks: bool[n, 20] allowed moves.
        labels: int8[n] the expert's moves.
        layout: Name of the token layout.
        layout_hash: Its hash.
        scenario: Map family or name.
        source: Who labelled, e.g. ``mapf-gpt``.
        spec: Free JSON-serialisable description (file, rows, ...).
    """

    packed: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    layout: str
    layout_hash: str
    scenario: str
    source: str
    spec: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def check(self) -> None:
        """``StoreError`` if the shapes disagree, a label is not allowed, or ``spec`` is no object."""
        n = len(self.labels)
        if not isinstance(self.spec, dict):
            raise StoreError(f"spec is a {type(self.spec).__name__}, not an object")
        if self.packed.shape[:1] != (n,) or self.masks.shape != (n, MAX_ACTIONS):
            raise StoreError(
                f"observations {self.packed.shape}, masks {self.masks.shape} and {n} labels do not fit together"
            )
        legal = (self.labels >= 0) & (self.labels < MAX_ACTIONS)
        legal &= self.masks[np.arange(n), np.where(legal, self.labels, 0)]
        if not legal.all():
            row = int(np.flatnonzero(~legal)[0])
            raise StoreError(f"sample {row}: label {self.labels[row]} is not an allowed move")


def is_sample_shard(path: str | Path) -> bool:
    """Whether ``path`` is a shard of samples, by its metadata alone; False for anything unreadable."""
    try:
        return KEY in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def read_spec(path: str | Path) -> dict:
    """The ``spec`` of a shard of samples without its samples.

    Raises:
        StoreError: Not a readable shard of samples.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
        return json.loads(metadata[b"spec"]) if KEY in metadata else {}
    except (OSError, pa.ArrowException, KeyError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}: not a readable shard of samples ({error}); delete it") from error


def write_samples(path: str | Path, shard: SampleShard) -> None:
    """Write ``shard`` to ``path`` (temporary file, fsync, rename); equal samples give equal bytes.

    Raises:
        StoreError: The samples contradict each other.
        OSError: Not writable or no space left; nothing is left behind.
    """
    shard.check()
    n, values = shard.packed.shape
    raw = np.ascontiguousarray(shard.packed, dtype=np.int8).tobytes()
    observations = pa.FixedSizeBinaryArray.from_buffers(pa.binary(values), n, [None, pa.py_buffer(raw)])
    names = ("layout", "layout_hash", "scenario", "source")
    metadata = {KEY: str(VERSION).encode(), b"spec": json.dumps(shard.spec, sort_keys=True).encode()}
    metadata |= {name.encode(): getattr(shard, name).encode() for name in names}
    table = pa.table(
        {
            "observation": observations,
            "mask": pa.array((shard.masks * _BITS).sum(axis=1).astype(np.int32)),
            "label": pa.array(shard.labels.astype(np.int8)),
        }
    ).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=6, use_dictionary=False)
    write_shard(path, sink.getvalue().to_pybytes())


def shard_layout(path: str | Path) -> str:
    """Name of the token layout of a shard, of samples or of episodes; reads only the file's footer.

    Raises:
        StoreError: Naming the file and the reason (missing, torn, foreign, another version).
    """
    if not is_sample_shard(path):
        return layout_of(path)
    metadata = _checked(path, pq.read_schema(path).metadata)
    if b"layout" not in metadata:
        raise StoreError(f"{path}: no layout in its metadata; import it again")
    return metadata[b"layout"].decode(errors="replace")


def _checked(path: str | Path, metadata: dict[bytes, bytes] | None) -> dict[bytes, bytes]:
    """The metadata of a shard of samples that this version reads; ``StoreError`` otherwise."""
    metadata = metadata or {}
    if KEY not in metadata:
        raise StoreError(f"{path}: not a shard of samples (no '{KEY.decode()}' version in its metadata)")
    if metadata[KEY] != str(VERSION).encode():
        raise StoreError(
            f"{path}: version {metadata[KEY].decode(errors='replace')}, this code reads {VERSION}"
        )
    return metadata


def read_samples(path: str | Path, layout: TokenLayout | None = None) -> SampleShard:
    """Read a shard of samples.

    Args:
        path: The file.
        layout: The layout that the reader needs; any by default.

    Raises:
        StoreError: Naming the file and the reason (missing, torn, foreign, another version or layout).
    """
    try:
        table = read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: not a readable Parquet file ({error}); import it again") from error
    metadata = _checked(path, table.schema.metadata)
    try:
        shard = _decode(table, {name.decode(): value.decode() for name, value in metadata.items()})
        shard.check()
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}: its fields contradict each other ({error}); import it again") from error
    if layout is not None and (shard.layout_hash != layout.hash or shard.packed.shape[1] != len(layout)):
        raise StoreError(
            f"{path}: made for layout {shard.layout} ({shard.layout_hash}), needed {layout.name} ({layout.hash})"
        )
    return shard


def _decode(table: pa.Table, metadata: dict[str, str]) -> SampleShard:
    column = table["observation"].combine_chunks()
    if not pa.types.is_fixed_size_binary(column.type) or table["observation"].null_count:
        raise ValueError(f"observation {column.type}, expected fixed_size_binary without nulls")
    values = column.type.byte_width
    # combine_chunks of a file's column starts at offset 0, so the buffer is the samples and nothing else.
    packed = np.frombuffer(column.buffers()[1], np.int8, count=len(column) * values) if len(column) else []
    masks = (table["mask"].to_numpy().astype(np.int32)[:, None] & _BITS) != 0
    return SampleShard(
        packed=np.asarray(packed, dtype=np.int8).reshape(-1, values),
        masks=masks,
        labels=table["label"].to_numpy().astype(np.int8),
        spec=json.loads(metadata["spec"]),
        **{name: metadata[name] for name in ("layout", "layout_hash", "scenario", "source")},
    )

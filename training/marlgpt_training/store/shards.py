"""Trajectory store, version 1: Parquet shards, one row per episode, all episodes of a shard of one kind.

Kind ``grid``: a POGEMA episode keeps the map bits, the starts, the goal events and two bytes per agent step (the
executed move and the expert's move); every observation is rebuilt from them. Kind ``frames``
(``store/frame_episode.py``): games whose observation is a vector. Kind ``fleet`` (``store/fleet_episode.py``): joint
decisions of a driving fleet, from bags. Shards are written to a temporary name and renamed, so a killed writer never
leaves a torn file behind.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT

from marlgpt_training.store.episode_row import (
    StoreError,
    read_table,
)
from marlgpt_training.store.grid_episode import KINDS, Episode

if TYPE_CHECKING:
    from marlgpt_training.store.fleet_episode import FleetEpisode
    from marlgpt_training.store.frame_episode import FrameEpisode

VERSION = 1
STORE = "trajectory store"
"""What the folder of a store is marked as."""


def encode_shard(episodes: list[Episode] | list[FrameEpisode] | list[FleetEpisode]) -> bytes:
    """``episodes`` as the bytes of a shard; equal episodes give equal bytes.

    Raises:
        ValueError: Episodes of several kinds or token layouts, or POGEMA's among those of kind ``frames``.
    """
    first = episodes[0] if episodes else Episode
    layouts = {episode.layout for episode in episodes} or {POGEMA_LAYOUT.name}
    if len(layouts) > 1:
        raise ValueError(f"a shard holds episodes of one token layout, not of {', '.join(sorted(layouts))}")
    if first.kind == "frames" and POGEMA_LAYOUT.name in layouts:
        raise ValueError("episodes of POGEMA are kept as maps and moves: collect them as game 'pogema'")
    metadata = {"marlgpt_store": str(VERSION), "marlgpt_kind": first.kind, "marlgpt_layout": layouts.pop()}
    table = pa.Table.from_pylist(
        [episode.row() for episode in episodes], schema=first.schema.with_metadata(metadata)
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=6)
    return sink.getvalue().to_pybytes()


def write_shard(
    path: str | Path, episodes: list[Episode] | list[FrameEpisode] | list[FleetEpisode] | bytes
) -> None:
    """Write episodes, or what :func:`encode_shard` made of them, to ``path`` (temporary file, fsync, rename).

    Raises:
        OSError: Not writable or no space left; nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = episodes if isinstance(episodes, bytes) else encode_shard(episodes)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_shard(path: str | Path) -> list[Episode] | list[FrameEpisode] | list[FleetEpisode]:
    """Read all episodes of one shard.

    Raises:
        StoreError: Naming the file and the reason (missing, torn, foreign, another version).
    """
    try:
        table = read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"{path}: not a readable Parquet file ({error}); delete it or collect it again"
        ) from error
    kind = _episode_class(path, table.schema)
    missing = [name for name in kind.schema.names if name not in table.column_names]
    if missing:
        raise StoreError(f"{path}: columns missing: {', '.join(missing)}")
    for column in kind.schema:
        found = table[column.name]
        if found.type != column.type or found.null_count:
            raise StoreError(
                f"{path}: column '{column.name}' is {found.type} with {found.null_count} empty, expected {column.type}"
            )
    try:
        return [kind.from_row(row) for row in table.to_pylist()]
    except ValueError as error:  # a text that is none, besides StoreError
        raise StoreError(f"{path}: {error}") from error


def _episode_class(
    path: str | Path, schema: pa.Schema
) -> type[Episode] | type[FrameEpisode] | type[FleetEpisode]:
    """The class of a shard's episodes; ``StoreError`` for a foreign file or another version."""
    metadata = schema.metadata or {}
    version = metadata.get(b"marlgpt_store")
    if version is None:
        raise StoreError(f"{path}: not a trajectory store shard (no 'marlgpt_store' version in its metadata)")
    if version != str(VERSION).encode():
        raise StoreError(
            f"{path}: store version {version.decode(errors='replace')}, this code reads {VERSION}"
        )
    kind = metadata.get(b"marlgpt_kind", b"grid").decode(errors="replace")  # shards of before had one kind
    if kind not in KINDS:
        raise StoreError(f"{path}: holds '{kind}' episodes, this code reads {' and '.join(KINDS)}")
    if kind == "grid":
        return Episode
    if kind == "fleet":
        from marlgpt_training.store.fleet_episode import FleetEpisode

        return FleetEpisode
    from marlgpt_training.store.frame_episode import FrameEpisode

    return FrameEpisode


def layout_of(path: str | Path) -> str:
    """Name of the token layout of a shard's observations; reads only the file's footer.

    Raises:
        StoreError: Naming the file and the reason.
    """
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"{path}: not a readable Parquet file ({error}); delete it or collect it again"
        ) from error
    _episode_class(path, schema)
    return (schema.metadata.get(b"marlgpt_layout") or POGEMA_LAYOUT.name.encode()).decode(errors="replace")


def is_store(folder: Path) -> bool:
    """Whether a folder without a marker is a store that a version of this project without markers made.

    Every Parquet file in it must say that it is of this project, and so must card and report if they are there.
    """
    own = (b"marlgpt_store", b"marlgpt_samples")
    try:
        schemas = [pq.read_schema(path).metadata or {} for path in shards(folder)]
        texts = {
            folder / "CARD.md": "Written by `marlgpt collect`",
            folder / "report.html": "<title>Imported bags</title>",  # bags.report.TITLE
        }
        cards = all(text in path.read_text(errors="replace") for path, text in texts.items() if path.exists())
    except (OSError, pa.ArrowException):
        return False
    return cards and bool(schemas) and all(any(key in found for key in own) for found in schemas)


def shards(folder: str | Path) -> list[Path]:
    """Shard files of a store, sorted by name."""
    return sorted(Path(folder).glob("*.parquet"))

"""Import published data sets, as far as their formats are known.

**MAPF-GPT, and the LMAPF part of MARL-GPT's data set:** ``.arrow`` files (Arrow IPC) of single observations, with
``input_tensors``, lists of 256 tokens (:mod:`marlgpt_training.published.mapf_gpt_tokens`), and ``gt_actions``, the
expert's move 0..4. They become shards of single observations (:mod:`marlgpt_training.store.sample_shards`). The
format is MAPF-GPT's; that the LMAPF files share it is likely, as they come from the same group, but no such file was
at hand: one that differs is refused.

**The SMACv2 and GRF parts:** ``.pt`` chunks, PyTorch files of a dict of tensors with one row per sample, of which
``actions`` and ``dones`` are known. Which tensors hold observations, and in what order, is not: such files are read,
checked and described, but not imported.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from marlgpt_policy.encoders.token_layout import MAX_ACTIONS, POGEMA_LAYOUT
from marlgpt_sim.runs.output_folder import output_folder
from tqdm import tqdm

from marlgpt_training.published.mapf_gpt_tokens import TOKENS, DataFormatError, decode_tokens
from marlgpt_training.store.sample_shards import SampleShard, read_spec, write_samples
from marlgpt_training.store.shards import STORE, StoreError, is_store

SHARD = 2**15
"""Samples in a shard: 12 MB unpacked."""


@dataclass
class Args:
    """Import published MAPF-GPT and MARL-GPT data files into a store of single observations."""

    files: tuple[Path, ...] = ()
    """Files, or folders that are searched for .arrow and .pt files."""
    out: Path = Path("out/imported")
    """Folder of the store; a file's shards are named after the file and its folder."""
    scenario: str = ""
    """Map family to note; by default the name of the file's folder."""
    source: str = "mapf-gpt"
    """Who made the labels, to note."""
    ignore: tuple[str, ...] = ()
    """Columns of .arrow files to leave out, other than the two known ones."""
    limit: int = 0
    """Most samples to take from a file; 0 takes all."""


def read_arrow(path: str | Path, ignore: tuple[str, ...] = ()) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pieces of at most ``SHARD`` rows: tokens int8[n, 256], moves int8[n].

    Raises:
        DataFormatError: Not an Arrow IPC file, other columns, types or lengths; names file, found and expected.
    """
    expected = "columns input_tensors (lists of 256 int8) and gt_actions (int8)"
    try:
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            columns = [name for name in reader.schema.names if name not in ignore]
            if sorted(columns) != ["gt_actions", "input_tensors"]:
                raise DataFormatError(
                    f"{path}: found columns {', '.join(columns) or 'none'}; expected {expected}"
                )
            table = reader.read_all().select(columns)
            table.validate(full=True)  # lists may point beyond the file, which is mapped into memory
            for start in range(0, table.num_rows, SHARD):
                yield _rows(path, table.slice(start, SHARD).combine_chunks(), expected)
    except (pa.ArrowException, OSError) as error:
        raise DataFormatError(
            f"{path}: not a readable Arrow IPC file ({error}); expected {expected}"
        ) from error


def _rows(path: str | Path, table: pa.Table, expected: str) -> tuple[np.ndarray, np.ndarray]:
    lists, moves = (pa.concat_arrays(table[name].chunks) for name in ("input_tensors", "gt_actions"))
    kind = lists.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or kind.value_type != pa.int8() or moves.type != pa.int8():
        raise DataFormatError(f"{path}: found {kind} and {moves.type}; expected {expected}")
    values = lists.flatten()
    if lists.null_count or moves.null_count or values.null_count:
        raise DataFormatError(f"{path}: found rows without a value; expected {expected}")
    lengths = set(pc.unique(pc.list_value_length(lists)).to_pylist())
    if not lengths <= {TOKENS}:
        raise DataFormatError(
            f"{path}: found lists of {', '.join(map(str, sorted(lengths)))}; expected {expected}"
        )
    return values.to_numpy(zero_copy_only=False).reshape(-1, TOKENS), moves.to_numpy(zero_copy_only=False)


@dataclass
class Chunk:
    """What is known of a ``.pt`` chunk.

    Attributes:
        actions: int64[rows, ...] moves, 0..19.
        dones: bool[rows, ...] whether an episode ended with the row; None if the file does not say.
        others: Shape and type of each other tensor, by name.
    """

    actions: np.ndarray
    dones: np.ndarray | None
    others: dict[str, str] = field(default_factory=dict)

    def describe(self) -> str:
        """Rows, ends, action balance and the tensors of unknown meaning, in one line."""
        counts = sorted(Counter(self.actions.ravel().tolist()).items())
        balance = ", ".join(f"{action}: {count / self.actions.size:.3f}" for action, count in counts)
        ends = "no 'dones'" if self.dones is None else f"{int(self.dones.sum())} ends"
        others = "; ".join(f"{name} {what}" for name, what in self.others.items()) or "none"
        return f"{len(self.actions)} rows, {ends}, actions {{{balance}}}, other tensors: {others}"


def read_chunk(path: str | Path) -> Chunk:
    """Read a ``.pt`` chunk; no code in it is run.

    Raises:
        DataFormatError: Unreadable, or ``actions`` and ``dones`` are not as expected; names file, found and expected.
    """
    expected = (
        f"a dict of tensors, a row per sample, 'actions' (integers 0..{MAX_ACTIONS - 1}) and 'dones' (0 or 1)"
    )
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its reader stumbles over
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise DataFormatError(
            f"{path}: not a PyTorch file of plain tensors ({reason}); expected {expected}"
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("actions"), torch.Tensor):
        there = ", ".join(map(str, found)) if isinstance(found, dict) else f"a {type(found).__name__}"
        raise DataFormatError(f"{path}: found {there or 'nothing'}; expected {expected}")
    strange = [name for name, tensor in found.items() if not isinstance(tensor, torch.Tensor)]
    rows = {name: tuple(tensor.shape) for name, tensor in found.items() if name not in strange}
    actions, dones = found["actions"], found.get("dones")
    if strange or len({shape[:1] for shape in rows.values()} | {()}) != 2:
        what = f"'{strange[0]}', a {type(found[strange[0]]).__name__}" if strange else f"shapes {rows}"
        raise DataFormatError(f"{path}: found {what}; expected {expected}")
    if actions.is_floating_point() or not ((actions >= 0) & (actions < MAX_ACTIONS)).all():
        raise DataFormatError(f"{path}: found actions {_kind(actions)} beyond that; expected {expected}")
    if dones is not None and not ((dones == 0) | (dones == 1)).all():
        raise DataFormatError(f"{path}: found dones {_kind(dones)} other than 0 and 1; expected {expected}")
    others = {name: _kind(tensor) for name, tensor in found.items() if name not in ("actions", "dones")}
    return Chunk(actions.long().numpy(), None if dones is None else dones.bool().numpy(), others)


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


@dataclass
class Imported:
    """What one file gave.

    Attributes:
        samples: Samples written, or already there.
        shards: Their shards.
        dropped: Rows left out because their move leads into a wall.
        labels: int64[20] how often each move is the label.
    """

    samples: int = 0
    shards: int = 0
    dropped: int = 0
    labels: np.ndarray = field(default_factory=lambda: np.zeros(MAX_ACTIONS, dtype=np.int64))


def import_arrow(path: Path, args: Args) -> Imported:
    """Write the samples of an ``.arrow`` file; shards that an earlier run wrote stay.

    Raises:
        DataFormatError: Not in the known format; shards of the rows before stay.
        StoreError: A shard of that name comes from another file.
    """
    path, done, row = path.resolve(), Imported(), 0
    for tokens, labels in tqdm(read_arrow(path, args.ignore), desc=path.name, unit=" shards", disable=None):
        if args.limit:
            tokens, labels = tokens[: args.limit - row], labels[: args.limit - row]
        if not len(labels):
            break
        shard = _shard(path, tokens, labels, row, args)
        target = args.out / f"{path.parent.name}-{path.stem}-{done.shards:05d}.parquet"
        if not target.exists():
            write_samples(target, shard)
        elif read_spec(target) != shard.spec:
            raise StoreError(
                f"{target}: made from another file or with another --limit; choose another --out"
            )
        row += len(labels)
        done.samples, done.shards = done.samples + len(shard), done.shards + 1
        done.dropped += len(labels) - len(shard)
        done.labels += np.bincount(shard.labels, minlength=MAX_ACTIONS)
    if not row:
        raise DataFormatError(f"{path}: found no rows; expected at least one")
    return done


def _shard(path: Path, tokens: np.ndarray, labels: np.ndarray, row: int, args: Args) -> SampleShard:
    wrong = (labels < 0) | (labels >= POGEMA_LAYOUT.actions)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise DataFormatError(
            f"{path}: row {row + first}: found move {labels[first]}; expected 0..{POGEMA_LAYOUT.actions - 1}"
        )
    try:
        packed, masks = decode_tokens(tokens)
    except DataFormatError as error:
        raise DataFormatError(f"{path}: rows from {row} on: {error}") from error
    kept = masks[np.arange(len(labels)), labels]
    return SampleShard(
        packed[kept],
        masks[kept],
        labels[kept],
        POGEMA_LAYOUT.name,
        POGEMA_LAYOUT.hash,
        args.scenario or path.parent.name,
        args.source,
        {"file": path.name, "bytes": path.stat().st_size, "row": row, "rows": len(labels)},
    )


def find(files: tuple[Path, ...]) -> list[Path]:
    """The files themselves, and the .arrow and .pt files within the folders, sorted.

    Raises:
        DataFormatError: Nothing given or found.
    """
    found = []
    for path in files:
        inside = (
            sorted(p for p in path.rglob("*") if p.suffix in (".arrow", ".pt")) if path.is_dir() else [path]
        )
        if not inside:
            raise DataFormatError(f"{path}: no .arrow or .pt file in it")
        found += inside
    if not found:
        raise DataFormatError("no file given; name files or folders of the data set with --files")
    return found


def main(args: Args) -> int:
    """Import every file that can be; returns 1 if one was refused, after the others."""
    files = find(args.files)
    with output_folder(args.out, STORE, is_store):
        return _import_all(args, files)


def _import_all(args: Args, files: list[Path]) -> int:
    """Import file after file; the exit status."""
    refused = 0
    for path in files:
        try:
            if path.suffix == ".arrow":
                done = import_arrow(path, args)
                balance = ", ".join(f"{count / max(1, done.samples):.3f}" for count in done.labels[:5])
                left_out = f", {done.dropped} rows left out (a move into a wall)" if done.dropped else ""
                print(
                    f"{path}: {done.samples} samples in {done.shards} shards, moves {balance}{left_out}",
                    flush=True,
                )
                continue
            if path.suffix != ".pt":
                raise DataFormatError(f"{path}: found a '{path.suffix}' file; expected .arrow or .pt")
            raise DataFormatError(
                f"{path}: a MARL-GPT chunk ({read_chunk(path).describe()}); which tensors hold observations, and in "
                "what order, is not published, so it cannot be imported"
            )
        except (DataFormatError, StoreError) as error:
            refused += 1
            print(f"refused: {error}", file=sys.stderr, flush=True)
    return 1 if refused else 0

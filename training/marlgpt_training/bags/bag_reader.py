"""The messages of a bag, whatever wrote it and whatever is left of it, one after the other.

A bag is a folder as rosbag2 writes it, or one of its files: MCAP or SQLite, plain or compressed. Files are read from
front to end and nothing is kept, so that a bag may be larger than memory. What a crash or a copy cut off is noted,
the rest is read.
"""

from __future__ import annotations

import re
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import yaml
from marlgpt_policy.grid.occupancy_map import PlainLoader
from marlgpt_sim.bags.bag_types import load_types
from marlgpt_sim.bags.mcap_scan import Damage, scan
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from marlgpt_training.bags.sqlite_pages import leaf_rows

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")
_ZSTD = b"\x28\xb5\x2f\xfd"
LARGEST_VALUE = 2**28
"""Bytes of one message, or of any other value in a database."""
MOST_STEPS = 200
"""Millions of steps that SQLite may take from one row to the next: a bag's rows lie one after the other."""
INFLATION = 1000, 2**30
"""A compressed file may become this many times as large, or this many bytes if that is more."""
_TABLES = {
    "topics": ("id", "name", "type", "serialization_format"),
    "messages": ("id", "topic_id", "timestamp", "data"),
    "message_definitions": ("topic_type", "encoding", "encoded_message_definition"),
}
"""What is read of a database: tables and their columns."""


class BagError(ValueError):
    """A bag of which nothing can be used; the message names it, the reason and what to do."""


@dataclass
class Topic:
    """A topic of a bag: its message type and how many messages were seen."""

    name: str
    type: str
    count: int = 0


@dataclass
class Bag:
    """A bag on disk.

    Attributes:
        path: As it was named.
        files: Its storage files, in order.
        distro: ROS distribution that the bag says it was written with; empty if it says none.
        damage: What could not be read, one sentence each.
    """

    path: Path
    files: list[Path]
    distro: str = ""
    damage: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Short name."""
        return self.path.resolve().name or str(self.path)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.files)

    def note(self, reason: str) -> None:
        """Remember damage once."""
        if reason not in self.damage:
            self.damage.append(reason)


def open_bag(path: str | Path) -> Bag:
    """Find the files of a bag.

    Raises:
        BagError: There is no bag; the message says what is there instead.
    """
    path = Path(path)
    try:
        if path.is_file():
            if not path.name.endswith(SUFFIXES):
                raise BagError(
                    f"{path}: is no bag; name a folder that ros2 bag wrote, or an .mcap or .db3 file in it"
                )
            return Bag(path, [path], _metadata(path.parent)[1] if path.parent != path else "")
        if not path.is_dir():
            raise BagError(f"{path}: does not exist; name a folder that ros2 bag wrote")
        inside = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES) and file.is_file())
    except (OSError, ValueError) as error:
        if isinstance(error, BagError):
            raise
        raise BagError(f"{path}: cannot be read: {error}") from error
    listed, distro, problem = _metadata(path)
    files = [path / name for name in listed if (path / name) in inside]
    files += sorted((file for file in inside if file not in files), key=_part)
    if not files:
        below = [child.name for child in path.iterdir() if child.is_dir() and _has_files(child)]
        hint = (
            f"; it holds the bags {', '.join(sorted(below)[:5])}: name those"
            if below
            else "; name a folder that ros2 bag wrote"
        )
        raise BagError(f"{path}: holds no .mcap or .db3 file{hint}")
    bag = Bag(path, files, distro)
    if problem:
        bag.note(problem)
    missing = [name for name in listed if not (path / name).exists()]
    if missing:
        bag.note(f"{', '.join(missing[:5])} named in metadata.yaml is not there")
    unlisted = [file.name for file in files if file.name not in listed]
    if listed and unlisted:
        bag.note(
            f"{', '.join(unlisted[:5])} is not named in metadata.yaml: the recording did not end properly"
        )
    return bag


def _has_files(folder: Path) -> bool:
    try:
        return any(file.name.endswith(SUFFIXES) for file in folder.iterdir())
    except OSError:
        return False


def _part(file: Path) -> tuple:
    """Sorts ``bag_2.mcap`` before ``bag_10.mcap``."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name))


def _metadata(folder: Path) -> tuple[list[str], str, str]:
    """File names, distribution and a complaint from a folder's ``metadata.yaml``."""
    path = folder / "metadata.yaml"
    if not path.exists():
        return [], "", "metadata.yaml is missing: the recording did not end properly"
    try:
        found = yaml.load(path.read_bytes(), PlainLoader)["rosbag2_bagfile_information"]
        names = [Path(str(name)).name for name in found.get("relative_file_paths") or []]
        return names, str(found.get("ros_distro") or ""), ""
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        yaml.YAMLError,
    ) as error:
        return [], "", f"metadata.yaml is damaged ({type(error).__name__})"


class Decoder:
    """Bytes into messages; definitions come from the bag, or from ROS where the bag has none."""

    def __init__(self, distro: str) -> None:
        """``distro`` names the distribution that wrote the bag, or is empty."""
        self.distro = distro
        self._stores: dict[tuple[str, str], Typestore] = {}
        self._plain: Typestore | None = None

    def __call__(self, type: str, encoding: str, definition: str, data: bytes) -> Any:
        """The message.

        Raises:
            ValueError: Neither bag nor ROS defines the type, or the bytes are not such a message.
        """
        try:
            store = self._store(type, encoding, definition)
            return store.deserialize_cdr(data, type)
        except Exception as error:  # damaged definitions and bytes can fail in many ways
            raise ValueError(f"{type}: {error!r}") from error

    def _store(self, type: str, encoding: str, definition: str) -> Typestore:
        key = type, definition
        if key not in self._stores:
            if definition:
                parse = get_types_from_idl if encoding == "ros2idl" else get_types_from_msg
                found = parse(definition) if encoding == "ros2idl" else parse(definition, type)
                store = get_typestore(Stores.EMPTY)
                store.register(found)
            else:
                store = self._without_definitions(type)
            self._stores[key] = store
        return self._stores[key]

    def _without_definitions(self, type: str) -> Typestore:
        if self._plain is None:
            name = f"ROS2_{self.distro.upper()}"
            self._plain = get_typestore(getattr(Stores, name, Stores.ROS2_HUMBLE))
        if type not in self._plain.types:
            self._plain.register(load_types([type.split("/")[0]]).fielddefs)
        return self._plain


@dataclass(frozen=True)
class Record:
    """One message as it lies in a bag: topic, type with its definition, time of reception in ns, and bytes."""

    topic: str
    type: str
    encoding: str
    definition: str
    stamp: int
    data: bytes


def records(bag: Bag, progress: Callable[[int], None] = lambda _: None) -> Iterator[Record]:
    """Every message of a bag that can be read, file after file; damage is noted in ``bag``.

    Args:
        bag: The bag.
        progress: Is told, now and then, how many bytes more have been read.

    Raises:
        BagError: Not one file could be read at all.
    """
    failed = []
    for file in bag.files:
        try:
            read = _mcap if ".mcap" in file.suffixes else _sqlite
            yield from read(bag, file, progress)
        except (OSError, ValueError, sqlite3.Error, EOFError, zstd.ZstdError) as error:
            if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
                error = error.strerror
            failed.append(f"{file.name} {error}")
            bag.note(failed[-1])
    if len(failed) == len(bag.files):
        raise BagError(f"{bag.path}: nothing can be read: {'; '.join(failed[:3])}; record it again")


def _mcap(bag: Bag, file: Path, progress: Callable[[int], None]) -> Iterator[Record]:
    damage, at = Damage(), 0
    with ExitStack() as stack:
        raw = stack.enter_context(open(file, "rb"))
        stream = stack.enter_context(zstd.open(raw, "rb")) if file.suffix == ".zstd" else raw
        try:
            for channel, stamp, data in scan(stream, damage):
                if raw.tell() - at >= 1 << 20:
                    progress(raw.tell() - at)
                    at = raw.tell()
                yield Record(
                    channel.topic, channel.type, channel.encoding, channel.definition, stamp, _plain(data)
                )
        finally:
            progress(raw.tell() - at)
            for reason in damage.reasons:
                bag.note(f"{file.name}: {reason}")


def _plain(data: bytes) -> bytes:
    """A message's CDR bytes; rosbag2 can compress each of them."""
    if data[:4] != _ZSTD:
        return data
    try:
        return zstd.ZstdDecompressor().decompress(data, max_length=LARGEST_VALUE)
    except zstd.ZstdError:
        return data  # decoding it will say that it is damaged


def _sqlite(bag: Bag, file: Path, progress: Callable[[int], None]) -> Iterator[Record]:
    if file.suffix != ".zstd":
        yield from _rows(bag, file, progress)
        return
    with tempfile.TemporaryDirectory(prefix="marlgpt-bag-") as folder:
        plain = Path(folder) / "bag.db3"
        try:
            with zstd.open(file, "rb") as source, open(plain, "wb") as target:
                _inflate(source, target, max(INFLATION[0] * file.stat().st_size, INFLATION[1]))
        except (EOFError, zstd.ZstdError) as error:
            bag.note(f"{file.name}: it is cut off or damaged: {error}")
        yield from _rows(bag, plain, progress, file.name)


def _inflate(source: BinaryIO, target: BinaryIO, most: int) -> None:
    """Copy at most ``most`` bytes.

    Raises:
        ValueError: There is more.
    """
    copied = 0
    while part := source.read(1 << 20):
        copied += len(part)
        if copied > most:
            raise ValueError(
                f"becomes larger than {most} bytes: it is no recording, or compress it otherwise"
            )
        target.write(part)


def _rows(bag: Bag, file: Path, progress: Callable[[int], None], shown: str = "") -> Iterator[Record]:
    """The messages of a database in the order in which they were written, around damaged places."""
    shown = shown or file.name
    with open(file, "rb") as stream:
        if not stream.read(1):
            raise ValueError("is empty")
    read, last = 0, -1
    with closing(_connect(file)) as connection:
        work = _bound(connection)
        topics = _topics(connection)
        for number, topic, stamp, data in _whole(bag, file, shown, connection):
            work.clear()
            if number <= last or topic not in topics or not isinstance(data, bytes):
                continue
            last = number
            if not isinstance(stamp, int):
                continue
            yield Record(*topics[topic], stamp, _plain(data))
            read += len(data)
            if read >= 1 << 20:
                progress(read)
                read = 0


def _whole(bag: Bag, file: Path, shown: str, connection: sqlite3.Connection) -> Iterator[tuple]:
    """All rows; where the database is damaged, what its pages still hold."""
    try:
        yield from connection.execute("SELECT id, topic_id, timestamp, data FROM messages ORDER BY id")
        return
    except sqlite3.DatabaseError as error:
        bag.note(f"{shown}: a part of the database is damaged or cut off ({error})")
    with open(file, "rb") as stream:
        yield from leaf_rows(stream)


def _connect(file: Path) -> sqlite3.Connection:
    """A read-only connection that also opens what was cut off; with the log of a crash if there is one."""
    live = file.with_name(file.name + "-wal").exists() or file.with_name(file.name + "-journal").exists()
    for mode in ("mode=ro", "mode=ro&immutable=1") if live else ("mode=ro&immutable=1",):
        connection = sqlite3.connect(f"{file.resolve().as_uri()}?{mode}", uri=True)
        try:
            # Otherwise a database that is shorter than it should be is refused as a whole. Nothing can be written.
            connection.execute("PRAGMA writable_schema=ON")
            connection.execute("PRAGMA trusted_schema=OFF")
            connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchall()
            return connection
        except sqlite3.Error as error:
            connection.close()
            reason = error
    raise ValueError(f"is no readable database: {reason}")


def _bound(connection: sqlite3.Connection) -> list:
    """Let a connection read tables and nothing else, in bounded steps; clear the list that is returned at every row.

    A database can hold views and computed columns whose evaluation never ends, or whose values fill the memory.
    """
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE)
    taken: list[None] = []

    def another_million() -> bool:
        taken.append(None)
        return len(taken) > MOST_STEPS

    def permitted(
        action: int, table: str | None, column: str | None, _: str | None, source: str | None
    ) -> int:
        known = table in _TABLES or table in ("sqlite_master", "sqlite_schema")
        reads = action == sqlite3.SQLITE_READ and known and source is None
        looks = action == sqlite3.SQLITE_PRAGMA and table == "table_xinfo"
        return sqlite3.SQLITE_OK if reads or looks or action == sqlite3.SQLITE_SELECT else sqlite3.SQLITE_DENY

    connection.set_progress_handler(another_million, 1_000_000)
    connection.set_authorizer(permitted)
    return taken


def _check_tables(connection: sqlite3.Connection) -> set[str]:
    """The names of a bag's tables that are there.

    Raises:
        ValueError: One is no table but a view or something else, or a column is computed.
    """
    found = set()
    for name, kind, page in connection.execute("SELECT name, type, rootpage FROM sqlite_master"):
        if name not in _TABLES:
            continue
        if kind != "table" or not page:  # views and virtual tables have no pages of their own
            raise ValueError(f"is no bag: '{name}' is no table with rows but a {kind} that computes them")
        found.add(name)
    for name in found:
        computed = [row[1] for row in connection.execute(f"PRAGMA table_xinfo({name})") if row[6]]
        if computed:
            raise ValueError(f"is no bag: column '{computed[0]}' of table '{name}' is computed")
    return found


def _topics(connection: sqlite3.Connection) -> dict[int, tuple[str, str, str, str]]:
    """Name, type, encoding and definition of the topics by their number.

    Raises:
        ValueError: The database is not a bag.
    """
    try:
        tables = _check_tables(connection)
        if not {"topics", "messages"} <= tables:
            raise ValueError("is a database, but not a bag: it has no tables 'topics' and 'messages'")
        definitions: dict[str, tuple[str, str]] = {}
        if "message_definitions" in tables:
            query = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            definitions = {
                str(name): (str(kind), str(text)) for name, kind, text in connection.execute(query)
            }
        found = connection.execute("SELECT id, name, type, serialization_format FROM topics").fetchall()
    except sqlite3.Error as error:
        raise ValueError(f"is no readable database: {error}") from error
    return {
        number: (str(name), str(type), *definitions.get(str(type), ("", "")))
        for number, name, type, form in found
        if form == "cdr"
    }

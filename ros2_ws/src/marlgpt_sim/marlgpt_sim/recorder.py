"""Write serialized ROS messages to an MCAP bag, without ROS.

A bag is a folder with one ``.mcap`` file and a ``metadata.yaml``, as ``ros2 bag record -s mcap`` writes it:
``ros2 bag`` and Foxglove open it. Messages arrive as the CDR bytes that crossed the wire and are stored
unchanged. `marlgpt_sim.nodes.recorder` feeds this writer from subscriptions.

Whole chunks are forced to disk every few seconds, so a killed process loses at most that much; `recover`
turns what it left into a complete bag.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.metadata import parse_qos
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

_BAG_VERSION = 9
_FOREVER = QosTime(9223372036, 854775807)  # how rmw writes "no deadline": 2**63 - 1 nanoseconds


@dataclass(frozen=True)
class TopicSpec:
    """One topic to record.

    Args:
        name: Topic name, relative or absolute; resolved by the recording node.
        type: Message type, ``package/msg/Name``.
        reliable: Ask publishers for reliable delivery. A best effort publisher needs False.
        latched: Ask for the last message of a late-joining transient local publisher (maps).
        depth: Messages that may wait for the recorder [count].
    """

    name: str
    type: str
    reliable: bool = True
    latched: bool = False
    depth: int = 100

    def __post_init__(self) -> None:
        """Refuse a type that is not ``package/msg/Name`` and a depth below 1."""
        parts = self.type.split("/")
        if len(parts) != 3 or parts[1] != "msg" or not all(parts):
            raise ValueError(f"topic {self.name!r}: type {self.type!r} is not like 'nav_msgs/msg/Odometry'")
        if self.depth < 1:
            raise ValueError(f"topic {self.name!r}: depth must be at least 1, got {self.depth}")

    def qos(self) -> Qos:
        """The profile of this specification, in the form a bag stores."""
        return Qos(
            history=QosHistory.KEEP_LAST,
            depth=self.depth,
            reliability=QosReliability.RELIABLE if self.reliable else QosReliability.BEST_EFFORT,
            durability=QosDurability.TRANSIENT_LOCAL if self.latched else QosDurability.VOLATILE,
            deadline=_FOREVER,
            lifespan=_FOREVER,
            liveliness=QosLiveliness.AUTOMATIC,
            liveliness_lease_duration=_FOREVER,
            avoid_ros_namespace_conventions=False,
        )


def message_folders(package: str) -> list[Path]:
    """Folders that may hold the ``.msg`` files of a package, best first.

    Looks at ``share/<package>/msg`` of every prefix in ``AMENT_PREFIX_PATH``, then at the source tree that
    this file lies in.
    """
    prefixes = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    folders = [Path(prefix) / "share" / package / "msg" for prefix in prefixes]
    folders.append(Path(__file__).resolve().parents[2] / package / "msg")
    return [folder for folder in folders if folder.is_dir()]


def load_types(packages: Iterable[str]) -> Typestore:
    """Type definitions of ROS 2 Kilted plus the messages of the named packages.

    Args:
        packages: Packages whose messages must be known. Those that ROS itself ships are known already.

    Raises:
        FileNotFoundError: The ``.msg`` files of a package are nowhere to be found.
    """
    store = get_typestore(Stores.ROS2_KILTED)
    known = {name.split("/")[0] for name in store.types}
    for package in sorted(set(packages) - known):
        folders = message_folders(package)
        if not folders:
            raise FileNotFoundError(
                f"no .msg files of package {package!r}: source the install/setup.bash that it was built into"
            )
        definitions = {}
        for path in sorted(folders[0].glob("*.msg")):
            text = path.read_text(encoding="utf-8")
            definitions.update(get_types_from_msg(text, f"{package}/msg/{path.stem}"))
        store.register(definitions)
    return store


class BagWriter:
    """An MCAP bag that is open for writing; a context manager that closes it.

    Thread safe. The bag folder is created when the writer is.

    Args:
        path: Folder of the bag; must not exist.
        packages: Packages of the message types to come, other than those of ROS itself.
        flush_period: Age of the oldest message in memory at which the next one sends all of them to disk
            [s, wall time]; call `flush` where messages may stop coming. Zero writes every message at once.

    Raises:
        FileExistsError: `path` exists already.
        FileNotFoundError: The ``.msg`` files of a package are missing.
    """

    def __init__(self, path: str | Path, packages: Iterable[str] = (), flush_period: float = 2.0) -> None:
        """Create the folder and open the file in it."""
        self.path = Path(path)
        if self.path.exists():
            raise FileExistsError(f"bag {self.path} exists already: choose another name or remove it")
        self.types = load_types(packages)
        self.flush_period = flush_period
        self.messages = 0
        self._lock = threading.Lock()
        self._connections: dict[tuple[str, str], Connection] = {}
        self._flushed = time.monotonic()
        self._bag = Writer(self.path, version=_BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._bag.open()
        self._flush()  # the file is an MCAP file from now on

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._bag.storage is None

    def add_topic(self, name: str, type: str, qos: list[Qos]) -> None:
        """Announce a topic; a second announcement of the same name and type changes nothing.

        Args:
            name: Absolute topic name.
            type: Message type, ``package/msg/Name``.
            qos: Profiles offered by its publishers, so that a replay can offer the same.

        Raises:
            KeyError: The type is unknown.
        """
        with self._lock:
            if (name, type) in self._connections or self.closed:
                return
            self.learn(type)
            self._connections[name, type] = self._bag.add_connection(
                name, type, typestore=self.types, offered_qos_profiles=qos
            )

    def learn(self, type: str) -> None:
        """Make sure that a message type is known.

        Raises:
            KeyError: The type is unknown.
            FileNotFoundError: The ``.msg`` files of its package are missing.
        """
        if type not in self.types.types:
            self.types.register(load_types([type.split("/")[0]]).fielddefs)
        if type not in self.types.types:
            raise KeyError(f"message type {type!r} is unknown")

    def write(self, name: str, type: str, data: bytes, stamp: int) -> None:
        """Append one message; ignored once the bag is closed.

        Args:
            name: Absolute topic name, announced with `add_topic`.
            type: Message type.
            data: Serialized message: CDR bytes with their 4 byte header.
            stamp: Time of reception, wall or simulation [ns].

        Raises:
            KeyError: The topic was not announced.
        """
        with self._lock:
            if self.closed:
                return
            self._bag.write(self._connections[name, type], stamp, data)
            self.messages += 1
            if time.monotonic() - self._flushed >= self.flush_period:
                self._flush()

    def flush(self) -> None:
        """Force everything written so far to disk."""
        with self._lock:
            if not self.closed:
                self._flush()

    def close(self) -> None:
        """Write index and metadata and close the file; more calls do nothing."""
        with self._lock:
            if self.closed:
                return
            if not self.messages:  # the bounds of an empty bag would be 2**63 - 1 and make readers overflow
                self._bag.min_timestamp = 0
                storage = self._bag.storage
                storage.message_start_time = storage.chunk.message_start_time = 0
            self._bag.close()

    def __enter__(self) -> BagWriter:
        """Return the open writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bag, also after an error: what was recorded until then is worth keeping."""
        self.close()

    def _flush(self) -> None:
        storage = self._bag.storage
        if storage.chunk.bio.tell():
            storage.close_chunk()
        storage.bio.flush()
        os.fsync(storage.bio.fileno())
        self._flushed = time.monotonic()


def recover(broken: str | Path, target: str | Path) -> int:
    """Copy every whole message of an MCAP file, finished or torn, into a new bag.

    A process that was killed leaves a file without index and a folder without ``metadata.yaml``, which few
    readers open. Only uncompressed chunks are read: the kind that `BagWriter` writes.

    Args:
        broken: The ``.mcap`` file.
        target: Folder of the new bag; must not exist.

    Returns:
        Messages recovered [count].

    Raises:
        ValueError: `broken` is not an MCAP file, holds a compressed chunk, or is damaged; the messages before stay.
        FileExistsError: `target` exists already.
    """
    content = memoryview(Path(broken).read_bytes())
    if bytes(content[:5]) != b"\x89MCAP":
        raise ValueError(f"{broken} is not an MCAP file")
    with BagWriter(target) as bag:
        try:
            _copy(_records(content[8:], broken), bag)
        except Exception as error:  # damaged records can fail in many ways
            raise ValueError(
                f"{broken}: cannot be read beyond its first {bag.messages} messages, which are in {target}: {error!r}"
            ) from error
        return bag.messages


def _copy(records: Iterator[tuple[int, memoryview]], bag: BagWriter) -> None:
    """Write the messages among the records of a file to ``bag``."""
    types: dict[int, str] = {}
    topics: dict[int, tuple[str, str]] = {}
    for opcode, body in records:
        if opcode == _SCHEMA:
            (number,) = struct.unpack_from("<H", body)
            name, encoding, text = _strings(body, 2, 3)
            if encoding != "ros2msg":
                raise ValueError(f"{name!r} is defined in {encoding!r}, not in 'ros2msg'")
            new = get_types_from_msg(text, name)
            bag.types.register({key: value for key, value in new.items() if key not in bag.types.types})
            types[number] = name
        elif opcode == _CHANNEL:
            number, schema = struct.unpack_from("<HH", body)
            topic, _, profiles = _strings(body, 4, 2) + [_profiles(body)]
            bag.add_topic(topic, types[schema], profiles)
            topics[number] = topic, types[schema]
        elif opcode == _MESSAGE:
            number, _, stamp, _ = struct.unpack_from("<HIQQ", body)
            bag.write(*topics[number], bytes(body[22:]), stamp)


_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK = 0x03, 0x04, 0x05, 0x06  # opcodes of the MCAP specification, version 0


def _records(data: memoryview, path: str | Path) -> Iterator[tuple[int, memoryview]]:
    """Opcode and body of every whole record, those inside chunks too; stops where the file was torn."""
    start = 0
    while start + 9 <= len(data):
        opcode, length = struct.unpack_from("<BQ", data, start)
        end = start + 9 + length
        body = data[start + 9 : end]  # shorter than `length` where the file was torn
        if opcode == _CHUNK:
            if len(body) < 40:
                return
            (name,) = _strings(body, 28, 1)
            if name:
                raise ValueError(f"{path}: a chunk is compressed with {name!r}; decompress the file first")
            yield from _records(body[40:], path)
        elif len(body) == length:
            yield opcode, body
        start = end


def _strings(body: memoryview, start: int, count: int) -> list[str]:
    """Consecutive length-prefixed strings."""
    found = []
    for _ in range(count):
        (length,) = struct.unpack_from("<I", body, start)
        found.append(str(body[start + 4 : start + 4 + length], "utf-8"))
        start += 4 + length
    return found


def _profiles(channel: memoryview) -> list[Qos]:
    """Offered profiles of a channel record."""
    topic, encoding = _strings(channel, 4, 2)
    start = 4 + 4 + len(topic.encode()) + 4 + len(encoding.encode()) + 4
    if start >= len(channel):
        return []
    key, text = _strings(channel, start, 2)
    return parse_qos(text) if key == "offered_qos_profiles" else []

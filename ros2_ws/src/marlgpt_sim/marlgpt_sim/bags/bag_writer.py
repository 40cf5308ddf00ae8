"""Write serialized ROS messages to an MCAP bag, without ROS.

A bag is a folder with ``.mcap`` files and a ``metadata.yaml``, as ``ros2 bag record -s mcap`` writes it:
``ros2 bag`` and Foxglove open it. Messages arrive as the CDR bytes that crossed the wire and are stored
unchanged. `marlgpt_sim.nodes.recorder_node` feeds this writer from subscriptions.

A thread forces what was written to disk every half second, whether or not more messages come, so a killed process
loses at most that much; `bag_recovery.recover` turns what it left into a complete bag, and `marlgpt import-bag` reads
it as it is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import yaml
from rosbags.interfaces import Connection, Qos, QosDurability
from rosbags.rosbag2 import StoragePlugin, Writer

from marlgpt_sim.bags.bag_metadata import write_metadata
from marlgpt_sim.bags.bag_types import load_types
from marlgpt_sim.runs.output_folder import MARKER

_BAG_VERSION = 9
_TRANSFORMS = "tf2_msgs/msg/TFMessage"
_MOST_TRANSFORMS = 100


class BagWriter:
    """An MCAP bag that is open for writing; a context manager that closes it.

    Thread safe. The bag folder is created when the writer is. With a limit of size or time the bag is split as
    ``ros2 bag record`` splits it: ``<name>_0.mcap``, ``<name>_1.mcap``, ... in one folder. Each part stands alone: it
    begins with the last message of every latched topic.

    Args:
        path: Folder of the bag; must not exist, or be claimed (:mod:`marlgpt_sim.runs.output_folder`) and hold no bag.
        packages: Packages of the message types to come, other than those of ROS itself.
        flush_period: Seconds (wall time) between two times that all messages are forced to disk; zero does so
            after every message.
        max_size: Bytes of messages after which the next part begins; zero for no limit.
        max_duration: Seconds between the stamps of the first and the last message of a part; zero for no limit.

    Raises:
        FileExistsError: `path` exists already.
        FileNotFoundError: The ``.msg`` files of a package are missing.
        OSError: The folder cannot be made.
    """

    def __init__(
        self,
        path: str | Path,
        packages: Iterable[str] = (),
        flush_period: float = 0.5,
        max_size: int = 0,
        max_duration: float = 0.0,
    ) -> None:
        """Create the folder and open the first file in it."""
        self.path = Path(path)
        if self.path.exists() and not _waits_for_a_bag(self.path):
            raise FileExistsError(f"bag {self.path} exists already: choose another name or remove it")
        if flush_period < 0 or max_size < 0 or max_duration < 0:
            raise ValueError("flush_period, max_size and max_duration of a bag must not be below zero")
        self.types = load_types(packages)
        self.flush_period, self.max_size, self.max_duration = flush_period, max_size, max_duration
        self.messages = 0
        self.parts: list[Path] = []
        self.failure: OSError | None = None
        self._lock = threading.Lock()
        self._topics: dict[tuple[str, str], list[Qos]] = {}
        self._latched: dict[tuple[str, str], list[bytes]] = {}
        self._finished: list[dict] = []
        self._bag: Writer | None = None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._open_part()
        except OSError as error:
            raise self._explained(error) from error
        self._ended = threading.Event()
        self._flusher = threading.Thread(target=self._keep_flushing, name="bag flusher", daemon=True)
        if flush_period:
            self._flusher.start()

    @property
    def closed(self) -> bool:
        """Whether the bag was closed, or nothing can be written to it any more."""
        return self._bag is None

    def add_topic(self, name: str, type: str, qos: list[Qos]) -> None:
        """Announce a topic; a second announcement of the same name and type changes nothing.

        Args:
            name: Absolute topic name.
            type: Message type, ``package/msg/Name``.
            qos: Profiles offered by its publishers, so that a replay can offer the same. A topic that one of them
                offers as transient local is latched: every part of the bag begins with its last message.

        Raises:
            KeyError: The type is unknown.
        """
        with self._lock:
            if (name, type) in self._topics or self.closed:
                return
            self.learn(type)
            self._topics[name, type] = qos
            if any(profile.durability == QosDurability.TRANSIENT_LOCAL for profile in qos):
                self._latched[name, type] = []
            self._announce(name, type, qos)

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
            OSError: The disk is full or the file gone; the bag takes no more messages. Also raised for what the
                flushing thread ran into before.
        """
        with self._lock:
            if self.failure is not None:
                raise self.failure
            if self.closed:
                return
            if (name, type) not in self._topics:
                raise KeyError(f"topic {name!r} of type {type!r} was not announced to the bag")
            try:
                self._rotate(stamp)
                self._put(name, type, data, stamp)
                self.messages += 1
                if (name, type) in self._latched:
                    self._latch(name, type, data)
                if not self.flush_period:
                    os.fsync(self._to_kernel())
            except OSError as error:
                self._fail(error)
                raise self.failure from error

    def flush(self) -> None:
        """Force everything written so far to disk.

        Raises:
            OSError: The disk is full or the file gone; the bag takes no more messages.
        """
        with self._lock:
            if self.closed:
                return
            try:
                number = os.dup(self._to_kernel())
            except OSError as error:
                self._fail(error)
                raise self.failure from error
        try:
            os.fsync(number)  # takes as long as the disk does; others may write meanwhile
        except OSError as error:
            with self._lock:
                self._fail(error)
            raise self.failure from error
        finally:
            os.close(number)

    def close(self) -> None:
        """Write index and metadata and close the file; more calls do nothing.

        Raises:
            OSError: The disk is full; what was written before can be recovered.
        """
        self._ended.set()
        if self._flusher.is_alive() and self._flusher is not threading.current_thread():
            self._flusher.join()
        with self._lock:
            if self.closed:
                return
            try:
                self._close_part()
            except OSError as error:
                self._fail(error)
                raise self.failure from error

    def __enter__(self) -> BagWriter:
        """Return the open writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bag, also after an error: what was recorded until then is worth keeping."""
        self.close()

    # Parts ----------------------------------------------------------------------------------------------

    def _open_part(self) -> None:
        name = f"{self.path.name}_{len(self.parts)}"
        # The writer makes a folder of its own for every file; the file moves to its siblings while it is open.
        folder = self.path / name
        self._bag = Writer(folder, version=_BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._bag.open()
        target = self.path / f"{name}.mcap"
        self._bag.storage.path.rename(target)
        folder.rmdir()
        self._bag.storage.path, self._bag.metapath = target, self.path / f".{name}.yaml"
        self.parts.append(target)
        self._connections: dict[tuple[str, str], Connection] = {}
        self._size, self._first = 0, None
        for (topic, type), qos in self._topics.items():
            self._announce(topic, type, qos)
        os.fsync(self._to_kernel())  # the file is an MCAP file from now on

    def _close_part(self) -> None:
        bag = self._bag
        if not sum(
            bag.counts.values()
        ):  # the bounds of an empty bag would be 2**63 - 1 and make readers overflow
            bag.min_timestamp = 0
            storage = bag.storage
            storage.message_start_time = storage.chunk.message_start_time = 0
        bag.close()
        self._bag = None
        with open(self.parts[-1], "rb") as file:
            os.fsync(file.fileno())
        self._finished.append(yaml.safe_load(bag.metapath.read_text(encoding="utf-8")))
        bag.metapath.unlink()
        write_metadata(self.path, self._finished)

    def _rotate(self, stamp: int) -> None:
        """Begin the next part if this one is full."""
        if self._first is None:
            self._first = stamp
        full = self.max_size and self._size >= self.max_size
        old = self.max_duration and stamp - self._first >= self.max_duration * 1e9
        if not (full or old):
            return
        self._close_part()
        self._open_part()
        self._first = stamp
        for (name, type), last in self._latched.items():
            for data in last:
                self._put(name, type, data, stamp)
        self._size = 0  # however large a map is, a part holds more than that

    def _announce(self, name: str, type: str, qos: list[Qos]) -> None:
        self._connections[name, type] = self._bag.add_connection(
            name, type, typestore=self.types, offered_qos_profiles=qos
        )

    def _put(self, name: str, type: str, data: bytes, stamp: int) -> None:
        self._bag.write(self._connections[name, type], stamp, data)
        self._size += len(data)

    def _latch(self, name: str, type: str, data: bytes) -> None:
        """Remember the last message of a latched topic; of transforms all, since each sender sends its own."""
        kept = self._latched[name, type]
        if type != _TRANSFORMS:
            kept.clear()
        if data in kept:
            kept.remove(data)
        kept.append(data)
        del kept[:-_MOST_TRANSFORMS]

    # Disk -----------------------------------------------------------------------------------------------

    def _to_kernel(self) -> int:
        """Hand all messages to the kernel, which a killed process does not take with it; the file's number."""
        storage = self._bag.storage
        if storage.chunk.bio.tell():
            storage.close_chunk()
        storage.bio.flush()
        return storage.bio.fileno()

    def _keep_flushing(self) -> None:
        while not self._ended.wait(self.flush_period):
            try:
                self.flush()
            except OSError:
                return  # the next message, or whoever looks at `failure`, hears of it

    def _fail(self, error: OSError) -> None:
        """Give the bag up; what is on disk stays."""
        if self.failure is None:
            self.failure = self._explained(error)
        bag, self._bag = self._bag, None
        if bag is not None and bag.storage is not None:
            with suppress(OSError):
                bag.storage.bio.close()
        self._ended.set()

    def _explained(self, error: OSError) -> OSError:
        return OSError(
            error.errno,
            f"cannot write to bag {self.path}: {error.strerror or error}; free space, or record to another folder",
        )


def _waits_for_a_bag(folder: Path) -> bool:
    """Whether a folder is marked as the project's and holds no bag."""
    bags = (*folder.glob("*.mcap"), *folder.glob("metadata.yaml"))
    return folder.is_dir() and (folder / MARKER).is_file() and not bags

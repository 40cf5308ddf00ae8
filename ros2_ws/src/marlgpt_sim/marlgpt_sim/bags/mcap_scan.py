"""Read an MCAP file from front to end, whole or torn, with bounded memory.

Readers that go by the index at a file's end open no file that a killed recorder left, and none that is damaged
anywhere. This one takes one record after the other, and from a torn chunk whatever can still be decompressed.
Chunks may be plain, zstd or lz4.
"""

from __future__ import annotations

import struct
import sys
from binascii import crc32
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from lz4.frame import LZ4FrameDecompressor

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b"\x89MCAP0\r\n"
LARGEST = 2**30
"""Bytes of the largest record or decompressed chunk that is believed; a larger one is damage."""
_HEADER, _FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0F


@dataclass(frozen=True)
class Channel:
    """A topic of a file.

    Attributes:
        topic: Its name.
        type: Message type, ``package/msg/Name``; empty if the file does not say.
        encoding: Of the definition: ``ros2msg``, ``ros2idl``, or empty.
        definition: Of the type and of all that it is made of.
        profiles: The publishers' profiles as rosbag2 writes them, YAML; may be empty.
    """

    topic: str
    type: str
    encoding: str
    definition: str
    profiles: str


@dataclass
class Damage:
    """What of a file could not be read.

    Attributes:
        reasons: One sentence for each place.
    """

    reasons: list[str] = field(default_factory=list)

    def note(self, reason: str) -> None:
        """Remember a place; the first twenty are enough to know a file by."""
        if len(self.reasons) < 20:
            self.reasons.append(reason)


def scan(file: BinaryIO, damage: Damage) -> Iterator[tuple[Channel, int, bytes]]:
    """Every message that can be read: its channel, time of reception in ns, and its bytes, in the file's order.

    Args:
        file: Opened for reading; need not be seekable.
        damage: Takes a note for what could not be read.

    Raises:
        ValueError: The file is empty, or no MCAP file.
    """
    magic = file.read(len(MAGIC))
    if not magic:
        raise ValueError("is empty")
    if magic != MAGIC:
        raise ValueError("is not an MCAP file: it does not begin like one")
    state = _State(damage)
    ended = False
    for opcode, body, torn in _records(file, damage):
        if opcode in (_DATA_END, _FOOTER):
            ended = True
            break
        if opcode == _CHUNK:
            yield from state.chunk(body, torn)
        elif not torn:
            found = state.record(opcode, body)
            if found is not None:
                yield found
    if not ended:
        damage.note("it ends in the middle: whoever wrote it was killed, or it was cut off")


def _records(file: BinaryIO, damage: Damage) -> Iterator[tuple[int, memoryview, bool]]:
    """Opcode and body of every record, and whether it is torn."""
    while True:
        head = file.read(9)
        if len(head) < 9:
            return
        opcode, length = struct.unpack("<BQ", head)
        if length > LARGEST or opcode == 0:
            damage.note(f"a record of {length} bytes is damage: what follows it is lost")
            return
        body = file.read(length)
        torn = len(body) < length
        yield opcode, memoryview(body), torn
        if torn:
            return


class _State:
    """Schemas and channels seen so far."""

    def __init__(self, damage: Damage) -> None:
        self.damage = damage
        self.schemas: dict[int, tuple[str, str, str]] = {}
        self.channels: dict[int, Channel] = {}

    def record(self, opcode: int, body: memoryview) -> tuple[Channel, int, bytes] | None:
        """Take one record; the message if it is one."""
        try:
            if opcode == _MESSAGE:
                number, _, stamp, _ = struct.unpack_from("<HIQQ", body)
                channel = self.channels.get(number)
                if channel is None:
                    raise ValueError(f"a message of channel {number}, which was not announced")
                return channel, stamp, bytes(body[22:])
            if opcode == _CHUNK:
                raise ValueError("a chunk within a chunk")
            if opcode == _SCHEMA:
                (number,) = struct.unpack_from("<H", body)
                name, encoding, text = _strings(body, 2, 3)
                self.schemas[number] = name, encoding, text
            elif opcode == _CHANNEL:
                number, schema = struct.unpack_from("<HH", body)
                topic, _ = _strings(body, 4, 2)
                known = self.schemas.get(schema, ("", "", ""))
                self.channels[number] = Channel(topic, *known, _profiles(body))
        except (struct.error, UnicodeDecodeError, ValueError) as error:
            self.damage.note(f"a record is damaged: {error}")
        return None

    def chunk(self, body: memoryview, torn: bool) -> Iterator[tuple[Channel, int, bytes]]:
        """The messages of a chunk, as far as it can be decompressed."""
        try:
            data = self._decompressed(body, torn)
        except (struct.error, UnicodeDecodeError, ValueError) as error:
            self.damage.note(f"a chunk is lost: {error}")
            return
        start = 0
        while start + 9 <= len(data):
            opcode, length = struct.unpack_from("<BQ", data, start)
            end = start + 9 + length
            if end > len(data):
                if not torn:
                    self.damage.note("a chunk ends in the middle of a record")
                return
            found = self.record(opcode, data[start + 9 : end])
            if found is not None:
                yield found
            start = end

    def _decompressed(self, body: memoryview, torn: bool) -> memoryview:
        size, crc = struct.unpack_from("<QI", body, 16)
        (name,) = _strings(body, 28, 1)
        data = body[28 + 4 + len(name.encode()) + 8 :]
        if size > LARGEST:
            raise ValueError(f"it claims to hold {size} bytes")
        if name == "":
            plain = data
        elif name in ("zstd", "lz4"):
            plain = memoryview(_inflate(name, bytes(data), size))
        else:
            raise ValueError(f"it is compressed with {name!r}, which is not zstd or lz4")
        if not torn and len(plain) < size:
            self.damage.note(f"a chunk holds {len(plain)} of {size} bytes")
        elif not torn and crc and crc32(plain) != crc:
            raise ValueError("its checksum is wrong")
        return plain


def _inflate(name: str, data: bytes, size: int) -> bytes:
    """Decompress at most ``size`` bytes, and of damaged data what comes before the damage."""
    decompressor = zstd.ZstdDecompressor() if name == "zstd" else LZ4FrameDecompressor()
    found = bytearray()
    step = 1 << 16
    for start in range(0, len(data), step):
        try:
            part = decompressor.decompress(data[start : start + step], max_length=size - len(found) + 1)
        except (RuntimeError, zstd.ZstdError):
            break
        found += part
        if decompressor.eof or len(found) > size:
            break
    if len(found) > size:
        raise ValueError(f"it holds more than the {size} bytes that it claims")
    if not found and size:
        raise ValueError(f"its {name} data is damaged")
    return bytes(found)


def _strings(body: memoryview, start: int, count: int) -> list[str]:
    """Consecutive length-prefixed strings."""
    found = []
    for _ in range(count):
        (length,) = struct.unpack_from("<I", body, start)
        if start + 4 + length > len(body):
            raise ValueError("a text is longer than its record")
        found.append(str(body[start + 4 : start + 4 + length], "utf-8"))
        start += 4 + length
    return found


def _profiles(channel: memoryview) -> str:
    """Offered profiles of a channel record; empty if there are none."""
    topic, encoding = _strings(channel, 4, 2)
    start = 4 + 4 + len(topic.encode()) + 4 + len(encoding.encode())
    (length,) = struct.unpack_from("<I", channel, start)
    start, end = start + 4, start + 4 + length
    while start < end:
        key, text = _strings(channel, start, 2)
        if key == "offered_qos_profiles":
            return text
        start += 8 + len(key.encode()) + len(text.encode())
    return ""

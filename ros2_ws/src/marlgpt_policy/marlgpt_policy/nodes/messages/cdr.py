"""Poses and velocity commands as CDR bytes, the form in which DDS carries messages.

A fleet node takes in a pose and sends a command of each robot in each control period. Building Python objects of them,
with two covariances of 36 numbers in each Odometry, costs several times what the rest of it does; here only the numbers
that are needed are read and written. Offsets count from after the four bytes that name the encoding, and numbers are
aligned to their size.

What a reader does not understand it refuses with :class:`CdrError`; then ROS's own deserialization has the last word.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from struct import Struct

HEAD = 4
"""Bytes that name the encoding: 0, 1 for little endian or 0 for big endian, and two options, plainly 0."""
CHILD_FRAMES = {"odom": 1, "pose": 0, "pose_stamped": 0}
"""Strings between the header and the pose, by the source of poses."""
BEHIND = {"odom": 36 * 8 + 6 * 8 + 36 * 8, "pose": 36 * 8, "pose_stamped": 0}
"""Bytes of covariances and twist behind the pose."""
MARK = struct.pack("<d", -0.0)
LITTLE, BIG = b"\x00\x01\x00\x00", b"\x00\x00\x00\x00"

Pose = tuple[int, str, float, float, float, float, float, float]
"""Stamp in ns, frame, x, y in m, and the quaternion's x, y, z, w."""


class CdrError(ValueError):
    """Bytes that are not the plain form of a message."""


class PoseReader:
    """Reads the poses of one robot; remembers the layout of the last one, which only other frame names change."""

    def __init__(self, source: str) -> None:
        """``source`` is "odom" (Odometry), "pose" (PoseWithCovarianceStamped) or "pose_stamped" (PoseStamped)."""
        self._strings, self._behind = CHILD_FRAMES[source], BEHIND[source]
        self._length = -1
        self._names, self._numbers = b"", Struct("")
        self._encoding, self._frame = b"", ""

    def read(self, data: bytes) -> Pose:
        """Return what a message says.

        Raises:
            CdrError: It is cut off, encoded in another way, a name in it is not plain text, or its stamp is negative.
        """
        if len(data) != self._length:
            self._learn(data)
        encoding, seconds, nanoseconds, names, x, y, _, qx, qy, qz, qw = self._numbers.unpack_from(data)
        if names != self._names or encoding != self._encoding:
            self._learn(data)
            encoding, seconds, nanoseconds, names, x, y, _, qx, qy, qz, qw = self._numbers.unpack_from(data)
        if seconds < 0:
            raise CdrError(f"its stamp is {seconds} s")
        return seconds * 1_000_000_000 + nanoseconds, self._frame, x, y, qx, qy, qz, qw

    def _learn(self, data: bytes) -> None:
        """Note where in ``data``, and in messages with the same names, the numbers are."""
        self._length = -1
        encoding = bytes(data[:HEAD])
        if encoding not in (LITTLE, BIG) or len(data) < HEAD + 8:
            raise CdrError(f"{len(data)} bytes that begin with {bytes(data[:4])!r} are no plain CDR message")
        order = "<" if encoding == LITTLE else ">"
        at, names = HEAD + 8, []
        for _ in range(1 + self._strings):
            name, at = _string(data, at, order)
            names.append(name)
        start = HEAD + (at - HEAD + 7) // 8 * 8
        if len(data) < start + 56 + self._behind:
            raise CdrError(
                f"the message ends after {len(data)} of at least {start + 56 + self._behind} bytes"
            )
        self._numbers = Struct(f"{order}4siI{start - HEAD - 8}s7d")
        self._names, self._encoding, self._frame = bytes(data[HEAD + 8 : start]), encoding, names[0]
        self._length = len(data)


def _string(data: bytes, at: int, order: str) -> tuple[str, int]:
    """The string at ``at``, and where it ends."""
    at = HEAD + (at - HEAD + 3) // 4 * 4
    try:
        (length,) = struct.unpack_from(f"{order}I", data, at)
    except struct.error as error:
        raise CdrError(f"the message ends in a name, after {len(data)} bytes") from error
    text = bytes(data[at + 4 : at + 4 + length])
    if length < 1 or len(text) < length or text.find(b"\0") != length - 1:
        raise CdrError(f"a name of {length} bytes does not end where it should")
    try:
        return text[:-1].decode(), at + 4 + length
    except UnicodeDecodeError as error:
        raise CdrError(f"a name is not UTF-8: {error}") from error


Fields = tuple[tuple[str, int], ...]
"""Kinds of numbers as in :mod:`struct`, and how many of each; ("s", 1) is a string."""


@lru_cache(maxsize=8192)
def layout(start: int, fields: Fields, *lengths: int) -> Struct:
    """How a record of ``fields`` lies that begins ``start`` bytes behind a multiple of 8.

    ``lengths`` are those of its strings in bytes, with the zero at the end. Values are packed in the order of the
    fields, each string as its length and its bytes.
    """
    at, form, strings = start, "<", iter(lengths)
    for kind, count in fields:
        size = 4 if kind == "s" else struct.calcsize(f"<{kind}")
        pad = -at % size
        if kind == "s":
            length = next(strings)
            form += f"{pad}xI{length}s"
            at += pad + 4 + length
        else:
            form += f"{pad}x{count}{kind}"
            at += pad + size * count
    return Struct(form)


def text(value: str) -> bytes:
    """A string as it is carried, with a zero at the end; zeros within would cut it off."""
    return value.replace("\0", "").encode(errors="replace") + b"\0"


class TwistWriter:
    """Writes the velocity commands of one robot: Twist or, with a frame, TwistStamped; little endian."""

    def __init__(self, frame: str | None = None, marked: bool = False) -> None:
        """``frame`` is that of the header; None writes messages without a header.

        ``marked`` ones have a negative zero for the vertical velocity, which no base drives: :func:`is_marked`.
        """
        self._start(frame)
        if marked:
            self._data[self._at + 16 : self._at + 24] = MARK

    def _start(self, frame: str | None) -> None:
        if frame is None:
            self._data, self._at, self._stamped = bytearray(LITTLE + bytes(48)), HEAD, False
            return
        name = text(frame)
        head = LITTLE + bytes(8) + struct.pack("<I", len(name)) + name
        at = HEAD + (len(head) - HEAD + 7) // 8 * 8
        self._data, self._at, self._stamped = bytearray(head.ljust(at + 48, b"\0")), at, True

    def write(self, stamp: tuple[int, int], vx: float, vy: float, wz: float) -> bytes:
        """Return the bytes for a stamp (s, ns; not used without a header) and velocities in m/s and rad/s."""
        if self._stamped:
            _STAMP.pack_into(self._data, HEAD, *stamp)
        _LINEAR.pack_into(self._data, self._at, vx, vy)
        _ANGULAR.pack_into(self._data, self._at + 40, wz)
        return bytes(self._data)


def is_marked(data: bytes) -> bool:
    """Whether the bytes of a Twist or TwistStamped come from a writer that marks them."""
    return data[-32:-24] == MARK


_STAMP, _LINEAR, _ANGULAR = Struct("<iI"), Struct("<2d"), Struct("<d")

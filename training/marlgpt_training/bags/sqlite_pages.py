"""Messages of a damaged SQLite bag, from the pages that are left.

A database that was cut off has lost the upper pages of its trees, which are written last: SQLite finds nothing any more
although most rows are there. This reads the rows of table ``messages`` (id, topic_id, timestamp, data) from its leaf
pages, wherever they are (https://www.sqlite.org/fileformat.html, sections 1.5, 1.6 and 2.1).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

_LEAF = 0x0D
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 8: 0, 9: 0}
_LARGEST = 2**28


def leaf_rows(file: BinaryIO) -> Iterator[tuple[int, int, int, bytes]]:
    """id, topic_id, timestamp and data of every row that is whole, in the order of the pages.

    Raises:
        ValueError: The file is not an SQLite database, or its rows are longer together than it: they lead in circles.
    """
    head = file.read(100)
    if len(head) < 100 or not head.startswith(b"SQLite format 3\0"):
        raise ValueError("is no readable database")
    size = int.from_bytes(head[16:18], "big")
    size = 65536 if size == 1 else size
    if size < 512 or size & (size - 1):
        raise ValueError("is no readable database: its pages have no size")
    usable = size - head[20]
    number, left = 1, os.fstat(file.fileno()).st_size
    while True:
        number += 1
        file.seek((number - 1) * size)
        page = file.read(size)
        if len(page) < size:
            return
        if page[0] != _LEAF:
            continue
        for k in range(int.from_bytes(page[3:5], "big")):
            try:
                at = int.from_bytes(page[8 + 2 * k : 10 + 2 * k], "big")
                row = _row(file, page, at, size, usable)
            except (IndexError, ValueError):
                continue
            if row is None:
                continue
            left -= len(row[3])
            if left < 0:
                raise ValueError("holds rows that use the same pages again and again")
            yield row


def _row(file: BinaryIO, page: bytes, at: int, size: int, usable: int) -> tuple[int, int, int, bytes] | None:
    """The row of a cell; None if it is one of another table."""
    length, at = _varint(page, at)
    number, at = _varint(page, at)
    if length > _LARGEST:
        raise ValueError("a row that is too long")
    local = length
    if length > usable - 35:  # the rest lies in a chain of overflow pages
        least = (usable - 12) * 32 // 255 - 23
        local = least + (length - least) % (usable - 4)
        local = least if local > usable - 35 else local
    payload = page[at : at + local]
    kinds, start = _kinds(payload)
    if len(kinds) != 4 or kinds[0] != 0 or kinds[1] not in _INTEGERS or kinds[2] not in _INTEGERS:
        return None
    if kinds[3] < 12 or kinds[3] % 2:
        return None
    if local < length:
        payload += _overflow(file, page[at + local : at + local + 4], length - local, size, usable)
    if len(payload) != length:
        raise ValueError("a row without its end")
    topic, start = _integer(payload, start, kinds[1])
    stamp, start = _integer(payload, start, kinds[2])
    data = payload[start : start + (kinds[3] - 12) // 2]
    return number, topic, stamp, data


def _overflow(file: BinaryIO, pointer: bytes, length: int, size: int, usable: int) -> bytes:
    found, seen = bytearray(), set()
    following = int.from_bytes(pointer, "big")
    while len(found) < length:
        if following < 2:
            raise ValueError("a chain that ends too early")
        if following in seen:
            raise ValueError("a chain that leads in circles")
        seen.add(following)
        file.seek((following - 1) * size)
        page = file.read(size)
        if len(page) < size:
            raise ValueError("a chain that leads beyond the end")
        found += page[4 : 4 + min(usable - 4, length - len(found))]
        following = int.from_bytes(page[:4], "big")
    return bytes(found)


def _kinds(payload: bytes) -> tuple[list[int], int]:
    """Types of a record's columns, and where their values begin."""
    end, at = _varint(payload, 0)
    if end > min(len(payload), 64):
        raise ValueError("a header that is too long")
    kinds = []
    while at < end:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    return kinds, end


def _integer(payload: bytes, at: int, kind: int) -> tuple[int, int]:
    if kind in (8, 9):
        return kind - 8, at
    width = _INTEGERS[kind]
    return int.from_bytes(payload[at : at + width], "big", signed=True), at + width


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for k in range(9):
        byte = data[at + k]
        if k == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + k + 1
    raise ValueError("unreachable")

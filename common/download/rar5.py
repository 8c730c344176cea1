"""The headers of a rar (version 5): the checksum of each file, and whether the archive has its end.

libarchive unpacks rar, but takes a rar that is cut between two files for a whole one, and checks no sums of stored
files. Source: the RAR 5.0 archive format, https://www.rarlab.com/technote.htm.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import BinaryIO

SIGNATURE = b"Rar!\x1a\x07\x01\x00"
MAIN, FILE, ENCRYPTION, END = 1, 2, 4, 5
_EXTRA, _DATA = 1, 2
_TIME, _SUM = 2, 4
_LONGEST = 1 << 21


class Damaged(ValueError):
    """The headers are not those of a whole rar."""


def checksums(path: Path) -> dict[str, int]:
    """Return CRC-32 by file name, for files whose header has one; `Damaged` where a header or the end is missing."""
    found: dict[str, int] = {}
    with path.open("rb") as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            raise Damaged("no signature")
        while True:
            kind, body, data = _header(file)
            if kind == END:
                return found
            if kind == ENCRYPTION:
                raise Damaged("its headers are encrypted")
            if kind == FILE:
                name, checksum = _file(body)
                if checksum is not None:
                    found[name] = checksum
            file.seek(data, 1)


def _header(file: BinaryIO) -> tuple[int, bytes, int]:
    """Read one header: its kind, what follows kind, flags and sizes, and the length of the data behind it."""
    checksum = file.read(4)
    size_bytes = bytearray()
    while len(size_bytes) < 3 and (byte := file.read(1)):
        size_bytes += byte
        if byte[0] < 0x80:
            break
    size, at = _number(bytes(size_bytes), 0)
    body = file.read(size) if 0 < size <= _LONGEST else b""
    if len(body) != size or not body:
        raise Damaged("it is cut off")
    if zlib.crc32(bytes(size_bytes) + body) != int.from_bytes(checksum, "little"):
        raise Damaged("a header is damaged")
    kind, at = _number(body, 0)
    flags, at = _number(body, at)
    data = 0
    if flags & _EXTRA:
        _, at = _number(body, at)
    if flags & _DATA:
        data, at = _number(body, at)
    return kind, body[at:], data


def _file(body: bytes) -> tuple[str, int | None]:
    """Return a file header's name and CRC-32."""
    flags, at = _number(body, 0)
    for _ in ("unpacked size", "attributes"):
        _, at = _number(body, at)
    at += 4 if flags & _TIME else 0
    checksum = int.from_bytes(body[at : at + 4], "little") if flags & _SUM else None
    at += 4 if flags & _SUM else 0
    for _ in ("compression", "system"):
        _, at = _number(body, at)
    length, at = _number(body, at)
    return body[at : at + length].decode("utf-8", "replace"), checksum


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Read a number in groups of seven bits; return it and the place behind it."""
    value, shift = 0, 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise Damaged("it is cut off")

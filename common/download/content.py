"""What a file holds, by its first and last bytes: an HTML page or half a file is told from the real thing."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Literal

from common.download.net import SourceError

HEAD_BYTES = 512
Kind = Literal["zip", "rar", "tar", "gzip", "bzip2", "xz", "parquet", "html", "other"]
_MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"Rar!\x1a\x07", "rar"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"PAR1", "parquet"),
)
_EXPECTED: dict[str, tuple[Kind, ...]] = {
    ".zip": ("zip",),
    ".rar": ("rar",),
    ".tar": ("tar",),
    ".gz": ("gzip",),
    ".tgz": ("gzip",),
    ".bz2": ("bzip2",),
    ".xz": ("xz",),
    ".parquet": ("parquet",),
}
_HTML = re.compile(rb"\s*(<!doctype html|<html|<head|<\?xml[^>]*>\s*<!doctype html)", re.IGNORECASE)
_FIRST_PART = re.compile(r"\.0*1$")
_PART = re.compile(r"\.\d{2,4}$")


def kind_of(head: bytes) -> Kind:
    """Return what a file's first `HEAD_BYTES` bytes are.

    >>> kind_of(b"PAR1....")
    'parquet'
    """
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[257:262] == b"ustar":
        return "tar"
    return "html" if _HTML.match(head.removeprefix(b"\xef\xbb\xbf")) else "other"


def expected_kinds(name: str) -> tuple[Kind, ...] | None:
    """Return what a file of this name may be; None where anything but HTML will do.

    >>> expected_kinds("Web_Image.zip.001"), expected_kinds("Web_Image.zip.002")
    (('zip',), None)
    """
    name = name.lower()
    if _PART.search(name):
        return expected_kinds(_PART.sub("", name)) if _FIRST_PART.search(name) else None
    return _EXPECTED.get(Path(name).suffix)


def fault_of_head(name: str, head: bytes) -> str | None:
    """Return what is wrong with a file that begins so, or None."""
    kind, expected = kind_of(head), expected_kinds(name)
    if kind == "html" and not name.lower().endswith((".html", ".htm")):
        return "an HTML page came in place of the file"
    if expected is None or kind in expected:
        return None
    return "the file is empty" if not head else f"the file does not hold {expected[0]}, as its name says"


def fault_of_end(name: str, path: Path) -> str | None:
    """Return what is wrong with the end of a file that is complete by its length, or None."""
    expected = expected_kinds(name)
    if expected is None or _PART.search(name.lower()):
        return None
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - (1 << 16) - 22))
        tail = file.read()
    if expected[0] == "parquet" and not (tail.endswith(b"PAR1") and size >= 12):
        return "the parquet file has no end: it is cut off"
    if expected[0] == "zip" and b"PK\x05\x06" not in tail:
        return "the zip has no end: it is cut off"
    return None


def check_file(name: str, path: Path) -> None:
    """Raise `SourceError` unless the file is what its name says, as far as both ends tell."""
    with path.open("rb") as file:
        fault = fault_of_head(name, file.read(HEAD_BYTES))
    fault = fault or fault_of_end(name, path)
    if fault is not None:
        raise SourceError(fault, where=name, todo="run the same command again, or try another --source")

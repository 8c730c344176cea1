"""One way to read zip (in parts too), tar and rar: members in order, each with its bytes."""

from __future__ import annotations

import io
import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from common.download import rar5
from common.download.content import HEAD_BYTES, kind_of
from common.errors import DataError

MemberKind = Literal["file", "folder", "link", "other"]
BLOCK = 1 << 20
PADDING = 1 << 24
"""Most bytes behind the end of a tar; writers fill up some thousands."""
_NUMBER = re.compile(r"\.(\d{2,4})$")
INSTALL = "apt install libarchive13 (Debian, Ubuntu), brew install libarchive (macOS), conda install libarchive"


class DamagedArchive(DataError):
    """The archive's bytes are not what they were when it was made."""


@dataclass(frozen=True)
class Member:
    """One entry of an archive: its name as written there, its size when unpacked, and packed where known."""

    name: str
    kind: MemberKind
    size: int
    packed: int | None = None


class JoinedFile(io.RawIOBase):
    """Files read end to end as one, without writing them to disk again."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        self._files = [path.open("rb") for path in paths]
        self._starts = [0]
        for path in paths:
            self._starts.append(self._starts[-1] + path.stat().st_size)
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; no further back than the start."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}[whence]
        if base + offset < 0:
            raise OSError("a place before the start")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Read up to the end of one file."""
        for number, file in enumerate(self._files):
            if self._starts[number] <= self._at < self._starts[number + 1]:
                file.seek(self._at - self._starts[number])
                count = file.readinto(buffer)
                self._at += count
                return count
        return 0

    def close(self) -> None:
        """Close all files."""
        for file in self._files:
            file.close()
        super().close()


class Archive(ABC):
    """An archive that is open for reading; `walk` may be called again and again."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size

    @abstractmethod
    def walk(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        """Yield each member with its bytes, which are to be read before the next member."""


@contextmanager
def open_archive(paths: Sequence[Path]) -> Iterator[Archive]:
    """Open an archive, given as one file or as its parts in order.

    Raises
    ------
    DataError
        Not an archive that is known, encrypted, damaged (also while it is read), a part is absent, or the system
        lacks libarchive for a rar.
    """
    check_parts(paths)
    with archive_errors(paths[0]), JoinedFile(paths) as raw, io.BufferedReader(raw, BLOCK) as file:
        kind = kind_of(file.read(HEAD_BYTES))
        file.seek(0)
        size = sum(path.stat().st_size for path in paths)
        if kind == "zip":
            with zipfile.ZipFile(file) as opened:
                yield _Zip(paths[0], size, opened)
        elif kind in ("tar", "gzip", "bzip2", "xz"):
            yield _Tar(paths[0], size, file)
        elif kind == "rar" and len(paths) == 1:
            yield _Rar(paths[0], size)
        else:
            what = "an HTML page is there in place of the archive" if kind == "html" else "not an archive that is known"
            if kind == "rar":
                what = "a rar in several parts is not read here"
            raise DataError(
                what, where=paths[0], expected="zip, zip.001 ..., tar, tar.gz, tar.bz2, tar.xz or rar", todo=_BY_HAND
            )


_ANEW = "run the same command again: it is downloaded anew; or try another --source"
_BY_HAND = "remove it and download again; or unpack it by hand (7z x FILE) where the README says it belongs"


def check_parts(paths: Sequence[Path]) -> None:
    """Raise `DataError` unless the parts are numbered from 1 without a gap."""
    if len(paths) == 1 and _NUMBER.search(paths[0].name) is None:
        return
    numbers = [int(found[1]) if (found := _NUMBER.search(path.name)) else -1 for path in paths]
    if numbers not in (list(range(1, len(paths) + 1)), list(range(len(paths)))):
        raise DataError(
            "parts of the archive are absent or out of order",
            where=paths[0].parent,
            expected=f"parts 1 to {max(*numbers, len(paths))}",
            got=", ".join(path.name for path in paths[:8]),
            todo="download again: parts that are here are kept",
        )


@contextmanager
def archive_errors(path: Path) -> Iterator[None]:
    """Turn what the libraries raise at a damaged archive into one `DataError`."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        struct.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        IndexError,
        OverflowError,
        UnicodeError,
    ) as error:
        raise DamagedArchive(
            "the archive is damaged, encrypted, or of a kind that cannot be read",
            where=path,
            got=f"{type(error).__name__}: {str(error)[:120]}",
            todo=_ANEW,
        ) from None
    except OSError as error:
        if error.errno is not None:  # the disk's own errors are told elsewhere
            raise
        raise DamagedArchive("the archive is damaged", where=path, got=str(error)[:120], todo=_ANEW) from None


class _Zip(Archive):
    def __init__(self, path: Path, size: int, opened: zipfile.ZipFile) -> None:
        super().__init__(path, size)
        self._zip = opened

    def walk(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        for info in self._zip.infolist():
            yield _zip_member(info), self._blocks(info)

    def _blocks(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        with self._zip.open(info) as file:
            yield from _blocks(file)


def _zip_member(info: zipfile.ZipInfo) -> Member:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        what: MemberKind = "link"
    elif info.flag_bits & 1 or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "other"
    else:
        what = "folder" if info.orig_filename.endswith("/") else "file"
    return Member(info.orig_filename, what, info.file_size, info.compress_size)


class _Tar(Archive):
    def __init__(self, path: Path, size: int, file: IO[bytes]) -> None:
        super().__init__(path, size)
        self._file = file

    def walk(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        self._file.seek(0)
        with tarfile.open(fileobj=self._file, mode="r:*") as opened:
            for info in opened:
                file = opened.extractfile(info) if info.isreg() and not info.issparse() else None
                yield _tar_member(info), iter(()) if file is None else _blocks(file)
            _drain(opened)


def _drain(opened: tarfile.TarFile) -> None:
    """Read what is behind a tar's end: there the compression has its checksum, which is looked at only then."""
    left = PADDING
    while opened.fileobj is not None and (data := opened.fileobj.read(BLOCK)):
        left -= len(data)
        if left < 0:
            raise tarfile.ReadError("there is much behind its end")


def _tar_member(info: tarfile.TarInfo) -> Member:
    if info.issym() or info.islnk():
        kind: MemberKind = "link"
    elif info.isreg() and not info.issparse():
        kind = "file"
    else:
        kind = "folder" if info.isdir() else "other"
    return Member(info.name, kind, info.size)


class _Rar(Archive):
    def walk(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        try:
            import libarchive
            from libarchive.exception import ArchiveError
        except (ImportError, OSError, AttributeError, TypeError) as error:  # it loads the system's library by name
            raise DataError(
                "unpacking a rar needs the system's libarchive, which is not there",
                where=self.path,
                got=type(error).__name__,
                todo=f"install it and run this again: {INSTALL}; or unpack the file by hand: 7z x, unrar x",
            ) from None
        with self.path.open("rb") as file:
            newer = file.read(len(rar5.SIGNATURE)) == rar5.SIGNATURE
        sums = rar5.checksums(self.path) if newer else {}
        form = "rar5" if newer else "rar"
        try:
            with libarchive.file_reader(os.fspath(self.path), form, "none", block_size=BLOCK) as opened:
                for entry in opened:
                    kind: MemberKind = "file" if entry.isreg else "folder" if entry.isdir else "other"
                    kind = "link" if entry.issym or entry.islnk else kind
                    name = entry.pathname or ""
                    blocks = _summed(entry.get_blocks(BLOCK), name, sums.get(name))
                    yield Member(name, kind, entry.size or 0), blocks
        except ArchiveError as error:
            raise DamagedArchive("the rar is damaged", where=self.path, got=str(error)[:120], todo=_ANEW) from None


def _summed(blocks: Iterable[bytes], name: str, expected: int | None) -> Iterator[bytes]:
    """Yield the blocks; raise where their CRC-32 is not the expected one."""
    found = 0
    for block in blocks:
        found = zlib.crc32(block, found)
        yield block
    if expected not in (None, found):
        raise rar5.Damaged(f"bad CRC-32 for {name[:80]!r}")


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    while data := file.read(BLOCK):
        yield data

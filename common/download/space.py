"""Whether the disk has room, and the lock against two downloads into one folder."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from common.disk import free_bytes
from common.download.meter import size_text
from common.download.record import FOLDER
from common.errors import DataError

RESERVE = 500 * 10**6
"""Bytes that a download leaves free."""


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise `DataError` when `needed` bytes more do not fit where `folder` is."""
    free = free_bytes(folder)
    if needed > 0 and needed + RESERVE > free:
        raise DataError(
            f"the disk has too little room for {what}",
            where=folder,
            expected=f"{size_text(needed)} and {size_text(RESERVE)} to spare",
            got=f"{size_text(free)} free",
            todo="free some space, choose fewer parts (--only), or another disk (--data DIR)",
        )


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into one `DataError`; what was written so far stays."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise DataError(
            "the disk is full" if full else "the file cannot be written",
            where=path,
            got=error.strerror or type(error).__name__,
            todo="free some space and run the same command: it goes on where it stopped"
            if full
            else "check the folder's permissions, or choose another one (--data DIR)",
        ) from None


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the lock of a data root; the system lets go of it when the process ends, however it ends.

    Raises
    ------
    DataError
        Another process downloads into the same root, or the folder cannot be written.
    """
    folder = root / FOLDER
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(
            "another download is at work in this folder",
            where=root,
            todo="wait until it has ended, then run this again",
        ) from None
    except OSError as error:
        raise DataError("the lock cannot be taken", where=folder, got=error.strerror) from None
    try:
        yield
    finally:
        lock.release()

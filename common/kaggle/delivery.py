"""One download by the client: kept apart until it is whole, resumed where it was cut, never two at once."""

from __future__ import annotations

import fcntl
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from common.errors import UserError
from common.hashing import digest
from common.kaggle.errors import RULES_PAGE, KaggleError

_MARKER = ".kaggle-partial"  # the client's note of what a part belongs to
_LOCK = ".lock"
_HTML = (b"<!doctype html", b"<html", b"<?xml")


def part_folder(folder: Path, place: str, file: str | None) -> Path:
    """Return where the unfinished download of a file (None: of all) is kept: the same place the next time."""
    return folder / f".kaggle-{digest(place, file)[:16]}.part"


@contextmanager
def alone(part: Path) -> Iterator[int]:
    """Lock `part` for one download; yield the lock's descriptor, for the client to inherit.

    Where this process is killed, the client goes on for a while: the lock is then still held, by it.

    Raises
    ------
    UserError
        Another process is at it.
    """
    while True:
        part.mkdir(parents=True, exist_ok=True)
        handle = os.open(part / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    "another process is downloading the same file",
                    where=part,
                    todo="wait until it is done, then run this again; two at once would spoil the file",
                ) from None
            # One that has just ended deletes its folder, and the lock in it: a lock on that is none.
            if (part / _LOCK).exists() and (part / _LOCK).stat().st_ino == os.fstat(handle).st_ino:
                yield handle
                return
        finally:
            os.close(handle)


def whole_file(part: Path, place: str, file: str | None, size: int | None) -> Path:
    """Return the one file that the client left in `part`, checked; what is not it is deleted.

    Parameters
    ----------
    size
        Bytes that the listing promises; None where nothing is known. A file that comes zipped has another size.

    Raises
    ------
    KaggleError
        It is a web page, it is empty or cut, or there is no file or more than one.
    """
    found = [p for p in part.rglob("*") if p.is_file() and p.name != _LOCK and not p.name.endswith(_MARKER)]
    if len(found) != 1:
        clear(part)
        got = ", ".join(str(p.relative_to(part)) for p in found[:5]) or "nothing"
        raise _wrong("Kaggle did not send one file", place, got)
    path = found[0]
    with path.open("rb") as stream:
        start = stream.read(64).lstrip().lower()
    wanted = "zip" if file is None or path.name == f"{PurePosixPath(file).name}.zip" else None
    problem: str | None = None
    if start.startswith(_HTML) and not str(file).endswith((".html", ".xml", ".htm")):
        clear(part)
        raise KaggleError(
            "answer",
            "Kaggle sent a web page in place of the file",
            where=place,
            todo=f"sign in, open {RULES_PAGE.format(place)}, accept the rules, then run this again"
            if "/" not in place
            else f"open https://www.kaggle.com/datasets/{place} in a browser, then run this again",
        )
    if not start:
        problem = "an empty file"
    elif (wanted == "zip" or path.suffix == ".zip") and not _is_zip(path):
        problem = f"{path.stat().st_size:,} bytes that are no whole zip"
    elif wanted is None and size is not None and path.stat().st_size != size:
        problem = f"{path.stat().st_size:,} bytes, where its listing says {size:,}"
    if problem is not None:
        clear(part)
        raise _wrong("Kaggle sent a damaged file", place, problem)
    return path


def move_into_place(path: Path, part: Path, folder: Path) -> Path:
    """Move the checked file from `part` to its own name in `folder` in one step; return where it is."""
    target = folder / path.name
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    path.replace(target)
    shutil.rmtree(part, ignore_errors=True)
    return target


def clear(part: Path) -> None:
    """Delete what the client left, but not the lock."""
    for path in part.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != _LOCK:
            path.unlink(missing_ok=True)


def _is_zip(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return bool(archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def _wrong(what: str, place: str, got: str) -> KaggleError:
    return KaggleError("answer", what, where=place, got=got, todo="run the same command again; it starts afresh")

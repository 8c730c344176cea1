"""A run's tags, in `tags.json` of its folder: words that a person gives to find it again."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.atomic import write_text
from common.errors import DataError

FILE = "tags.json"
_TAG = re.compile(r"[\w.+-]{1,40}")


def read_tags(folder: Path) -> tuple[str, ...]:
    """Return the tags of the run in `folder`, in order.

    Raises
    ------
    DataError
        The file of tags is damaged.
    """
    path = folder / FILE
    try:
        tags = json.loads(path.read_text(encoding="utf-8"))["tags"]
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise TypeError('"tags" is no list of words')
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "the file of tags is damaged", where=path, expected='{"tags": ["word", ...]}', got=error, todo="remove it"
        ) from None
    return tuple(sorted(set(tags)))


def change_tags(folder: Path, add: Sequence[str] = (), remove: Sequence[str] = ()) -> tuple[str, ...]:
    """Add and remove tags, and return those that the run now has. Two that do so at once lose none.

    Raises
    ------
    DataError
        A tag has other characters than letters, digits and ``_ . + -``, one to be removed is not there, or the file
        is damaged.
    """
    for tag in add:
        if not _TAG.fullmatch(tag):
            raise DataError(
                "this is no tag", where=folder.name, expected="1 to 40 letters, digits or _ . + -, no blanks", got=tag
            )
    with _locked(folder):
        tags = set(read_tags(folder))
        absent = [tag for tag in remove if tag not in tags]
        if absent:
            raise DataError(
                "the run has no such tag",
                where=folder.name,
                expected=f"one of: {', '.join(sorted(tags))}" if tags else "the run has no tags",
                got=", ".join(absent),
            )
        kept = tuple(sorted((tags | set(add)) - set(remove)))
        write_text(folder / FILE, json.dumps({"tags": kept}, ensure_ascii=False) + "\n")
    return kept


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's own lock: no file of a lock is left in the run."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

"""Taking a place: what came whole is announced in the record, moved, and settled; a kill in between is made up for.

`recover` rolls a move forward that was announced, so that files which belong together come together.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from common.download.manifest import faults_of, read_list
from common.download.record import Entry, Record
from common.download.transfer import state_path
from common.hashing import file_digest


def part_of(target: Path) -> Path:
    """Return where a file is while it comes."""
    return target.with_name(target.name + ".part")


def archives_of(target: Path) -> Path:
    """Return where the archives of a folder are while they come."""
    return target.with_name(target.name + ".download")


def new_of(target: Path) -> Path:
    """Return where a folder is while it is made."""
    return target.with_name(f".download-new-{target.name}")


def old_of(target: Path) -> Path:
    """Return where a folder is while another takes its place."""
    return target.with_name(f".download-old-{target.name}")


def place(part: Path, target: Path) -> None:
    """Move a whole `.part`, and forget what it was the beginning of."""
    part.replace(target)
    state_path(part).unlink(missing_ok=True)


def take_files(root: Path, record: Record, entries: Mapping[str, Entry]) -> None:
    """Move `.part` files, whole and synced, to their places: all of them, whatever happens in between."""
    record.announce(entries)
    for name in entries:
        place(part_of(root / name), root / name)
    record.settle(entries)


def take_folder(root: Path, record: Record, name: str, entry: Entry) -> None:
    """Move a folder that is whole to its place; one that is there goes."""
    if hasattr(os, "sync"):
        os.sync()  # its files are on the disk before the record says so
    record.announce({name: entry})
    _swap(root / name)
    record.settle([name])


def recover(root: Path, record: Record) -> list[str]:
    """Bring a root from which a download was killed to the old or the new state; say what was done."""
    said: list[str] = []
    for name, entry in record.announced().items():
        if _forward(root, name, entry):
            record.settle([name])
            said.append(f"{name}: was whole when the last download ended, and is in place now")
        else:
            record.withdraw([name])
    return said


def tidy(target: Path) -> None:
    """Bring back a folder that was moved aside, or remove it where its successor is there."""
    old = old_of(target)
    if old.is_symlink() and target.exists():
        old.unlink()
    elif old.is_dir():
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.replace(target)


def _forward(root: Path, name: str, entry: Entry) -> bool:
    """Finish an announced move; return whether the new state is in place."""
    target = root / name
    listed = read_list(root, name, entry.sha256)
    if listed is not None:
        if new_of(target).is_dir() and not faults_of(new_of(target), listed, contents=False):
            _swap(target)
        tidy(target)
        return target.is_dir() and not faults_of(target, listed, contents=False)
    part = part_of(target)
    if part.is_file() and file_digest(part) == entry.sha256:
        place(part, target)
    return target.is_file() and file_digest(target) == entry.sha256


def _swap(target: Path) -> None:
    if target.exists():
        old = old_of(target)
        shutil.rmtree(old, ignore_errors=True)
        target.replace(old)
    new_of(target).replace(target)
    tidy(target)

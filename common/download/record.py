"""What has been downloaded: size and SHA-256 of each file when it first came whole, checked ever after.

The record is `.downloads/record.json` under the data root. A file's new state is written into the record before the
file is moved into place, beside the old one: whenever a kill comes, what is on the disk is one of the two.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.atomic import write_text
from common.errors import DataError

FOLDER = ".downloads"
VERSION = 1


@dataclass(frozen=True)
class Entry:
    """One state of a file, or of a folder that was unpacked.

    Attributes
    ----------
    sha256
        Of the file; of a folder, that of its list (`manifest.py`).
    size
        Bytes, of a folder those of all its files.
    files
        1, or the number of files of a folder.
    source
        Where it came from, without secrets.
    at
        When, ISO 8601.
    archive
        SHA-256 of the archive that a folder was unpacked from.
    """

    sha256: str
    size: int
    files: int
    source: str
    at: str
    archive: str | None = None


def entry(sha256: str, size: int, source: str, *, files: int = 1, archive: str | None = None) -> Entry:
    """Return an entry of now."""
    return Entry(sha256, size, files, source, datetime.now(UTC).isoformat(timespec="seconds"), archive)


class Record:
    """The record of one data root; only to be written under the root's lock."""

    def __init__(self, root: Path) -> None:
        self.path = root / FOLDER / "record.json"
        self._entries: dict[str, Entry] = {}
        self._coming: dict[str, Entry] = {}
        if self.path.is_file():
            self._read()

    def _read(self) -> None:
        try:
            body = json.loads(self.path.read_text(encoding="utf-8"))
            if body["version"] != VERSION:
                raise ValueError(f"version {body['version']}")
            self._entries = {name: Entry(**values) for name, values in body["files"].items()}
            self._coming = {name: Entry(**values) for name, values in body["coming"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise DataError(
                "the record of downloads cannot be read",
                where=self.path,
                got=f"{type(error).__name__}: {error}",
                todo="remove it: the files stay, and are recorded again at the next download",
            ) from None

    def get(self, name: str) -> Entry | None:
        """Return the entry of a path under the root, as it was when it first came."""
        return self._entries.get(name)

    def announced(self) -> dict[str, Entry]:
        """Return the states that files were about to take when the last run ended."""
        return dict(self._coming)

    def announce(self, entries: Mapping[str, Entry]) -> None:
        """Write down the states that files are about to take."""
        self._coming.update(entries)
        self._write()

    def settle(self, names: Iterable[str]) -> None:
        """Write down that files have taken their announced states."""
        for name in names:
            self._entries[name] = self._coming.pop(name)
        self._write()

    def withdraw(self, names: Iterable[str]) -> None:
        """Write down that files have not taken their announced states."""
        for name in names:
            self._coming.pop(name, None)
        self._write()

    def same_content(self, name: str, new: Entry) -> bool:
        """Return whether nothing else was recorded under `name` before."""
        old = self._entries.get(name)
        if old is None or old.sha256 == new.sha256:
            return True
        return old.archive is not None and old.archive == new.archive

    def _write(self) -> None:
        body: dict[str, Any] = {
            "version": VERSION,
            "files": {name: asdict(value) for name, value in sorted(self._entries.items())},
            "coming": {name: asdict(value) for name, value in sorted(self._coming.items())},
        }
        write_text(self.path, json.dumps(body, indent=1, ensure_ascii=False) + "\n")


def described(old: Entry) -> str:
    """Return an entry for messages."""
    return f"{old.size:,} bytes, sha256 {old.sha256[:12]}..., from {old.source} on {old.at[:10]}"

"""What was measured, line by line: a run that was stopped goes on, and its results can be read as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.suite.work import Found
from common.atomic import append_line, write_text
from common.errors import DataError
from common.hashing import digest

CODE = ("common", "track1_mdr", "track2_mmctr", "benchmarks")
FORMAT = 1


def code_version(root: Path) -> str:
    """Return a short hash of all Python and YAML files that a measurement could run."""
    whole = hashlib.sha256()
    for folder in CODE:
        for path in sorted([*(root / folder).rglob("*.py"), *(root / folder).rglob("*.yaml")]):
            whole.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return whole.hexdigest()[:12]


class Journal:
    """A file of JSON lines with the results of works; only those of one `key` are read.

    The key is a hash of the code and of every option that changes a result, so that a changed file or another size
    measures anew.
    """

    def __init__(self, path: Path, *parts: object) -> None:
        self.path, self.key = path, digest(*map(str, parts))[:16]

    def finished(self, *, again: bool = False) -> dict[str, list[Found]]:
        """Return the works that are done, by name; those with an error count as not done."""
        if again:
            return {}
        done: dict[str, list[Found]] = {}
        for row in self._rows():
            if row["key"] == self.key:
                done[row["work"]] = [Found(**found) for found in row["found"]]
        return {name: found for name, found in done.items() if not any(one.error for one in found)}

    def past(self) -> dict[str, float]:
        """Return how many seconds each work took the last time, whatever the code was then."""
        seconds: dict[str, float] = {}
        for row in self._rows():
            seconds[row["work"]] = float(row["seconds"])
        return seconds

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Yield the whole lines of the file; what a crash cut short is left out."""
        if not self.path.is_file():
            return
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and {"key", "work", "found", "seconds"} <= set(row):
                yield row

    def add(self, work: str, found: Iterable[Found], seconds: float) -> None:
        """Append the results of a work."""
        row = {"key": self.key, "work": work, "seconds": seconds, "found": [one.to_json() for one in found]}
        append_line(self.path, json.dumps(row, ensure_ascii=False))


def save_run(path: Path, kind: str, machine: Mapping[str, Any], found: Iterable[Found], **more: object) -> None:
    """Write a run as JSON, whole or not at all."""
    body = {"format": FORMAT, "kind": kind, "machine": dict(machine), "found": [one.to_json() for one in found], **more}
    write_text(path, json.dumps(body, indent=1, ensure_ascii=False) + "\n")


def load_run(path: Path) -> dict[str, Any]:
    """Return a run that `save_run` wrote, its results as `Found`.

    Raises
    ------
    DataError
        No such file, or it is not a run of this command.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if body["format"] != FORMAT:
            raise ValueError(f"format {body['format']}")
        body["found"] = [Found(**found) for found in body["found"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "the file is not a saved run of the benchmarks",
            where=path,
            got=f"{type(error).__name__}: {error}",
            todo="make one: python -m benchmarks --out FILE.json",
        ) from error
    return body

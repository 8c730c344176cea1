"""The list of an unpacked folder's files, with sizes and SHA-256: what was unpacked, and whether it is still there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.atomic import write_text
from common.download.record import FOLDER
from common.hashing import file_digest
from common.progress import progress


@dataclass(frozen=True)
class Listed:
    """One file: path relative to the folder, bytes, SHA-256."""

    name: str
    size: int
    sha256: str


def text_of(files: Sequence[Listed]) -> str:
    """Return the list as JSON lines, sorted by name."""
    rows = sorted((listed.name, listed.size, listed.sha256) for listed in files)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def digest_of(files: Sequence[Listed]) -> str:
    """Return the SHA-256 that stands for a folder with these files."""
    return hashlib.sha256(text_of(files).encode("utf-8")).hexdigest()


def list_path(root: Path, name: str, digest: str) -> Path:
    """Return where the list of a folder is kept, by the folder's path under the root and the list's digest."""
    return root / FOLDER / f"{name.replace('/', '--')}-{digest[:16]}.jsonl"


def save_list(root: Path, name: str, files: Sequence[Listed]) -> str:
    """Keep the list of a folder; return its digest."""
    digest = digest_of(files)
    write_text(list_path(root, name, digest), text_of(files))
    return digest


def read_list(root: Path, name: str, digest: str) -> list[Listed] | None:
    """Return a kept list, or None where it is gone or is not the one with this digest."""
    try:
        text = list_path(root, name, digest).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    if hashlib.sha256(text.encode("utf-8")).hexdigest() != digest:
        return None
    return [Listed(*json.loads(line)) for line in text.splitlines()]


def faults_of(folder: Path, files: Sequence[Listed], *, contents: bool, limit: int = 5) -> list[str]:
    """Return how a folder differs from its list: absent files, other sizes, with `contents` other bytes too.

    Files that are there beside the listed ones are left alone.
    """
    sizes: dict[str, int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size if path.is_file() else -1
    faults: list[str] = []
    for listed in progress(files, f"check {folder.name}", total=len(files), unit="file"):
        size = sizes.get(listed.name)
        if size != listed.size:
            faults.append(f"{listed.name}: " + ("absent" if size is None else f"{size:,} bytes, was {listed.size:,}"))
        elif contents and file_digest(folder / listed.name) != listed.sha256:
            faults.append(f"{listed.name}: other bytes")
        if len(faults) >= limit:
            break
    return faults

"""Content keys: full SHA-256 over framed parts, so that no two different inputs share a key."""

from __future__ import annotations

import hashlib
from pathlib import Path


def digest(*parts: bytes | str | int | float | bool | None) -> str:
    """Return the SHA-256 of `parts`, each framed by its type and length.

    >>> digest("ab", "c") == digest("a", "bc")
    False
    """
    state = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8")
        state.update(f"{type(part).__name__}:{len(data)}:".encode())
        state.update(data)
    return state.hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

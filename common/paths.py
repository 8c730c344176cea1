"""How paths are shown to the reader."""

from __future__ import annotations

import os
from pathlib import Path


def shown(path: Path) -> str:
    """Return a path relative to the working directory where it lies in it, else as it is."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)

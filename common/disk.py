"""How much room there is where a folder is or will be."""

from __future__ import annotations

import shutil
from pathlib import Path


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return place


def free_bytes(folder: Path) -> int:
    """Return the free space where `folder` is or will be."""
    return shutil.disk_usage(existing(folder)).free

"""Thumbnails of a page: each kept once, under one budget of bytes."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

BUDGET = 9_000_000
"""Bytes of all thumbnails of a page: about 12 MB once written as text, of the 15 MB that a page may have."""


@dataclass
class Images:
    """Thumbnails by key, as "page:doc.pdf:12" or "item:4711"; `left_out` counts those beyond the budget."""

    budget: int = BUDGET
    data: dict[str, bytes] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    used: int = 0

    def add(self, key: str, webp: bytes) -> bool:
        """Keep a thumbnail, unless it is there; return whether it is there now. Add the most important ones first."""
        if key in self.data:
            return True
        if self.used + len(webp) > self.budget:
            self.left_out.add(key)
            return False
        self.data[key] = webp
        self.used += len(webp)
        return True

    def __contains__(self, key: object) -> bool:
        return key in self.data


def thumbnail(image: Image, width: int, height: int, quality: int = 60) -> bytes:
    """Return a WebP of the image within width x height pixels, its proportions kept."""
    small = image.convert("RGB")
    small.thumbnail((width, height))
    with io.BytesIO() as kept:
        small.save(kept, "WEBP", quality=quality, method=4)
        return kept.getvalue()

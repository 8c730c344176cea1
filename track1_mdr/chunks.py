"""Windows of words over passages: text models read a few hundred tokens, pages hold up to thousands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Chunks:
    """Chunks of passages: `texts[i]` belongs to passage row `owners[i]` (int64, ascending)."""

    texts: list[str]
    owners: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)


def chunk_passages(texts: Sequence[str], words: int, stride: int) -> Chunks:
    """Cut each text into windows of `words` words, `stride` apart; an empty text gives no chunk.

    >>> chunk_passages(["a b c d e", "", "f"], words=3, stride=2).texts
    ['a b c', 'c d e', 'f']
    """
    if words < 1 or not 1 <= stride <= words:
        raise ValueError(f"need 1 <= stride <= words, got words={words}, stride={stride}")
    pieces: list[str] = []
    owners: list[int] = []
    for row, text in enumerate(texts):
        tokens = text.split()
        for start in range(0, max(len(tokens) - (words - stride), 1), stride):
            window = tokens[start : start + words]
            if window:
                pieces.append(" ".join(window))
                owners.append(row)
    return Chunks(pieces, np.asarray(owners, dtype=np.int64))

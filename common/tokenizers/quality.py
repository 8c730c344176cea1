"""How well a quantizer describes vectors, level by level."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from common.tokenizers.base import Quantizer, check_vectors, chunks


@dataclass(frozen=True)
class LevelQuality:
    """One level's figures.

    Attributes
    ----------
    level
        1..L.
    relative_error
        sum |x - embed(codes, level)|^2 / sum |x - mean|^2: the share of the variance that the levels so far leave.
    perplexity
        exp of the entropy of this level's codes: `size` where all are used alike, 1 where one is used.
    used, dead, size
        Codes that occur, that do not, and all.
    """

    level: int
    relative_error: float
    perplexity: float
    used: int
    dead: int
    size: int


def level_quality(quantizer: Quantizer, x: np.ndarray) -> list[LevelQuality]:
    """Return the figures of each level on float32 [N, D], which may be memory-mapped and is read in chunks.

    Raises
    ------
    DataError
        No rows, another width, or a value that is not finite.
    """
    check_vectors(x, least=1)
    levels, sizes = quantizer.levels, quantizer.codebook_sizes
    counts = [np.zeros(size, dtype=np.int64) for size in sizes]
    errors = np.zeros(levels)
    moments = _Moments()
    for _, chunk in chunks(x, quantizer.dim):
        moments.add(chunk)
        codes = quantizer.encode(chunk)
        for level in range(levels):
            counts[level] += np.bincount(codes[:, level], minlength=sizes[level])
            errors[level] += squared_error(chunk, quantizer.embed(codes, level + 1))
    return [
        LevelQuality(
            level=level + 1,
            relative_error=ratio(float(errors[level]), moments.variation),
            perplexity=perplexity(counts[level]),
            used=int((counts[level] > 0).sum()),
            dead=int((counts[level] == 0).sum()),
            size=sizes[level],
        )
        for level in range(levels)
    ]


def fit_metrics(quantizer: Quantizer, sample: np.ndarray) -> dict[str, Any]:
    """Return the `metrics` of a fit: the rows it trained on and each level's figures there."""
    return {"rows": len(sample), "levels": [asdict(level) for level in level_quality(quantizer, sample)]}


def perplexity(counts: np.ndarray) -> float:
    """Return exp(entropy) of how often each code occurs.

    >>> perplexity(np.array([5, 5, 0])), perplexity(np.array([4, 0]))
    (2.0, 1.0)
    """
    share = counts[counts > 0] / max(int(counts.sum()), 1)
    return float(round(np.exp(-(share * np.log(share)).sum()), 12)) if len(share) else 0.0


def squared_error(x: np.ndarray, y: np.ndarray) -> float:
    """Return sum |x - y|^2 of float32 [n, D], in float64, a block of rows at a time."""
    total = 0.0
    for block in _blocks(x):
        difference = x[block].astype(np.float64)
        difference -= y[block]
        total += float(np.vdot(difference, difference))
    return total


def ratio(error: float, variation: float) -> float:
    """Return error / variation; of vectors that do not vary: 0 without an error, else infinity."""
    if variation > 0:
        return error / variation
    return 0.0 if error == 0 else float("inf")


class _Moments:
    """Sums for sum |x - mean|^2 over chunks; shifted by the first chunk's mean, so that little cancels."""

    def __init__(self) -> None:
        self.rows, self.squares = 0, 0.0
        self.shift: np.ndarray | None = None
        self.sums = np.zeros(0)

    def add(self, chunk: np.ndarray) -> None:
        if self.shift is None:
            self.shift = chunk.mean(axis=0, dtype=np.float64)
            self.sums = np.zeros(chunk.shape[1])
        self.rows += len(chunk)
        for block in _blocks(chunk):
            moved = chunk[block] - self.shift
            self.sums += moved.sum(axis=0)
            self.squares += float(np.vdot(moved, moved))

    @property
    def variation(self) -> float:
        """Sum |x - mean|^2 of all rows so far; 0 where rounding is all that is left."""
        found = self.squares - float(np.vdot(self.sums, self.sums)) / max(self.rows, 1)
        return found if found > 1e-12 * self.squares else 0.0


def _blocks(x: np.ndarray, rows: int = 4096) -> Iterator[slice]:
    for start in range(0, len(x), rows):
        yield slice(start, start + rows)

"""Statistics over histories in numpy, without padding: the newest items of each row, and sums over them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from track2_mmctr.datasets.tables import Split

CHUNK_ROWS = 8_192


@dataclass(frozen=True, eq=False)
class Segments:
    """The histories of R neighbouring rows of a split, cut to the newest items; T tokens in all.

    Attributes
    ----------
    first
        First row in the split.
    history
        int64 [T]: item ids, oldest first within a row.
    offsets
        int64 [R + 1].
    target
        int64 [R].
    """

    first: int
    history: np.ndarray
    offsets: np.ndarray
    target: np.ndarray

    @classmethod
    def cut(cls, split: Split, first: int, last: int, max_len: int) -> Self:
        """Return rows `first` to `last` (exclusive) of a split, the newest `max_len` items of each."""
        bounds = np.asarray(split.offsets[first : last + 1], dtype=np.int64)
        lengths = np.minimum(np.diff(bounds), max_len)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(offsets[-1]) + np.repeat(bounds[1:] - offsets[1:], lengths)
        history = np.asarray(split.history[places], dtype=np.int64)
        return cls(first, history, offsets, np.asarray(split.target[first:last], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.target)

    @cached_property
    def lengths(self) -> np.ndarray:
        """History lengths, int64 [R]."""
        return np.diff(self.offsets)

    @cached_property
    def row_of(self) -> np.ndarray:
        """The row of each token, int64 [T]."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @cached_property
    def age(self) -> np.ndarray:
        """Items since each token, int64 [T]: 0 = the newest of its row."""
        return np.repeat(self.offsets[1:] - 1, self.lengths) - np.arange(len(self.history))

    def sum(self, tokens: np.ndarray) -> np.ndarray:
        """Sum of [T, ...] over each row, [R, ...]; zeros for an empty history."""
        return self._reduce(np.add, tokens, 0)

    def mean(self, tokens: np.ndarray, empty: float = np.nan) -> np.ndarray:
        """Mean of [T] over each row, [R]; `empty` for an empty history."""
        total = self.sum(tokens)
        return np.divide(total, self.lengths, out=np.full(len(self), empty), where=self.lengths > 0)

    def max(self, tokens: np.ndarray, empty: float = np.nan) -> np.ndarray:
        """Largest of [T] in each row, [R]; `empty` for an empty history."""
        return self._reduce(np.maximum, tokens, empty)

    def last(self, tokens: np.ndarray, empty: float = np.nan) -> np.ndarray:
        """Return the newest token of each row, [R]; `empty` for an empty history."""
        result = np.full(len(self), empty)
        filled = self.lengths > 0
        result[filled] = tokens[self.offsets[1:][filled] - 1]
        return result

    def top(self, tokens: np.ndarray, count: int) -> np.ndarray:
        """Mean of the `count` largest of [T] in each row, [R]; NaN for an empty history."""
        order = np.lexsort((-tokens, self.row_of))
        place = np.arange(len(tokens)) - np.repeat(self.offsets[:-1], self.lengths)
        kept = place < count
        total = self.sum(np.where(kept, tokens[order], 0.0))
        number = np.minimum(self.lengths, count)
        return np.divide(total, number, out=np.full(len(self), np.nan), where=number > 0)

    def _reduce(self, how: np.ufunc, tokens: np.ndarray, empty: float) -> np.ndarray:
        result = np.full((len(self), *tokens.shape[1:]), empty, dtype=np.result_type(tokens.dtype, np.float32))
        filled = self.lengths > 0  # reduceat of an empty segment would return its neighbour's first token
        if filled.any():
            result[filled] = how.reduceat(tokens, self.offsets[:-1][filled], axis=0)
        return result


def segments(split: Split, max_len: int, rows: int = CHUNK_ROWS) -> Iterator[Segments]:
    """Yield a split in parts of `rows` rows, so that memory does not grow with the split."""
    for first in range(0, len(split), rows):
        yield Segments.cut(split, first, min(first + rows, len(split)), max_len)


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Return float32 rows of length 1; a row of zeros stays."""
    vectors = np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)

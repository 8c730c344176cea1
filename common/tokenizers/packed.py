"""Rows of codes as single integers: grouping, ranking and look-up of millions of IDs by sorting, not by dicts."""

from __future__ import annotations

import numpy as np

_WORD = 1 << 64
_MANY = 20_000


def words(sizes: tuple[int, ...]) -> list[slice]:
    """Return runs of levels whose numbers of combinations each fit 64 bits; nearly always one run.

    >>> words((256, 256, 256, 4)), words((1 << 31,) * 3)
    ([slice(0, 4, None)], [slice(0, 2, None), slice(2, 3, None)])
    """
    runs, start, held = [], 0, 1
    for level, size in enumerate(sizes):
        if held * size > _WORD:
            runs.append(slice(start, level))
            start, held = level, 1
        held *= size
    return [*runs, slice(start, len(sizes))]


def pack(rows: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Return uint64 [N], the mixed-radix number of each row of codes [N, L]: the order is lexicographic."""
    key = np.zeros(len(rows), dtype=np.uint64)
    for level, size in enumerate(sizes):
        key *= np.uint64(size)
        key += rows[:, level].astype(np.uint64)
    return key


def unpack(keys: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Return the codes int32 [N, L] of `pack`ed rows."""
    rows = np.empty((len(keys), len(sizes)), dtype=np.int32)
    rest = np.asarray(keys, dtype=np.uint64)
    for level in range(len(sizes) - 1, -1, -1):
        rest, rows[:, level] = np.divmod(rest, np.uint64(sizes[level]))
    return rows


class RowIndex:
    """Sorted keys of rows of codes: which row holds given codes, by binary search; 16 bytes a row.

    Rows too wide for 64 bits are cut into `words`; a key then is built from the ranks of its words.

    Attributes
    ----------
    order
        int64 [N]: rows by their codes, equal codes by row.
    keys
        uint64 [N], sorted.
    """

    def __init__(self, rows: np.ndarray, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes
        self._words = words(sizes)
        self._seen: list[tuple[np.ndarray, np.ndarray]] = []
        self._learning = True
        key, _ = self._key(rows)
        self._learning = False
        self.order, self.keys = _sorted(key)

    def groups(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (starts int64 [G], counts int64 [G]): the runs of `order` with the same codes."""
        new = np.ones(len(self.keys), dtype=bool)
        np.not_equal(self.keys[1:], self.keys[:-1], out=new[1:])
        starts = np.flatnonzero(new)
        return starts, np.diff(starts, append=len(self.keys))

    def repeats(self) -> bool:
        """Whether any two rows are equal."""
        return bool((self.keys[1:] == self.keys[:-1]).any())

    def find(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (first int64 [M], held bool [M]): where in `order` these codes begin, and whether a row has them."""
        key, known = self._key(rows)
        if len(key) > _MANY:  # neighbours among sorted keys are found in the same cache lines
            order, ascending = _sorted(key)
            first = np.empty(len(key), dtype=np.int64)
            first[order] = np.searchsorted(self.keys, ascending)
        else:
            first = np.searchsorted(self.keys, key)
        inside = np.minimum(first, len(self.keys) - 1)
        return inside, known & (self.keys[inside] == key)

    def _key(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (keys, which rows can be in the index at all); a code outside its codebook cannot."""
        limits = np.asarray(self.sizes, dtype=np.int64)
        known: np.ndarray = np.ones(len(rows), dtype=bool)
        if not self._learning:
            known = np.asarray(((rows >= 0) & (rows < limits)).all(axis=1))
            rows = np.where(known[:, None], rows, 0)
        key = pack(rows[:, self._words[0]], self.sizes[self._words[0]])
        for number, word in enumerate(self._words[1:]):
            right = pack(rows[:, word], self.sizes[word])
            if self._learning:
                self._seen.append((np.unique(key), np.unique(right)))
            lefts, rights = self._seen[number]
            left_rank, left_known = _rank(lefts, key)
            right_rank, right_known = _rank(rights, right)
            known &= left_known & right_known
            key = left_rank * np.uint64(len(rights)) + right_rank
        return key, known


def _sorted(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (order int64 [N], keys uint64 [N]) by key, equal keys by row."""
    bits = max(len(keys) - 1, 0).bit_length()
    if not len(keys) or int(keys.max()).bit_length() + bits > 64:
        order = np.argsort(keys, kind="stable")
        return order, keys[order]
    # Key and row in one integer: sorting values is several times as fast as sorting places by value.
    both = np.sort((keys << np.uint64(bits)) | np.arange(len(keys), dtype=np.uint64))
    return (both & np.uint64((1 << bits) - 1)).astype(np.int64), both >> np.uint64(bits)


def ranks(index: RowIndex) -> tuple[np.ndarray, int]:
    """Return (rank int64 [N] of each row among the rows with the same codes, size of the largest group)."""
    starts, counts = index.groups()
    rank = np.empty(len(index.order), dtype=np.int64)
    rank[index.order] = np.arange(len(index.order)) - np.repeat(starts, counts)
    return rank, int(counts.max(initial=0))


def _rank(values: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    place = np.minimum(np.searchsorted(values, wanted), max(len(values) - 1, 0))
    return place.astype(np.uint64), values[place] == wanted

"""The Index contract: what an index over vectors takes and gives, and what all engines share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from common.errors import DataError

Kind = Literal["flat", "hnsw", "ivfpq", "ivf", "ivfsq8"]
"""flat compares with every vector; hnsw walks a graph; ivf* look into some clusters, of whole vectors, of one byte a
value (sq8) or of product codes (pq). FAISS here makes flat, hnsw and ivfpq; Milvus all, milvus-lite all but ivfpq."""

FLAT_LIMIT = 200_000
HNSW_LINKS = 32
HNSW_BUILD = 120
FEW_CANDIDATES = 20_000
LAST_ID = np.iinfo(np.int64).max


class VectorIndex(Protocol):
    """What an index does, whatever engine is behind it. Scores are inner products; higher is better."""

    dim: int

    def __len__(self) -> int:
        """Return how many vectors the index holds."""
        ...

    def add(self, vectors: np.ndarray, ids: np.ndarray) -> None:
        """Add float32 [N, D] vectors under int64 [N] ids (unique, not negative)."""
        ...

    def search(
        self, queries: np.ndarray, k: int, candidates: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (scores float32 [Q, k], ids int64 [Q, k]), best first; -inf and -1 where fewer than k exist.

        `candidates`: int64 ids to choose from, for all queries alike; unknown ids are ignored. Up to 20,000 of them
        are all compared, whatever the kind. Equal scores go by id; a flat search with equal scores at the k-th place
        keeps the smallest ids.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the index to `folder`, whole or not at all."""
        ...

    def close(self) -> None:
        """Give back what the index holds outside the process; what was saved stays. Twice is once."""
        ...


def choose_kind(n: int, dim: int, budget: int) -> Literal["flat", "hnsw", "ivfpq"]:
    """Return the kind of index for `n` vectors of `dim` float32 values in `budget` bytes of memory.

    - Up to 200,000 vectors that fit: **flat**. A search is one matrix product (about 40 ms at 384-d), exact,
      and candidate filters cost nothing extra. All of MMDocIR (about 60,000 chunks) is below that.
    - Above it, while vectors and links fit: **HNSW**. Memory is 4 `dim` + 8 x 32 bytes (and some) a vector,
      recall stays above 0.95, and a search touches a few thousand vectors instead of all.
    - Otherwise: **IVF-PQ**. A vector shrinks to `dim` / 4 bytes or so plus its id; recall drops to what the
      codes keep, so the exact scores of its results are worth computing again.

    >>> choose_kind(60_000, 384, 4 << 30), choose_kind(1_000_000, 384, 4 << 30), choose_kind(10**8, 384, 4 << 30)
    ('flat', 'hnsw', 'ivfpq')
    """
    if n < 0 or dim < 1 or budget < 1:
        raise ValueError(f"need n >= 0, dim >= 1 and budget >= 1, got {n}, {dim}, {budget}")
    flat = n * (4 * dim + 8)
    if n <= FLAT_LIMIT and flat <= budget:
        return "flat"
    links = n * (8 * HNSW_LINKS + 16)
    return "hnsw" if flat + links <= budget else "ivfpq"


def pq_parts(dim: int) -> int:
    """Return into how many parts IVF-PQ cuts a vector: the largest divisor of `dim` up to `dim` / 4."""
    return max(parts for parts in range(1, max(dim // 4, 1) + 1) if dim % parts == 0)


def ivf_lists(n: int) -> int:
    """Return into how many clusters an IVF index sorts `n` vectors: 4 sqrt(n), each of 40 vectors or more.

    >>> ivf_lists(100), ivf_lists(100_000)
    (2, 1264)
    """
    return max(1, min(int(4 * n**0.5), n // 40))


def checked_vectors(vectors: np.ndarray, dim: int, what: str) -> np.ndarray:
    """Return vectors as contiguous float32 [N, `dim`].

    Raises
    ------
    DataError
        Another shape, or a value that is not finite.
    """
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    if array.ndim != 2 or array.shape[1] != dim:
        raise DataError(f"{what} have another shape", expected=f"[N, {dim}]", got=list(array.shape))
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise DataError(
            f"{len(bad)} of the {what} are not finite (NaN or infinite)",
            where=f"row {int(bad[0])}",
            expected="finite numbers",
            todo="find out which item the encoder failed on",
        )
    return array


class IdTable:
    """The ids of an index in the order of their rows, and the rows of given ids.

    Attributes
    ----------
    ids
        int64 [N], the id of each row.
    """

    def __init__(self, ids: np.ndarray | None = None) -> None:
        self.ids = np.empty(0, np.int64) if ids is None else np.asarray(ids, np.int64)
        self._order: np.ndarray | None = None  # rows by id; None while the ids ascend, as they mostly do
        self._sort()

    def __len__(self) -> int:
        return len(self.ids)

    def _sort(self) -> None:
        ascend = bool((self.ids[1:] > self.ids[:-1]).all())
        self._order = None if ascend else np.argsort(self.ids, kind="stable")
        self.sorted = self.ids if self._order is None else self.ids[self._order]

    def joined(self, ids: np.ndarray, vectors: int) -> IdTable:
        """Return the table with more ids at its end.

        Raises
        ------
        DataError
            As many ids as vectors are needed, none negative, none there before.
        """
        ids = np.asarray(ids, dtype=np.int64)
        if ids.shape != (vectors,):
            raise DataError("ids and vectors differ in number", expected=f"{vectors} ids", got=ids.shape)
        if len(ids) and ids.min() < 0:
            raise DataError("an id is negative", expected="ids from 0", got=int(ids.min()))
        table = IdTable(np.concatenate([self.ids, ids]))
        twice = np.flatnonzero(table.sorted[1:] == table.sorted[:-1])
        if len(twice):
            raise DataError("an id is added twice", got=int(table.sorted[twice[0]]))
        return table

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return the rows of those ids that are there, int64, ascending, each once."""
        wanted = np.unique(np.asarray(ids, np.int64))
        if not len(self.sorted):
            return np.empty(0, np.int64)
        places = np.searchsorted(self.sorted, wanted)
        places = places[self.sorted[places.clip(max=len(self.sorted) - 1)] == wanted]
        return places if self._order is None else np.sort(self._order[places])


def nothing(queries: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the answer of an empty index: scores -inf float32 [Q, k], ids -1 int64 [Q, k]."""
    return np.full((queries, k), -np.inf, np.float32), np.full((queries, k), -1, np.int64)


def widened(
    find: Callable[[int], tuple[np.ndarray, np.ndarray]], k: int, available: int, *, exact: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return what `find(wanted)` gives for a `wanted` that takes in all that tie with the k-th place, if `exact`.

    One more than asked for shows whether a tie crosses the k-th place; then twice as many are asked for.
    """
    wanted = min(k + 1, available)
    while True:
        found, names = find(wanted)
        tie = exact and wanted > k and bool((found[:, k - 1] == found[:, -1]).any())
        if not tie or wanted == available:
            return found, names
        wanted = min(2 * wanted, available)


def ranked(found: np.ndarray, ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the best `k` of (scores [Q, W], ids [Q, W]; -1: nothing), best first, equal scores by id.

    Engines give them best first already, so that only rows with equal scores, or with gaps, are sorted again.
    """
    scores, names = nothing(len(found), k)
    gone = ids < 0
    named, found = np.where(gone, LAST_ID, ids), np.where(gone, -np.inf, found).astype(np.float32)
    loose = np.flatnonzero(~(found[:, 1:] < found[:, :-1]).all(axis=1))
    if len(loose):
        order = np.lexsort((named[loose], -found[loose]))
        found[loose] = np.take_along_axis(found[loose], order, axis=1)
        named[loose] = np.take_along_axis(named[loose], order, axis=1)
    width = min(k, found.shape[1])
    scores[:, :width] = found[:, :width]
    names[:, :width] = np.where(np.isneginf(found[:, :width]), -1, named[:, :width])
    return scores, names


def best_of_all(scores: np.ndarray, wanted: int) -> np.ndarray:
    """Return the columns of the best `wanted` of float [Q, C] in each row, best first; of equals the first ones."""
    if wanted >= scores.shape[1]:
        return np.argsort(-scores, axis=1, kind="stable")
    least = np.partition(scores, -wanted, axis=1)[:, -wanted]
    best = np.empty((len(scores), wanted), np.int64)
    for row, (values, low) in enumerate(zip(scores, least, strict=True)):
        kept = np.flatnonzero(values >= low)  # more than wanted where the last place is shared
        best[row] = kept[np.argsort(-values[kept], kind="stable")[:wanted]]
    return best


def damaged(folder: Path, got: str) -> DataError:
    """Return the error of a saved index that is not as it was saved."""
    return DataError(
        "the index is damaged",
        where=folder,
        expected="files as they were saved",
        got=got,
        todo=f"delete {folder} and build it again",
    )

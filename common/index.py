"""The Index contract on FAISS: add, search, save, load; exact while size allows, then HNSW, then IVF-PQ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from common.atomic import atomic_folder
from common.errors import DataError
from common.hashing import file_digest

Kind = Literal["flat", "hnsw", "ivfpq"]

FLAT_LIMIT = 200_000
HNSW_LINKS = 32
FEW_CANDIDATES = 20_000
_FORMAT = 1


class VectorIndex(Protocol):
    """What an index does, whatever engine is behind it. Scores are inner products; higher is better."""

    def add(self, vectors: np.ndarray, ids: np.ndarray) -> None:
        """Add float32 [N, D] vectors under int64 [N] ids (unique, not negative)."""
        ...

    def search(
        self, queries: np.ndarray, k: int, candidates: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (scores float32 [Q, k], ids int64 [Q, k]), best first; -inf and -1 where fewer than k exist."""
        ...

    def save(self, folder: Path) -> None:
        """Write the index to `folder`, whole or not at all."""
        ...


def choose_kind(n: int, dim: int, budget: int) -> Kind:
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


class FaissIndex:
    """Inner product search over float32 [N, `dim`] vectors with FAISS.

    Parameters
    ----------
    dim
        Width of the vectors.
    kind
        "flat", "hnsw" or "ivfpq"; see `choose_kind`. IVF-PQ is trained on the first vectors added, so give
        it a representative first batch of at least 256 (40 for each list is better).
    seed
        Of the k-means in IVF-PQ.
    threads
        FAISS threads; None leaves FAISS as it is. HNSW is always built by one, since several give another
        graph each time.
    """

    def __init__(self, dim: int, kind: Kind = "flat", seed: int = 7, threads: int | None = None) -> None:
        if dim < 1:
            raise ValueError(f"need dim >= 1, got {dim}")
        self.dim, self.kind, self.seed, self.threads = dim, kind, seed, threads
        self._index: Any = None
        self._ids = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, vectors: np.ndarray, ids: np.ndarray) -> None:
        """Add float32 [N, D] vectors under int64 [N] ids.

        Raises
        ------
        DataError
            A vector is not finite or of another width, or an id is negative or already there.
        """
        vectors = self._check(vectors, "vectors to add")
        ids = np.asarray(ids, dtype=np.int64)
        if ids.shape != (len(vectors),):
            raise DataError("ids and vectors differ in number", expected=f"{len(vectors)} ids", got=ids.shape)
        if len(ids) and ids.min() < 0:
            raise DataError("an id is negative", expected="ids from 0", got=int(ids.min()))
        joined = np.concatenate([self._ids, ids])
        values, counts = np.unique(joined, return_counts=True)
        if len(values) != len(joined):
            raise DataError("an id is added twice", got=int(values[counts > 1][0]))
        if not len(ids):
            return
        with _Threads(1 if self.kind == "hnsw" else self.threads):
            if self._index is None:
                self._index = self._build(vectors)
            self._index.add(vectors)
        self._ids = joined

    def search(
        self, queries: np.ndarray, k: int, candidates: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (scores float32 [Q, k], ids int64 [Q, k]), best first, equal scores by id.

        `candidates`: int64 ids to choose from, for all queries alike; unknown ids are ignored. Up to 20,000 of them
        are all compared, whatever the kind. Where fewer than `k` vectors exist, the rest is -inf and -1.
        A flat search with exactly equal scores at the k-th place keeps the smallest ids.
        """
        queries = self._check(queries, "queries")
        if k < 1:
            raise ValueError(f"need k >= 1, got {k}")
        scores = np.full((len(queries), k), -np.inf, np.float32)
        ids = np.full((len(queries), k), -1, np.int64)
        rows = None if candidates is None else np.flatnonzero(np.isin(self._ids, np.asarray(candidates, np.int64)))
        available = len(self._ids) if rows is None else len(rows)
        if not available or not len(queries):
            return scores, ids
        # One more than asked for shows whether a tie crosses the k-th place; then the search is widened.
        wanted = min(k + 1, available)
        while True:
            with _Threads(self.threads):
                found, positions = self._find(queries, wanted, rows)
            tie = self.kind == "flat" and wanted > k and bool((found[:, k - 1] == found[:, -1]).any())
            if not tie or wanted == available:
                break
            wanted = min(2 * wanted, available)
        named = np.where(positions >= 0, self._ids[positions], np.iinfo(np.int64).max)
        found = np.where(positions >= 0, found, -np.inf).astype(np.float32)
        for query in range(len(queries)):
            order = np.lexsort((named[query], -found[query]))[:k]
            scores[query, : len(order)] = found[query, order]
            ids[query, : len(order)] = np.where(np.isneginf(found[query, order]), -1, named[query, order])
        return scores, ids

    def save(self, folder: Path) -> None:
        """Write index.faiss, ids.npy and manifest.json (with their SHA-256) to `folder`, whole or not at all."""
        with atomic_folder(folder) as temporary:
            np.save(temporary / "ids.npy", self._ids)
            names = ["ids.npy"]
            if self._index is not None:
                _faiss().write_index(self._index, str(temporary / "index.faiss"))
                names.append("index.faiss")
            manifest = {
                "format": _FORMAT,
                "kind": self.kind,
                "dim": self.dim,
                "seed": self.seed,
                "vectors": len(self._ids),
                "sha256": {name: file_digest(temporary / name) for name in names},
            }
            (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, threads: int | None = None) -> FaissIndex:
        """Read what `save` wrote. Hashes are compared before FAISS reads a byte.

        Raises
        ------
        DataError
            A file is missing, damaged, or of another format: delete the folder and build it again.
        """
        manifest = _read_manifest(folder)
        index = cls(manifest["dim"], manifest["kind"], manifest["seed"], threads)
        index._ids = np.load(folder / "ids.npy", allow_pickle=False)
        if "index.faiss" in manifest["sha256"]:
            index._index = _faiss().read_index(str(folder / "index.faiss"))
        held = 0 if index._index is None else index._index.ntotal
        if not len(index._ids) == held == manifest["vectors"]:
            raise _damaged(folder, f"{len(index._ids)} ids, {held} vectors, {manifest['vectors']} in the manifest")
        return index

    def _check(self, vectors: np.ndarray, what: str) -> np.ndarray:
        array = np.ascontiguousarray(vectors, dtype=np.float32)
        if array.ndim != 2 or array.shape[1] != self.dim:
            raise DataError(f"{what} have another shape", expected=f"[N, {self.dim}]", got=list(array.shape))
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if len(bad):
            raise DataError(
                f"{len(bad)} of the {what} are not finite (NaN or infinite)",
                where=f"row {int(bad[0])}",
                expected="finite numbers",
                todo="find out which item the encoder failed on",
            )
        return array

    def _build(self, vectors: np.ndarray) -> Any:
        faiss = _faiss()
        metric = faiss.METRIC_INNER_PRODUCT
        if self.kind == "flat":
            return faiss.IndexFlatIP(self.dim)
        if self.kind == "hnsw":
            index = faiss.IndexHNSWFlat(self.dim, HNSW_LINKS, metric)
            index.hnsw.efConstruction = 120
            return index
        if len(vectors) < 256:
            raise DataError(
                "too few vectors to train IVF-PQ", expected="at least 256", got=len(vectors), todo='use kind="flat"'
            )
        lists = max(1, min(int(4 * len(vectors) ** 0.5), len(vectors) // 40))
        index = faiss.IndexIVFPQ(faiss.IndexFlatIP(self.dim), self.dim, lists, pq_parts(self.dim), 8, metric)
        index.cp.seed = self.seed
        index.pq.cp.seed = self.seed
        index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
        index.train(vectors)
        return index

    def _find(self, queries: np.ndarray, wanted: int, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return (scores, positions) [Q, wanted]; -1 where the index found fewer."""
        few = rows is not None and len(rows) <= FEW_CANDIDATES
        if rows is not None and few and self.kind == "hnsw":
            # A walk along the graph meets few of the allowed vectors, or none: compare with all of them.
            scores = queries @ self._index.reconstruct_batch(rows).T
            best = np.argsort(-scores, axis=1, kind="stable")[:, :wanted]
            return np.take_along_axis(scores, best, axis=1), rows[best]
        return self._index.search(queries, wanted, params=self._parameters(rows, wanted, every_list=few))

    def _parameters(self, rows: np.ndarray | None, wanted: int, every_list: bool) -> Any:
        faiss = _faiss()
        # The selector's set is built in C++; FAISS keeps a reference to it in the parameters object.
        selector = None if rows is None else faiss.IDSelectorBatch(rows)
        if self.kind == "flat":
            return faiss.SearchParameters(sel=selector) if selector is not None else None
        if self.kind == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=max(128, 2 * wanted), sel=selector)
        lists = self._index.nlist if every_list else max(1, self._index.nlist // 8)
        return faiss.SearchParametersIVF(nprobe=lists, sel=selector)


def _faiss() -> Any:
    """Import FAISS when it is first needed; its type stubs lack half of it, hence Any."""
    import faiss

    return faiss


class _Threads:
    """Set FAISS's thread count for a block and put the old one back."""

    def __init__(self, threads: int | None) -> None:
        self.threads = threads
        self.before = 0

    def __enter__(self) -> None:
        faiss = _faiss()
        self.before = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(self.threads or self.before)

    def __exit__(self, *_: object) -> None:
        _faiss().omp_set_num_threads(self.before)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise DataError("no index here", where=folder, expected="manifest.json", todo="build the index first")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        complete = manifest["format"] == _FORMAT and manifest["kind"] in ("flat", "hnsw", "ivfpq")
        hashes: dict[str, str] = manifest["sha256"]
        if not complete or not {"ids.npy"} <= set(hashes) <= {"ids.npy", "index.faiss"}:
            raise ValueError("unknown format, kind or file")
        for key in ("dim", "seed", "vectors"):
            manifest[key] = int(manifest[key])
        for name, expected in hashes.items():
            if not (folder / name).is_file() or file_digest(folder / name) != expected:
                raise ValueError(f"{name} is missing or changed")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, f"{type(error).__name__}: {error}") from None
    return manifest


def _damaged(folder: Path, got: str) -> DataError:
    return DataError(
        "the index is damaged",
        where=folder,
        expected="files as they were saved",
        got=got,
        todo=f"delete {folder} and build it again",
    )

"""The Index contract on FAISS: add, search, save, load; exact while size allows, then HNSW, then IVF-PQ."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import atomic_folder
from common.errors import ConfigError, DataError
from common.hashing import file_digest
from common.index.base import (
    FEW_CANDIDATES,
    HNSW_BUILD,
    HNSW_LINKS,
    IdTable,
    Kind,
    best_of_all,
    checked_vectors,
    damaged,
    ivf_lists,
    nothing,
    pq_parts,
    ranked,
    widened,
)
from common.index.faiss_flat import among, faiss_module, longest, one_by_one, product_from

KINDS: tuple[Kind, ...] = ("flat", "hnsw", "ivfpq")
_FORMAT = 1
_PART = 50_000

Find = Callable[[int], tuple[np.ndarray, np.ndarray]]


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
        if kind not in KINDS:
            raise ConfigError("FAISS has no index of this kind here", expected=", ".join(KINDS), got=kind)
        self.dim, self.kind, self.seed, self.threads = dim, kind, seed, threads
        self._index: Any = None
        self._ids = IdTable()
        self._length = 0.0  # of the longest vector, in a flat index

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, vectors: np.ndarray, ids: np.ndarray) -> None:
        """Add float32 [N, D] vectors under int64 [N] ids.

        Raises
        ------
        DataError
            A vector is not finite or of another width, or an id is negative or already there.
        """
        vectors = checked_vectors(vectors, self.dim, "vectors to add")
        table = self._ids.joined(ids, len(vectors))
        if not len(vectors):
            return
        with _Threads(1 if self.kind == "hnsw" else self.threads):
            if self._index is None:
                self._index = self._build(vectors)
            self._index.add(vectors)
        self._ids = table
        if self.kind == "flat":
            self._length = max(self._length, longest(vectors))

    def search(
        self, queries: np.ndarray, k: int, candidates: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `VectorIndex.search`."""
        queries = checked_vectors(queries, self.dim, "queries")
        if k < 1:
            raise ValueError(f"need k >= 1, got {k}")
        rows = None if candidates is None else self._ids.rows(candidates)
        available = len(self._ids) if rows is None else len(rows)
        if not available or not len(queries):
            return nothing(len(queries), k)
        find = self._whole(queries, rows) if rows is None or len(rows) > FEW_CANDIDATES else self._few(queries, rows)
        with _Threads(self.threads):
            found, positions = widened(find, k, available, exact=self.kind == "flat")
        return ranked(found, np.where(positions >= 0, self._ids.ids[positions], -1), k)

    def close(self) -> None:
        """Do nothing: all is in this process's memory."""

    def save(self, folder: Path) -> None:
        """Write index.faiss, ids.npy and manifest.json (with their SHA-256) to `folder`, whole or not at all."""
        with atomic_folder(folder) as temporary:
            np.save(temporary / "ids.npy", self._ids.ids)
            names = ["ids.npy"]
            if self._index is not None:
                faiss_module().write_index(self._index, str(temporary / "index.faiss"))
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
        index._ids = IdTable(np.load(folder / "ids.npy", allow_pickle=False))
        if "index.faiss" in manifest["sha256"]:
            index._index = faiss_module().read_index(str(folder / "index.faiss"))
            if index.kind == "flat":
                index._length = max(longest(part) for part in index._parts())
        held = 0 if index._index is None else index._index.ntotal
        if not len(index._ids) == held == manifest["vectors"]:
            raise damaged(folder, f"{len(index._ids)} ids, {held} vectors, {manifest['vectors']} in the manifest")
        return index

    def _parts(self) -> Iterator[np.ndarray]:
        for start in range(0, self._index.ntotal, _PART):
            yield self._index.reconstruct_n(start, min(_PART, self._index.ntotal - start))

    def _build(self, vectors: np.ndarray) -> Any:
        faiss = faiss_module()
        metric = faiss.METRIC_INNER_PRODUCT
        if self.kind == "flat":
            return faiss.IndexFlatIP(self.dim)
        if self.kind == "hnsw":
            index = faiss.IndexHNSWFlat(self.dim, HNSW_LINKS, metric)
            index.hnsw.efConstruction = HNSW_BUILD
            return index
        if len(vectors) < 256:
            raise DataError(
                "too few vectors to train IVF-PQ", expected="at least 256", got=len(vectors), todo='use kind="flat"'
            )
        lists, parts = ivf_lists(len(vectors)), pq_parts(self.dim)
        index = faiss.IndexIVFPQ(faiss.IndexFlatIP(self.dim), self.dim, lists, parts, 8, metric)
        index.cp.seed = self.seed
        index.pq.cp.seed = self.seed
        index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
        index.train(vectors)
        return index

    def _whole(self, queries: np.ndarray, rows: np.ndarray | None, *, every_list: bool = False) -> Find:
        """Return a search of the index, of all rows or of those that a selector lets through."""
        faiss = faiss_module()
        # The selector's set is built in C++; FAISS keeps a reference to it in the parameters object.
        selector = None if rows is None else faiss.IDSelectorBatch(rows)

        if self.kind == "flat":
            if rows is not None or len(queries) < product_from(self.dim):
                return self._one_by_one(queries, rows)
            return lambda wanted: self._index.search(queries, wanted)

        def find(wanted: int) -> tuple[np.ndarray, np.ndarray]:
            if self.kind == "hnsw":
                parameters = faiss.SearchParametersHNSW(efSearch=max(128, 2 * wanted), sel=selector)
            else:
                lists = self._index.nlist if every_list else max(1, self._index.nlist // 8)
                parameters = faiss.SearchParametersIVF(nprobe=lists, sel=selector)
            return self._index.search(queries, wanted, params=parameters)

        return find

    def _few(self, queries: np.ndarray, rows: np.ndarray) -> Find:
        """Return a search that compares with each of a few rows: the rest of the index is not even looked at."""
        if self.kind == "ivfpq":
            return self._whole(queries, rows, every_list=True)
        if self.kind == "flat":
            return self._one_by_one(queries, rows)
        scores = queries @ self._index.reconstruct_batch(rows).T  # a walk along the graph meets few of them, or none

        def find(wanted: int) -> tuple[np.ndarray, np.ndarray]:
            columns = best_of_all(scores, wanted)
            return np.take_along_axis(scores, columns, axis=1), rows[columns]

        return find

    def _one_by_one(self, queries: np.ndarray, rows: np.ndarray | None) -> Find:
        """Return an exact search of all rows or some, whose scores do not depend on how many queries there are."""
        if rows is None:
            take = self._index.reconstruct_batch
            return one_by_one(self._index.search, take, len(self), self._length, queries)
        vectors = self._index.reconstruct_batch(rows)
        found = one_by_one(among(vectors), lambda places: vectors[places], len(rows), self._length, queries)

        def find(wanted: int) -> tuple[np.ndarray, np.ndarray]:
            scores, places = found(wanted)
            return scores, rows[places]

        return find


class _Threads:
    """Set FAISS's thread count for a block and put the old one back."""

    def __init__(self, threads: int | None) -> None:
        self.threads = threads
        self.before = 0

    def __enter__(self) -> None:
        faiss = faiss_module()
        self.before = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(self.threads or self.before)

    def __exit__(self, *_: object) -> None:
        faiss_module().omp_set_num_threads(self.before)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise DataError("no index here", where=folder, expected="manifest.json", todo="build the index first")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        complete = manifest["format"] == _FORMAT and manifest["kind"] in KINDS
        hashes: dict[str, str] = manifest["sha256"]
        if not complete or not {"ids.npy"} <= set(hashes) <= {"ids.npy", "index.faiss"}:
            raise ValueError("unknown format, kind or file")
        for key in ("dim", "seed", "vectors"):
            manifest[key] = int(manifest[key])
        for name, expected in hashes.items():
            if not (folder / name).is_file() or file_digest(folder / name) != expected:
                raise ValueError(f"{name} is missing or changed")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(folder, f"{type(error).__name__}: {error}") from None
    return manifest

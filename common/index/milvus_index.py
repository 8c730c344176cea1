"""The Index contract on Milvus: a database inside the process (milvus-lite), or a server and its cluster."""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import ConfigError, DataError
from common.hashing import digest
from common.index.base import (
    FEW_CANDIDATES,
    HNSW_BUILD,
    HNSW_LINKS,
    IdTable,
    Kind,
    best_of_all,
    checked_vectors,
    ivf_lists,
    nothing,
    pq_parts,
    ranked,
    widened,
)
from common.index.milvus_filter import MOST_FOUND, Filter, filters
from common.index.milvus_saved import read_saved, sample_digest, sampled, unpacked, write_saved
from common.index.milvus_server import DATABASE, Claim, Holding, Server, owner
from common.progress import bar

ENGINES: dict[Kind, str] = {
    "flat": "FLAT",
    "hnsw": "HNSW",
    "ivf": "IVF_FLAT",
    "ivfsq8": "IVF_SQ8",
    "ivfpq": "IVF_PQ",
}
"""Milvus' own name of each kind; milvus-lite has no IVF_PQ."""

MOST_LISTS = 65_536
MOST_EF = 32_768
_BATCH_BYTES = 8 << 20  # a message to or from a server may have 64 MB
_QUERIES = 1_000
_HITS = 500_000  # of one call
_PAIRS = 20_000_000  # scores that milvus-lite holds at once

Say = Callable[[str], None]


class MilvusIndex:
    """Inner product search over float32 [N, `dim`] vectors with Milvus.

    The vectors are in a collection of its own. Its name is made of what is added first, so that a run that was killed
    while it filled the collection goes on where it was. The collection goes when the index is closed or forgotten,
    unless it was saved.

    Parameters
    ----------
    dim
        Width of the vectors.
    kind
        "flat" (exact), "hnsw", "ivf", "ivfsq8", or with a server "ivfpq".
    work
        Folder for the database of milvus-lite, and for what makes a run's names its own.
    uri, token
        See `Server`; without an address, milvus-lite.
    say
        Takes lines about long work.

    Notes
    -----
    A saved collection on a server is shared: nothing can be added to it any more. A graph is built by several threads,
    so that approximate kinds may answer a little differently when they are built again; saved, they do not.
    """

    def __init__(
        self,
        dim: int,
        kind: Kind = "flat",
        *,
        work: Path,
        uri: str | None = None,
        token: str = "",
        say: Say = lambda _: None,
    ) -> None:
        if dim < 1:
            raise ValueError(f"need dim >= 1, got {dim}")
        if kind not in ENGINES or (uri is None and kind == "ivfpq"):
            known = [name for name in ENGINES if uri is not None or name != "ivfpq"]
            raise ConfigError("Milvus has no index of this kind here", expected=", ".join(known), got=kind)
        self.dim, self.kind, self.work, self.uri, self.token, self.say = dim, kind, work / "milvus", uri, token, say
        self._clear()
        # A wrong address is said before there is work; the database of milvus-lite is opened where it is needed.
        self._server: Server | None = None if uri is None else Server(uri, token)

    def _clear(self) -> None:
        self._ids, self._name, self._lists, self._loaded = IdTable(), "", 1, False
        self._held: Holding | None = None
        self._end: weakref.finalize[Any, Any] | None = None

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, vectors: np.ndarray, ids: np.ndarray) -> None:
        """Add float32 [N, D] vectors under int64 [N] ids.

        Raises
        ------
        DataError
            A vector is not finite or of another width, an id is negative or already there; the server failed; the
            index is saved on a server.
        """
        vectors = checked_vectors(vectors, self.dim, "vectors to add")
        table = self._ids.joined(ids, len(vectors))
        ids = table.ids[len(self._ids) :]
        if not len(vectors):
            return
        if self._held is not None and self._held.kept:
            raise DataError("a saved index on a server takes no more vectors", where=self._name, todo="make a new one")
        first = not len(self._ids)
        new, built = self._create(vectors, ids) if first else (np.arange(len(ids)), True)
        if len(new):
            self._insert(vectors, ids, new)
            self._call("flush", self._name, timeout=None)
        if not built:
            self._build(self.kind, len(ids))
        self._lists = min(ivf_lists(len(ids)), MOST_LISTS) if first else self._lists
        self._ids = table

    def search(
        self, queries: np.ndarray, k: int, candidates: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `VectorIndex.search`."""
        queries = checked_vectors(queries, self.dim, "queries")
        if k < 1:
            raise ValueError(f"need k >= 1, got {k}")
        allowed = None if candidates is None else np.sort(self._ids.ids[self._ids.rows(candidates)])
        available = len(self._ids) if allowed is None else len(allowed)
        if not available or not len(queries):
            return nothing(len(queries), k)
        few = allowed is not None and len(allowed) <= FEW_CANDIDATES
        if allowed is not None and few and self.kind == "hnsw":
            # A walk along the graph meets few of the allowed vectors, or none: compare with all of them.
            scores = queries @ self._fetch(allowed).T
            best = best_of_all(scores, min(k, available))
            return ranked(np.take_along_axis(scores, best, axis=1), allowed[best], k)

        def find(wanted: int) -> tuple[np.ndarray, np.ndarray]:
            return self._find(queries, wanted, allowed, every_list=few)

        return ranked(*widened(find, k, available, exact=self.kind == "flat"), k)

    def save(self, folder: Path) -> None:
        """Write ids.npy, manifest.json and the database of milvus-lite to `folder`, whole or not at all.

        Of a server's collection the manifest says which it is; the collection stays there, under a name of its own,
        until somebody drops it.
        """
        manifest: dict[str, Any] = {
            "kind": self.kind, "dim": self.dim, "vectors": len(self), "lists": self._lists, "collection": self._name,
        }  # fmt: skip
        if self._held is None or self._server is None:
            write_saved(folder, manifest, self._ids.ids, None)
        elif self.uri is None:
            self._server.close()  # its files are whole when they are closed
            self._loaded = False
            write_saved(folder, manifest, self._ids.ids, self._server.database)
        else:
            if not self._held.kept:
                manifest["collection"] = f"mirc_saved_{uuid.uuid4().hex}"
                self._call("rename_collection", self._name, manifest["collection"])
                self._held.collection = self._name = manifest["collection"]
            manifest |= {"uri": self._server.where, "count": self._count(), "sample": self._sample()}
            write_saved(folder, manifest, self._ids.ids, None)
            self._held.kept = True

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        work: Path,
        uri: str | None = None,
        token: str = "",
        say: Say = lambda _: None,
    ) -> MilvusIndex:
        """Open what `save` wrote: a copy of the database, which is removed when the index is closed, or the collection.

        `uri` says where the server is now, or with what user; None takes the address that was saved.

        Raises
        ------
        DataError
            A file is missing or damaged; the collection is gone, or is not what was saved.
        ConfigError
            As `Server` raises them.
        """
        manifest, ids = read_saved(folder)
        address = (uri or manifest["uri"]) if "uri" in manifest else None
        index = cls(manifest["dim"], manifest["kind"], work=work, uri=address, token=token, say=say)
        if not len(ids):
            return index
        if address is None:
            index._hold(f"loaded-{manifest['key'][:24]}", manifest["collection"], lambda to: unpacked(folder, to))
        else:
            index._hold(f"opened-{manifest['key'][:24]}", manifest["collection"])
        assert index._held is not None  # noqa: S101 - just held
        index._held.kept = address is not None
        index._ids, index._lists = IdTable(ids), manifest["lists"]
        try:
            index._check(folder, manifest)
        except BaseException:
            index.close()
            raise
        return index

    def close(self) -> None:
        """Drop the collection unless it was saved on a server, and leave; the index is empty then."""
        if self._end is not None:
            self._end()
        elif self._server is not None:
            self._server.close()
        self._server = self._server if self.uri is not None else None
        self._clear()

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        if self._server is None:
            raise RuntimeError("nothing was added yet")
        return self._server.call(name, *arguments, **options)

    def _attempt(self, name: str, function: Callable[[], Any]) -> Any:
        if self._server is None:
            raise RuntimeError("nothing was added yet")
        return self._server.attempt(name, function)

    def _hold(
        self, folder: str, collection: str | None = None, fill: Callable[[Path], object] = lambda _: None
    ) -> None:
        """Claim a folder, open the database in it, and see to it that all is given back."""
        claim = Claim(self.work, folder)
        self._name = collection or f"mirc_{claim.folder.name.replace('-', '_')}"
        try:
            if self.uri is None:
                fill(claim.folder / DATABASE)
                self._server = Server(None, database=claim.folder / DATABASE)
        except BaseException:
            claim.give_back()
            raise
        assert self._server is not None  # noqa: S101 - made with the index, or here
        self._held = Holding(self._server, claim, self._name)
        self._end = weakref.finalize(self, self._held.end)

    def _create(self, vectors: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, bool]:
        """Make the collection; return which vectors it lacks, int64 places, and whether its index is built.

        A run that was killed has left the collection with some or all of them.
        """
        whose = owner(self.work) if self.uri is not None else ""
        self._hold(digest("milvus", self.kind, whose, ids.tobytes(), vectors.tobytes())[:24])
        if self._call("has_collection", self._name):
            built = bool(self._call("list_indexes", self._name))
            there = self._present(built)
            lacking = np.flatnonzero(~np.isin(ids, there))
            self.say(f"milvus: {len(there):,} of {len(ids):,} vectors are there from a run that was cut off")
            if len(lacking) + len(there) == len(ids):
                if not len(lacking) and built:
                    return lacking, True
                self._call("release_collection", self._name)
                self._call("drop_index", self._name, "vector")
                return lacking, False
            self._call("drop_collection", self._name)  # vectors that were added later
        schema = _schema(self.dim)
        self._call("create_collection", self._name, schema=schema, consistency_level="Strong")
        return np.arange(len(ids)), False

    def _present(self, built: bool) -> np.ndarray:
        """Return the ids in the collection, int64; a server lets only loaded ones be read, and loads indexed ones."""
        if not built:
            self._build("flat", 1)
        self._load()
        rows = self._call("query_iterator", self._name, batch_size=MOST_FOUND, output_fields=["id"])
        found = [np.empty(0, np.int64)]
        while page := self._attempt("query", rows.next):
            found.append(np.asarray([row["id"] for row in page], np.int64))
        rows.close()
        self._loaded = False
        return np.concatenate(found)

    def _insert(self, vectors: np.ndarray, ids: np.ndarray, new: np.ndarray) -> None:
        size = max(1, _BATCH_BYTES // (4 * self.dim + 8))
        with bar("vectors to Milvus", total=len(new), unit="vector") as shown:
            for start in range(0, len(new), size):
                part = new[start : start + size]
                rows = [{"id": int(ids[row]), "vector": vectors[row]} for row in part]
                self._call("insert", self._name, rows)
                shown.update(len(part))

    def _build(self, kind: Kind, n: int) -> None:
        """Index the collection; Milvus indexes what is added later by itself."""
        lists = min(ivf_lists(n), MOST_LISTS)
        parameters: dict[str, Any] = {}
        if kind == "hnsw":
            parameters = {"M": HNSW_LINKS, "efConstruction": HNSW_BUILD}
        elif kind != "flat":
            parameters = {"nlist": lists} | ({"m": pq_parts(self.dim), "nbits": 8} if kind == "ivfpq" else {})
        if self.uri is None:  # milvus-lite 3.2 reads them below this key only, where pymilvus 3 puts them side by side
            parameters = {"params": parameters}
        self._call("create_index", self._name, _index(ENGINES[kind], parameters), timeout=None)
        self._loaded = False

    def _load(self) -> None:
        if not self._loaded:
            self._call("load_collection", self._name, timeout=None)
            self._loaded = True

    def _find(
        self, queries: np.ndarray, wanted: int, allowed: np.ndarray | None, every_list: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (scores, ids) [Q, wanted], best first; -1 where fewer are found."""
        self._load()
        parts = filters(self._ids, allowed, wanted)
        size = max(1, min(_QUERIES, _HITS // min(wanted, MOST_FOUND)))
        if self.uri is None:
            size = min(size, max(1, _PAIRS // len(self)))
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for start in range(0, len(queries), size):
            block = queries[start : start + size]
            answers = [self._ask(block, part, min(wanted, part.size, MOST_FOUND), every_list) for part in parts]
            scores = np.concatenate([answer[0] for answer in answers], axis=1)
            names = np.concatenate([answer[1] for answer in answers], axis=1)
            found.append((scores, names) if len(parts) == 1 else ranked(scores, names, wanted))
        return np.concatenate([one[0] for one in found]), np.concatenate([one[1] for one in found])

    def _ask(self, queries: np.ndarray, part: Filter, limit: int, every_list: bool) -> tuple[np.ndarray, np.ndarray]:
        parameters: dict[str, int] = {}
        if self.kind == "hnsw":
            parameters = {"ef": min(max(128, 2 * limit), MOST_EF)}
        elif self.kind != "flat":
            parameters = {"nprobe": self._lists if every_list else max(1, self._lists // 8)}
        hits = self._call(
            "search",
            self._name,
            data=list(queries),
            anns_field="vector",
            filter=part.text,
            limit=limit,
            search_params={"metric_type": "IP", "params": parameters},
        )
        scores, names = nothing(len(queries), limit)
        for row, one in enumerate(hits):
            scores[row, : len(one.ids)] = one.distances
            names[row, : len(one.ids)] = one.ids
        return scores, names

    def _fetch(self, ids: np.ndarray) -> np.ndarray:
        """Return the vectors float32 [N, D] of ids that are there."""
        self._load()
        made, seen = np.empty((len(ids), self.dim), np.float32), np.zeros(len(ids), bool)
        order = np.argsort(ids)
        size = max(1, min(MOST_FOUND, _BATCH_BYTES // (4 * self.dim + 8)))
        for start in range(0, len(ids), size):
            wanted = ids[start : start + size].tolist()
            for row in self._call("get", self._name, ids=wanted, output_fields=["id", "vector"]):
                place = order[np.searchsorted(ids, row["id"], sorter=order)]
                made[place], seen[place] = row["vector"], True
        if not seen.all():
            raise DataError("Milvus has lost vectors", where=self._name, got=f"{int((~seen).sum())} of {len(ids)}")
        return made

    def _count(self) -> int:
        self._load()
        return int(self._call("query", self._name, filter="", output_fields=["count(*)"])[0]["count(*)"])

    def _sample(self) -> str:
        return sample_digest(self._fetch(sampled(self._ids.sorted)))

    def _check(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Raise `DataError` unless the collection is the one that was saved."""
        got = "no such collection"
        if self._call("has_collection", self._name):
            count = self._count()
            expected = manifest.get("count", manifest["vectors"])
            if count == expected and manifest.get("sample") in (None, self._sample()):
                return
            got = f"{count:,} vectors" if count != expected else "other vectors"
        raise DataError(
            "the collection is not the one that was saved",
            where=f"{self._name} at {manifest.get('uri', folder)}",
            expected=f"{manifest['vectors']:,} vectors, as they were saved",
            got=got,
            todo=f"delete {folder} and build it again",
        )


def _schema(dim: int) -> Any:
    from pymilvus import DataType, MilvusClient

    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    return schema


def _index(engine: str, parameters: dict[str, Any]) -> Any:
    from pymilvus import MilvusClient

    made = MilvusClient.prepare_index_params()
    made.add_index(field_name="vector", index_name="vector", index_type=engine, metric_type="IP", params=parameters)
    return made

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
from common.index.base import FEW_CANDIDATES, IdTable, Kind, best_of_all, checked_vectors, nothing, ranked, widened
from common.index.milvus_collection import ENGINES, MOST_EF, Collection, lists_of
from common.index.milvus_filter import MOST_FOUND, Filter, filters
from common.index.milvus_saved import read_saved, sample_digest, sampled, unpacked, write_saved
from common.index.milvus_server import DATABASE, Claim, Holding, Server, owner

_QUERIES = 1_000
_HITS = 500_000  # of one call
_PAIRS = 20_000_000  # scores that milvus-lite holds at once

Say = Callable[[str], None]


class MilvusIndex:
    """Inner product search over float32 [N, `dim`] vectors with Milvus.

    The vectors are in a collection of their own. Its name is made of what is added first, so that a run that was cut
    off while it filled the collection goes on where it was. The collection goes when the index is closed or forgotten,
    unless it was saved on a server.

    Parameters
    ----------
    dim
        Width of the vectors.
    kind
        "flat" (exact), "hnsw", "ivf", "ivfsq8", or with a server "ivfpq".
    work
        Folder for the databases of milvus-lite, and for what makes this machine's names on a server its own.
    uri, token
        See `Server`; without an address, milvus-lite.
    say
        Takes lines about what was found from an earlier run.

    Notes
    -----
    A saved collection on a server is shared: nothing can be added to it any more. Milvus builds graphs with several
    threads, so that approximate kinds may answer a little differently when they are built again; saved, they do not.

    Raises
    ------
    ConfigError
        The kind is not to be had, or as `Server` raises it.
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
        known: list[Kind] = [name for name in ENGINES if uri is not None or name != "ivfpq"]
        if kind not in known:
            raise ConfigError("Milvus has no index of this kind here", expected=", ".join(known), got=kind)
        self.dim, self.work, self.uri, self.say = dim, work / "milvus", uri, say
        self.kind: Kind = kind
        # A wrong address is said before there is work; the database of milvus-lite is opened where it is needed.
        self._server = None if uri is None else Server(uri, token)
        self._clear()

    def _clear(self) -> None:
        self._ids, self._lists = IdTable(), 1
        self._collection: Collection | None = None
        self._held: Holding | None = None
        self._end: weakref.finalize[Any, Any] | None = None

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, vectors: np.ndarray, ids: np.ndarray) -> None:
        """Add float32 [N, D] vectors under int64 [N] ids.

        Raises
        ------
        DataError
            A vector is not finite or of another width, an id is negative or already there; the index is saved on a
            server; the server failed, and the index is closed.
        """
        vectors = checked_vectors(vectors, self.dim, "vectors to add")
        table = self._ids.joined(ids, len(vectors))
        ids = table.ids[len(self._ids) :]
        if not len(vectors):
            return
        if self._held is not None and self._held.kept:
            raise DataError("a saved index on a server takes no more vectors", todo="make a new one")
        try:
            if self._collection is None:
                self._fill(vectors, ids)
            else:
                self._collection.insert(vectors, ids)
        except BaseException:
            self.close()
            raise
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
        if self._collection is None or not available or not len(queries):
            return nothing(len(queries), k)
        few = allowed is not None and len(allowed) <= FEW_CANDIDATES
        if allowed is not None and few and self.kind == "hnsw":
            # A walk along the graph meets few of the allowed vectors, or none: compare with all of them.
            scores = queries @ self._collection.vectors(allowed).T
            best = best_of_all(scores, min(k, available))
            return ranked(np.take_along_axis(scores, best, axis=1), allowed[best], k)
        collection = self._collection

        def find(wanted: int) -> tuple[np.ndarray, np.ndarray]:
            return self._find(collection, queries, wanted, filters(self._ids, allowed, wanted), every_list=few)

        return ranked(*widened(find, k, available, exact=self.kind == "flat"), k)

    def save(self, folder: Path) -> None:
        """Write ids.npy, manifest.json and the database of milvus-lite to `folder`, whole or not at all.

        Of a server's collection the manifest says which it is; the collection stays there, under a name of its own,
        until somebody drops it.
        """
        manifest: dict[str, Any] = {"kind": self.kind, "dim": self.dim, "vectors": len(self), "lists": self._lists}
        collection, held = self._collection, self._held
        if collection is None or held is None:
            write_saved(folder, manifest | {"collection": ""}, self._ids.ids, None)
        elif self.uri is None:
            held.server.close()  # its files are whole when they are closed
            collection.unload()
            write_saved(folder, manifest | {"collection": collection.name}, self._ids.ids, held.server.database)
        else:
            if not held.kept:
                held.collection = f"mirc_saved_{uuid.uuid4().hex}"
                collection.rename(held.collection)
            there = {"collection": collection.name, "uri": held.server.where, "count": collection.count()}
            write_saved(folder, manifest | there | {"sample": self._sample(collection)}, self._ids.ids, None)
            held.kept = True

    @classmethod
    def load(
        cls, folder: Path, *, work: Path, uri: str | None = None, token: str = "", say: Say = lambda _: None
    ) -> MilvusIndex:
        """Open what `save` wrote: a copy of the database, which goes when the index is closed, or the collection.

        `uri` says where the server is now, or with what user; None takes the address that was saved.

        Raises
        ------
        DataError
            A file is missing or damaged; the collection is gone, or is not what was saved.
        ConfigError
            As `Server` raises it.
        """
        manifest, ids = read_saved(folder)
        address = (uri or manifest["uri"]) if "uri" in manifest else None
        index = cls(manifest["dim"], manifest["kind"], work=work, uri=address, token=token, say=say)
        if not len(ids):
            return index
        name, label = manifest["collection"], f"opened-{manifest['key'][:24]}"
        held, collection = index._hold(label, name, lambda to: unpacked(folder, to) if address is None else None)
        held.kept = address is not None
        index._ids, index._lists = IdTable(ids), manifest["lists"]
        try:
            index._check(collection, folder, manifest)
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
        self._clear()

    def _hold(
        self, label: str, name: str = "", fill: Callable[[Path], object] = lambda _: None
    ) -> tuple[Holding, Collection]:
        """Claim a folder, `fill` and open the database in it, and see to it that all is given back."""
        claim = Claim(self.work, label)
        database = claim.folder / DATABASE
        try:
            fill(database)
            server = self._server or Server(None, database=database)
        except BaseException:
            claim.give_back()
            raise
        collection = Collection(server, name or f"mirc_{claim.folder.name.replace('-', '_')}", self.dim)
        held = Holding(server, claim, collection.name)
        self._collection, self._held, self._end = collection, held, weakref.finalize(self, held.end)
        return held, collection

    def _fill(self, vectors: np.ndarray, ids: np.ndarray) -> None:
        """Make the collection of the first vectors, or what of it a run that was cut off has not made."""
        self.work.mkdir(parents=True, exist_ok=True)
        whose = owner(self.work) if self.uri is not None else ""
        key = digest("milvus", self.kind, whose, ids.tobytes(), vectors.tobytes())
        held, collection = self._hold(key[:24])
        held.unfinished = True
        lacking, built = self._left(collection, ids)
        if len(lacking):
            collection.insert(vectors[lacking], ids[lacking])
        if not built:
            collection.build(self.kind, len(ids))
        self._lists = lists_of(len(ids))
        held.unfinished = False

    def _left(self, collection: Collection, ids: np.ndarray) -> tuple[np.ndarray, bool]:
        """Return the places of the vectors that the collection lacks, made if it is not there, and if it is indexed."""
        if collection.exists():
            built, there = collection.indexed(), collection.ids()
            lacking = np.flatnonzero(~np.isin(ids, there))
            if len(lacking) + len(there) == len(ids):
                self.say(f"milvus: {len(there):,} of {len(ids):,} vectors are there from a run that was cut off")
                built = built and not len(lacking)
                if not built:
                    collection.unbuild()
                return lacking, built
            collection.drop()  # others were added to it later
        collection.create()
        return np.arange(len(ids)), False

    def _find(
        self, collection: Collection, queries: np.ndarray, wanted: int, parts: list[Filter], *, every_list: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (scores, ids) [Q, wanted], best first; -1 where fewer are found."""
        size = max(1, min(_QUERIES, _HITS // min(wanted, MOST_FOUND)))
        if self.uri is None:
            size = min(size, max(1, _PAIRS // len(self)))
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for start in range(0, len(queries), size):
            answers: list[tuple[np.ndarray, np.ndarray]] = []
            for part in parts:
                limit = min(wanted, part.size, MOST_FOUND)
                parameters = self._parameters(limit, every_list)
                answers.append(collection.search(queries[start : start + size], part, limit, parameters))
            if len(answers) > 1:
                joined = [np.concatenate(arrays, axis=1) for arrays in zip(*answers, strict=True)]
                answers = [ranked(joined[0], joined[1], wanted)]
            found.append(answers[0])
        return np.concatenate([one[0] for one in found]), np.concatenate([one[1] for one in found])

    def _parameters(self, limit: int, every_list: bool) -> dict[str, int]:
        if self.kind == "flat":
            return {}
        if self.kind == "hnsw":
            return {"ef": min(max(128, 2 * limit), MOST_EF)}
        return {"nprobe": self._lists if every_list else max(1, self._lists // 8)}

    def _sample(self, collection: Collection) -> str:
        return sample_digest(collection.vectors(sampled(self._ids.sorted)))

    def _check(self, collection: Collection, folder: Path, manifest: dict[str, Any]) -> None:
        """Raise `DataError` unless the collection is the one that was saved."""
        got = "no such collection"
        if collection.exists():
            count, expected = collection.count(), manifest.get("count", manifest["vectors"])
            if count == expected and manifest.get("sample") in (None, self._sample(collection)):
                return
            got = f"{count:,} vectors" if count != expected else "other vectors"
        raise DataError(
            "the collection is not the one that was saved",
            where=f"{collection.name} at {manifest.get('uri', folder)}",
            expected=f"{manifest['vectors']:,} vectors, as they were saved",
            got=got,
            todo=f"delete {folder} and build it again",
        )

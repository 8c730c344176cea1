"""One collection of Milvus: ids and vectors, an index over them, and what is asked of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.errors import DataError
from common.index.base import HNSW_BUILD, HNSW_LINKS, Kind, ivf_lists, nothing, pq_parts
from common.index.milvus_filter import MOST_FOUND, Filter
from common.index.milvus_server import Server
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


class Collection:
    """A collection by name, there or not. Every method raises what `Server.call` raises.

    Parameters
    ----------
    server
        Where it is.
    name
        Letters, digits and underscores.
    dim
        Width of its vectors.
    """

    def __init__(self, server: Server, name: str, dim: int) -> None:
        self.server, self.name, self.dim = server, name, dim
        self._loaded = False

    def _call(self, method: str, **options: Any) -> Any:
        return self.server.call(method, self.name, **options)

    def exists(self) -> bool:
        """Whether it is there."""
        return bool(self._call("has_collection"))

    def create(self) -> None:
        """Make it, empty; what is written to it can be read at once."""
        from pymilvus import DataType, MilvusClient

        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.dim)
        self._call("create_collection", schema=schema, consistency_level="Strong")

    def drop(self) -> None:
        """Remove it."""
        self._call("drop_collection")

    def rename(self, name: str) -> None:
        """Give it another name."""
        self._call("rename_collection", new_name=name)
        self.name = name
        self.unload()  # milvus-lite does

    def insert(self, vectors: np.ndarray, ids: np.ndarray) -> None:
        """Write float32 [N, D] vectors under int64 [N] ids, in batches, and seal them."""
        size = self._rows(self.dim)
        with bar("vectors to Milvus", total=len(ids), unit="vector") as shown:
            for start in range(0, len(ids), size):
                part = slice(start, start + size)
                pairs = zip(ids[part].tolist(), vectors[part], strict=True)
                self._call("insert", data=[{"id": one, "vector": vector} for one, vector in pairs])
                shown.update(len(ids[part]))
        self._call("flush", timeout=None)

    def indexed(self) -> bool:
        """Whether it has an index over its vectors."""
        return bool(self._call("list_indexes"))

    def build(self, kind: Kind, n: int) -> None:
        """Index its vectors, `n` of them; Milvus indexes by itself what is added later."""
        from pymilvus import MilvusClient

        parameters: dict[str, Any] = {}
        if kind == "hnsw":
            parameters = {"M": HNSW_LINKS, "efConstruction": HNSW_BUILD}
        elif kind != "flat":
            parameters = {"nlist": lists_of(n)} | ({"m": pq_parts(self.dim), "nbits": 8} if kind == "ivfpq" else {})
        if self.server.embedded:  # milvus-lite 3.2 reads them below this key, where pymilvus 3 does not put them
            parameters = {"params": parameters}
        made = MilvusClient.prepare_index_params()
        made.add_index("vector", ENGINES[kind], "vector", metric_type="IP", params=parameters)
        self._call("create_index", index_params=made, timeout=None)
        self.unload()

    def unbuild(self) -> None:
        """Remove the index over its vectors, if there is one."""
        if self.indexed():
            self._call("release_collection")
            self._call("drop_index", index_name="vector")
        self.unload()

    def load(self) -> None:
        """Bring it into memory, where that was not done before."""
        if not self._loaded:
            self._call("load_collection", timeout=None)
            self._loaded = True

    def unload(self) -> None:
        """Take it that it has to be brought into memory again."""
        self._loaded = False

    def ids(self) -> np.ndarray:
        """Return the ids in it, int64; without an index it gets a flat one, which reading needs."""
        if not self.indexed():
            self.build("flat", 1)
        self.load()
        rows = self._call("query_iterator", batch_size=MOST_FOUND, output_fields=["id"])
        found = [np.empty(0, np.int64)]
        while page := self.server.attempt("query", rows.next):
            found.append(np.asarray([row["id"] for row in page], np.int64))
        rows.close()
        return np.concatenate(found)

    def count(self) -> int:
        """Return how many vectors it has."""
        self.load()
        return int(self._call("query", filter="", output_fields=["count(*)"])[0]["count(*)"])

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        """Return the vectors float32 [N, D] of int64 ids that ascend.

        Raises
        ------
        DataError
            One is not there.
        """
        self.load()
        made, seen = np.empty((len(ids), self.dim), np.float32), np.zeros(len(ids), bool)
        size = self._rows(self.dim)
        for start in range(0, len(ids), size):
            wanted = ids[start : start + size].tolist()
            for row in self._call("get", ids=wanted, output_fields=["id", "vector"]):
                place = np.searchsorted(ids, row["id"])
                made[place], seen[place] = row["vector"], True
        if not seen.all():
            raise DataError("Milvus has lost vectors", where=self.name, got=f"{int((~seen).sum())} of {len(ids)}")
        return made

    def search(
        self, queries: np.ndarray, part: Filter, limit: int, parameters: dict[str, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (scores float32, ids int64) [Q, `limit`], best first; -inf and -1 where fewer are found."""
        self.load()
        hits = self._call(
            "search",
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

    @staticmethod
    def _rows(dim: int) -> int:
        return max(1, min(MOST_FOUND, _BATCH_BYTES // (4 * dim + 8)))


def lists_of(n: int) -> int:
    """Return into how many clusters an IVF index sorts `n` vectors."""
    return min(ivf_lists(n), MOST_LISTS)

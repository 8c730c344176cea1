"""What the embedding store returns: vectors in the caller's order, read from shards when asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, eq=False)
class Shard:
    """One finished shard on disk: items `keys`, item i being rows `offsets[i]:offsets[i+1]` of the .npy file."""

    path: Path
    keys: list[str]
    offsets: np.ndarray
    dim: int
    dtype: np.dtype
    data_start: int

    @classmethod
    def open(cls, array: Path, index: Path) -> Shard:
        """Read the header and the item list; raise `ValueError` when the two files do not fit together."""
        listed = json.loads(index.read_text(encoding="utf-8"))
        data = np.load(array, mmap_mode="r", allow_pickle=False)
        offsets = np.concatenate([[0], np.cumsum(np.asarray(listed["counts"], dtype=np.int64))]).astype(np.int64)
        if data.ndim != 2 or len(data) != offsets[-1] or len(listed["keys"]) != len(listed["counts"]):
            raise ValueError(f"{array.name} and {index.name} do not fit together")
        return cls(array, listed["keys"], offsets, data.shape[1], data.dtype, int(data.offset))

    def read(self, item: int) -> np.ndarray:
        """Return the vectors of one item, [T_i, D], in the dtype of the file."""
        first, last = int(self.offsets[item]), int(self.offsets[item + 1])
        with self.path.open("rb") as file:  # read, not mapped: mapped pages would count as this process' memory
            file.seek(self.data_start + first * self.dim * self.dtype.itemsize)
            data = file.read((last - first) * self.dim * self.dtype.itemsize)
        return np.frombuffer(data, dtype=self.dtype).reshape(last - first, self.dim)

    def read_all(self) -> np.ndarray:
        """Return the whole shard, [sum T_i, D]."""
        return np.load(self.path, allow_pickle=False)


Place = tuple[Shard, int]


@dataclass(frozen=True, eq=False)
class Embeddings:
    """One vector an item: float32 [N, D]; a row that is not `present` (bool [N]) is NaN."""

    vectors: np.ndarray
    present: np.ndarray

    @classmethod
    def of(cls, places: Sequence[Place | None]) -> Embeddings:
        """Gather the vectors of the places, shard by shard."""
        present = np.asarray([place is not None for place in places], dtype=bool)
        dim = next((place[0].dim for place in places if place is not None), 0)
        vectors = np.full((len(places), dim), np.nan, dtype=np.float32)
        by_shard: dict[int, tuple[Shard, list[int], list[int]]] = {}
        for row, place in enumerate(places):
            if place is not None:
                _, rows, items = by_shard.setdefault(id(place[0]), (place[0], [], []))
                rows.append(row)
                items.append(place[1])
        for shard, rows, items in by_shard.values():
            vectors[rows] = shard.read_all()[items]
        return cls(vectors, present)

    def __len__(self) -> int:
        return len(self.present)


@dataclass(frozen=True, eq=False)
class MultiEmbeddings:
    """Several vectors an item (late interaction); they stay on disk until `item` or `gather` asks for them.

    Attributes
    ----------
    places
        Where each item is; None where it is missing.
    present
        bool [N].
    lengths
        int64 [N]: vectors of each item, 0 where it is missing.
    dim
        D; 0 when nothing is present.
    """

    places: tuple[Place | None, ...]
    present: np.ndarray
    lengths: np.ndarray
    dim: int

    @classmethod
    def of(cls, places: Sequence[Place | None]) -> MultiEmbeddings:
        """Note where the items are; nothing is read."""
        present = np.asarray([place is not None for place in places], dtype=bool)
        lengths = [0 if p is None else int(p[0].offsets[p[1] + 1] - p[0].offsets[p[1]]) for p in places]
        dim = next((place[0].dim for place in places if place is not None), 0)
        return cls(tuple(places), present, np.asarray(lengths, dtype=np.int64), dim)

    def __len__(self) -> int:
        return len(self.places)

    def item(self, row: int) -> np.ndarray:
        """Return one item's vectors, float32 [T_row, D]; [0, D] where it is missing."""
        place = self.places[row]
        if place is None:
            return np.empty((0, self.dim), np.float32)
        return place[0].read(place[1]).astype(np.float32)

    def gather(self, rows: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the vectors of `rows`: float32 [T, D], and offsets int64 [len(rows) + 1] into them."""
        chosen = np.asarray(rows, dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(self.lengths[chosen])]).astype(np.int64)
        flat = np.empty((int(offsets[-1]), self.dim), np.float32)
        for i, row in enumerate(chosen.tolist()):
            flat[offsets[i] : offsets[i + 1]] = self.item(row)
        return flat, offsets

"""Semantic IDs: one distinct tuple of codes an item, and back; versioned, and extended without a refit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Self, get_args

import numpy as np

from common.errors import ConfigError, DataError
from common.hashing import digest
from common.tokenizers.base import Quantizer
from common.tokenizers.dedup import check_sids, moved, next_ranks, refuse_equal
from common.tokenizers.id_files import read_ids, write_ids
from common.tokenizers.packed import RowIndex, ranks, unpack

Dedup = Literal["append", "sinkhorn", "raise"]


@dataclass(frozen=True, eq=False)
class SemanticIdMap:
    """The IDs of a catalogue: row i of `sids` belongs to item row i, and no two rows are equal.

    Made by `from_codes`, `from_sids`, `random` or `atomic`, never by hand.

    Attributes
    ----------
    sids
        int32 [N, L'].
    sizes
        Number of codes of each of the L' levels, the rank level last where one was appended.
    levels
        L, the levels of the quantizer, without the rank level.
    dedup
        How the rows came to differ: "append", "sinkhorn", "raise", "random", "atomic" or "given".
    source
        Version of the quantizer that made the codes, "" if none did.
    parts
        Number of rows at the start and after each `extend`.
    """

    sids: np.ndarray
    sizes: tuple[int, ...]
    levels: int
    dedup: str
    source: str = ""
    parts: tuple[int, ...] = ()
    versions: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        if not self.parts:
            object.__setattr__(self, "parts", (len(self.sids),))
        sids = np.ascontiguousarray(self.sids, dtype=np.int32)
        sids.flags.writeable = False
        object.__setattr__(self, "sids", sids)
        object.__setattr__(self, "versions", _versions(self))

    @classmethod
    def from_codes(
        cls,
        codes: np.ndarray,
        sizes: tuple[int, ...],
        *,
        dedup: Dedup = "append",
        version: str = "",
        rank_codes: int = 0,
        quantizer: Quantizer | None = None,
        x: np.ndarray | None = None,
        fallback: Literal["append", "raise"] = "raise",
    ) -> Self:
        """Return the IDs of codes [N, L], which may collide.

        Parameters
        ----------
        codes, sizes
            Integers [N, L] and the number of codes of each level.
        dedup
            - append: one more level, the rank of an item among those with its codes (TIGER, GRID; CART's
              unique token). It has as many codes as the largest group has items, or `rank_codes` if that is more.
            - sinkhorn: colliding items move to other codes of the last level (LC-Rec, LETTER; `sinkhorn.py`);
              needs `quantizer` and `x`.
            - raise: refuse codes that collide.
        version
            Version of the quantizer.
        rank_codes
            Codes of the rank level, to have room for items that come later; 0: as many as needed now.
        quantizer, x
            What made the codes, and the vectors [N, D] that it encoded: read by sinkhorn only.
        fallback
            What sinkhorn does when items still collide: refuse, or append a rank level to what it reached.

        Raises
        ------
        DataError
            A code outside its codebook, no items, or a collision that is left (raise, sinkhorn).
        ConfigError
            `rank_codes` is below the size of the largest group, or sinkhorn without `quantizer` and `x`.
        """
        sizes = tuple(int(size) for size in sizes)
        codes = check_sids(codes, sizes)
        if dedup not in get_args(Dedup):
            raise ConfigError("no such dedup", where="dedup", expected=", ".join(get_args(Dedup)), got=dedup)
        if dedup == "sinkhorn":
            codes = moved(codes, sizes, 0, quantizer, x)
        index = RowIndex(codes, sizes)
        if dedup == "raise" or (dedup == "sinkhorn" and (fallback == "raise" or not index.repeats())):
            refuse_equal(index, codes)
            return cls(codes, sizes, len(sizes), dedup, version)
        rank, largest = ranks(index)
        if rank_codes and rank_codes < largest:
            raise ConfigError(
                "the rank level is too small for the largest group of colliding items",
                where="rank_codes",
                expected=f"at least {largest}, or 0 for as many as needed",
                got=rank_codes,
            )
        sids = np.column_stack([codes, rank.astype(np.int32)])
        return cls(sids, (*sizes, max(largest, rank_codes)), len(sizes), dedup, version)

    @classmethod
    def from_sids(
        cls, sids: np.ndarray, sizes: tuple[int, ...], *, levels: int | None = None, version: str = ""
    ) -> Self:
        """Return the map of IDs [N, L'] that are distinct already; `levels` < L' says that the last is a rank."""
        sizes = tuple(int(size) for size in sizes)
        sids = check_sids(sids, sizes)
        levels = len(sizes) if levels is None else levels
        if not max(1, len(sizes) - 1) <= levels <= len(sizes):
            raise ConfigError("at most one level is a rank", where="levels", expected=len(sizes) - 1, got=levels)
        refuse_equal(RowIndex(sids, sizes), sids)
        return cls(sids, sizes, levels, "given", version)

    @classmethod
    def random(cls, n: int, sizes: tuple[int, ...], seed: int) -> Self:
        """Return `n` different IDs drawn uniformly: the control arm, IDs without meaning."""
        capacity = 1
        for size in sizes:
            capacity *= size
        if not 1 <= n <= capacity:
            raise ConfigError("that many different IDs do not exist", where="n", expected=f"1..{capacity}", got=n)
        rng = np.random.default_rng(seed)
        if capacity <= 4 * n:
            return cls(unpack(rng.permutation(capacity)[:n], sizes), sizes, len(sizes), "random", f"random-{seed}")
        drawn = np.empty((0, len(sizes)), dtype=np.int32)
        while len(drawn) < n:
            more = [rng.integers(size, size=n - len(drawn) + 16, dtype=np.int32) for size in sizes]
            drawn = np.concatenate([drawn, np.column_stack(more)])
            index = RowIndex(drawn, sizes)
            drawn = drawn[np.sort(index.order[index.groups()[0]])]  # the first of each, in the order of drawing
        return cls(drawn[:n], sizes, len(sizes), "random", f"random-{seed}")

    @classmethod
    def atomic(cls, n: int) -> Self:
        """Return one level of `n` codes, item i under code i: a classifier over items as a generator."""
        if n < 1:
            raise ConfigError("no items", where="n", expected="at least 1", got=n)
        return cls(np.arange(n, dtype=np.int32)[:, None], (n,), 1, "atomic")

    @property
    def version(self) -> str:
        """16 hexadecimal digits over the IDs, the sizes and the quantizer's version."""
        return self.versions[-1]

    @property
    def ranked(self) -> bool:
        """Whether the last level is a rank and not a code of the quantizer."""
        return len(self.sizes) > self.levels

    def __len__(self) -> int:
        """Return N."""
        return len(self.sids)

    def item_to_sid(self, items: np.ndarray) -> np.ndarray:
        """Return the IDs int32 [..., L'] of item rows [...].

        Raises
        ------
        DataError
            A row that is not in 0..N-1.
        """
        items = np.asarray(items)
        if items.dtype.kind not in "iu" or (items.size and not 0 <= items.min() <= items.max() < len(self)):
            got = f"{items.dtype}, {items.min()}..{items.max()}" if items.size else items.dtype
            raise DataError("no such item row", expected=f"integers in 0..{len(self) - 1}", got=got)
        return self.sids[items]

    def sid_to_item(self, sids: np.ndarray) -> np.ndarray:
        """Return the item rows int64 [...] of IDs [..., L']; -1 where no item has the ID.

        Raises
        ------
        DataError
            IDs of another number of levels, or not integers.
        """
        sids = np.asarray(sids)
        if sids.ndim < 1 or sids.shape[-1] != len(self.sizes) or sids.dtype.kind not in "iu":
            raise DataError(
                "IDs have another shape",
                expected=f"integers [..., {len(self.sizes)}]",
                got=f"{sids.dtype} {list(sids.shape)}",
            )
        first, held = self._index.find(sids.reshape(-1, len(self.sizes)))
        items = np.where(held, self._index.order[first], -1)
        return items.reshape(sids.shape[:-1])

    def extend(
        self,
        codes: np.ndarray,
        version: str,
        *,
        quantizer: Quantizer | None = None,
        x: np.ndarray | None = None,
    ) -> Self:
        """Return a map with new items at the end, whose rows go on from N; the IDs so far stay as they are.

        Parameters
        ----------
        codes
            Integers [M, L] of the new items by the same quantizer: no refit.
        version
            That quantizer's version.
        quantizer, x
            For a map made by sinkhorn: new items that collide then move to free codes.

        Raises
        ------
        DataError
            Codes of another quantizer, a full rank level, or a collision where there is no rank level.
        """
        if version != self.source:
            raise DataError(
                "the new codes are of another quantizer than the IDs",
                expected=f"version {self.source or '(none)'}",
                got=f"version {version or '(none)'}",
                todo="encode the new items with the quantizer that the IDs came from",
            )
        codes = np.asarray(codes)
        if codes.ndim == 2 and not len(codes):
            return self
        codes = check_sids(codes, self.sizes[: self.levels])
        if self.ranked:
            codes = np.column_stack([codes, next_ranks(self.sids, self.sizes, codes)])
        sids = np.concatenate([self.sids, codes])
        if not self.ranked:
            if self.dedup == "sinkhorn" and quantizer is not None:
                sids = moved(sids, self.sizes, len(self), quantizer, x)
            refuse_equal(RowIndex(sids, self.sizes), sids)
        return replace(self, sids=sids, parts=(*self.parts, len(sids)))

    def check_version(self, other: SemanticIdMap | str, what: str = "what was trained on other IDs") -> None:
        """Raise `DataError` unless `other` is the version of this map, or of one that this map extends."""
        version = other.version if isinstance(other, SemanticIdMap) else other
        if version not in self.versions:
            raise DataError(
                f"semantic IDs of another version: {what} gives them other meanings",
                expected=f"version {version}, or an extension of it",
                got=f"version {self.version}",
                todo="use the IDs that it was trained on, or train it again on these",
            )

    def save(self, folder: Path) -> None:
        """Write semantic_ids.json and semantic_ids.safetensors to `folder`, whole or not at all."""
        write_ids(folder, self)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        DataError
            A file is missing, damaged, was changed, or is of another format.
        """
        return read_ids(folder, cls)

    @cached_property
    def _index(self) -> RowIndex:
        return RowIndex(self.sids, self.sizes)

    def __eq__(self, other: object) -> bool:
        """Whether both hold the same IDs of the same quantizer."""
        return isinstance(other, SemanticIdMap) and self.version == other.version

    def __hash__(self) -> int:
        """Return the hash of the version."""
        return hash(self.version)


def _versions(ids: SemanticIdMap) -> tuple[str, ...]:
    """Return the version after each part: a chain, so that an extended map still knows the ones it grew from."""
    last, start, chain = digest("semantic-ids", str(list(ids.sizes)), ids.levels, ids.source), 0, []
    for end in ids.parts:
        last = digest(last, end, ids.sids[start:end].tobytes())
        chain.append(last[:16])
        start = end
    return tuple(chain)

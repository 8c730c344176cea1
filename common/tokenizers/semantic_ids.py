"""Semantic IDs: one distinct tuple of codes an item, and back; versioned, and extended without a refit."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Self, get_args

import numpy as np

from common.errors import ConfigError, DataError
from common.hashing import digest
from common.tokenizers.base import check_codes
from common.tokenizers.packed import RowIndex, ranks

Dedup = Literal["append", "raise"]


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
    ) -> Self:
        """Return the IDs of codes [N, L], which may collide.

        Parameters
        ----------
        codes, sizes
            Integers [N, L] and the number of codes of each level.
        dedup
            - append: one more level, the rank of an item among those with its codes (TIGER, GRID; CART's
              unique token). It has as many codes as the largest group has items, or `rank_codes` if that is more.
            - raise: refuse codes that collide.
        version
            Version of the quantizer.
        rank_codes
            Room kept for items that come later; 0 keeps none.

        Raises
        ------
        DataError
            A code outside its codebook, no items, or (raise) a collision.
        ConfigError
            `rank_codes` is below the size of the largest group.
        """
        codes = _checked(codes, sizes)
        if dedup not in get_args(Dedup):
            raise ConfigError("no such dedup", where="dedup", expected=", ".join(get_args(Dedup)), got=dedup)
        index = RowIndex(codes, sizes)
        if dedup == "raise":
            _refuse_equal(index, codes)
            return cls(codes, sizes, len(sizes), dedup, version)
        rank, largest = ranks(index)
        if rank_codes and rank_codes < largest:
            raise ConfigError(
                "the rank level is too small for the largest group of colliding items",
                where="rank_codes",
                expected=f"at least {largest}, or 0 for as many as needed",
                got=rank_codes,
            )
        return cls(np.column_stack([codes, rank]), (*sizes, max(largest, rank_codes)), len(sizes), dedup, version)

    @classmethod
    def from_sids(
        cls, sids: np.ndarray, sizes: tuple[int, ...], *, levels: int | None = None, version: str = ""
    ) -> Self:
        """Return the map of IDs [N, L'] that are distinct already; `levels` < L' says that the last is a rank."""
        sids = _checked(sids, sizes)
        _refuse_equal(RowIndex(sids, sizes), sids)
        return cls(sids, sizes, len(sizes) if levels is None else levels, "given", version)

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
            from common.tokenizers.packed import unpack

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
        first, count = self._index.find(sids.reshape(-1, len(self.sizes)))
        order = self._index.order
        items = np.where(count > 0, order[np.minimum(first, len(order) - 1)], -1)
        return items.reshape(sids.shape[:-1])

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


def _checked(codes: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    codes = np.asarray(codes)
    if not sizes or min(sizes) < 1:
        raise ConfigError("codebooks without codes", where="sizes", expected="at least 1 code a level", got=list(sizes))
    if codes.ndim != 2 or codes.shape[1] != len(sizes) or not len(codes):
        raise DataError("codes have another shape", expected=f"integers [N >= 1, {len(sizes)}]", got=list(codes.shape))
    return check_codes(codes, sizes).astype(np.int32)


def _refuse_equal(index: RowIndex, codes: np.ndarray) -> None:
    starts, counts = index.groups()
    many = np.flatnonzero(counts > 1)
    if not len(many):
        return
    first = [np.sort(index.order[starts[g] : starts[g] + counts[g]])[:4].tolist() for g in many[:3]]
    raise DataError(
        f"{int(counts[many].sum())} items share their codes with another item",
        where="; ".join(f"rows {rows} have codes {codes[rows[0]].tolist()}" for rows in first),
        expected="distinct codes",
        got=f"{len(starts)} distinct of {len(codes)}",
        todo='use dedup="append", or a quantizer with more codes or levels',
    )

"""PrefixTrie: the semantic IDs of a catalogue as a prefix tree in compressed rows, built by one sort.

Sorted lexicographically, the children of a node stand side by side, so the j-th child of `node` is
`indptr[node] + j`: no pointer to the next node is stored, and a leaf's number is its rank among the sorted IDs.
The idea of a trie in compressed sparse rows for constrained decoding is STATIC's (arXiv 2602.22647).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.errors import DataError
from common.tokenizers.base import check_codes

if TYPE_CHECKING:
    import torch

    from common.generative.trie_tensors import TensorTrie

BLOCK = 1 << 20
"""Rows packed at once, so that building needs little memory beyond the sort's."""


class Children(NamedTuple):
    """The children of R nodes, each row padded to W, the largest number of children on the level."""

    tokens: np.ndarray
    """int64 [R, W], ascending; anything where `mask` is False."""
    mask: np.ndarray
    """bool [R, W], True = a real child."""
    nodes: np.ndarray
    """int64 [R, W]: the child's number on the next level; on the last level, the leaf's."""


@dataclass(frozen=True, eq=False)
class PrefixTrie:
    """A prefix tree over N different IDs of L codes.

    Attributes
    ----------
    sizes
        Number of codes of each level, [L].
    tokens
        Per level, the code of each node of the next level, in order: uint8, uint16 or int32.
    indptr
        Per level, where each node's children begin in `tokens`, and one entry more: int32, int64 past 2^31.
    items
        [N]: the item row of each leaf, leaves in the order of their sorted IDs.
    widths
        Per level, the largest number of children of a node.
    """

    sizes: tuple[int, ...]
    tokens: tuple[np.ndarray, ...]
    indptr: tuple[np.ndarray, ...]
    items: np.ndarray
    widths: tuple[int, ...]
    _views: dict[str, TensorTrie] = field(default_factory=dict, repr=False)

    @classmethod
    def from_sids(cls, sids: np.ndarray, sizes: Sequence[int], items: np.ndarray | None = None) -> PrefixTrie:
        """Build the trie of `sids`, integers [N, L], code of level l below `sizes[l]`.

        Parameters
        ----------
        items
            The item row of each ID, [N], all different; None means 0..N-1.

        Raises
        ------
        DataError
            No IDs; another shape; a code outside its level; an ID or an item row that appears twice.
        """
        sids, sizes = np.asarray(sids), tuple(int(size) for size in sizes)
        if sids.ndim != 2 or not sizes or sids.shape[1] != len(sizes):
            raise DataError("semantic IDs have another shape", expected=f"[N, {len(sizes)}]", got=list(sids.shape))
        if not len(sids):
            raise DataError("no semantic IDs: a trie needs at least one item", expected="at least 1 row", got=0)
        sids = check_codes(sids, sizes)
        order, column = _sorted_columns(sids, sizes)
        if items is not None:
            order = _check_items(np.asarray(items), len(sids))[order]
        edge = np.zeros(len(sids), dtype=bool)  # True where a node of the level begins, on its first leaf
        edge[0] = True
        tokens, indptr = [], []
        for level in range(len(sizes)):
            codes = column(level)
            above = edge.copy()
            edge[1:] |= codes[1:] != codes[:-1]
            tokens.append(codes[edge])
            indptr.append(_row_starts(above[edge]))
        if len(tokens[-1]) != len(sids):
            raise _duplicate(sids, edge, order if items is None else None)
        return cls._of(sizes, tokens, indptr, order)

    @classmethod
    def _of(
        cls, sizes: tuple[int, ...], tokens: Sequence[np.ndarray], indptr: Sequence[np.ndarray], items: np.ndarray
    ) -> PrefixTrie:
        widths = tuple(int(np.diff(rows).max()) for rows in indptr)
        return cls(sizes, tuple(tokens), tuple(indptr), items, widths)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def depth(self) -> int:
        """L, the number of codes of an ID."""
        return len(self.sizes)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in (*self.tokens, *self.indptr, self.items))

    def count(self, level: int) -> int:
        """Return how many nodes have `level` codes behind them: 1 at 0, N at L."""
        return 1 if level == 0 else len(self.tokens[level - 1])

    def children(self, nodes: np.ndarray, level: int) -> Children:
        """Return the children of int [R] `nodes` of `level`; the root is node 0 of level 0."""
        nodes = np.asarray(nodes, dtype=np.int64)
        starts, ends = self.indptr[level][nodes].astype(np.int64), self.indptr[level][nodes + 1]
        reach = starts[:, None] + np.arange(self.widths[level])
        mask = reach < ends[:, None]
        return Children(self.tokens[level].take(reach, mode="clip").astype(np.int64), mask, reach)

    def lookup(self, sids: np.ndarray) -> np.ndarray:
        """Return the item row int64 [M] of integer IDs [M, L]; -1 where the trie has no such ID."""
        sids = np.asarray(sids)
        if sids.ndim != 2 or sids.shape[1] != self.depth or sids.dtype.kind not in "iu":
            raise DataError(
                "semantic IDs have another shape",
                expected=f"integers [M, {self.depth}]",
                got=f"{sids.dtype} {list(sids.shape)}",
            )
        node, found = np.zeros(len(sids), dtype=np.int64), np.ones(len(sids), dtype=bool)
        for level in range(self.depth):
            wanted, tokens = sids[:, level].astype(np.int64), self.tokens[level]
            low, end = self.indptr[level][node].astype(np.int64), self.indptr[level][node + 1].astype(np.int64)
            high = end.copy()
            for _ in range(self.widths[level].bit_length()):  # bisection in all rows at once
                middle = (low + high) // 2
                less = (low < high) & (tokens.take(middle, mode="clip") < wanted)
                low, high = np.where(less, middle + 1, low), np.where(less, high, middle)
            found &= (low < end) & (tokens.take(low, mode="clip") == wanted)
            node = np.where(found, low, 0)
        return np.where(found, self.items[node], -1).astype(np.int64)

    def restrict(self, mask: np.ndarray) -> PrefixTrie:
        """Return the trie of the items whose row is True in bool `mask`; their rows stay what they are.

        Costs one pass over the leaves and no sort: sold-out items leave, one document's pages stay.

        Raises
        ------
        DataError
            Not bool, shorter than the item rows, or no item left.
        """
        mask = np.asarray(mask)
        rows = int(self.items.max()) + 1
        if mask.ndim != 1 or mask.dtype != bool or len(mask) < rows:
            raise DataError(
                "a mask of items has another shape",
                expected=f"bool [{rows}], one value an item row",
                got=f"{mask.dtype} {list(mask.shape)}",
            )
        keep = np.flatnonzero(mask[self.items])
        if not len(keep):
            raise DataError(
                "the restriction leaves no item to choose from",
                expected="at least one True among the trie's items",
                got=f"none of {len(self):,} items",
                todo="widen the restriction, or leave these queries out",
            )
        tokens, indptr = [], []
        items = self.items[keep]
        for level in reversed(range(self.depth)):
            parents = np.searchsorted(self.indptr[level], keep, side="right") - 1
            starts = np.flatnonzero(np.diff(parents, prepend=-1))
            tokens.append(self.tokens[level][keep])
            indptr.append(np.append(starts, len(keep)).astype(_index_type(len(keep))))
            keep = parents[starts]
        return self._of(self.sizes, tokens[::-1], indptr[::-1], items)

    def to(self, device: str | torch.device) -> TensorTrie:
        """Return the trie as tensors on `device`; on the CPU they share the arrays' memory."""
        from common.generative.trie_tensors import TensorTrie

        name = str(device)
        if name not in self._views:
            self._views[name] = TensorTrie.of(self, name)
        return self._views[name]


def _index_type(most: int) -> type[np.signedinteger]:
    return np.int32 if most < 2**31 else np.int64


def _row_starts(first: np.ndarray) -> np.ndarray:
    """Return the positions of True in bool [E], and E: like `flatnonzero`, in the smallest type from the outset."""
    out = np.empty(int(np.count_nonzero(first)) + 1, dtype=_index_type(len(first)))
    out[-1], done = len(first), 0
    for start in range(0, len(first), BLOCK):
        found = np.flatnonzero(first[start : start + BLOCK])
        out[done : done + len(found)] = found + start
        done += len(found)
    return out


def _token_type(size: int) -> type[np.integer]:
    return np.uint8 if size <= 2**8 else np.uint16 if size <= 2**16 else np.int32


def _sorted_columns(sids: np.ndarray, sizes: tuple[int, ...]):
    """Return the lexicographic order [N] of the IDs, and a function level -> sorted codes [N] of that level."""
    n, types = len(sids), [_token_type(size) for size in sizes]
    bits = [(size - 1).bit_length() for size in sizes]
    row_bits = (n - 1).bit_length()
    if sum(bits) + row_bits > 64:
        order = np.lexsort(sids.T[::-1]).astype(_index_type(n))
        return order, lambda level: sids[order, level].astype(types[level])
    # ID and row fit one word: sorting the words is several times faster than sorting row numbers by their ID.
    words = np.empty(n, dtype=np.uint64)
    for start in range(0, n, BLOCK):
        part = np.zeros(len(words[start : start + BLOCK]), dtype=np.uint64)
        for level, count in enumerate(bits):
            part <<= np.uint64(count)
            part |= sids[start : start + BLOCK, level].astype(np.uint64)
        part <<= np.uint64(row_bits)
        words[start : start + BLOCK] = part | np.arange(start, start + len(part), dtype=np.uint64)
    words.sort()

    def unpack(shift: int, count: int, kind: type[np.integer]) -> np.ndarray:
        out = np.empty(n, dtype=kind)
        for start in range(0, n, BLOCK):
            part = words[start : start + BLOCK] >> np.uint64(shift)
            out[start : start + BLOCK] = part & np.uint64((1 << count) - 1)
        return out

    shifts = [row_bits + sum(bits[level + 1 :]) for level in range(len(sizes))]
    order = unpack(0, row_bits, _index_type(n))
    return order, lambda level: unpack(shifts[level], bits[level], types[level])


def _check_items(items: np.ndarray, n: int) -> np.ndarray:
    if items.shape != (n,) or items.dtype.kind not in "iu":
        raise DataError("item rows have another shape", expected=f"integers [{n}]", got=f"{items.dtype} {items.shape}")
    if items.min() < 0:
        raise DataError("an item row is negative", expected="rows from 0", got=int(items.min()))
    values, counts = np.unique(items, return_counts=True)
    if len(values) != n:
        raise DataError("an item row has two semantic IDs", got=f"row {int(values[counts > 1][0])}")
    return items.astype(_index_type(int(items.max()) + 1))


def _duplicate(sids: np.ndarray, edge: np.ndarray, order: np.ndarray | None) -> DataError:
    again = np.flatnonzero(~edge)
    first = int(again[0])
    rows = np.lexsort(sids.T[::-1]) if order is None else order
    pair = sorted(int(row) for row in rows[first - 1 : first + 1])
    return DataError(
        "two items have the same semantic ID",
        where=f"rows {pair[0]} and {pair[1]}",
        expected="a different ID for each item",
        got=f"{sids[pair[0]].tolist()} twice; {len(again):,} such rows",
        todo='append a rank: SemanticIdMap.from_codes(codes, sizes, dedup="append")',
    )

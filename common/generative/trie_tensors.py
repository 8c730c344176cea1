"""A PrefixTrie as torch tensors: what the beam search reads, on the CPU or a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from common.errors import DataError

if TYPE_CHECKING:
    from common.generative.trie import PrefixTrie


_MANY = 4
"""Children a node, on average, from which on it is worth knowing whether their codes are 0, 1, ..."""


class TensorChildren(NamedTuple):
    """As `common.generative.trie.Children`, in tensors."""

    tokens: Tensor
    """int64 [R, W]; anything where `mask` is False."""
    mask: Tensor
    """bool [R, W], True = a real child."""
    nodes: Tensor
    """int64 [R, W]: the child's number on the next level."""


@dataclass(frozen=True, eq=False)
class TensorTrie:
    """The arrays of a `PrefixTrie` on one device; uint16 codes are kept as int16, which more kernels know."""

    sizes: tuple[int, ...]
    widths: tuple[int, ...]
    tokens: tuple[Tensor, ...]
    indptr: tuple[Tensor, ...]
    items: Tensor

    @classmethod
    def of(cls, trie: PrefixTrie, device: str | torch.device) -> Self:
        """Copy the arrays of `trie` to `device`; on the CPU nothing is copied."""

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array.view(np.int16) if array.dtype == np.uint16 else array).to(device)

        tokens, indptr = (tuple(tensor(array) for array in arrays) for arrays in (trie.tokens, trie.indptr))
        return cls(trie.sizes, trie.widths, tokens, indptr, tensor(trie.items))

    def __len__(self) -> int:
        return len(self.items)

    @property
    def depth(self) -> int:
        """L, the number of codes of an ID."""
        return len(self.sizes)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.items.device

    def count(self, level: int) -> int:
        """Return how many nodes have `level` codes behind them: 1 at 0, N at L."""
        return 1 if level == 0 else len(self.tokens[level - 1])

    def children(self, nodes: Tensor, level: int) -> TensorChildren:
        """Return the children of int64 [R] `nodes` of `level`; the root is node 0 of level 0."""
        starts, ends = self.span(nodes, level)[:, :, None]
        reach = starts + torch.arange(self.widths[level], device=self.device)
        mask = reach < ends
        reach = torch.minimum(reach, ends - 1)
        return TensorChildren(self.codes(level, reach), mask, reach)

    def span(self, nodes: Tensor, level: int) -> Tensor:
        """Return int64 [2, R]: the first child of each of int64 [R] `nodes` of `level`, and the one after the last."""
        return self.indptr[level].take(torch.stack([nodes, nodes + 1])).long()

    @cached_property
    def straight(self) -> tuple[bool, ...]:
        """Whether the codes of every node of a level are 0, 1, ...: no code has to be looked up there.

        So it is where a node has all codes (the first levels of a large catalogue), and in balanced trees. Levels of
        few children a node are not looked at: nothing would be won.
        """
        found = []
        for level, indptr in enumerate(self.indptr):
            few = self.count(level + 1) < _MANY * self.count(level)
            found.append(not few and self._straight(indptr, self.tokens[level], self.sizes[level]))
        return tuple(found)

    def _straight(self, indptr: Tensor, tokens: Tensor, size: int) -> bool:
        ends = indptr[1:].long()
        if len(tokens) == size * len(ends):
            return True
        last = tokens.take(ends - 1).long()  # codes ascend: they are 0, 1, ... where the last is their number less one
        return bool(((last & 0xFFFF if tokens.dtype == torch.int16 else last) == ends - indptr[:-1] - 1).all())

    def leaves_below(self, nodes: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Return the first leaf below each of int64 [M] `nodes` of `level`, and the first one after them."""
        ends = torch.stack([nodes, nodes + 1])
        for indptr in self.indptr[level:]:
            ends = indptr.take(ends).long()
        return ends[0], ends[1]

    def codes(self, level: int, nodes: Tensor) -> Tensor:
        """Return the code int64 that leads from `level` to each of `nodes` of the level below it."""
        found = self.tokens[level].take(nodes).long()
        return found & 0xFFFF if self.tokens[level].dtype == torch.int16 and self.sizes[level] > 1 << 15 else found

    def parents(self, level: int, nodes: Tensor) -> Tensor:
        """Return the node int64 of `level` above each of `nodes` of the level below it."""
        indptr = self.indptr[level]
        return torch.searchsorted(indptr, nodes.to(indptr.dtype), right=True) - 1

    def leaves(self, items: Tensor) -> Tensor:
        """Return the leaf int64 of each of int64 [M] item rows.

        Raises
        ------
        DataError
            A row that the trie does not hold.
        """
        rows = self._leaf_of
        known = (items >= 0) & (items < len(rows))
        leaf = rows[items.clamp(0, len(rows) - 1)].long()
        bad = torch.nonzero(~known | (leaf < 0))
        if len(bad):
            raise DataError(
                "an item is not in the trie",
                where=f"item row {int(items[bad[0, 0]])}",
                expected="rows of the catalogue that the trie was built or restricted to",
                got=f"{len(bad)} such items",
            )
        return leaf

    @cached_property
    def _leaf_of(self) -> Tensor:
        """Item row -> leaf, -1 where there is none; made when first needed, 4 bytes an item row."""
        rows = torch.full((int(self.items.max()) + 1,), -1, dtype=self.items.dtype, device=self.device)
        rows[self.items.long()] = torch.arange(len(self), dtype=self.items.dtype, device=self.device)
        return rows

"""Embeddings of one stream's codes, and their logits: tied, and for each path where there are few paths.

The released code of EAGER gives code c2 below c1 the embedding k c1 + c2 + k, and a softmax over the children of c1:
a softmax over a tree, whose every outcome is an item.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

START, SUMMARY, HIDDEN = range(3)
"""Rows of the special tokens: start of an ID, [SUM], a code that is hidden."""


class CodeTables(nn.Module):
    """Embedding tables of the codes of an ID, one a level.

    Parameters
    ----------
    sizes
        Codes of each level, [L].
    dim
        D.
    path_limit
        A level has a row for each path down to it (`by_path`) where these are at most so many, else one for each
        code.
    """

    def __init__(self, sizes: Sequence[int], dim: int, path_limit: int) -> None:
        super().__init__()
        self.sizes = tuple(int(size) for size in sizes)
        paths, rows, by_path = 1, [], []
        for size in self.sizes:
            paths *= size
            by_path.append(paths <= path_limit)
            rows.append(paths if by_path[-1] else size)
        self.by_path = tuple(by_path)
        self.tables = nn.ModuleList(nn.Embedding(count, dim) for count in rows)
        self.special = nn.Embedding(3, dim)

    @property
    def levels(self) -> int:
        """L."""
        return len(self.sizes)

    def table(self, level: int) -> Tensor:
        """Return the embeddings of a level: [rows, D]."""
        table = self.tables[level]
        assert isinstance(table, nn.Embedding)  # noqa: S101 - as they were made
        return table.weight

    def rows(self, codes: Tensor) -> Tensor:
        """Return the table row of each code of int64 [..., L]."""
        found, row = [], torch.zeros_like(codes[..., 0])
        for level in range(self.levels):
            row = self.next_rows(row, codes[..., level], level)
            found.append(row)
        return torch.stack(found, dim=-1)

    def next_rows(self, above: Tensor, codes: Tensor, level: int) -> Tensor:
        """Return the rows of `codes` of a level, below rows `above` of the level before (anything at level 0)."""
        if not self.by_path[level] or level == 0:
            return codes
        return above * self.sizes[level] + codes

    def embed(self, rows: Tensor) -> Tensor:
        """Return [..., L, D], the embeddings of rows int64 [..., L]."""
        return torch.stack([self.embed_level(rows[..., level], level) for level in range(self.levels)], dim=-2)

    def embed_level(self, rows: Tensor, level: int) -> Tensor:
        """Return [..., D], the embeddings of rows of one level."""
        return functional.embedding(rows, self.table(level))

    def token(self, which: int) -> Tensor:
        """Return [D], a special token's embedding."""
        return self.special.weight[which]

    def logits(self, states: Tensor, level: int, above: Tensor) -> Tensor:
        """Return the logits [n, sizes[level]] of the next code from states [n, D].

        `above`: int64 [n], the row of the code before; read where the level has a row for each path.
        """
        table = self.table(level)
        if level == 0 or not self.by_path[level]:
            return functional.linear(states, table)
        return child_logits(states, table.view(-1, self.sizes[level], table.shape[1]), above)


def child_logits(states: Tensor, children: Tensor, parents: Tensor) -> Tensor:
    """Return [n, K]: the product of each state [n, D] with the K children of its parent in [P, K, D].

    States of one parent are multiplied at once, so that the children are not copied for each state.
    """
    if not len(states):
        return states.new_zeros(0, children.shape[1])
    order = torch.argsort(parents, stable=True)
    found, group, counts = torch.unique_consecutive(parents[order], return_inverse=True, return_counts=True)
    width = int(counts.max())
    start = torch.cumsum(counts, 0) - counts
    place = group * width + torch.arange(len(order), device=states.device) - start[group]
    wide = states.new_zeros(len(found) * width, states.shape[1])
    wide = wide.index_copy(0, place, states.index_select(0, order)).view(len(found), width, -1)
    product = torch.bmm(wide, children.index_select(0, found).transpose(1, 2).to(wide.dtype))
    back = torch.empty_like(place).scatter_(0, order, place)
    return product.flatten(0, 1).index_select(0, back)

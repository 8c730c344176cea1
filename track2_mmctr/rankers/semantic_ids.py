"""Semantic IDs as a feature: learnt embeddings of codes, or of code prefixes, in every neural ranker's item vector."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import ConfigError
from track2_mmctr.config import SidConfig
from track2_mmctr.datasets.semantic_ids import SemanticIds
from track2_mmctr.rankers.embedding import Embedding


class SemanticIdEmbedding(nn.Module):
    """Learnt vectors of an item's codes: their mean or sum [d], or one after the other [L · d].

    By level, code c of level l has a vector of its own: items share it whatever their other codes are. By prefix
    (c_1 .. c_l) has one: what is learnt of a code depends on its parents, as in a tree (Singh et al., "Better
    generalization with semantic IDs", RecSys 2024). Which codes an item has is data and no part of a checkpoint.

    Attributes
    ----------
    fields
        Widths of the parts of the result.
    dim
        Their sum.
    upto
        Read the first so many levels only; None = all.
    """

    rows: Tensor

    def __init__(self, config: SidConfig, ids: SemanticIds, dim: int) -> None:
        super().__init__()
        numbers, count = table_rows(ids.codes, ids.sizes, config)
        self.register_buffer("rows", torch.from_numpy(numbers), persistent=False)
        self.table = Embedding(count, dim)
        self.combine = config.combine
        self.upto: int | None = None
        self.fields = [dim] * (numbers.shape[1] if config.combine == "concat" else 1)
        self.dim = sum(self.fields)

    def forward(self, items: Tensor) -> Tensor:
        """Return the vectors of item ids [U] as float32 [U, dim]; the padding item's are zeros."""
        learnt = self.table(self.rows[items, : self.upto])
        if self.combine == "sum":
            return learnt.sum(1)
        return learnt.mean(1) if self.combine == "mean" else learnt.flatten(1)


def table_rows(codes: np.ndarray, sizes: tuple[int, ...], config: SidConfig) -> tuple[np.ndarray, int]:
    """Return each item's rows in one table for all levels, int32 [N, L], and how many rows the table has.

    Row 0 of both is the padding's. By level a level has as many rows as codes. By prefix it has one for each prefix
    that an item has, or `config.buckets`, into which prefixes are hashed.

    Raises
    ------
    ConfigError
        `buckets` without prefixes.
    """
    if config.buckets and config.by == "level":
        raise ConfigError(
            "buckets are for prefixes: codes of a level have a row each",
            where="features.sid.buckets",
            expected=0,
            got=config.buckets,
            todo="--set features.sid.by=prefix",
        )
    found = np.zeros(codes.shape, np.int32)
    first = 1
    for level, size in enumerate(sizes):
        if config.by == "level":
            number, count = codes[1:, level], size
        elif config.buckets:
            number, count = hashed(codes[1:, : level + 1]) % np.uint64(config.buckets), config.buckets
        else:
            prefixes, number = np.unique(codes[1:, : level + 1], axis=0, return_inverse=True)
            number, count = number.reshape(-1), len(prefixes)
        found[1:, level] = number.astype(np.int64) + first
        first += count
    return found, first


def hashed(prefixes: np.ndarray) -> np.ndarray:
    """Return a 64-bit number for each row of prefixes [N, l], uint64 [N]; the same on every machine."""
    state = np.full(len(prefixes), prefixes.shape[1], np.uint64)
    for column in prefixes.T.astype(np.uint64):
        state = (state ^ column) * np.uint64(0x9E3779B97F4A7C15)  # wraps: multiplication modulo 2^64
        state ^= state >> np.uint64(32)
    return state

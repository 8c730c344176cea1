"""Learnt biases of attention by distance in items, as TIGER's and EAGER's encoders and decoders have them.

A memory has a first token that belongs to no item (place -1), so that an empty history has a memory; its bias is one of
its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def buckets(most: int) -> int:
    """Return the number of bias buckets for histories of `most` items."""
    return 2 * most + 4


def bucket(ahead: Tensor, key: Tensor, most: int) -> Tensor:
    """Return the bias bucket of distances in items, query less key; keys of no item (below 0) have one of their own."""
    reach = most + 1
    return torch.where(key < 0, 2 * reach + 1, ahead.clamp(-reach, reach) + reach)


def distance_bias(table: nn.Embedding, query: Tensor, key: Tensor, most: int) -> Tensor:
    """Return float [heads, T, S]: the bias between places of queries [T] and of memory tokens [S]."""
    return table(bucket(query[:, None] - key[None, :], key[None, :], most)).permute(2, 0, 1)

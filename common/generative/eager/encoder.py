"""The encoder of histories: one token an item behind a token of its own, biases by distance in items.

As TIGER's with `history: items`, with item embeddings in place of codes'.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.generative.distances import buckets, distance_bias
from common.generative.eager.config import EagerConfig
from common.generative.layers import Encoder


class HistoryEncoder(nn.Module):
    """Reads item vectors [B, T, D] and gives the memory [B, T + 1, D] that decoders attend to.

    The first token belongs to no item, so that an empty history has a memory.
    """

    def __init__(self, config: EagerConfig) -> None:
        super().__init__()
        self.config = config
        self.first = nn.Embedding(1, config.dim)
        self.layers = Encoder(config)
        self.bias = nn.Embedding(buckets(config.max_items), config.heads)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, items: Tensor, mask: Tensor) -> Tensor:
        """Return the memory of item vectors [B, T, D], of which bool `mask` [B, T] are real, padding at the end."""
        x = self.dropout(torch.cat([self.first.weight[None].expand(len(items), 1, -1), items], dim=1))
        of = places(items.shape[1], x.device)
        bias = distance_bias(self.bias, of, of, self.config.max_items)
        if self.config.attention == "causal":  # nothing real sees the padding, which is at the end
            return self.layers(x, None, bias.masked_fill(of[None, :] > of[:, None], float("-inf")))
        return self.layers(x, memory_mask(mask), bias)


def places(width: int, device: torch.device) -> Tensor:
    """Return int64 [width + 1]: the item of each memory token, -1 for the first."""
    return torch.arange(-1, width, device=device)


def memory_mask(mask: Tensor) -> Tensor:
    """Return bool [B, 1, 1, T + 1]: which memory tokens of histories with `mask` [B, T] are real."""
    return torch.cat([mask.new_ones(len(mask), 1), mask], dim=1)[:, None, None, :]

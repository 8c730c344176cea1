"""CART's decoder-only arm: the query is the prefix of one causal sequence, and the codes of the ID follow it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.generative.layers import Attention, EncoderLayer, KeysValues, TransformerConfig


class PrefixCache:
    """Keys and values of decoding: a layer's prefix, one row a query, and its codes so far, one row a hypothesis."""

    def __init__(self, prefix: list[KeysValues], mask: Tensor) -> None:
        self.prefix, self.mask = prefix, mask
        self.own: list[KeysValues | None] = [None] * len(prefix)
        self.rows: Tensor | None = None

    def place(self, queries: Tensor) -> None:
        """Say which query each row belongs to, int64 [R]."""
        self.rows = queries

    def reorder(self, parents: Tensor) -> None:
        """Let row r continue row `parents[r]` (int64 [R]) of the step before."""
        self.own = [None if kept is None else (kept[0][parents], kept[1][parents]) for kept in self.own]

    def attend(self, attention: Attention, x: Tensor, layer: int) -> Tensor:
        """Append x [R, D] to the layer's codes and return its attention [R, D] to the prefix and to the codes."""
        assert self.rows is not None  # noqa: S101 - `place` was called
        new, kept = attention.keys_values(x[:, None]), self.own[layer]
        own = new if kept is None else (torch.cat([kept[0], new[0]], 2), torch.cat([kept[1], new[1]], 2))
        self.own[layer] = own
        key, value = (torch.cat([self.prefix[layer][at][self.rows], own[at]], dim=2) for at in (0, 1))
        seen = torch.cat([self.mask[self.rows], self.mask.new_ones(len(x), own[0].shape[2])], dim=1)
        return attention(x[:, None], mask=seen[:, None, None], cache=(key, value))[:, 0]


class PrefixDecoder(nn.Module):
    """A causal language model: token t of the query sees those before it; a code sees the query and earlier codes."""

    def __init__(self, config: TransformerConfig, layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(EncoderLayer(config) for _ in range(layers))
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor, states: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Map codes [B, L, D] behind queries `states[-1]` [B, T, D] to [B, L, D], teacher-forced; `mask` as there."""
        both = torch.cat([states[-1], x], dim=1)
        seen = torch.cat([mask, mask.new_ones(x.shape[:2])], dim=1)
        causal = torch.ones(both.shape[1], both.shape[1], dtype=torch.bool, device=x.device).tril()
        allowed = causal[None] & seen[:, None]
        for block in self.blocks:
            both = block(both, allowed[:, None])
        return self.norm(both[:, states[-1].shape[1] :])

    def start(self, states: Sequence[Tensor], mask: Tensor) -> PrefixCache:
        """Return the cache of decoding for Q queries."""
        x = states[-1]
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        allowed = (causal[None] & mask[:, None])[:, None]
        prefix: list[KeysValues] = []
        for block in self._all():
            prefix.append(block.attention.keys_values(block.attention_norm(x)))
            x = block(x, allowed)
        return PrefixCache(prefix, mask)

    def step(self, x: Tensor, cache: PrefixCache) -> Tensor:
        """Map the newest code of each hypothesis, [R, D], to [R, D]; `cache.place` was called for these rows."""
        for number, block in enumerate(self._all()):
            x = x + cache.attend(block.attention, block.attention_norm(x), number)
            x = x + block.feedforward(block.feedforward_norm(x))
        return self.norm(x)

    def _all(self) -> Sequence[EncoderLayer]:
        return list(self.blocks)  # pyright: ignore[reportReturnType]

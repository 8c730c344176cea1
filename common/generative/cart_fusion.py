"""CART's decoder: it attends to all layers of the query encoder, fused coarsely and finely (ACL 2025, section 3.3).

Coarse: the layers' outputs are mixed into one memory, attended and gated. Fine: each layer is attended by itself, and
a gate that sees query and answer weighs it, as in the Meshed-Memory Transformer (Cornia et al., CVPR 2020, eq. 6).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from common.generative.layers import (
    Attention,
    DecoderCache,
    FeedForward,
    KeysValues,
    TransformerConfig,
    attend_memory,
)

Fusion = Literal["both", "coarse", "fine", "none"]


class FusionLayer(nn.Module):
    """Pre-norm self-attention, fused cross-attention, feed-forward; residual connections.

    Parameters
    ----------
    config
        Size of the layer.
    fusion
        coarse: A = C(y, Z), answer sigmoid(W A) * A. fine: sum_i alpha_i * C'(y, E_i) with
        alpha_i = sigmoid(W_i [y; C'(y, E_i)]), C' shared by the encoder's layers. both: their sum. none: plain
        cross-attention to the last layer, as in any encoder-decoder.
    layers
        S, the number of encoder layers.
    """

    def __init__(self, config: TransformerConfig, fusion: Fusion, layers: int) -> None:
        super().__init__()
        dim, heads, dropout = config.dim, config.heads, config.dropout
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, dropout)
        self.cross_norm = nn.LayerNorm(dim)
        self.coarse = Attention(dim, heads, dropout) if fusion != "fine" else None
        self.gate = nn.Linear(dim, dim) if fusion in ("both", "coarse") else None
        self.fine = Attention(dim, heads, dropout) if fusion in ("both", "fine") else None
        count = layers if self.fine is not None else 0
        self.alphas = nn.ModuleList(nn.Linear(2 * dim, dim) for _ in range(count))
        self.feedforward_norm = nn.LayerNorm(dim)
        self.feedforward = FeedForward(dim, config.feedforward)
        self.dropout = nn.Dropout(dropout)

    def sources(self, mixed: Tensor, states: Sequence[Tensor]) -> list[KeysValues]:
        """Return keys and values of what is attended: the mixed memory (or last layer), then each layer [B, T, D]."""
        kept = [] if self.coarse is None else [self.coarse.keys_values(mixed)]
        return kept if self.fine is None else kept + [self.fine.keys_values(state) for state in states]

    def forward(self, x: Tensor, sources: list[KeysValues], mask: Tensor) -> Tensor:
        """Map codes [B, L, D], each of which sees those before it, to [B, L, D]; `mask` bool [B, 1, 1, T]."""
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        x = x + self.dropout(self.attention(self.attention_norm(x), mask=causal))
        y = self.cross_norm(x)
        x = x + self.dropout(self._fused(y, lambda attention, place: attention(y, mask=mask, cache=sources[place])))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))

    def step(self, x: Tensor, cache: DecoderCache, layer: int, first: int) -> Tensor:
        """Map one new code of each hypothesis, [R, D], to [R, D]; this layer's sources begin at `first`."""
        normed = self.attention_norm(x)[:, None]
        own = cache.extend(layer, self.attention.keys_values(normed))
        x = x + self.attention(normed, cache=own)[:, 0]
        y = self.cross_norm(x)
        x = x + self._fused(y, lambda attention, place: attend_memory(attention, y, cache, first + place))
        return x + self.feedforward(self.feedforward_norm(x))

    def _fused(self, y: Tensor, attend: Callable[[Attention, int], Tensor]) -> Tensor:
        """Return the sum of the answers to `y` [..., D]; `attend` asks the source of a place."""
        total, place = torch.zeros_like(y), 0
        if self.coarse is not None:
            answer = attend(self.coarse, place)
            total, place = total + (answer if self.gate is None else torch.sigmoid(self.gate(answer)) * answer), 1
        if self.fine is not None:
            for number, alpha in enumerate(self.alphas):
                answer = attend(self.fine, place + number)
                total = total + torch.sigmoid(alpha(torch.cat([y, answer], dim=-1))) * answer
        return total


class FusionDecoder(nn.Module):
    """A stack of fusion layers with a norm at its end, over the S layers of a query encoder.

    Z = W [E_1; ...; E_S] + b is computed once and shared by the decoder's layers.
    """

    def __init__(self, config: TransformerConfig, fusion: Fusion, layers: int) -> None:
        super().__init__()
        mixes = fusion in ("both", "coarse")
        self.mix = nn.Linear(layers * config.dim, config.dim) if mixes else None
        self.blocks = nn.ModuleList(FusionLayer(config, fusion, layers) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor, states: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Map codes [B, L, D] to [B, L, D], teacher-forced.

        Parameters
        ----------
        states
            E_1, ..., E_S, each [B, T, D].
        mask
            Bool [B, T], True = a real token of the query.
        """
        mixed = self._mixed(states)
        for block in self._all():
            x = block(x, block.sources(mixed, states), mask[:, None, None])
        return self.norm(x)

    def start(self, states: Sequence[Tensor], mask: Tensor) -> DecoderCache:
        """Return the cache of decoding for Q queries: the keys and values of all that will be attended."""
        mixed = self._mixed(states)
        memory = [kept for block in self._all() for kept in block.sources(mixed, states)]
        return DecoderCache(memory, mask[:, None, None])

    def step(self, x: Tensor, cache: DecoderCache) -> Tensor:
        """Map the newest code of each hypothesis, [R, D], to [R, D]; `cache.place` was called for these rows."""
        each = len(cache.memory) // len(self.blocks)
        for number, block in enumerate(self._all()):
            x = block.step(x, cache, number, number * each)
        return self.norm(x)

    def _mixed(self, states: Sequence[Tensor]) -> Tensor:
        return states[-1] if self.mix is None else self.mix(torch.cat(list(states), dim=-1))

    def _all(self) -> Sequence[FusionLayer]:
        return list(self.blocks)  # pyright: ignore[reportReturnType]

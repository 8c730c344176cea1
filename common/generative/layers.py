"""Transformer layers of the generators: attention, pre-norm blocks, and the key/value cache of decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from common.config import Config

KeysValues = tuple[Tensor, Tensor]
"""Keys and values, each [B, heads, S, D / heads]."""


class TransformerConfig(Config):
    """The size of an encoder-decoder (encoder_layers = 0 or decoder_layers = 0 for one half alone)."""

    dim: int = Field(default=128, gt=0)
    heads: int = Field(default=4, gt=0)
    feedforward: int = Field(default=512, gt=0, description="width inside the feed-forward blocks")
    encoder_layers: int = Field(default=2, ge=0)
    decoder_layers: int = Field(default=2, ge=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> TransformerConfig:
        if self.dim % self.heads:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads})")
        return self


class Attention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, section 3.2) without biases, as in T5."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def keys_values(self, memory: Tensor) -> KeysValues:
        """Return the keys and values of [B, S, D]: what a cache keeps."""
        batch, length, dim = memory.shape
        both = self.key_value(memory).view(batch, length, 2, self.heads, dim // self.heads)
        return both[:, :, 0].transpose(1, 2), both[:, :, 1].transpose(1, 2)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        mask: Tensor | None = None,
        cache: KeysValues | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Attend from each position of `x` to those of `memory`.

        Parameters
        ----------
        x
            [B, T, D].
        memory
            [B, S, D]; None: `x` itself.
        mask
            Bool, broadcastable to [B, heads, T, S]: True = may attend. A row without True gives NaN.
        cache
            Keys and values to use in place of those of `memory`.
        bias
            Float, broadcastable to [B, heads, T, S]: added to the scores (T5's relative position bias).

        Returns
        -------
        Tensor
            [B, T, D].
        """
        batch, length, dim = x.shape
        query = self.query(x).view(batch, length, self.heads, dim // self.heads).transpose(1, 2)
        key, value = self.keys_values(x if memory is None else memory) if cache is None else cache
        allowed = mask
        if bias is not None:
            allowed = bias if mask is None else bias.masked_fill(~mask, float("-inf"))
            allowed = allowed.to(query.dtype)
        if allowed is not None and allowed.ndim == 3:
            allowed = allowed[None]  # of four dimensions torch has a faster kernel
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=allowed, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out(mixed.transpose(1, 2).reshape(batch, length, dim))


class FeedForward(nn.Module):
    """Two linear maps with a GELU between them; dropout inside."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        return self.down(self.dropout(functional.gelu(self.up(x))))


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and feed-forward, each with a residual connection.

    Dropout acts on what each adds and on the attention's weights; inside the feed-forward block it would draw more
    random numbers than all the rest, a tenth of a step's time.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.dim)
        self.attention = Attention(config.dim, config.heads, config.dropout)
        self.feedforward_norm = nn.LayerNorm(config.dim)
        self.feedforward = FeedForward(config.dim, config.feedforward)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Map [B, T, D] to [B, T, D]; `mask` and `bias` as in `Attention`."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask=mask, bias=bias))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))


@dataclass
class DecoderCache:
    """What decoding keeps between steps, so that no step computes anything twice.

    Attributes
    ----------
    memory
        A layer: keys and values of the encoder's output, one row a query: [Q, heads, S, D / heads].
    mask
        Which memory positions are real: bool, broadcastable to [Q, 1 or heads, 1, S]; None = all.
    bias
        Added to the cross-attention's scores, broadcastable likewise; None = nothing.
    own
        A layer: keys and values of the codes so far, one row a hypothesis: [R, heads, level, D / heads].
    rows, slots, width
        The query of each hypothesis and its place among that query's hypotheses, int64 [R]; most of one query.
    """

    memory: list[KeysValues]
    mask: Tensor | None = None
    bias: Tensor | None = None
    own: list[KeysValues | None] = field(default_factory=list)
    rows: Tensor | None = None
    slots: Tensor | None = None
    width: int = 0

    @property
    def queries(self) -> int:
        """Q."""
        return self.memory[0][0].shape[0]

    def reorder(self, parents: Tensor) -> None:
        """Let row r continue row `parents[r]` (int64 [R]) of the step before."""
        self.own = [
            None if kept is None else (kept[0].index_select(0, parents), kept[1].index_select(0, parents))
            for kept in self.own
        ]

    def place(self, queries: Tensor) -> None:
        """Say which query each row belongs to (int64 [R]): rows of one query share its memory without a copy."""
        order = torch.argsort(queries, stable=True)
        counts = torch.bincount(queries, minlength=self.queries)
        starts = torch.cumsum(counts, 0) - counts
        slots = torch.empty_like(queries)
        slots[order] = torch.arange(len(queries), device=queries.device) - starts[queries[order]]
        self.rows, self.slots, self.width = queries, slots, int(counts.max()) if len(queries) else 0

    def extend(self, layer: int, new: KeysValues) -> KeysValues:
        """Append one step's keys and values [R, heads, 1, D / heads] of a layer; return all of them."""
        while len(self.own) <= layer:
            self.own.append(None)
        kept = self.own[layer]
        both = new if kept is None else (torch.cat([kept[0], new[0]], 2), torch.cat([kept[1], new[1]], 2))
        self.own[layer] = both
        return both


class DecoderLayer(nn.Module):
    """Pre-norm self-attention, cross-attention to the encoder's output, feed-forward; residual connections."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.dim)
        self.attention = Attention(config.dim, config.heads, config.dropout)
        self.cross_norm = nn.LayerNorm(config.dim)
        self.cross = Attention(config.dim, config.heads, config.dropout)
        self.feedforward_norm = nn.LayerNorm(config.dim)
        self.feedforward = FeedForward(config.dim, config.feedforward)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        memory_mask: Tensor | None = None,
        memory_bias: Tensor | None = None,
    ) -> Tensor:
        """Map the codes of targets [B, N, L, D] to [B, N, L, D], teacher-forced.

        The L codes of one target see those before them; the N targets of a row do not see each other, and share
        the row's memory.

        Parameters
        ----------
        memory
            [B, S, D].
        memory_mask, memory_bias
            As `mask` and `bias` of `Attention`, broadcastable to [B, heads, N * L, S].
        """
        batch, targets, levels, dim = x.shape
        flat = self.attention_norm(x).view(batch * targets, levels, dim)
        causal = torch.ones(levels, levels, dtype=torch.bool, device=x.device).tril()
        x = x + self.dropout(self.attention(flat, mask=causal).view_as(x))
        wide = self.cross_norm(x).view(batch, targets * levels, dim)
        x = x + self.dropout(self.cross(wide, memory, mask=memory_mask, bias=memory_bias).view_as(x))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))

    def step(self, x: Tensor, cache: DecoderCache, layer: int) -> Tensor:
        """Map one new code of each hypothesis, [R, D], to [R, D]; `cache.place` was called for these rows."""
        normed = self.attention_norm(x)[:, None]
        own = cache.extend(layer, self.attention.keys_values(normed))
        x = x + self.attention(normed, cache=own)[:, 0]
        x = x + attend_memory(self.cross, self.cross_norm(x), cache, layer)
        return x + self.feedforward(self.feedforward_norm(x))


def attend_memory(attention: Attention, x: Tensor, cache: DecoderCache, layer: int) -> Tensor:
    """Return the cross-attention [R, D] of hypotheses [R, D] to their queries' memory, which is not copied."""
    assert cache.rows is not None and cache.slots is not None  # noqa: S101 - `place` was called
    wide = x.new_zeros(cache.queries, cache.width, x.shape[1])
    wide[cache.rows, cache.slots] = x
    mixed = attention(wide, mask=cache.mask, cache=cache.memory[layer], bias=cache.bias)
    return mixed[cache.rows, cache.slots]


class Decoder(nn.Module):
    """A stack of decoder layers with a norm at its end."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(config.dim)

    def forward(
        self, x: Tensor, memory: Tensor, memory_mask: Tensor | None = None, memory_bias: Tensor | None = None
    ) -> Tensor:
        """Map [B, N, L, D] to [B, N, L, D]; see `DecoderLayer.forward`."""
        for layer in self.layers:
            x = layer(x, memory, memory_mask, memory_bias)
        return self.norm(x)

    def start(self, memory: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> DecoderCache:
        """Return the cache for queries whose encoder outputs are [Q, S, D]."""
        return DecoderCache([layer.cross.keys_values(memory) for layer in self._all()], mask, bias)

    def step(self, x: Tensor, cache: DecoderCache) -> Tensor:
        """Map the newest code of each hypothesis, [R, D], to [R, D]."""
        for number, layer in enumerate(self._all()):
            x = layer.step(x, cache, number)
        return self.norm(x)

    def _all(self) -> Sequence[DecoderLayer]:
        return list(self.layers)  # pyright: ignore[reportReturnType]


class Encoder(nn.Module):
    """A stack of encoder layers with a norm at its end."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Map [B, T, D] to [B, T, D]; `mask` and `bias` as in `Attention`."""
        return self.norm(self.each(x, mask, bias)[-1])

    def each(self, x: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> list[Tensor]:
        """Return the output of every layer, without the last norm: E_0 (the input), E_1, ..., E_S."""
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1], mask, bias))
        return outputs

"""Layers that several rankers share. Initialisation is FuxiCTR's: Linear xavier-normal with zero bias."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from track2_mmctr.batches import Batch, Block
from track2_mmctr.rankers.attend import attend_rows
from track2_mmctr.rankers.dropout import Dropout
from track2_mmctr.rankers.packed import look_up, pool, spread


def init_linear(module: nn.Module) -> None:
    """Initialise every `nn.Linear` below `module` as FuxiCTR does: xavier-normal weights, zero biases."""
    for layer in module.modules():
        if type(layer) is nn.Linear:
            nn.init.xavier_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Mlp(nn.Sequential):
    """[Linear, BatchNorm1d, ReLU, Dropout] for each of `units`, then a Linear to `out` when it is given."""

    def __init__(
        self,
        inputs: int,
        units: Sequence[int],
        *,
        out: int | None = None,
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        layers: list[nn.Module] = []
        for width in units:
            layers.append(nn.Linear(inputs, width))
            if batch_norm:
                layers.append(nn.BatchNorm1d(width))
            layers.append(nn.ReLU())
            if dropout:
                layers.append(Dropout(dropout))
            inputs = width
        if out is not None:
            layers.append(nn.Linear(inputs, out))
            inputs = out
        super().__init__(*layers)
        self.out_dim = inputs


def rectangles(tokens: Tensor, blocks: Sequence[Block]) -> list[Tensor]:
    """Return the tokens [T, ...] as one [rows, length, ...] for each block.

    One `split` rather than slices, whose backward pass would fill a [T, ...] with zeros for every block.
    """
    parts = tokens.split([block.rows * block.length for block in blocks])
    return [part.unflatten(0, (block.rows, block.length)) for part, block in zip(parts, blocks, strict=True)]


def token_softmax(scores: Tensor, batch: Batch) -> Tensor:
    """Softmax of token scores [T, ...] over each row's own history, [T, ...]."""
    return torch.cat([part.softmax(1).flatten(0, 1) for part in rectangles(scores, batch.blocks)])


class TargetAttention(nn.Module):
    """Multi-head target attention over a history without padding (FuxiCTR's MultiHeadTargetAttention).

    softmax(W_q t · W_k h / sqrt(head size)) over each row's history, heads joined by W_o; no biases. A row without
    history gets zeros. Where heads are small, keys and values are computed once for each different item of the batch.
    Where they are not (`moved`), both maps are moved from the items to the rows, of which there are fewer: in a head,
    W_q t · W_k h = (W_kᵀ W_q t) · h and Σ a W_v h = W_v Σ a h.
    """

    def __init__(self, inputs: int, attention_dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if attention_dim % heads:
            raise ValueError(f"attention_dim {attention_dim} is not a multiple of {heads} heads")
        self.heads, self.head_dim = heads, attention_dim // heads
        self.moved = 2 * attention_dim > inputs
        self.query = nn.Linear(inputs, attention_dim, bias=False)
        self.key = nn.Linear(inputs, attention_dim, bias=False)
        self.value = nn.Linear(inputs, attention_dim, bias=False)
        self.output = nn.Linear(attention_dim, inputs, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, target: Tensor, vectors: Tensor, batch: Batch, tokens: Tensor | None = None) -> Tensor:
        """Return [B, inputs] of targets [B, inputs] and item vectors [U, inputs].

        `tokens` are the vectors of the history [T, inputs], where they are looked up already.
        """
        heads = (self._by_row if self.moved else self._by_item)(self.query(target), vectors, batch, tokens)
        return self.output(heads)

    def _by_item(self, query: Tensor, vectors: Tensor, batch: Batch, tokens: Tensor | None) -> Tensor:
        del tokens
        shape = (-1, self.heads, self.head_dim)
        scores = spread(query.view(shape), batch) * look_up(self.key(vectors).view(shape), batch)
        weights = self.dropout(token_softmax(scores.sum(-1) / self.head_dim**0.5, batch))
        value = self.value(vectors).view(shape)
        heads = [pool(value[:, h].contiguous(), batch, weights[:, h].contiguous()) for h in range(self.heads)]
        return torch.cat(heads, dim=1)

    def _by_row(self, query: Tensor, vectors: Tensor, batch: Batch, tokens: Tensor | None) -> Tensor:
        tokens = look_up(vectors, batch) if tokens is None else tokens
        maps = zip(query.split(self.head_dim, dim=1), self.key.weight.split(self.head_dim), strict=True)
        moved = torch.stack([part @ weight for part, weight in maps], dim=1)
        dropout = self.dropout.p if self.training else 0.0
        mixed = attend_rows(moved, tokens, batch.blocks, self.head_dim**-0.5, dropout)
        values = self.value.weight.split(self.head_dim)
        return torch.cat([functional.linear(mixed[:, h], weight) for h, weight in enumerate(values)], dim=1)

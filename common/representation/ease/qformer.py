"""The Q-Former: learned queries that read the frozen tokens of all modalities, and mean pooling as its control.

The idea is BLIP-2's (Li et al., ICML 2023), which EASE takes over: a fixed number of learned queries attend to
themselves and to the tokens of a frozen encoder. Sizes and the place of the norms are our own choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from common.config import Config
from common.representation.inputs import Items

Views = Mapping[str, tuple[Tensor, Tensor]]
"""By modality: tokens float32 [B, T, D] and mask bool [B, T], True = a real token."""


class QFormerConfig(Config):
    """Sizes of the token reader."""

    type: Literal["qformer", "mean"] = Field(
        default="qformer", description="mean: no queries; each modality's mean token through a linear map"
    )
    queries: int = Field(default=8, ge=1)
    width: int = Field(default=64, ge=1)
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    expansion: int = Field(default=4, ge=1, description="width of the feed-forward layer over `width`")
    dropout: float = Field(default=0.0, ge=0, lt=1)
    train_queries: bool = Field(default=True, description="False: the queries stay as they were drawn")

    @model_validator(mode="after")
    def _fits(self) -> QFormerConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class Standard(nn.Module):
    """Shift and scale tokens by the mean and deviation of those of training; kept with the weights."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.mean: Tensor
        self.scale: Tensor

    def measure(self, tokens: Tensor) -> None:
        """Take the statistics of real tokens [M, D]; a dimension that never changes is shifted only."""
        if not len(tokens):  # no item has this modality: there is nothing to take, and no token to use it on
            return
        self.mean.copy_(tokens.mean(0))
        spread = tokens.std(0, correction=0)
        self.scale.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens [..., D] standardised."""
        return (tokens - self.mean) / self.scale


class TokenReader(nn.Module):
    """What turns the tokens of an item into Z [B, n, d].

    Parameters
    ----------
    dims
        Width of the tokens of each modality.
    """

    def __init__(self, dims: Mapping[str, int], config: QFormerConfig) -> None:
        super().__init__()
        self.config, self.names = config, list(dims)
        self.standard = nn.ModuleDict({name: Standard(dim) for name, dim in dims.items()})
        self.project = nn.ModuleDict({name: nn.Linear(dim, config.width) for name, dim in dims.items()})
        self.outputs = len(dims)
        """n, the rows of Z."""

    def measure(self, items: Items) -> None:
        """Take the statistics of the tokens of training items."""
        for name in self.names:
            tokens = items.modalities[name]
            standard = self.standard[name]
            assert isinstance(standard, Standard)  # noqa: S101 - what __init__ made
            standard.measure(torch.from_numpy(tokens.values[tokens.mask]))

    def common(self, views: Views) -> dict[str, Tensor]:
        """Return the tokens of each modality at the common width, [B, T, width]."""
        return {name: self.project[name](self.standard[name](views[name][0])) for name in self.names}


class MeanReader(TokenReader):
    """The control without queries: Z has one row a modality, its mean token; an absent one's row is learnt."""

    def __init__(self, dims: Mapping[str, int], config: QFormerConfig) -> None:
        super().__init__(dims, config)
        self.absent = nn.Parameter(torch.randn(len(dims), config.width) * 0.02)

    def forward(self, views: Views) -> Tensor:
        """Return Z [B, modalities, width]."""
        rows = []
        for number, (name, tokens) in enumerate(self.common(views).items()):
            mask = views[name][1].unsqueeze(2)
            mean = torch.where(mask, tokens, 0).sum(1) / mask.sum(1).clamp(min=1)
            rows.append(torch.where(mask.any(1), mean, self.absent[number]))
        return torch.stack(rows, 1)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al., 2017) whose mask is True where a token is real."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return [B, n, width]: what x [B, n, width] reads in context [B, T, width] where mask [B, T] is True."""
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(x), self.key(context), self.value(context))
        )
        seen = None if mask is None else mask[:, None, None, :]
        read = F.scaled_dot_product_attention(q, k, v, seen, self.dropout if self.training else 0.0)
        return self.out(read.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Self-attention of the queries, cross-attention to the tokens, feed-forward; norms come first."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        width = config.width
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own = Attention(width, config.heads, config.dropout)
        self.cross = Attention(width, config.heads, config.dropout)
        wide = width * config.expansion
        self.feed = nn.Sequential(nn.Linear(width, wide), nn.GELU(), nn.Linear(wide, width))
        self.drop = nn.Dropout(config.dropout)

    def forward(self, z: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the queries z [B, n, width] after one layer over tokens [B, T, width]."""
        x = self.norms[0](z)
        z = z + self.drop(self.own(x, x))
        z = z + self.drop(self.cross(self.norms[1](z), tokens, mask))
        return z + self.drop(self.feed(self.norms[2](z)))


class QFormer(TokenReader):
    """Queries that read the tokens of all modalities at once.

    A token is projected to the common width and gets its modality's embedding, so that a query can tell an image's
    tokens from a text's. It gets none of its place: frozen encoders put that into their tokens. Each item needs one
    real token at least.
    """

    def __init__(self, dims: Mapping[str, int], config: QFormerConfig) -> None:
        super().__init__(dims, config)
        self.outputs = config.queries
        self.queries: Tensor
        drawn = torch.randn(config.queries, config.width)
        if config.train_queries:
            self.queries = nn.Parameter(drawn)
        else:  # a frozen parameter would not be saved
            self.register_buffer("queries", drawn)
        self.kinds = nn.Parameter(torch.randn(len(dims), config.width) * 0.02)
        self.norm_tokens = nn.LayerNorm(config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, views: Views) -> Tensor:
        """Return Z [B, queries, width]."""
        common = self.common(views)
        tokens = torch.cat([common[name] + self.kinds[k] for k, name in enumerate(self.names)], 1)
        mask = torch.cat([views[name][1] for name in self.names], 1)
        tokens = self.norm_tokens(tokens)
        z = self.queries.expand(len(tokens), -1, -1)
        for layer in self.layers:
            z = layer(z, tokens, mask)
        return self.norm(z)


def make_reader(dims: Mapping[str, int], config: QFormerConfig) -> QFormer | MeanReader:
    """Return the token reader of `config.type`."""
    return QFormer(dims, config) if config.type == "qformer" else MeanReader(dims, config)

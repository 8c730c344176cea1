"""The 1st place's ranker (team momo): a transformer over [history item ‖ target], then DCN-V2 beside an MLP."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import ConfigError
from track2_mmctr.batches import Batch, Block
from track2_mmctr.config import FeatureConfig, TransformerDcnConfig
from track2_mmctr.datasets.tables import ItemTable
from track2_mmctr.rankers.attend import attend
from track2_mmctr.rankers.base import Ranker
from track2_mmctr.rankers.cross import CrossNetV2
from track2_mmctr.rankers.dropout import Dropout
from track2_mmctr.rankers.features import ItemEncoder
from track2_mmctr.rankers.layers import Mlp, init_linear, rectangles
from track2_mmctr.rankers.packed import look_up, spread

Apply = Callable[[Tensor, Tensor], Tensor]
"""(weight [out, d], bias [out]) -> the linear map of all tokens, [T, out]."""


class PackedEncoder(nn.Module):
    """torch's `nn.TransformerEncoder` (post-norm, ReLU, no positions) over packed tokens, without padding or mask.

    `layers` are torch's own modules, so that weights are exchangeable; the computation is cheaper. With one head the
    score q_i · k_j = (W_q x_i + b_q) · (W_k x_j + b_k) is, up to terms that are equal for all j and vanish in the
    softmax, (W_kᵀ W_q x_i + W_kᵀ b_q) · x_j, and W_o Σ a v = Σ a (W_o W_v x + W_o b_v): two maps of a token instead
    of four. The first layer reads x_j = [h_j ‖ t], whose maps are computed once for each different item and once
    for each row; t being the same for all of a row, only h_j is left of the keys.
    """

    def __init__(self, dim: int, heads: int, feed_forward: int, layers: int, dropout: float) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(
                f"{heads} heads do not divide the token size", where="ranker.heads", expected=f"a divisor of {dim}"
            )
        self.heads = heads
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, heads, feed_forward, dropout, batch_first=True) for _ in range(layers)
        )
        for layer in self.layers:
            for name in ("dropout", "dropout1", "dropout2"):
                setattr(layer, name, Dropout(dropout))

    def forward(self, tokens: Tensor, blocks: Sequence[Block], first: int = 0) -> Tensor:
        """Return [T, d] of tokens [T, d], each attending to its own row; layers before `first` are left out."""
        for layer in list(self.layers)[first:]:
            tokens = self._layer(layer, tokens, tokens, blocks, lambda w, b, x=tokens: functional.linear(x, w, b))
        return tokens

    def pairs(self, vectors: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """Return [T, 2D] of the tokens [h_j ‖ t], from item vectors [U, D] and targets [B, D]."""
        dim = vectors.shape[1]
        keys = look_up(vectors, batch)
        tokens = torch.cat([keys, spread(target, batch)], dim=1)

        def apply(weight: Tensor, bias: Tensor) -> Tensor:
            by_item = functional.linear(vectors, weight[:, :dim])
            by_row = functional.linear(target, weight[:, dim:], bias)
            return look_up(by_item, batch) + spread(by_row, batch)

        tokens = self._layer(self.layers[0], tokens, keys, batch.blocks, apply)
        return self(tokens, batch.blocks, first=1)

    def _layer(self, layer: nn.Module, tokens: Tensor, keys: Tensor, blocks: Sequence[Block], apply: Apply) -> Tensor:
        assert isinstance(layer, nn.TransformerEncoderLayer)  # noqa: S101 - made in __init__
        mixed = self._attention(layer.self_attn, keys, blocks, apply)
        tokens = layer.norm1(tokens + layer.dropout1(mixed))
        hidden = layer.dropout(layer.linear1(tokens).relu())
        return layer.norm2(tokens + layer.dropout2(layer.linear2(hidden)))

    def _attention(
        self, attention: nn.MultiheadAttention, keys: Tensor, blocks: Sequence[Block], apply: Apply
    ) -> Tensor:
        weight, bias, out = attention.in_proj_weight, attention.in_proj_bias, attention.out_proj
        size = attention.embed_dim // self.heads
        scale = size**-0.5
        dropout = attention.dropout if self.training else 0.0
        if self.heads > 1:
            query, key, value = apply(weight, bias).view(-1, 3, self.heads, size).unbind(1)
            mixed = attend(query, key, value, blocks, scale, dropout)
            return functional.linear(mixed.flatten(1), out.weight, out.bias)
        w_q, w_k, w_v = weight.chunk(3)
        b_q, _, b_v = bias.chunk(3)
        w_k = w_k[:, : keys.shape[1]]
        query = apply(w_k.T @ w_q, w_k.T @ b_q)
        value = apply(out.weight @ w_v, out.weight @ b_v)
        return attend(query[:, None], keys[:, None], value[:, None], blocks, scale, dropout).squeeze(1) + out.bias


def newest(tokens: Tensor, batch: Batch, last: int) -> Tensor:
    """Return each row's `last` newest tokens as [B, last · d], zeros on the left where the history is shorter."""
    age = batch.offsets[1:][batch.row_of] - 1 - torch.arange(len(tokens), device=tokens.device)
    kept = (age < last).nonzero().squeeze(1)
    places = batch.row_of[kept] * last + (last - 1 - age[kept])
    window = tokens.new_zeros(len(batch) * last, tokens.shape[1])
    return window.index_copy(0, places, tokens[kept]).view(len(batch), -1)


def maximum(tokens: Tensor, batch: Batch) -> Tensor:
    """Return each row's elementwise maximum over its tokens, [B, d], zeros for an empty history."""
    parts = [
        part.amax(1) if part.shape[1] else part.new_zeros(part.shape[0], part.shape[2])
        for part in rectangles(tokens, batch.blocks)
    ]
    return torch.cat(parts)


class TransformerDcn(Ranker):
    """z = side ‖ similarity ‖ target ‖ newest outputs ‖ Linear(max of outputs); y = MLP(cross(z) ‖ MLP(z)).

    `mask: right` reads the history. `mask: inverted` is the published behaviour, in which real positions are ignored:
    the encoder sees the padding of the stored rectangle, `width` columns wide, where all tokens are [0 ‖ t]. Equal
    tokens stay equal in self-attention, so one token a row is computed and set where padding stood; if the history
    fills every column, that token is [last item ‖ t], in the last position. (In training, the published model drew
    dropout for each copy of that token; here the copies share it.) Inverted needs `data.max_len` >= `width` for
    the second case to occur.
    """

    def __init__(
        self,
        config: TransformerDcnConfig,
        features: FeatureConfig,
        items: ItemTable,
        encoder: ItemEncoder | None = None,
    ) -> None:
        super().__init__(features, items)
        self.config = config
        self.encoder = encoder or self.encoder
        dim = 2 * self.encoder.dim
        self.transformer = PackedEncoder(
            dim, config.heads, config.feed_forward, config.transformer_layers, config.transformer_dropout
        )
        self.pooled = nn.Linear(dim, dim)
        inputs = self.encoder.side_dim + self.encoder.dense_dim + self.encoder.dim + (config.last + 1) * dim
        self.cross = CrossNetV2(inputs, config.cross_layers, config.cross_rank)
        self.deep = Mlp(inputs, config.hidden_units, dropout=config.net_dropout, batch_norm=config.batch_norm)
        self.head = Mlp(inputs + self.deep.out_dim, config.head_units, out=1)
        init_linear(self)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B]."""
        vectors = self.encoder(batch.items)
        target = vectors[batch.target]
        window, top = (self._right if self.config.mask == "right" else self._inverted)(vectors, target, batch)
        parts = [self.encoder.side(batch), self.encoder.dense(batch), target, window, self.pooled(top)]
        z = torch.cat(parts, dim=1)
        return self.head(torch.cat([self.cross(z), self.deep(z)], dim=1)).squeeze(1)

    def _right(self, vectors: Tensor, target: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        outputs = self.transformer.pairs(vectors, target, batch)
        return newest(outputs, batch, self.config.last), maximum(outputs, batch)

    def _inverted(self, vectors: Tensor, target: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        last, width = self.config.last, self.config.width
        seen = self.encoder(batch.items.new_zeros(1)).expand_as(target)
        full = batch.lengths >= width
        if bool(full.any()):
            newest_item = batch.history[batch.offsets[1:] - 1]
            seen = torch.where(full[:, None], vectors[newest_item], seen)
        output = self.transformer(torch.cat([seen, target], dim=1), [Block(0, len(batch), 0, 1)])
        age = torch.arange(last - 1, -1, -1, device=target.device)
        padding = (age >= batch.lengths[:, None]) & (age < width)
        shown = torch.where(full[:, None], age == 0, padding)
        return (output[:, None] * shown[:, :, None]).flatten(1), output

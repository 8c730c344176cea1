"""Target cross-attention beside DIN pooling: the strongest public runs (GAV's DIN_att6, valid .985, test .989).

The item vector has the levels of every item, the history's too (`features.item_levels: true`): all runs above .984
do that. The encoder's query is the target, its keys and values are the history; each of the layers reads the same
history vectors: one query and one map of the result a row and head, and no key or value of an item. Departures from the
published model: no embedding of user_id (users of valid and test are not in train), attention without biases, and
an RMSNorm (Zhang & Sennrich 2019) after each residual sum, shared by the two halves of a layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from track2_mmctr.batches import Batch
from track2_mmctr.config import CrossAttentionConfig, FeatureConfig
from track2_mmctr.datasets.tables import ItemTable
from track2_mmctr.rankers.base import Ranker
from track2_mmctr.rankers.din import DinPooling
from track2_mmctr.rankers.dropout import Dropout
from track2_mmctr.rankers.layers import Mlp, TargetAttention, init_linear
from track2_mmctr.rankers.packed import look_up, mean_pool


class CrossAttentionLayer(nn.Module):
    """x ← norm(x + attention(x, history)); x ← norm(x + FFN(x)). A row without history gets no attention term."""

    def __init__(self, dim: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        attention_dim = max(1, dim // heads) * heads  # the item vector may not be a multiple of the heads
        self.attention = TargetAttention(dim, attention_dim, heads, dropout)
        self.feed_forward = Mlp(dim, [feed_forward], out=dim, dropout=dropout)
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        self.dropout = Dropout(dropout)

    def forward(self, state: Tensor, vectors: Tensor, batch: Batch, tokens: Tensor) -> Tensor:
        """Return the next state [B, D] of the targets, given vectors of items [U, D] and of history tokens [T, D]."""
        state = self.norm(state + self.dropout(self.attention(state, vectors, batch, tokens)))
        return self.norm(state + self.dropout(self.feed_forward(state)))


class CrossAttention(Ranker):
    """y = MLP(side ‖ similarities ‖ target ‖ cross-attention encoder ‖ DIN interest), and with `pooled` the mean."""

    def __init__(self, config: CrossAttentionConfig, features: FeatureConfig, items: ItemTable) -> None:
        super().__init__(features, items)
        dim, dropout = self.encoder.dim, config.attention_dropout
        self.layers = nn.ModuleList(
            CrossAttentionLayer(dim, config.heads, config.feed_forward, dropout) for _ in range(config.layers)
        )
        self.pooling = DinPooling(dim, config.din_units, dropout) if config.din_units else None
        self.pooled = config.pooled
        vectors = 2 + (self.pooling is not None) + 2 * config.pooled
        inputs = self.encoder.side_dim + self.encoder.dense_dim + vectors * dim
        self.head = Mlp(inputs, config.hidden_units, out=1, dropout=config.net_dropout, batch_norm=config.batch_norm)
        init_linear(self)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B]."""
        vectors = self.encoder(batch.items)
        target = vectors[batch.target]
        state, tokens = target, look_up(vectors, batch)
        for layer in self.layers:
            state = layer(state, vectors, batch, tokens)
        parts = [self.encoder.side(batch), self.encoder.dense(batch), target, state]
        if self.pooling is not None:
            parts.append(self.pooling(target, vectors, batch))
        if self.pooled:
            mean = mean_pool(vectors, batch)
            parts += [mean, mean * target]
        return self.head(torch.cat(parts, dim=1)).squeeze(1)

"""DIN, the organisers' baseline (Zhou et al., KDD 2018), with the layers and initialisation of its FuxiCTR version."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from track2_mmctr.batches import Batch
from track2_mmctr.config import DinConfig, FeatureConfig
from track2_mmctr.datasets.tables import ItemTable
from track2_mmctr.rankers.base import Ranker
from track2_mmctr.rankers.din_unit import attention_weights
from track2_mmctr.rankers.layers import Mlp, init_linear
from track2_mmctr.rankers.packed import pool


class DinPooling(nn.Module):
    """Attention unit of DIN: u = Σ_j MLP([t, h_j, t − h_j, t ⊙ h_j]) · h_j, without softmax.

    The first layer is computed in factors, W [t, h, t−h, t⊙h] = (W₁+W₃) t + (W₂−W₃) h + W₄ (t⊙h): the first
    term once a row, the second once for each different item of the batch, only the third for each token.
    """

    def __init__(self, dim: int, units: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.dim = dim
        self.first = nn.Linear(4 * dim, units[0])
        self.rest = Mlp(units[0], units[1:], out=1)
        self.dropout = dropout

    def forward(self, target: Tensor, vectors: Tensor, batch: Batch) -> Tensor:
        """Return [B, D] of targets [B, D] and item vectors [U, D]; zeros for an empty history."""
        return pool(vectors, batch, self.weights(target, vectors, batch))

    def weights(self, target: Tensor, vectors: Tensor, batch: Batch) -> Tensor:
        """Return the weight of each history token, [T]."""
        of_target, of_item, of_difference, of_product = self.first.weight.split(self.dim, dim=1)
        by_row = functional.linear(target, of_target + of_difference, self.first.bias)
        by_item = functional.linear(vectors, of_item - of_difference)
        layers = [parameter for layer in self.rest if isinstance(layer, nn.Linear) for parameter in layer.parameters()]
        dropout = self.dropout if self.training else 0.0
        return attention_weights(target, vectors, by_row, by_item, [of_product, *layers], batch, dropout)


class Din(Ranker):
    """y = MLP(side ‖ target ‖ attention-pooled history)."""

    def __init__(self, config: DinConfig, features: FeatureConfig, items: ItemTable) -> None:
        super().__init__(features, items)
        dim = self.encoder.dim
        self.attention = DinPooling(dim, config.attention_units, config.attention_dropout)
        inputs = self.encoder.side_dim + self.encoder.dense_dim + 2 * dim
        self.head = Mlp(inputs, config.hidden_units, out=1, dropout=config.net_dropout, batch_norm=config.batch_norm)
        init_linear(self)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B]."""
        vectors = self.encoder(batch.items)
        target = vectors[batch.target]
        interest = self.attention(target, vectors, batch)
        parts = [self.encoder.side(batch), self.encoder.dense(batch), target, interest]
        return self.head(torch.cat(parts, dim=1)).squeeze(1)

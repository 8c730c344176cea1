"""The 3rd place's ranker (jzzx.NTU): multi-head target attention, then DCN-Mix and an MLP in series.

u = MultiHeadTargetAttention(target, history); x₀ = side ‖ target ‖ u; six DCN-Mix layers (rank 32, four experts;
Wang et al., WWW 2021, section 4.2); MLP 1024 → 1024 → 1. The published code also builds a DIN attention that it
never calls, and that is left out here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from track2_mmctr.batches import Batch
from track2_mmctr.config import DinDcnConfig, FeatureConfig
from track2_mmctr.datasets.tables import ItemTable
from track2_mmctr.rankers.base import Ranker
from track2_mmctr.rankers.cross import CrossNetMix
from track2_mmctr.rankers.layers import Mlp, TargetAttention, init_linear


class DinDcn(Ranker):
    """y = MLP(CrossNetMix(side ‖ target ‖ attended history))."""

    def __init__(self, config: DinDcnConfig, features: FeatureConfig, items: ItemTable) -> None:
        super().__init__(features, items)
        dim = self.encoder.dim
        self.attention = TargetAttention(dim, config.attention_dim, config.heads, config.attention_dropout)
        inputs = self.encoder.side_dim + self.encoder.dense_dim + 2 * dim
        self.cross = CrossNetMix(inputs, config.cross_layers, config.rank, config.experts)
        self.head = Mlp(inputs, config.hidden_units, out=1, dropout=config.net_dropout, batch_norm=config.batch_norm)
        init_linear(self)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B]."""
        vectors = self.encoder(batch.items)
        target = vectors[batch.target]
        interest = self.attention(target, vectors, batch)
        x0 = torch.cat([self.encoder.side(batch), self.encoder.dense(batch), target, interest], dim=1)
        return self.head(self.cross(x0)).squeeze(1)

"""DCN-V2 and DCN-Mix (Wang et al., WWW 2021) over side ‖ target ‖ mean of history, beside an MLP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.errors import ConfigError
from track2_mmctr.batches import Batch
from track2_mmctr.config import DcnV2Config, FeatureConfig
from track2_mmctr.datasets.tables import ItemTable
from track2_mmctr.rankers.base import Ranker
from track2_mmctr.rankers.cross import CrossNetMix, CrossNetV2
from track2_mmctr.rankers.layers import Mlp, init_linear
from track2_mmctr.rankers.packed import mean_pool


class DcnV2(Ranker):
    """y = w · (cross(x) ‖ MLP(x)), x = side ‖ similarity ‖ target ‖ mean of history.

    Raises
    ------
    ConfigError
        `experts` without `rank`.
    """

    def __init__(self, config: DcnV2Config, features: FeatureConfig, items: ItemTable) -> None:
        super().__init__(features, items)
        inputs = self.encoder.side_dim + self.encoder.dense_dim + 2 * self.encoder.dim
        if config.experts and not config.rank:
            raise ConfigError(
                "experts are low-rank matrices", where="ranker.rank", expected="1 or more with experts", got="0"
            )
        if config.experts:
            self.cross = CrossNetMix(inputs, config.cross_layers, config.rank, config.experts)
        else:
            self.cross = CrossNetV2(inputs, config.cross_layers, config.rank)
        self.deep = Mlp(inputs, config.hidden_units, dropout=config.net_dropout, batch_norm=config.batch_norm)
        self.head = nn.Linear(inputs + self.deep.out_dim, 1)
        init_linear(self)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B]."""
        vectors = self.encoder(batch.items)
        history = mean_pool(vectors, batch)
        parts = [self.encoder.side(batch), self.encoder.dense(batch), vectors[batch.target], history]
        x = torch.cat(parts, dim=1)
        return self.head(torch.cat([self.cross(x), self.deep(x)], dim=1)).squeeze(1)

"""EDIT HERE: your own ranker.

Run it:             ./run_all.sh track2 --config my_ranker
Pass a value:       ./run_all.sh track2 --config my_ranker --set ranker.params.hidden=512
Keep several:       copy this file to `my_NAME.py` and say `ranker: {type: my_ranker, file: my_NAME}`.

As shipped, it is an MLP over the target, the mean of the history and their product: weak, but it runs.
Change `__init__` and `forward`; data, training, submission and score stay as they are.

`self.encoder` gives one vector per different item of the batch; `pool` and `mean_pool` (rankers/packed.py),
`TargetAttention` (rankers/layers.py) and `DinPooling` (rankers/din.py) work on histories without padding.
If you would rather have a rectangle:

    ids, mask = batch.padded            # item ids [B, L], and the mask: True = real item, False = padding
    history = self.encoder(ids.flatten()).view(*ids.shape, -1)      # [B, L, D]; slower, it computes on padding
"""

from __future__ import annotations

import torch
from torch import Tensor

from track2_mmctr.batches import Batch
from track2_mmctr.config import FeatureConfig, MyRankerConfig
from track2_mmctr.datasets.tables import ItemTable
from track2_mmctr.rankers.base import Ranker
from track2_mmctr.rankers.layers import Mlp, init_linear
from track2_mmctr.rankers.packed import mean_pool


class MyRanker(Ranker):
    """MLP(side ‖ target ‖ mean of history ‖ target ⊙ mean); `params.hidden` is the width of its first layer."""

    def __init__(self, config: MyRankerConfig, features: FeatureConfig, items: ItemTable) -> None:
        super().__init__(features, items)  # makes self.encoder
        hidden = int(config.params.get("hidden", 256))
        inputs = self.encoder.side_dim + self.encoder.dense_dim + 3 * self.encoder.dim
        self.head = Mlp(inputs, [hidden, hidden // 2], out=1, dropout=0.1, batch_norm=True)
        init_linear(self)

    def forward(self, batch: Batch) -> Tensor:
        """Return the logit of a click for each row, [B]."""
        vectors = self.encoder(batch.items)  # [U, D]
        target = vectors[batch.target]  # [B, D]
        history = mean_pool(vectors, batch)  # [B, D], zeros for a row without history
        side, dense = self.encoder.side(batch), self.encoder.dense(batch)
        return self.head(torch.cat([side, dense, target, history, target * history], dim=1)).squeeze(1)

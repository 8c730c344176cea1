"""The Task-2 prize's ranker (zhou123, arXiv 2504.18961): DIN and multi-head target attention, SENet, MLP.

Known from the report: the parts, and that they read the target and the history by both attentions; their sizes
and the order of fields are not published. Our specification: the fields are the parts of an item vector (id,
tags, embedding, levels) of the target, of the DIN interest and of the attention's interest, and the target's two
levels (ours too: knowledge and user tokens, where there are any). SENet (Huang et al., FiBiNET, RecSys 2019,
section 3.2) squeezes each field to its mean and re-weights the
fields by a bottleneck. Its last activation is 2·sigmoid in place of ReLU: embeddings start near zero, and a ReLU
of weights near zero would silence every field from the first step on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from track2_mmctr.batches import Batch
from track2_mmctr.config import DinSenetConfig, FeatureConfig
from track2_mmctr.datasets.tables import ItemTable
from track2_mmctr.rankers.base import Ranker
from track2_mmctr.rankers.din import DinPooling
from track2_mmctr.rankers.features import ItemEncoder
from track2_mmctr.rankers.layers import Mlp, TargetAttention, init_linear


class Senet(nn.Module):
    """Re-weight fields of different widths: squeeze by mean, bottleneck of F / `reduction` units, scale.

    Parameters
    ----------
    widths
        Width of each of the F fields; their sum is the input's.
    """

    def __init__(self, widths: Sequence[int], reduction: int) -> None:
        super().__init__()
        self.widths = list(widths)
        fields = len(self.widths)
        bottleneck = max(1, -(-fields // reduction))
        self.excitation = nn.Sequential(
            nn.Linear(fields, bottleneck), nn.ReLU(), nn.Linear(bottleneck, fields), nn.Sigmoid()
        )

    def forward(self, fields: Tensor) -> Tensor:
        """Return fields [B, sum of widths], each times its weight between 0 and 2."""
        parts = fields.split(self.widths, dim=1)
        weights = 2 * self.excitation(torch.stack([part.mean(1) for part in parts], dim=1))
        return torch.cat([part * weights[:, i : i + 1] for i, part in enumerate(parts)], dim=1)


class DinSenet(Ranker):
    """y = MLP(SENet(side ‖ target ‖ DIN interest ‖ attended history))."""

    def __init__(self, config: DinSenetConfig, features: FeatureConfig, items: ItemTable) -> None:
        super().__init__(features, items)
        dim = self.encoder.dim
        self.pooling = DinPooling(dim, config.attention_units, config.attention_dropout)
        self.attention = TargetAttention(dim, config.attention_dim, config.heads, config.attention_dropout)
        widths = self.encoder.side_fields + 3 * item_fields(self.encoder)
        self.senet = Senet(widths, config.reduction)
        inputs = sum(widths) + self.encoder.dense_dim
        self.head = Mlp(inputs, config.hidden_units, out=1, dropout=config.net_dropout, batch_norm=config.batch_norm)
        init_linear(self)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B]."""
        vectors = self.encoder(batch.items)
        target = vectors[batch.target]
        interests = [self.pooling(target, vectors, batch), self.attention(target, vectors, batch)]
        fields = self.senet(torch.cat([self.encoder.side(batch), target, *interests], dim=1))
        return self.head(torch.cat([fields, self.encoder.dense(batch)], dim=1)).squeeze(1)


def item_fields(encoder: ItemEncoder) -> list[int]:
    """Return the widths of the parts of an item vector, in the order of `ItemEncoder`."""
    config = encoder.config
    widths = [config.dim] * (config.ids + config.tags)
    widths += [encoder.embedding_dim] * (encoder.embedding_dim > 0)
    widths += [config.dim] * (2 * config.item_levels)
    return widths + (encoder.semantic.fields if encoder.semantic is not None else [])

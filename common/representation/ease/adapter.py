"""What follows the Q-Former when the language model is gone: a feature for rankers, a vector for retrieval."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.representation.ease.config import RetrievalConfig

SAME = 1 - 1e-6
"""Two teacher vectors of at least this cosine are one and the same: neither is a negative of the other."""


def pool(z: Tensor, how: Literal["mean", "flatten"]) -> Tensor:
    """Return Z [B, n, d] as one vector an item: [B, d] or [B, n * d]."""
    return z.mean(1) if how == "mean" else z.flatten(1)


class SemanticAdapter(nn.Module):
    """One linear map from pooled Z to a short feature: the second stage of EASE, trained with BCE on clicks.

    A ranker may train one of its own over the column `embedding` of a fit with `adapter: none`; `fit` with
    `adapter: semantic` trains one beside user vectors and writes its output.
    """

    def __init__(self, inputs: int, dim: int = 32) -> None:
        super().__init__()
        self.dim = dim
        self.linear = nn.Linear(inputs, dim)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the feature [..., dim] of pooled Z [..., inputs]."""
        return self.linear(pooled)


class ClickModel(nn.Module):
    """Log-odds of a click: the feature of the item times the vector of the user, and a bias of each.

    Parameters
    ----------
    features
        Pooled Z of all items, float32 [N, inputs]; fixed.
    adapter
        None: the user's vector meets pooled Z itself (an ablation).
    """

    def __init__(self, features: Tensor, users: int, adapter: SemanticAdapter | None) -> None:
        super().__init__()
        self.adapter = adapter
        dim = features.shape[1] if adapter is None else adapter.dim
        self.register_buffer("features", features, persistent=False)
        self.features: Tensor
        self.user = nn.Embedding(users, dim + 1)
        self.item_bias = nn.Linear(dim, 1)
        nn.init.normal_(self.user.weight, std=0.05)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return log-odds [B] of users [B] and item rows [B]."""
        feature, user = self.features[items], self.user(users)
        if self.adapter is not None:
            feature = self.adapter(feature)
        return (feature * user[:, :-1]).sum(1) + user[:, -1] + self.item_bias(feature).squeeze(1)


class RetrievalHead(nn.Module):
    """A map from pooled Z to the unit sphere of a teacher encoder: distillation.

    An item's vector is drawn to the teacher's vector of the item (cosine), and away from the teacher's vectors of
    the other items of the batch (InfoNCE, van den Oord et al., 2018). Queries then go through the teacher alone.
    """

    def __init__(self, inputs: int, dim: int, config: RetrievalConfig) -> None:
        super().__init__()
        self.config, self.dim = config, dim
        layers: list[nn.Module] = [nn.Linear(inputs, config.hidden or dim)]
        if config.hidden:
            layers += [nn.GELU(), nn.Linear(config.hidden, dim)]
        self.map = nn.Sequential(*layers)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return unit vectors [B, dim] of pooled Z [B, inputs]."""
        return F.normalize(self.map(pooled), dim=1)

    def loss(self, pooled: Tensor, target: Tensor) -> Tensor:
        """Return the distillation loss against unit vectors `target` [B, dim] of the teacher."""
        found = self(pooled)
        parts = []
        if self.config.loss in ("cosine", "both"):
            parts.append(1 - (found * target).sum(1).mean())
        if self.config.loss in ("infonce", "both"):
            twins = (target @ target.T >= SAME).fill_diagonal_(False)
            logits = (found @ target.T / self.config.temperature).masked_fill(twins, float("-inf"))
            parts.append(F.cross_entropy(logits, torch.arange(len(found), device=found.device)))
        return torch.stack(parts).sum()

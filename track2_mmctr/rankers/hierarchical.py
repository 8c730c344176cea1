"""Hierarchical mixture inference around any neural ranker (UIST): a score for each pair of levels, mixed by one layer.

s_ij = f(u^(i), v^(j)) with the tokens of the user summed up to level i and those of every item up to level j;
logit = Σ_ij w_ij s_ij + b. All else that the ranker reads is the same in each pair.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.representation.uist.mixture import HierarchicalMixture
from track2_mmctr.batches import Batch
from track2_mmctr.rankers.base import Ranker
from track2_mmctr.rankers.features import ItemEncoder


class PairNorm(nn.Module):
    """A batch norm of its own for each pair of levels: sums of one level and of four are spread differently."""

    def __init__(self, norm: nn.BatchNorm1d, pairs: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
            for _ in range(pairs)
        )
        self.pair = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, D] normalised as the pair at hand is."""
        return self.norms[self.pair](x)


class HierarchicalRanker(Ranker):
    """The mixture of a ranker's logits over all pairs of user levels and item levels.

    Each forward pass runs the ranker Lu · Li times.

    Raises
    ------
    ConfigError
        The features have no item codes that are summed, or no user codes.
    """

    def __init__(self, ranker: Ranker) -> None:
        nn.Module.__init__(self)  # the encoder is the ranker's own
        features = ranker.encoder.config
        users, items = ranker.encoder.user_codes, ranker.encoder.semantic
        if users is None or items is None or features.sid.combine != "sum":
            raise ConfigError(
                "hierarchical mixture inference sums codes of users and of items, level by level",
                where="features.hmi",
                expected="features.user_semantic_ids and features.semantic_ids, with features.sid.combine = sum",
                got=f"{features.user_semantic_ids}, {features.semantic_ids}, {features.sid.combine}",
                todo="write both tables: python -m track2_mmctr embed --method uist, and set features.sid.combine=sum",
            )
        self.ranker = ranker
        self.mixture = HierarchicalMixture(users.levels, items.rows.shape[1])
        pairs = users.levels * items.rows.shape[1]
        for parent in list(ranker.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.BatchNorm1d:
                    setattr(parent, name, PairNorm(child, pairs))
        self._norms = [module for module in ranker.modules() if isinstance(module, PairNorm)]

    @property
    def encoder(self) -> ItemEncoder:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The ranker's encoder."""
        return self.ranker.encoder

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B]."""
        users, items = self.mixture.user_levels, self.mixture.item_levels
        try:
            scores = [self._score(batch, i, j) for i in range(1, users + 1) for j in range(1, items + 1)]
        finally:
            self._select(None, None)
        return self.mixture(torch.stack(scores, dim=1).view(-1, users, items))

    def _score(self, batch: Batch, user_level: int, item_level: int) -> Tensor:
        self._select(user_level, item_level)
        for norm in self._norms:
            norm.pair = (user_level - 1) * self.mixture.item_levels + item_level - 1
        return self.ranker(batch)

    def _select(self, user_level: int | None, item_level: int | None) -> None:
        """Say up to which level the codes of users and of items are summed; None = all."""
        users, items = self.encoder.user_codes, self.encoder.semantic
        assert users is not None and items is not None  # noqa: S101 - checked in __init__
        users.upto, items.upto = user_level, item_level

"""Hierarchical mixture inference: one score from the scores of all pairs of user and item levels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.errors import ConfigError, DataError


class HierarchicalMixture(nn.Module):
    """y = sigmoid( sum_ij w_ij s_ij + b ), w one linear layer over the Lu * Li scores (UIST, WWW'24 short).

    The released code's equation [facts 2.5, read in code]; that the layer starts as the mean of the scores, which
    makes no pair better than another before training, is our own choice [I]. The sigmoid is the loss's.

    Parameters
    ----------
    user_levels, item_levels
        Lu and Li; 1 of each is a single score that is scaled and shifted.

    Raises
    ------
    ConfigError
        A number of levels below 1.
    """

    def __init__(self, user_levels: int, item_levels: int) -> None:
        super().__init__()
        for name, levels in (("user_levels", user_levels), ("item_levels", item_levels)):
            if levels < 1:
                raise ConfigError("a mixture needs levels", where=name, expected="at least 1", got=levels)
        self.user_levels, self.item_levels = user_levels, item_levels
        pairs = user_levels * item_levels
        self.linear = nn.Linear(pairs, 1)
        with torch.no_grad():
            self.linear.weight.fill_(1.0 / pairs)
            self.linear.bias.zero_()

    def forward(self, logits: Tensor) -> Tensor:
        """Return logits [B] of the scores [B, Lu, Li] of user level i with item level j, coarse to fine.

        Raises
        ------
        DataError
            Scores of another number of levels.
        """
        if logits.ndim != 3 or logits.shape[1:] != (self.user_levels, self.item_levels):
            raise DataError(
                "scores of another number of levels",
                expected=f"[B, {self.user_levels}, {self.item_levels}]",
                got=list(logits.shape),
            )
        return self.linear(logits.flatten(1)).squeeze(1)

    def weights(self) -> Tensor:
        """Return the weights [Lu, Li] of the pairs, apart from the graph."""
        return self.linear.weight.detach().reshape(self.user_levels, self.item_levels).clone()

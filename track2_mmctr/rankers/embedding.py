"""The embedding table that all rankers use."""

from __future__ import annotations

import torch
from torch import nn


class Embedding(nn.Embedding):
    """An embedding table in FuxiCTR's initialisation: N(0, 1e-4), row 0 zeros and never trained."""

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__(rows, dim, padding_idx=0)
        nn.init.normal_(self.weight, std=1e-4)
        with torch.no_grad():
            self.weight[0].zero_()

"""The Ranker contracts: neural rankers are modules, the others fit and predict by themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from torch import Tensor, nn

from common.training.distributed import World
from track2_mmctr.batches import Batch
from track2_mmctr.config import FeatureConfig
from track2_mmctr.datasets.tables import CtrData, ItemTable, Split
from track2_mmctr.rankers.features import ItemEncoder

Say = Callable[[str], None]


class Ranker(nn.Module):
    """Base of all neural rankers: `forward(batch) -> logits [B]`.

    A ranker is built as `cls(config, features, items)`. `self.encoder` turns `batch.items` into vectors [U, D];
    history tokens are `look_up(vectors, batch)` [T, D] (rankers/packed.py), targets `vectors[batch.target]` [B, D].
    Rows come sorted by history length; `batch.blocks` cuts them into dense rectangles: nothing computes on padding.
    """

    def __init__(self, features: FeatureConfig, items: ItemTable) -> None:
        super().__init__()
        self.encoder = ItemEncoder(features, items)

    def forward(self, batch: Batch) -> Tensor:
        """Return the logit of a click for each row, float32 [B]."""
        raise NotImplementedError


@dataclass(frozen=True)
class Environment:
    """What a run gives its parts: device, threads, cache folder, and the processes that train together."""

    device: str
    threads: int
    cache: Path
    world: World = field(default_factory=World)


class FittedRanker(Protocol):
    """A ranker that is not trained by gradient: `gbdt`, and the floors."""

    def fit(self, data: CtrData, *, max_len: int, seed: int, threads: int, say: Say) -> None:
        """Learn from `data.train`; `data.splits["valid"]` may be used to stop early."""
        ...

    def predict(self, split: Split, items: ItemTable, *, max_len: int) -> np.ndarray:
        """Return the logit of a click for each row of the split, float64 [R]."""
        ...

    def save(self, folder: Path) -> None:
        """Write the fitted ranker (JSON, safetensors or the library's own text; no pickle)."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        ...

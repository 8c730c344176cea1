"""A floor that learns nothing but its scale: cosine of the target's frozen embedding with the history's mean."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np

from common.errors import ConfigError
from track2_mmctr.config import FeatureConfig, SimilarityConfig
from track2_mmctr.datasets.tables import CtrData, ItemTable, Split
from track2_mmctr.rankers.base import Say
from track2_mmctr.rankers.logistic import fit_logistic
from track2_mmctr.rankers.popularity import train_label
from track2_mmctr.rankers.segments import segments, unit_rows
from track2_mmctr.rankers.state import check_items, load_state, save_state


class Similarity:
    """Logit = a·cos(mean of the history's embeddings, target's embedding) + b; a and b are fitted on train.

    A row without history gets the mean cosine of train.

    Raises
    ------
    ConfigError
        `features.embedding` is none, or the data has no embedding.
    """

    def __init__(self, config: SimilarityConfig, features: FeatureConfig) -> None:
        if features.embedding == "none":
            raise ConfigError(
                "similarity needs an item embedding",
                where="features.embedding",
                got="none",
                todo="--set features.embedding=auto",
            )
        self.scale = self.intercept = self.empty = 0.0
        self.digest = ""

    def fit(self, data: CtrData, *, max_len: int, seed: int, threads: int, say: Say) -> None:
        """Fit the scale on train; `seed` and `threads` change nothing."""
        label = train_label(data)
        cosine = history_cosine(data.train, data.items, max_len)
        known = ~np.isnan(cosine)
        self.empty = float(cosine[known].mean()) if known.any() else 0.0
        weights = fit_logistic(np.where(known, cosine, self.empty)[:, None], label)
        self.scale, self.intercept = float(weights[0]), float(weights[1])
        self.digest = data.items.digest
        say(f"similarity: logit = {self.scale:.3f} x cosine + {self.intercept:.3f}")

    def predict(self, split: Split, items: ItemTable, *, max_len: int) -> np.ndarray:
        """Return logits, float64 [R]."""
        check_items(items, self.digest)
        cosine = history_cosine(split, items, max_len)
        return self.scale * np.where(np.isnan(cosine), self.empty, cosine) + self.intercept

    def save(self, folder: Path) -> None:
        """Write `ranker.json`."""
        values = {"scale": self.scale, "intercept": self.intercept, "empty": self.empty, "digest": self.digest}
        save_state(folder, {"type": "similarity", **values})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; `DataError` when it is damaged."""
        values, _ = load_state(folder, "similarity", {"scale", "intercept", "empty", "digest"})
        ranker = cls(SimilarityConfig(type="similarity"), FeatureConfig())
        ranker.scale, ranker.intercept = values["scale"], values["intercept"]
        ranker.empty, ranker.digest = values["empty"], values["digest"]
        return ranker


def history_cosine(split: Split, items: ItemTable, max_len: int) -> np.ndarray:
    """Return cos(mean of the history's embeddings, the target's), float64 [R]; NaN for an empty history.

    An item without an embedding (a row of zeros) has cosine 0 with everything.
    """
    if items.embedding is None:
        raise ConfigError("the item table has no embedding", where="features.embedding")
    unit = unit_rows(items.embedding)
    parts = [np.zeros(0)]
    for part in segments(split, max_len):
        mean = unit_rows(part.sum(np.asarray(items.embedding[part.history], dtype=np.float32)))
        cosine = np.einsum("rd,rd->r", mean, unit[part.target], dtype=np.float64)
        parts.append(np.where(part.lengths > 0, cosine, np.nan))
    return np.concatenate(parts)

"""A floor that knows no history: the smoothed click rate of the target in train, and its levels."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np

from common.errors import ConfigError, DataError
from common.logits import log_odds, sigmoid
from track2_mmctr.config import FeatureConfig, PopularityConfig
from track2_mmctr.datasets.tables import LEVELS, CtrData, ItemTable, Split
from track2_mmctr.rankers.base import Say
from track2_mmctr.rankers.logistic import fit_logistic
from track2_mmctr.rankers.state import check_items, load_state, save_state


class Popularity:
    """p(click) = (clicks + s·p₀) / (rows + s) of the target in train; s is `smoothing`.

    p₀ is the rate that a logistic model on the target's two levels gives (`features.target_levels`), or else the
    mean rate of train; it stands alone for items that train never showed, and when `features.ids` is off.

    Raises
    ------
    ConfigError
        Both `features.ids` and `features.target_levels` are off: nothing would tell items apart.
    """

    def __init__(self, config: PopularityConfig, features: FeatureConfig) -> None:
        if not (features.ids or features.target_levels):
            raise ConfigError(
                "popularity knows items by id or by levels, and both are off",
                where="features",
                todo="switch features.ids or features.target_levels on",
            )
        self.smoothing, self.ids, self.levels = config.smoothing, features.ids, features.target_levels
        self.clicks = self.rows = np.zeros(0)
        self.weights = np.zeros(2 * LEVELS + 1)
        self.digest = ""

    def fit(self, data: CtrData, *, max_len: int, seed: int, threads: int, say: Say) -> None:
        """Count clicks and rows of each item in train; `max_len`, `seed` and `threads` change nothing."""
        split, label = data.train, train_label(data)
        size = len(data.items)
        self.clicks = np.bincount(split.target, weights=label, minlength=size)
        self.rows = np.bincount(split.target, minlength=size).astype(np.float64)
        columns = one_hot(split.levels) if self.levels else np.zeros((len(split), 2 * LEVELS))
        self.weights = fit_logistic(columns, label)
        self.digest = data.items.digest
        say(f"popularity: {int((self.rows > 0).sum())} of {size - 1} items were shown in train")

    def predict(self, split: Split, items: ItemTable, *, max_len: int) -> np.ndarray:
        """Return logits, float64 [R]."""
        check_items(items, self.digest)
        prior = np.full(len(split), self.weights[-1])
        if self.levels:
            prior = one_hot(split.levels) @ self.weights[:-1] + self.weights[-1]
        if not self.ids:
            return prior
        clicks, rows = self.clicks[split.target], self.rows[split.target]
        return log_odds((clicks + self.smoothing * sigmoid(prior)) / (rows + self.smoothing))

    def save(self, folder: Path) -> None:
        """Write `ranker.json` and `ranker.safetensors`."""
        values = {
            "type": "popularity",
            "smoothing": self.smoothing,
            "ids": self.ids,
            "levels": self.levels,
            "digest": self.digest,
        }
        save_state(folder, values, {"clicks": self.clicks, "rows": self.rows, "weights": self.weights})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; `DataError` when it is damaged."""
        keys = {"smoothing", "ids", "levels", "digest"}
        values, arrays = load_state(folder, "popularity", keys, frozenset({"clicks", "rows", "weights"}))
        features = FeatureConfig(ids=values["ids"], target_levels=values["levels"])
        ranker = cls(PopularityConfig(type="popularity", smoothing=values["smoothing"]), features)
        ranker.clicks, ranker.rows, ranker.weights = arrays["clicks"], arrays["rows"], arrays["weights"]
        ranker.digest = values["digest"]
        return ranker


def one_hot(levels: np.ndarray) -> np.ndarray:
    """Return likes_level and views_level [R, 2] as 22 columns of 0 and 1."""
    return np.eye(LEVELS)[np.asarray(levels)].reshape(len(levels), 2 * LEVELS)


def train_label(data: CtrData) -> np.ndarray:
    """Return train's labels as float64 [R]; raise `DataError` when there are none."""
    label = data.train.label
    if label is None or not len(label):
        raise DataError("train has no labels", where=data.folder, expected="column label of train.parquet")
    return np.asarray(label, dtype=np.float64)

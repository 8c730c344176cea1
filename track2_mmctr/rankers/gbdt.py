"""Gradient-boosted trees on engineered features: LightGBM (Ke et al., NeurIPS 2017), see `gbdt_features.py`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import ValidationError

from common.atomic import write_text
from common.errors import DataError
from common.hashing import digest
from track2_mmctr.config import FeatureConfig, GbdtConfig
from track2_mmctr.datasets.tables import CtrData, ItemTable, Split
from track2_mmctr.rankers.base import Say
from track2_mmctr.rankers.gbdt_features import Counts, Folds, make_features
from track2_mmctr.rankers.popularity import train_label
from track2_mmctr.rankers.state import TODO, check_items, load_state, save_state

if TYPE_CHECKING:
    import lightgbm as lgb

MODEL = "lightgbm.txt"
ARRAYS = ("clicks", "shows", "seen", "pairs", "pair_counts")


class Gbdt:
    """LightGBM on similarity of target to history, recency, levels, tags, counts and code prefixes.

    Rounds stop when valid's AUC has not grown for `early_stopping` rounds; without a valid split all `rounds`
    are made. The same seed, data, threads and machine give the same bytes.
    """

    def __init__(self, config: GbdtConfig, features: FeatureConfig) -> None:
        self.config, self.features = config, features
        self.booster: lgb.Booster | None = None
        self.counts: Counts | None = None
        self.names: list[str] = []
        self.digest = ""

    def fit(self, data: CtrData, *, max_len: int, seed: int, threads: int, say: Say) -> None:
        """Count over train, make its features out of fold, and boost."""
        import lightgbm as lgb

        label = train_label(data)
        split, items, window = data.train, data.items, self.config.window if self.features.ids else 0
        self.counts = Counts.of(split, np.arange(len(split)), len(items), window)
        counted = self.features.ids or self.features.semantic_ids != "none"
        folds = Folds.of(split, len(items), window, seed) if counted else None
        table, self.names = make_features(split, items, self.counts, self.features, max_len=max_len, folds=folds)
        self.digest = items.digest
        parameters = self._parameters(seed, threads)
        train = lgb.Dataset(table, label, feature_name=self.names, params=parameters)
        sets, callbacks = [], []
        valid = data.splits.get("valid")
        if valid is not None and valid.label is not None:
            table, _ = make_features(valid, items, self.counts, self.features, max_len=max_len)
            sets = [train.create_valid(table, np.asarray(valid.label))]
            callbacks = [lgb.early_stopping(self.config.early_stopping, verbose=False)]
        else:
            say("gbdt: no labelled valid split, so all rounds are made")
        self.booster = lgb.train(parameters, train, self.config.rounds, valid_sets=sets, callbacks=callbacks)
        if sets:
            best = self.booster.best_score["valid_0"]["auc"]
            say(f"gbdt: {self.booster.best_iteration} rounds, valid AUC {best:.4f}, {len(self.names)} features")

    def predict(self, split: Split, items: ItemTable, *, max_len: int) -> np.ndarray:
        """Return logits, float64 [R]."""
        if self.booster is None or self.counts is None:
            raise RuntimeError("predict before fit")
        check_items(items, self.digest)
        if not len(split):
            return np.zeros(0)
        table, _ = make_features(split, items, self.counts, self.features, max_len=max_len)
        rounds = self.booster.best_iteration if self.booster.best_iteration > 0 else None
        return np.asarray(self.booster.predict(table, raw_score=True, num_iteration=rounds), dtype=np.float64)

    def importance(self) -> dict[str, float]:
        """Return the gain of each feature, largest first."""
        if self.booster is None:
            raise RuntimeError("importance before fit")
        gain = self.booster.feature_importance("gain", iteration=self.booster.best_iteration)
        return {self.names[i]: float(gain[i]) for i in np.argsort(-gain, kind="stable")}

    def save(self, folder: Path) -> None:
        """Write `lightgbm.txt`, `ranker.safetensors` (the counts) and `ranker.json`."""
        if self.booster is None or self.counts is None:
            raise RuntimeError("save before fit")
        text = self.booster.model_to_string()
        write_text(folder / MODEL, text)
        values = {
            "type": "gbdt",
            "trees": digest(text),
            "config": self.config.model_dump(mode="json"),
            "features": self.features.model_dump(mode="json"),
            "names": self.names,
            "rate": self.counts.rate,
            "best_iteration": self.booster.best_iteration,
            "digest": self.digest,
        }
        save_state(folder, values, {name: getattr(self.counts, name) for name in ARRAYS})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; `DataError` when it is damaged."""
        import lightgbm as lgb

        keys = {"trees", "config", "features", "names", "rate", "best_iteration", "digest"}
        values, arrays = load_state(folder, "gbdt", keys, frozenset(ARRAYS))
        try:
            ranker = cls(GbdtConfig.model_validate(values["config"]), FeatureConfig.model_validate(values["features"]))
            text = (folder / MODEL).read_text(encoding="utf-8")
            if digest(text) != values["trees"]:  # LightGBM reads a file that was cut short without a word
                raise DataError("the trees are damaged, or of another fit", where=folder / MODEL, todo=TODO)
            ranker.booster = lgb.Booster(model_str=text)
        except (OSError, ValidationError, UnicodeDecodeError, lgb.basic.LightGBMError) as error:
            raise DataError("the fitted ranker is missing or damaged", where=folder, got=error, todo=TODO) from None
        ranker.names, ranker.digest = values["names"], values["digest"]
        if ranker.booster.feature_name() != ranker.names:
            raise DataError("the trees read other features", where=folder / MODEL, expected=ranker.names, todo=TODO)
        ranker.booster.best_iteration = values["best_iteration"]
        ranker.counts = Counts(**arrays, rate=values["rate"])
        return ranker

    def _parameters(self, seed: int, threads: int) -> dict[str, object]:
        return {
            "objective": "binary",
            "metric": "auc",
            "learning_rate": self.config.learning_rate,
            "num_leaves": self.config.leaves,
            "min_data_in_leaf": self.config.min_rows,
            "feature_fraction": self.config.feature_fraction,
            "seed": seed,
            "num_threads": threads,
            "deterministic": True,
            "force_col_wise": True,
            "verbosity": -1,
        }

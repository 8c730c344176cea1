"""Knowledge and the hierarchical mixture in the training loop: saved, resumed, and refused on other tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.track2.planted_rows import planted
from tests.track2.representation_tables import (
    hmi_features,
    knowledge_features,
    some_item_codes,
    some_knowledge,
    some_user_codes,
    with_tables,
)
from track2_mmctr.config import DinConfig, FeatureConfig, RunConfig, TrainConfig
from track2_mmctr.datasets.tables import CtrData
from track2_mmctr.pipeline import fit_run, training_key
from track2_mmctr.rankers.base import Environment
from track2_mmctr.training.checkpoint import load_model
from track2_mmctr.training.predict import predict

FEATURES = {"knowledge": knowledge_features(), "hmi": hmi_features()}


def data_of(seed: int = 0) -> CtrData:
    data = planted(train=120, valid=60, users=30)
    users = np.unique(np.concatenate([split.users for split in data.splits.values()]))
    count = len(data.items)
    items = with_tables(
        data.items,
        semantic_ids=some_item_codes(count),
        knowledge=some_knowledge(count, users, seed, after=2),
        user_codes=some_user_codes(users, seed, after=2),
    )
    return replace(data, items=items)


def config_of(features: FeatureConfig) -> RunConfig:
    ranker = DinConfig(type="din", attention_units=[4], hidden_units=[8])
    return RunConfig(name="x", features=features, ranker=ranker, train=TrainConfig(epochs=3, batch_size=40, patience=9))


@pytest.mark.parametrize("kind", ["knowledge", "hmi"])
def test_a_run_is_saved_and_an_interrupted_one_ends_as_a_whole_one(kind: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    data, config = data_of(), config_of(FEATURES[kind])
    environment = Environment("cpu", 1, tmp_path / "cache")
    whole = fit_run(config, data, environment, tmp_path / "whole", lambda _: None)

    def stop(evaluation: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_run(config, data, environment, tmp_path / "cut", lambda _: None, stop)
    again = fit_run(config, data, environment, tmp_path / "cut", lambda _: None)
    assert np.array_equal(whole.valid_logits, again.valid_logits)
    whole.save(tmp_path / "model")
    (saved,) = (tmp_path / "model").iterdir()
    loaded, _ = load_model(saved, data.items, config)
    logits = predict(loaded, data.splits["valid"], max_len=64, device="cpu")
    assert np.array_equal(logits, whole.valid_logits)


def test_a_training_is_tied_to_its_tables() -> None:
    config = config_of(FEATURES["knowledge"])
    keys = {training_key(config, data_of(seed)) for seed in (0, 0, 1)}
    assert len(keys) == 2

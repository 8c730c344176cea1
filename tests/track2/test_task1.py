"""Task 1's fixed configuration: the five settings that may change, and the refusal of every other."""

from __future__ import annotations

import pytest

from common.config import flatten, load_config
from common.errors import ConfigError
from common.representation.kar.adaptor import AdaptorConfig
from track2_mmctr.config import CONFIG_FOLDER, DinConfig, RunConfig
from track2_mmctr.task1 import ALLOWED, task1_config


def test_the_fixed_model_is_the_organisers() -> None:
    config = task1_config([], None)
    assert isinstance(config.ranker, DinConfig) and config.ranker == DinConfig(type="din")
    assert config.submission.task == "Task1" and config.seed == 20242025 and config.data.max_len == 64
    assert config.features.model_dump() == {
        "dim": 64,
        "ids": True,
        "tags": True,
        "embedding": "auto",
        "project": True,
        "semantic_ids": "none",
        "sid": {"buckets": 0, "by": "level", "combine": "mean", "levels": 0, "version": ""},
        "user_semantic_ids": "none",
        "user_sid": {"allow_missing": 0, "levels": 0, "version": ""},
        "hmi": False,
        "candidates": "none",
        "knowledge": {
            "items": "none",
            "users": "none",
            "adaptor": AdaptorConfig().model_dump(),
            "center": True,
            "encoder": "",
            "allow_missing": 0,
        },
        "item_levels": False,
        "target_levels": True,
        "similarity": False,
    }
    train = config.train
    assert (train.batch_size, train.learning_rate, train.patience) == (8192, 1e-3, 3)
    assert (train.embedding_regularizer, train.net_regularizer) == (1e-6, 0)
    assert (train.schedule.type, train.schedule.factor, train.schedule.floor) == ("plateau", 0.1, 1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("embedding_regularizer", 1e-7),
        ("net_regularizer", 0.5),
        ("net_dropout", 0.25),
        ("learning_rate", 2e-3),
        ("batch_size", 512),
    ],
)
def test_each_allowed_setting_changes_itself_and_nothing_else(name: str, value: float) -> None:
    before = flatten(task1_config([], None).model_dump())
    for key in (name, ALLOWED[name]):
        after = flatten(task1_config([f"{key}={value}"], None).model_dump())
        assert {k for k in after if after[k] != before[k]} == {ALLOWED[name]}
        assert after[ALLOWED[name]] == value


def test_every_other_setting_is_refused_by_name() -> None:
    others = sorted(set(flatten(load_config(RunConfig, "task1", CONFIG_FOLDER).model_dump())) - set(ALLOWED.values()))
    assert "ranker.hidden_units" in others and "features.embedding" in others and len(others) > 30
    for key in others:
        with pytest.raises(ConfigError) as caught:
            task1_config([f"{key}=1"], None)
        assert repr(key) in str(caught.value)
        assert all(name in str(caught.value) for name in ALLOWED)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["learning_rat=0.1"], "did you mean learning_rate"),
        (["dropout=0.1"], "does not let 'dropout'"),
        (["data.learning_rate=0.1"], "does not let 'data.learning_rate'"),
        (["learning_rate"], "form name=value"),
        (["learning_rate="], "form name=value"),
        (["learning_rate=fast"], "learning_rate"),
        (["net_dropout=1.5"], "net_dropout"),
        (["batch_size=0"], "batch_size"),
        (["learning_rate=1", "train.learning_rate=2"], "set twice"),
    ],
)
def test_bad_settings(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task1_config(overrides, None)


def test_an_embedding_file_is_the_one_thing_that_differs() -> None:
    before, after = (flatten(task1_config([], e).model_dump()) for e in (None, "mine.parquet"))
    assert {k for k in after if after[k] != before[k]} == {"features.embedding"}
    assert after["features.embedding"] == "mine.parquet"

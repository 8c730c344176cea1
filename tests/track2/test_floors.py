"""popularity and similarity against values computed by hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from common.errors import ConfigError, DataError
from common.logits import log_odds, sigmoid
from tests.track2.planted_rows import make_items, make_split, planted, rank_auc, shuffled_histories
from track2_mmctr.config import FeatureConfig, PopularityConfig, SimilarityConfig
from track2_mmctr.datasets.tables import CtrData
from track2_mmctr.rankers.logistic import fit_logistic
from track2_mmctr.rankers.popularity import Popularity
from track2_mmctr.rankers.similarity import Similarity, history_cosine

RNG = np.random.default_rng(0)
RATES_ONLY = FeatureConfig(target_levels=False)
NONE: list[str] = []


def small() -> CtrData:
    """Items 1 (1, 0), 2 (0, 2), 3 (-3, 0), 4 without an embedding."""
    items = make_items(RNG, np.array([[0, 0], [1, 0], [0, 2], [-3, 0], [0, 0]]))
    histories = [np.array(h) for h in ([1], [1, 2], [], [3, 3, 3], [4], [2, 1])]
    target, label = np.array([1, 1, 1, 1, 2, 2]), np.array([1, 1, 0, 0, 0, 1])
    split = make_split(RNG, "train", histories, target, label)
    return CtrData(Path("small"), {"train": split}, items)


Floor = TypeVar("Floor", Popularity, Similarity)


def fit(ranker: Floor, data: CtrData) -> Floor:
    ranker.fit(data, max_len=64, seed=0, threads=1, say=NONE.append)
    return ranker


def test_popularity_is_the_smoothed_click_rate() -> None:
    data = small()
    ranker = fit(Popularity(PopularityConfig(type="popularity", smoothing=4), RATES_ONLY), data)
    rows = replace(data.train, target=np.array([1, 2, 3, 1, 2, 3], dtype=np.int32))
    rates = sigmoid(ranker.predict(rows, data.items, max_len=64))
    # mean 3/6; item 1: 2 clicks of 4 rows; item 2: 1 of 2; item 3 was never shown
    np.testing.assert_allclose(rates, [4 / 8, 3 / 6, 0.5, 4 / 8, 3 / 6, 0.5], atol=1e-5)
    label = np.array([1, 1, 1, 0, 0, 0], dtype=np.float32)
    skewed = replace(data, splits={"train": replace(data.train, label=label)})
    ranker = fit(Popularity(PopularityConfig(type="popularity", smoothing=4), RATES_ONLY), skewed)
    rates = sigmoid(ranker.predict(rows, data.items, max_len=64))[:3]
    np.testing.assert_allclose(rates, [(3 + 2) / 8, (0 + 2) / 6, 0.5], atol=1e-5)


def test_popularity_of_unseen_items_is_that_of_their_levels() -> None:
    rng = np.random.default_rng(1)
    data = planted(train=4000)
    levels = rng.integers(1, 11, (4000, 2)).astype(np.int32)
    label = (rng.random(4000) < levels[:, 0] / 12).astype(np.float32)
    data = replace(data, splits={"train": replace(data.train, levels=levels, label=label)})
    unseen = replace(data.train, target=np.zeros(4000, dtype=np.int32))
    for ids in (True, False):
        ranker = fit(Popularity(PopularityConfig(type="popularity"), FeatureConfig(ids=ids)), data)
        rates = sigmoid(ranker.predict(unseen, data.items, max_len=64))
        for level in (1, 5, 10):
            assert rates[levels[:, 0] == level].mean() == pytest.approx(level / 12, abs=0.06)


def test_popularity_knows_no_history() -> None:
    data = planted()
    ranker = fit(Popularity(PopularityConfig(type="popularity"), FeatureConfig()), data)
    valid = data.splits["valid"]
    logits = ranker.predict(valid, data.items, max_len=64)
    other = shuffled_histories(data).splits["valid"]
    np.testing.assert_array_equal(ranker.predict(other, data.items, max_len=64), logits)
    assert abs(rank_auc(valid.label, logits) - 0.5) < 0.1


def test_popularity_with_everything_off_is_an_error() -> None:
    with pytest.raises(ConfigError, match="both are off"):
        Popularity(PopularityConfig(type="popularity"), FeatureConfig(ids=False, target_levels=False))


def test_history_cosines_by_hand() -> None:
    data = small()
    half = 1 / np.sqrt(5)  # (1, 0) + (0, 2) = (1, 2)
    np.testing.assert_allclose(
        history_cosine(data.train, data.items, 64), [1, half, np.nan, -1, 0, 2 * half], atol=1e-6
    )
    newest = history_cosine(data.train, data.items, 1)  # row 1 keeps item 2, row 5 keeps item 1
    np.testing.assert_allclose(newest, [1, 0, np.nan, -1, 0, 0], atol=1e-6)


def test_similarity_is_a_scaled_cosine_and_the_mean_for_no_history() -> None:
    data = small()
    ranker = fit(Similarity(SimilarityConfig(type="similarity"), FeatureConfig()), data)
    cosine = np.array([1, 1 / np.sqrt(5), np.nan, -1, 0, 2 / np.sqrt(5)])
    cosine[2] = np.nanmean(cosine)
    weights = fit_logistic(cosine[:, None], np.array([1, 1, 0, 0, 0, 1]))
    assert weights[0] > 0
    logits = ranker.predict(data.train, data.items, max_len=64)
    np.testing.assert_allclose(logits, weights[0] * cosine + weights[1], atol=1e-6)


def test_similarity_learns_planted_taste_and_not_the_placebo() -> None:
    data = planted()
    for rows, low, high in ((data, 0.9, 1.0), (shuffled_histories(data), 0.4, 0.6)):
        ranker = fit(Similarity(SimilarityConfig(type="similarity"), FeatureConfig()), rows)
        valid = rows.splits["valid"]
        assert low < rank_auc(valid.label, ranker.predict(valid, rows.items, max_len=64)) < high


def test_similarity_without_an_embedding_is_an_error() -> None:
    with pytest.raises(ConfigError, match="needs an item embedding"):
        Similarity(SimilarityConfig(type="similarity"), FeatureConfig(embedding="none"))
    data = small()
    data = replace(data, items=data.items.with_embedding(None))
    with pytest.raises(ConfigError, match="no embedding"):
        fit(Similarity(SimilarityConfig(type="similarity"), FeatureConfig()), data)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Popularity(PopularityConfig(type="popularity", smoothing=3), FeatureConfig()), "ranker.safetensors"),
        (lambda: Similarity(SimilarityConfig(type="similarity"), FeatureConfig()), "ranker.json"),
    ],
    ids=["popularity", "similarity"],
)
def test_saving_loading_and_damage(make: Callable[[], Any], name: str, tmp_path: Path) -> None:
    data = planted(train=300, valid=50)
    valid = data.splits["valid"]
    ranker = fit(make(), data)
    ranker.save(tmp_path / "a")
    fit(make(), data).save(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    loaded = type(ranker).load(tmp_path / "a")
    logits = ranker.predict(valid, data.items, max_len=64)
    np.testing.assert_array_equal(loaded.predict(valid, data.items, max_len=64), logits)
    with pytest.raises(DataError, match="another item table"):
        loaded.predict(valid, replace(data.items, digest="other"), max_len=64)
    content = (tmp_path / "a" / name).read_bytes()
    (tmp_path / "a" / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError):
        type(ranker).load(tmp_path / "a")
    with pytest.raises(DataError):
        type(ranker).load(tmp_path / "nothing")


def test_train_without_labels_is_an_error() -> None:
    data = small()
    data = replace(data, splits={"train": replace(data.train, label=None)})
    with pytest.raises(DataError, match="no labels"):
        fit(Similarity(SimilarityConfig(type="similarity"), FeatureConfig()), data)


def test_logistic_regression_finds_the_minimum() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 2)) * 3
    y = rng.random(20_000) < sigmoid(2 * x[:, 0] - x[:, 1] - 1)
    weights = fit_logistic(x, y)
    np.testing.assert_allclose(weights, [2, -1, -1], atol=0.12)
    slope = np.column_stack([x, np.ones(20_000)]).T @ (sigmoid(x @ weights[:2] + weights[2]) - y)
    np.testing.assert_allclose(slope + weights * [1, 1, 0], 0, atol=1e-4)
    separable = fit_logistic(np.array([[-1.0], [1.0]]), np.array([0, 1]))
    one_class = fit_logistic(np.zeros((3, 1)), np.ones(3))
    assert np.isfinite([*separable, *one_class]).all() and separable[0] > 0 and one_class[-1] > 3
    np.testing.assert_allclose(log_odds(sigmoid(np.array([-3.0, 0.5]))), [-3, 0.5])

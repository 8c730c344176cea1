"""The benchmarks' own parts: planted data, placebo arms, cut splits."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.ctr_quality import RANKERS, SMALL, Job, other_histories, settings, shuffled
from benchmarks.ctr_speed import OTHERS, first_rows
from benchmarks.planted_ctr import make_planted
from common.config import load_config
from common.metrics.ctr import auc
from track2_mmctr.config import CONFIG_FOLDER, DataConfig, FeatureConfig, RunConfig
from track2_mmctr.datasets.leaks import own_history
from track2_mmctr.datasets.microlens import load_data
from track2_mmctr.datasets.tables import CtrData


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> CtrData:
    folder = tmp_path_factory.mktemp("planted")
    make_planted(folder / "data", rows=3000, evaluated=2000, items=800, seed=7)
    return load_data(folder / "data", DataConfig(), FeatureConfig(), folder / "cache")


def cosine(data: CtrData, name: str = "test") -> np.ndarray:
    """Cosine of the target's vector with the mean of the history's."""
    split, vectors = data.splits[name], data.items.embedding  # pyright: ignore[reportArgumentType]
    assert vectors is not None
    means = np.add.reduceat(vectors[split.history], split.offsets[:-1])
    target = vectors[split.target]
    return (means * target).sum(1) / np.linalg.norm(means, axis=1) / np.linalg.norm(target, axis=1)


def test_planted_clicks_need_the_history_and_have_a_known_oracle(planted: CtrData) -> None:
    test = planted.splits["test"]
    assert test.label is not None and test.oracle is not None
    oracle = auc(test.label, test.oracle)
    assert 0.94 < oracle < 0.97
    assert 0.92 < auc(test.label, cosine(planted)) < oracle
    assert auc(test.label, test.levels[:, 0]) < 0.65
    assert test.label.mean() == pytest.approx(0.18, abs=0.001)


def test_planted_data_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        make_planted(tmp_path / name, rows=200, evaluated=100, items=100, seed=seed)
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.parquet")]
    assert len(files) == 6
    same = {file: (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files}
    assert all(same.values()), same
    trains = [pl.read_parquet(tmp_path / name / "MicroLens_1M_x1" / "train.parquet") for name in "ac"]
    assert not trains[0].equals(trains[1])


def test_shuffled_arms_move_one_thing_and_break_the_signal(planted: CtrData) -> None:
    test = planted.splits["test"]
    assert test.label is not None and planted.train.label is not None
    history = shuffled(planted, "history shuffled", 1)
    assert sorted(history.splits["test"].lengths) == sorted(test.lengths)
    assert np.array_equal(history.splits["test"].target, test.target)
    assert 0.4 < auc(test.label, cosine(history)) < 0.62
    embedding = shuffled(planted, "embedding shuffled", 1)
    assert embedding.items.embedding is not None and not embedding.items.embedding[0].any()
    new = np.setdiff1d(
        np.arange(len(test)), own_history(test)
    )  # a target in its own history is seen whatever its vector
    assert auc(test.label[new], cosine(planted)[new]) > 0.9
    assert 0.4 < auc(test.label[new], cosine(embedding)[new]) < 0.62
    labels = shuffled(planted, "labels shuffled", 1)
    assert labels.train.label is not None
    assert labels.train.label.sum() == planted.train.label.sum()
    for name in ("train", "valid"):  # early stopping must not see the truth either
        assert not np.array_equal(labels.splits[name].label, planted.splits[name].label)  # pyright: ignore[reportArgumentType]
    assert labels.splits["test"] is test


def test_other_histories_are_those_of_the_other_rows(planted: CtrData) -> None:
    split = planted.splits["valid"]
    order = np.random.default_rng(0).permutation(len(split))
    moved = other_histories(split, order)
    for row in (0, 5, len(split) - 1):
        theirs = split.history[split.offsets[order[row]] : split.offsets[order[row] + 1]]
        assert np.array_equal(moved.history[moved.offsets[row] : moved.offsets[row + 1]], theirs)


def test_first_rows_cut_a_split(planted: CtrData) -> None:
    cut = first_rows(planted.train, 17)
    assert len(cut) == 17 and cut.offsets[-1] == len(cut.history)
    assert np.array_equal(cut.history, planted.train.history[: cut.offsets[-1]])


@pytest.mark.parametrize("table", ["planted", "movielens"])
@pytest.mark.parametrize("name", RANKERS)
def test_every_ranker_s_settings_are_keys_that_exist(name: str, table: str) -> None:
    config = load_config(RunConfig, name, CONFIG_FOLDER, settings(Job(table, name, "", 7, "")))
    assert config.ranker.neural == (name in SMALL)
    assert set(OTHERS) <= set(RANKERS)

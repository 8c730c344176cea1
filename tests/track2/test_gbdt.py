"""gbdt: features against a loop over rows, no leak of a row's own label, determinism, saving."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.errors import ConfigError, DataError
from tests.track2.planted_rows import planted, random_rows, rank_auc, shuffled_histories
from track2_mmctr.config import FeatureConfig, GbdtConfig
from track2_mmctr.datasets.tables import CtrData, Split
from track2_mmctr.rankers import build_fitted
from track2_mmctr.rankers.gbdt import Gbdt
from track2_mmctr.rankers.gbdt_features import FOLDS, RECENCY, SMOOTHING, Counts, Folds, make_features
from track2_mmctr.rankers.segments import Segments

CONFIG = GbdtConfig(type="gbdt", rounds=60, learning_rate=0.1, leaves=7, min_rows=20, early_stopping=20)
FEATURES = FeatureConfig(item_levels=True)
SILENT: list[str] = []


def fitted(data: CtrData, features: FeatureConfig = FEATURES, config: GbdtConfig = CONFIG) -> Gbdt:
    ranker = build_fitted(config, features)
    assert isinstance(ranker, Gbdt)
    ranker.fit(data, max_len=64, seed=7, threads=1, say=SILENT.append)
    return ranker


def valid_auc(ranker: Gbdt, data: CtrData) -> float:
    valid = data.splits["valid"]
    return rank_auc(valid.label, ranker.predict(valid, data.items, max_len=64))


def random_labels(data: CtrData, seed: int = 3) -> CtrData:
    rng = np.random.default_rng(seed)
    splits = {
        name: replace(split, label=rng.integers(0, 2, len(split)).astype(np.float32))
        for name, split in data.splits.items()
    }
    return replace(data, splits=splits)


# ---- features


def test_segments_are_loops_over_rows() -> None:
    _, split = random_rows(rows=50)
    values = np.random.default_rng(0).normal(size=100)
    part = Segments.cut(split, 5, 40, max_len=4)
    tokens = values[part.history]
    empty = 0
    for row in range(5, 40):
        newest = split.history[split.offsets[row] : split.offsets[row + 1]][-4:]
        own = values[newest]
        i = row - 5
        assert part.lengths[i] == len(own)
        assert part.sum(tokens)[i] == pytest.approx(own.sum())
        if not len(own):
            empty += 1
            assert all(np.isnan(how(tokens)[i]) for how in (part.mean, part.max, part.last))
            assert np.isnan(part.top(tokens, 2)[i])
            continue
        assert part.mean(tokens)[i] == pytest.approx(own.mean())
        assert part.max(tokens)[i] == own.max()
        assert part.last(tokens)[i] == own[-1]
        assert part.top(tokens, 2)[i] == pytest.approx(np.sort(own)[::-1][:2].mean())
        ages = part.age[part.offsets[i] : part.offsets[i + 1]]
        assert ages.tolist() == list(range(len(own)))[::-1]
    assert empty


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_features_are_a_loop_over_rows() -> None:
    items, split = random_rows(rows=80)
    clicks = split.label
    assert items.embedding is not None and clicks is not None
    split = replace(split, users=np.arange(80) // 2)
    counts = Counts.of(split, np.arange(80), len(items), window=3)
    folds = Folds.of(split, len(items), 3, seed=0)
    table, names = make_features(split, items, counts, FEATURES, max_len=5, folds=folds)
    assert set(folds.fold.tolist()) == set(range(FOLDS))
    column = {name: table[:, i] for i, name in enumerate(names)}
    vectors = items.embedding - items.embedding[1:].mean(0)
    for row in range(80):
        target = split.target[row]
        history = split.history[split.offsets[row] : split.offsets[row + 1]][-5:]
        others = np.flatnonzero(folds.fold != folds.fold[row])
        shown = others[split.target[others] == target]
        rate = (clicks[shown].sum() + SMOOTHING * counts.rate) / (len(shown) + SMOOTHING)
        assert column["target_rate"][row] == pytest.approx(rate, rel=1e-5)
        near, seen = naive_history_counts(split, others, int(target), history)
        assert column["target_seen"][row] == pytest.approx(np.log1p(seen * FOLDS / (FOLDS - 1)), rel=1e-5)
        assert column["together"][row] == pytest.approx(np.log1p(near.sum() * FOLDS / (FOLDS - 1)), rel=1e-5)
        assert column["target_likes"][row] == split.levels[row, 0]
        if not len(history):
            assert np.isnan(column["cos_mean"][row]) and np.isnan(column["more_views"][row])
            continue
        each = np.array([cosine(vectors[item], vectors[target]) for item in history])
        assert column["cos_mean"][row] == pytest.approx(each.mean(), abs=1e-5)
        assert column["cos_max"][row] == pytest.approx(each.max(), abs=1e-5)
        assert column["cos_last"][row] == pytest.approx(each[-1], abs=1e-5)
        assert column["cos_std"][row] == pytest.approx(each.std(), abs=1e-3)
        assert column["cos_top3"][row] == pytest.approx(np.sort(each)[-3:].mean(), abs=1e-5)
        assert column["cos_of_mean"][row] == pytest.approx(cosine(vectors[history].sum(0), vectors[target]), abs=1e-5)
        weights = RECENCY ** np.arange(len(history))[::-1]
        units = vectors[history] / np.linalg.norm(vectors[history], axis=1, keepdims=True)
        assert column["cos_of_recent"][row] == pytest.approx(cosine(weights @ units, vectors[target]), abs=1e-5)
        assert column["together_share"][row] == pytest.approx((near > 0).mean(), abs=1e-6)
        views = items.views[target] - items.views[history].mean()
        assert column["more_views"][row] == pytest.approx(views, abs=1e-5)
        shared = [sum(tag in items.tags[item] for tag in items.tags[target] if tag) for item in history]
        assert column["tags_max"][row] == max(shared)
        assert column["tags_mean"][row] == pytest.approx(np.mean(shared), abs=1e-6)


def naive_history_counts(split: Split, rows: np.ndarray, target: int, history: np.ndarray) -> tuple[np.ndarray, int]:
    """How often each history item is at most 3 places from the target in others' longest histories; users with it."""
    longest: dict[int, np.ndarray] = {}
    for row in rows:
        own = split.history[split.offsets[row] : split.offsets[row + 1]]
        user = int(split.users[row])
        if user not in longest or len(own) >= len(longest[user]):
            longest[user] = own
    near, seen = np.zeros(len(history)), 0
    for own in longest.values():
        seen += target in own
        for i, a in enumerate(own):
            for b in own[i + 1 : i + 4]:
                if a != b:
                    near += [{a, b} == {target, item} for item in history]
    return near, seen


@pytest.mark.parametrize(
    ("off", "gone"),
    [
        ({"ids": False}, ("target_rate", "target_shows", "target_seen", "together")),
        ({"embedding": "none"}, ("cos_", "dot_", "target_norm")),
        ({"tags": False}, ("tags_", "target_tags")),
        ({"item_levels": False}, ("item_", "history_likes", "history_views", "more_")),
        ({"target_levels": False}, ("target_likes", "target_views")),
    ],
)
def test_a_part_that_is_off_gives_no_feature(off: dict[str, object], gone: tuple[str, ...]) -> None:
    items, split = random_rows()
    counts = Counts.of(split, np.arange(len(split)), len(items), 3)
    _, everything = make_features(split, items, counts, FEATURES, max_len=5)
    _, names = make_features(split, items, counts, FEATURES.model_copy(update=off), max_len=5)
    expected = [name for name in everything if not name.startswith(gone)]
    assert names == expected
    assert len(names) < len(everything)


# ---- no row sees itself


def test_a_rows_own_label_and_its_users_history_change_none_of_its_features() -> None:
    items, split = random_rows(rows=60)
    labels = split.label
    assert labels is not None
    split = replace(split, users=np.arange(60) // 3)

    def features(changed: Split) -> np.ndarray:
        counts = replace(Counts.of(changed, np.arange(60), len(items), 5), rate=0.5)
        folds = Folds.of(changed, len(items), 5, seed=0)
        table, _ = make_features(changed, items, counts, FEATURES, max_len=64, folds=folds)
        return table

    base = features(split)
    for row in range(0, 60, 7):
        label = labels.copy()
        label[row] = 1 - label[row]
        flipped = features(replace(split, label=label))
        np.testing.assert_array_equal(flipped[row], base[row])
        assert (label != labels).any()
    # the click of row 0 becomes history in row 2 of the same user: row 0 must not learn of it
    history = split.history.copy()
    first, last = split.offsets[2], split.offsets[3]
    assert last > first
    history[first:last] = split.target[0]
    after = features(replace(split, history=history))
    np.testing.assert_array_equal(after[0], base[0])
    assert not np.array_equal(after[2], base[2], equal_nan=True)


def test_random_labels_teach_nothing() -> None:
    data = random_labels(planted(items=400, train=2500, valid=1000))
    train = data.train
    counts = Counts.of(train, np.arange(len(train)), len(data.items), 3)
    folds = Folds.of(train, len(data.items), 3, seed=7)
    honest, names = make_features(train, data.items, counts, FEATURES, max_len=64, folds=folds)
    leaking, _ = make_features(train, data.items, counts, FEATURES, max_len=64)
    rate = names.index("target_rate")
    assert rank_auc(train.label, leaking[:, rate]) > 0.6  # what in-sample rates would tell of the own label
    assert abs(rank_auc(train.label, honest[:, rate]) - 0.5) < 0.05
    # early stopping picks the luckiest round on valid, so the floor is asserted on rows that it has not seen
    train_only = replace(data, splits={"train": train})
    assert abs(valid_auc(fitted(train_only), data) - 0.5) < 0.06


def test_it_learns_what_only_the_history_tells() -> None:
    data = planted()
    assert valid_auc(fitted(data), data) > 0.93
    placebo = shuffled_histories(data)
    assert valid_auc(fitted(placebo), placebo) < 0.6


def test_ids_alone_tell_popular_targets() -> None:
    data = planted()
    popular = {
        name: replace(split, label=((split.target % 3 == 0) ^ (np.arange(len(split)) % 10 == 0)).astype(np.float32))
        for name, split in data.splits.items()
    }
    data = replace(data, splits=popular)
    features = FeatureConfig(embedding="none", tags=False, target_levels=False)
    assert valid_auc(fitted(data, features), data) > 0.8
    assert valid_auc(fitted(data, features.model_copy(update={"ids": False})), data) < 0.6


# ---- saving, bad input


def test_the_same_seed_gives_the_same_bytes_and_loading_the_same_logits(tmp_path: Path) -> None:
    data = planted(train=600, valid=200)
    first, second = fitted(data), fitted(data)
    first.save(tmp_path / "a")
    second.save(tmp_path / "b")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["lightgbm.txt", "ranker.json", "ranker.safetensors"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    valid = data.splits["valid"]
    expected = first.predict(valid, data.items, max_len=64)
    loaded = Gbdt.load(tmp_path / "a")
    np.testing.assert_array_equal(loaded.predict(valid, data.items, max_len=64), expected)
    assert list(loaded.importance()) == list(first.importance())
    assert expected.std() > 0.1


def test_without_valid_all_rounds_are_made_and_said() -> None:
    data = planted(train=600, valid=200)
    said: list[str] = []
    ranker = Gbdt(CONFIG, FEATURES)
    ranker.fit(replace(data, splits={"train": data.train}), max_len=64, seed=7, threads=1, say=said.append)
    assert any("no labelled valid" in line for line in said)
    assert ranker.booster is not None and ranker.booster.num_trees() == CONFIG.rounds


def test_damaged_and_foreign_models_are_refused(tmp_path: Path) -> None:
    data = planted(train=300, valid=100)
    ranker = fitted(data)
    with pytest.raises(DataError, match="another item table"):
        ranker.predict(data.splits["valid"], replace(data.items, digest="other"), max_len=64)
    ranker.save(tmp_path)
    for name in ("lightgbm.txt", "ranker.json", "ranker.safetensors"):
        content = (tmp_path / name).read_bytes()
        for damaged in (content[: len(content) // 3], None):
            (tmp_path / name).unlink()
            if damaged is not None:
                (tmp_path / name).write_bytes(damaged)
            with pytest.raises(DataError):
                Gbdt.load(tmp_path)
            (tmp_path / name).write_bytes(content)
    values = json.loads((tmp_path / "ranker.json").read_text())
    (tmp_path / "ranker.json").write_text(json.dumps(values | {"type": "popularity"}))
    with pytest.raises(DataError, match="another ranker"):
        Gbdt.load(tmp_path)
    (tmp_path / "ranker.json").write_text(json.dumps(values | {"names": values["names"][::-1]}))
    with pytest.raises(DataError, match="other features"):
        Gbdt.load(tmp_path)


def test_an_embedding_that_is_not_there_is_an_error() -> None:
    data = planted(train=100, valid=50)
    data = replace(data, items=data.items.with_embedding(None))
    with pytest.raises(ConfigError, match="no embedding"):
        fitted(data)
    assert len(fitted(data, FeatureConfig(embedding="none")).predict(data.train, data.items, max_len=64)) == 100

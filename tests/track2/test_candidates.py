"""A generator's opinion of rows as a feature: read, checked, and used by every ranker that can."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from common.config import load_config
from common.errors import ConfigError, DataError
from tests.track2.ctr_files import FOLDER, edit, put, write_layout
from tests.track2.planted_rows import random_rows, rank_auc
from track2_mmctr.batches import make_batch
from track2_mmctr.config import CONFIG_FOLDER, DataConfig, FeatureConfig, GbdtConfig, RunConfig
from track2_mmctr.datasets.microlens import load_data
from track2_mmctr.datasets.tables import CtrData, Split
from track2_mmctr.rankers import build_fitted, build_ranker
from track2_mmctr.rankers.gbdt_features import Counts, make_features

ITEMS = 50
NEURAL = [
    name
    for name in sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))
    if load_config(RunConfig, name, CONFIG_FOLDER).ranker.neural and name not in ("task1", "baseline")
]


def write_candidates(folder: Path, path: Path, seed: int = 0, known: float = 0.8, **about: object) -> Path:
    """Write a file as `common.generative export --rows` does, of the rows of a folder, with random scores."""
    rng = np.random.default_rng(seed)
    parts = []
    for name in ("train", "valid", "test"):
        split = pq.read_table(folder / FOLDER / f"{name}.parquet", columns=["user_id", "item_id"])
        rows = len(split)
        there = rng.random(rows) < known
        columns = {
            "split": [name] * rows,
            "row": np.arange(rows),
            "user_id": split["user_id"],
            "item_id": split["item_id"],
            "score": (there * -rng.random(rows) * np.log(ITEMS)).astype(np.float32),
            "rank": (there * rng.integers(0, 20, rows)).astype(np.int32),
            "known": there,
        }
        parts.append(pa.table(columns))
    whole = pa.concat_tables(parts).take(rng.permutation(sum(map(len, parts))))  # the order of lines does not matter
    meta = {"format": "mirc-candidates-1", "items": ITEMS, "model": "tiger", **about}
    pq.write_table(whole.replace_schema_metadata({"mirc_candidates": json.dumps(meta)}), path)
    return path


def loaded(folder: Path, tmp_path: Path, path: Path) -> CtrData:
    return load_data(folder, DataConfig(), FeatureConfig(candidates=str(path)), tmp_path / "cache")


def test_features_are_joined_by_split_and_row(tmp_path: Path) -> None:
    write_layout(tmp_path / "data", items=ITEMS)
    path = write_candidates(tmp_path / "data", tmp_path / "rows.parquet")
    data = loaded(tmp_path / "data", tmp_path, path)
    lines = {(line["split"], line["row"]): line for line in pq.read_table(path).to_pylist()}
    seen = 0
    for name, split in data.splits.items():
        assert split.candidates is not None and split.candidates.dtype == np.float32
        for row in range(len(split)):
            line = lines[name, row]
            score = 1 + line["score"] / np.log(ITEMS) if line["known"] else 0
            wanted = [float(line["known"]), score, 1 / line["rank"] if line["rank"] else 0]
            assert split.candidates[row].tolist() == pytest.approx(wanted, abs=1e-6)
            seen += line["known"] and line["rank"] > 0
    assert seen > 50
    assert any("tiger knows" in note and "of train" in note for note in data.notes)


def test_digests_tell_the_features_and_the_generator(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_layout(folder, items=ITEMS)
    plain = load_data(folder, DataConfig(), FeatureConfig(), tmp_path / "cache")
    one = loaded(folder, tmp_path, write_candidates(folder, tmp_path / "a.parquet"))
    same = loaded(folder, tmp_path, write_candidates(folder, tmp_path / "b.parquet"))
    scores = loaded(folder, tmp_path, write_candidates(folder, tmp_path / "c.parquet", seed=1))
    model = loaded(folder, tmp_path, write_candidates(folder, tmp_path / "d.parquet", folds=2))
    assert one.items.digest == same.items.digest == scores.items.digest  # one generator: a ranker takes new rows of it
    assert len({data.items.digest for data in (plain, one, model)}) == 3
    assert one.train.digest == same.train.digest
    assert len({data.train.digest for data in (plain, one, scores, model)}) == 4


def test_few_known_rows_of_train_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_layout(folder, items=ITEMS)
    path = write_candidates(folder, tmp_path / "rows.parquet", known=1.0)

    def forget(table: pa.Table) -> pa.Table:
        train = np.array(table["split"].to_pylist()) == "train"
        return put(table, "known", ~train)

    edit(path, forget)
    assert any("few rows of train are known" in note for note in loaded(folder, tmp_path, path).notes)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda table: table.slice(1), "other rows"),
        (lambda table: put(table, "item_id", np.asarray(table["item_id"]) + 1), "other rows"),
        (lambda table: put(table, "user_id", np.asarray(table["user_id"]) + 1), "other rows"),
        (lambda table: pa.concat_tables([table, table.slice(0, 1)]), "other rows"),
        (lambda table: put(table, "score", np.full(len(table), np.nan, np.float32)), "not finite"),
        (lambda table: table.drop_columns(["known"]), "not a file of candidates"),
        (lambda table: table.replace_schema_metadata(None), "not a file of candidates"),
        (lambda table: table.replace_schema_metadata({"mirc_candidates": "{"}), "damaged"),
    ],
    ids=["short", "items", "users", "twice", "nan", "column", "header", "json"],
)
def test_a_damaged_file_or_one_of_other_rows_is_refused(
    tmp_path: Path, damage: Callable[[pa.Table], pa.Table], says: str
) -> None:
    folder = tmp_path / "data"
    write_layout(folder, items=ITEMS)
    path = edit(write_candidates(folder, tmp_path / "rows.parquet"), damage)
    with pytest.raises(DataError, match=says) as caught:
        loaded(folder, tmp_path, path)
    assert "rows.parquet" in str(caught.value)


def test_a_missing_file_and_rows_without_the_features_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_layout(folder, items=ITEMS)
    with pytest.raises(ConfigError, match="no such file of generated candidates"):
        loaded(folder, tmp_path, tmp_path / "none.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="damaged"):
        loaded(folder, tmp_path, tmp_path / "broken.parquet")
    table, split = random_rows()
    features = FeatureConfig(dim=4, candidates="rows.parquet")
    ranker = build_ranker(load_config(RunConfig, "dcnv2", CONFIG_FOLDER).ranker, features, table)
    with pytest.raises(ConfigError, match="no generated candidates"):
        ranker.encoder.dense(make_batch(split, np.arange(8), 64))
    counts = Counts.of(split, np.arange(len(split)), len(table), 0)
    with pytest.raises(ConfigError, match="no generated candidates"):
        make_features(split, table, counts, features, max_len=64)


def with_candidates(split: Split, values: np.ndarray) -> Split:
    return replace(split, candidates=values.astype(np.float32))


def test_a_batch_takes_the_rows_own_features(tmp_path: Path) -> None:
    table, split = random_rows()
    values = np.random.default_rng(0).random((len(split), 3))
    batch = make_batch(with_candidates(split, values), np.array([7, 1, 20]), 64)
    assert batch.candidates is not None
    assert np.allclose(batch.candidates.numpy(), values[batch.rows.numpy()])
    features = FeatureConfig(dim=4, candidates="rows.parquet", similarity=True)
    encoder = build_ranker(load_config(RunConfig, "din", CONFIG_FOLDER).ranker, features, table).encoder
    dense = encoder.dense(batch)
    assert dense.shape == (3, encoder.dense_dim) == (3, 6)
    assert torch.equal(dense[:, 3:], batch.candidates) and torch.equal(dense[:, :3], encoder.similarity(batch))
    assert make_batch(split, np.arange(3), 64).candidates is None


@pytest.mark.parametrize("name", NEURAL)
def test_every_neural_ranker_reads_them(name: str) -> None:
    table, split = random_rows()
    config = load_config(RunConfig, name, CONFIG_FOLDER)
    features = config.features.model_copy(update={"candidates": "rows.parquet", "dim": 4, "semantic_ids": "none"})
    torch.manual_seed(0)
    ranker = build_ranker(config.ranker, features, table).eval()
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.normal_(std=0.2)
        values = np.zeros((len(split), 3))
        rows = np.arange(len(split))
        before = ranker(make_batch(with_candidates(split, values), rows, 64))
        values[4] = (1, 0.7, 0.5)
        batch = make_batch(with_candidates(split, values), rows, 64)
        moved = (ranker(batch) - before).abs() > 1e-6
    assert torch.equal(moved, batch.rows == 4)  # this row's logit and no other


def test_gbdt_learns_from_them_what_nothing_else_tells() -> None:
    table, split = random_rows(rows=600)
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, len(split)).astype(np.float32)
    split = replace(split, label=label)
    known = rng.random(len(split)) < 0.9
    told = np.stack([known, known * (label + 0.5 * rng.normal(size=len(split))), known * rng.random(len(split))], 1)
    features = FeatureConfig(candidates="rows.parquet", embedding="none", tags=False, ids=False)
    config = GbdtConfig(type="gbdt", rounds=30, learning_rate=0.1, leaves=7, min_rows=20, early_stopping=20)

    def auc(values: np.ndarray) -> float:
        halves = [with_candidates(_part(split, rows), values[rows]) for rows in (slice(0, 300), slice(300, 600))]
        ranker = build_fitted(config, features)
        data = CtrData(Path(), {"train": halves[0]}, table)
        ranker.fit(data, max_len=64, seed=7, threads=1, say=lambda _: None)
        return rank_auc(halves[1].label, ranker.predict(halves[1], table, max_len=64))

    assert auc(told) > 0.8
    assert abs(auc(rng.permutation(told)) - 0.5) < 0.1  # the same features dealt to other rows
    counts = Counts.of(split, np.arange(len(split)), len(table), 0)
    values, names = make_features(with_candidates(split, told), table, counts, features, max_len=64)
    score = values[:, names.index("generated_score")]
    assert np.array_equal(np.isnan(score), ~known) and np.allclose(score[known], told[known, 1])
    assert "generated_rank" in names and "generated_known" not in names


def _part(split: Split, rows: slice) -> Split:
    start, stop, _ = rows.indices(len(split))
    offsets = split.offsets[start : stop + 1]
    assert split.label is not None
    return replace(
        split,
        users=split.users[rows],
        history=split.history[offsets[0] : offsets[-1]],
        offsets=offsets - offsets[0],
        target=split.target[rows],
        levels=split.levels[rows],
        label=split.label[rows],
    )

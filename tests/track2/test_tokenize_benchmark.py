"""The benchmark of semantic IDs: its planted data, its arms, and differences paired by seed."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.semantic_id_ctr import (
    ARMS,
    IDS,
    IDS_NO_ITEM,
    NO_IDS,
    NO_ITEM,
    PLACEBO,
    effects,
    make_jobs,
    write_ids,
    write_planted,
)
from common.metrics.ctr import auc
from common.planted import PlantedConfig, plant
from common.tokenizers.files import read_sids
from track2_mmctr.config import DataConfig, FeatureConfig
from track2_mmctr.datasets.microlens import load_data


def test_the_layout_is_read_without_leaks_and_carries_the_oracle(tmp_path: Path) -> None:
    made = plant(PlantedConfig(items=300, rows=3000, users=200, dim=128), seed=7)
    write_planted(tmp_path / "data", made)
    data = load_data(tmp_path / "data", DataConfig(leaks="error"), FeatureConfig(), tmp_path / "cache")
    users = [set(np.asarray(split.users).tolist()) for split in data.splits.values()]
    assert not (users[0] & users[1] or users[0] & users[2] or users[1] & users[2])
    test = data.splits["test"]
    assert test.label is not None and test.oracle is not None
    assert auc(test.label, test.oracle) == pytest.approx(made.clicks.expected_auc(), abs=0.05)
    assert data.items.embedding is not None
    np.testing.assert_array_equal(data.items.embedding[1:], made.additive)

    files = write_ids(tmp_path / "data", "auto", "4,4", tmp_path / "ids", seeds=2)
    ids, placebos = read_sids(files["ids"]), [read_sids(files[f"placebo {seed}"]) for seed in (7, 8)]
    assert len({ids.version, *(file.version for file in placebos)}) == 3
    for file in placebos:
        assert sorted(map(tuple, file.sids.tolist())) == sorted(map(tuple, ids.sids.tolist()))
        assert (file.sids != ids.sids).any(1).mean() > 0.9
    jobs = list(make_jobs("planted", tmp_path / "data", "auto", files, ["din"], 2, ids.version))
    assert {job.column for _, job in jobs} == set(ARMS)
    assert len({job.key for _, job in jobs}) == len(jobs) == 2 * (len(ARMS) - 1) + 2 * len(ARMS)
    for _, job in jobs:
        named = [value for value in job.overrides if value.startswith("features.semantic_ids=")]
        assert bool(named) == (job.column not in (NO_IDS, NO_ITEM))
        assert not named or named[0].endswith(f"placebo-{job.seed}.parquet" if job.column == PLACEBO else "ids.parquet")
        assert ("features.ids=false" in job.overrides) == (job.column in (NO_ITEM, IDS_NO_ITEM))


def test_differences_are_paired_by_seed() -> None:
    values = {NO_IDS: (0.60, 0.62, 0.70), IDS: (0.65, 0.68, 0.74), NO_ITEM: (0.5,), IDS_NO_ITEM: (0.6, 0.9)}
    rows: list[dict[str, object]] = [
        {"ranker": "din", "column": arm, "seed": 7 + n, "auc": value}
        for arm, found in values.items()
        for n, value in enumerate(found)
    ]
    found = {arm: (mean, error, count) for _, arm, mean, error, count in effects(rows)}
    assert found[IDS] == pytest.approx((0.05, 0.01 / 3**0.5, 3))
    mean, error, count = found[IDS_NO_ITEM]
    assert (mean, count) == (pytest.approx(0.1), 1) and np.isnan(error)
    assert set(found) == {IDS, IDS_NO_ITEM}

"""A run's predictions on disk: round trip, and every way in which the file can be wrong."""

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from common.errors import DataError
from tests.track2.test_evaluate_ctr import make_split
from track2_mmctr.predictions import logits_of, predictions_path, read_predictions, write_predictions

SPLIT = make_split(40)
LOGITS = np.random.default_rng(1).normal(size=40)


@pytest.mark.parametrize("ids", [None, np.arange(40)[::-1] * 3])
@pytest.mark.parametrize("label", [None, SPLIT.label])
def test_round_trip(tmp_path: Path, ids: np.ndarray | None, label: np.ndarray | None) -> None:
    split = replace(SPLIT, ids=ids, label=label)
    path = write_predictions(tmp_path, split, LOGITS)
    assert path == tmp_path / "predictions" / "valid.parquet"
    kinds = {"row": pl.Int64, "user_id": pl.Int64, "item_id": pl.Int64, "label": pl.Float32, "logit": pl.Float64}
    assert dict(pl.read_parquet_schema(path)) == kinds | ({} if ids is None else {"ID": pl.Int64})
    back = read_predictions(path)
    assert np.array_equal(back.logits, LOGITS)
    assert np.array_equal(logits_of(back, split), LOGITS)
    for mine, theirs in ((back.label, label), (back.ids, ids), (back.users, split.users), (back.items, split.target)):
        assert (mine is None) == (theirs is None)
        assert mine is None or np.array_equal(mine, theirs)


def test_labels_of_another_test_set_are_found_also_when_one_side_has_none(tmp_path: Path) -> None:
    back = read_predictions(write_predictions(tmp_path, replace(SPLIT, label=None), LOGITS))
    assert len(logits_of(back, SPLIT)) == 40  # answers that came later
    with pytest.raises(DataError, match="row 39, ID"):
        ids = np.arange(40)
        mine = read_predictions(write_predictions(tmp_path, replace(SPLIT, ids=ids), LOGITS))
        logits_of(mine, replace(SPLIT, ids=np.where(ids == 39, 99, ids)))


@pytest.mark.parametrize(
    ("logits", "message"), [(LOGITS[:-1], "expected: 40 numbers"), (np.where(np.arange(40) == 5, np.nan, 1), "row 5")]
)
def test_bad_logits_are_refused_and_the_old_file_stays(tmp_path: Path, logits: np.ndarray, message: str) -> None:
    path = write_predictions(tmp_path, SPLIT, LOGITS)
    with pytest.raises(DataError, match=message):
        write_predictions(tmp_path, SPLIT, logits)
    assert np.array_equal(read_predictions(path).logits, LOGITS)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_predictions(tmp_path, SPLIT, LOGITS)

    def half(self: pl.DataFrame, file: Path) -> None:
        file.write_bytes(b"PAR1 and then")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", half)
    with pytest.raises(OSError, match="No space"):
        write_predictions(tmp_path, SPLIT, LOGITS + 1)
    assert np.array_equal(read_predictions(path).logits, LOGITS)
    assert [p.name for p in path.parent.iterdir()] == ["valid.parquet"]


BROKEN = {
    "no logit": (lambda t: t.drop("logit"), "logit"),
    "no user": (lambda t: t.drop("user_id"), "user_id"),
    "text": (lambda t: t.with_columns(pl.col("logit").cast(pl.String)), "got: +String"),
    "NaN": (lambda t: t.with_columns(logit=pl.lit(float("nan"))), "40 logits are NaN"),
    "null logit": (lambda t: t.with_columns(logit=pl.when(pl.col("row") != 3).then("logit")), "logit"),
    "some labels": (lambda t: t.with_columns(label=pl.when(pl.col("row") != 3).then("label")), "label"),
    "row lost": (lambda t: t.filter(pl.col("row") != 3), "rows are not in order"),
    "sorted otherwise": (lambda t: t.reverse(), "rows are not in order"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused(tmp_path: Path, name: str) -> None:
    change, message = BROKEN[name]
    path = write_predictions(tmp_path, SPLIT, LOGITS)
    change(pl.read_parquet(path)).write_parquet(path)
    with pytest.raises(DataError, match=message):
        read_predictions(path)


def test_a_file_that_is_cut_short_or_absent_is_refused(tmp_path: Path) -> None:
    path = write_predictions(tmp_path, SPLIT, LOGITS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="not whole parquet"):
        read_predictions(path)
    with pytest.raises(DataError, match="no such predictions"):
        read_predictions(predictions_path(tmp_path, "test"))

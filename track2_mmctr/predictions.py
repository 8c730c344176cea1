"""A run's predictions: `predictions/<split>.parquet` in its folder, one row for each row of the split, in its order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from common.atomic import atomic_path
from common.errors import DataError
from track2_mmctr.datasets.tables import Split, SplitName

FOLDER = "predictions"
_SCHEMA = {
    "row": pl.Int64,
    "user_id": pl.Int64,
    "item_id": pl.Int64,
    "label": pl.Float32,
    "logit": pl.Float64,
}


@dataclass(frozen=True, eq=False)
class Predictions:
    """What the file holds: users, items int64 [R], logits float64 [R], and labels and ids where there are any."""

    path: Path
    users: np.ndarray
    items: np.ndarray
    logits: np.ndarray
    label: np.ndarray | None
    ids: np.ndarray | None

    def __len__(self) -> int:
        return len(self.logits)


def predictions_path(run: Path, name: SplitName) -> Path:
    """Return where a run keeps its predictions of a split."""
    return run / FOLDER / f"{name}.parquet"


def write_predictions(run: Path, split: Split, logits: np.ndarray) -> Path:
    """Write the logits [R] of a split into the run's folder, and return the file.

    Raises
    ------
    DataError
        Not one logit for each row, or one is NaN (the row is named). The old file stays.
    OSError
        The disk is full or the folder is not writable. The old file stays.
    """
    path = predictions_path(run, split.name)
    values = check_logits(logits, len(split), path)
    columns = {
        "row": pl.Series(np.arange(len(split), dtype=np.int64)),
        "user_id": pl.Series(np.asarray(split.users, dtype=np.int64)),
        "item_id": pl.Series(np.asarray(split.target, dtype=np.int64)),
        "label": pl.Series([None] * len(split), dtype=pl.Float32)
        if split.label is None
        else pl.Series(np.asarray(split.label, dtype=np.float32)),
        "logit": pl.Series(values),
    }
    if split.ids is not None:
        columns["ID"] = pl.Series(np.asarray(split.ids, dtype=np.int64))
    with atomic_path(path) as temporary:
        pl.DataFrame(columns).write_parquet(temporary)
    return path


def check_logits(logits: np.ndarray, rows: int, where: object) -> np.ndarray:
    """Return the logits as float64; raise `DataError` unless there is one for each row and none is NaN."""
    values = np.asarray(logits, dtype=np.float64)
    if values.shape != (rows,):
        raise DataError("not one logit for each row", where=where, expected=f"{rows:,} numbers", got=values.shape)
    wrong = np.flatnonzero(np.isnan(values))
    if len(wrong):
        raise DataError(
            f"{len(wrong):,} logits are NaN",
            where=f"{where}, row {wrong[0]}",
            expected="numbers",
            got="nan",
            todo="the ranker diverged: lower train.learning_rate, or look for NaN in the item embedding",
        )
    return values


def read_predictions(path: Path) -> Predictions:
    """Read a run's predictions of one split.

    Raises
    ------
    DataError
        The file is missing, cut short, lacks a column, or a column is of another type; rows are not 0, 1, 2, ...;
        a logit is NaN; or only some labels are there.
    """
    todo = "run again: a run writes its predictions at its end"
    if not path.is_file():
        raise DataError("the run has no such predictions", where=path, expected="a parquet file", todo=todo)
    try:
        table = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError("the file is not whole parquet", where=path, got=str(error)[:200], todo=todo) from None
    wanted = _SCHEMA | ({"ID": pl.Int64} if "ID" in table.columns else {})
    for name, kind in wanted.items():
        if name not in table.columns or table.schema[name] != kind:
            got = table.schema.get(name, "no such column")
            raise DataError("a column is missing or of another type", where=f"{path}, {name}", expected=kind, got=got)
    holes = [name for name in wanted if name != "label" and table[name].null_count()]
    if holes or table["label"].null_count() not in (0, len(table)):
        raise DataError("values are missing", where=f"{path}, {(holes or ['label'])[0]}", expected="no nulls")
    if not np.array_equal(table["row"].to_numpy(), np.arange(len(table))):
        raise DataError("rows are not in order", where=f"{path}, row", expected=f"0 to {len(table) - 1}", todo=todo)
    known = len(table) > 0 and table["label"].null_count() == 0
    return Predictions(
        path,
        table["user_id"].to_numpy(),
        table["item_id"].to_numpy(),
        check_logits(table["logit"].to_numpy(), len(table), path),
        table["label"].to_numpy() if known else None,
        table["ID"].to_numpy() if "ID" in wanted else None,
    )


def logits_of(predictions: Predictions, split: Split) -> np.ndarray:
    """Return the logits after checking that the file's rows are those of `split`: float64 [R].

    Raises
    ------
    DataError
        The number of rows, or a row's user, item, ID or label differs: the run read other data.
    """
    pairs = {
        "user_id": (predictions.users, split.users),
        "item_id": (predictions.items, split.target),
        "ID": (predictions.ids, split.ids),
        "label": (predictions.label, split.label),
    }
    todo = "give the data that the run was made on"
    if len(predictions) != len(split):
        raise DataError(
            f"the predictions are not of this {split.name} split",
            where=predictions.path,
            expected=f"{len(split):,} rows",
            got=f"{len(predictions):,}",
            todo=todo,
        )
    for name, (mine, theirs) in pairs.items():
        if mine is None or theirs is None:
            continue
        differ = np.flatnonzero(mine != np.asarray(theirs))
        if len(differ):
            row = int(differ[0])
            raise DataError(
                f"the predictions are not of this {split.name} split: {len(differ):,} rows differ",
                where=f"{predictions.path}, row {row}, {name}",
                expected=theirs[row],
                got=mine[row],
                todo=todo,
            )
    return predictions.logits

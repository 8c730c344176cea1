"""Score predictions of clicks: AUC with its standard errors, GAUC, log-loss, calibration, and the AUC of groups.

The rule is the leaderboard's (`common.metrics.ctr.auc`, over all rows, 0 to 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import DataError
from common.logits import log_odds, sigmoid
from common.metrics.ctr import Calibration, GroupAuc, auc, calibration, gauc, log_loss
from common.metrics.ctr_intervals import RESAMPLES, Resampled, bootstrap, delong
from common.submission.mmctr import Task, ValidationReport, read_submission, validate_submission
from track2_mmctr.config import DataConfig, FeatureConfig
from track2_mmctr.datasets.tables import CtrData, Split, SplitName
from track2_mmctr.groups import COLD, length_groups, popularity_groups, train_counts
from track2_mmctr.predictions import check_logits, logits_of, predictions_path, read_predictions

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True)
class Figures:
    """Figures of a group of rows. `auc`, `error` and `oracle` are None where a group has one class.

    Attributes
    ----------
    rows, positives
        Rows, and clicks among them.
    auc, error
        AUC and its standard error (DeLong, rows taken as independent).
    oracle
        AUC of the true log-odds of planted data: what no ranker passes but by luck.
    log_loss
        Mean cross-entropy in nats.
    predicted, label
        Mean probability and click rate.
    """

    rows: int
    positives: int
    auc: float | None
    error: float | None
    oracle: float | None
    log_loss: float
    predicted: float
    label: float

    @classmethod
    def of(cls, label: np.ndarray, logits: np.ndarray, oracle: np.ndarray | None) -> Figures:
        """Return the figures of at least one row."""
        both = label.min() != label.max()
        found = delong(label, logits) if both else None
        return cls(
            rows=len(label),
            positives=int(label.sum()),
            auc=None if found is None else found.auc,
            error=None if found is None or math.isnan(found.error) else found.error,
            oracle=auc(label, oracle) if both and oracle is not None else None,
            log_loss=log_loss(label, logits),
            predicted=float(sigmoid(logits).mean()),
            label=float(label.mean(dtype=np.float64)),
        )


@dataclass(frozen=True)
class CtrReport:
    """The local score of one split.

    Attributes
    ----------
    split
        Its name.
    overall
        Figures over all rows; here `auc` is never None.
    gauc
        AUC within users, averaged by their rows.
    calibration
        Of the probabilities, over bins of equal mass.
    by_user
        Spread of the AUC over resamples of whole users; None where each user has one row (DeLong's says all).
    by_length
        Figures by history length.
    by_popularity
        Figures by the number of training rows with the same target; empty where that is not known.
    warm
        Figures of the rows whose target was a training target, the cold ones being `by_popularity[COLD]`; None
        where either does not exist.
    """

    split: str
    overall: Figures
    gauc: GroupAuc
    calibration: Calibration
    by_user: Resampled | None
    by_length: Mapping[str, Figures]
    by_popularity: Mapping[str, Figures] = field(default_factory=dict)
    warm: Figures | None = None
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> float:
        """The leaderboard's figure: AUC over all rows."""
        if self.overall.auc is None:  # evaluate() refuses such a split
            raise ValueError("the split has one class only")
        return self.overall.auc

    def to_dict(self) -> dict[str, Any]:
        """Return the report for metrics.json."""
        return {
            "auc": self.headline,
            "standard_error": self.overall.error,
            "standard_error_by_user": None if self.by_user is None else self.by_user.error,
            **asdict(self),
        }

    def render(self) -> Group:
        """Return rich tables: print them with `rich.console.Console().print`."""
        from track2_mmctr.score_tables import render_score

        return render_score(self)


@dataclass(frozen=True)
class CtrScores:
    """Reports of a run or a submission, by split."""

    reports: Mapping[SplitName, CtrReport]
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> float:
        """AUC on test where its labels are known, else on valid."""
        return self.reports["test" if "test" in self.reports else "valid"].headline

    def to_dict(self) -> dict[str, Any]:
        """Return the reports for JSON."""
        return {**{name: report.to_dict() for name, report in self.reports.items()}, "notes": list(self.notes)}

    def render(self) -> Group:
        """Return rich tables: print them with `rich.console.Console().print`."""
        from rich.console import Group
        from rich.text import Text

        return Group(*(report.render() for report in self.reports.values()), *(Text(note) for note in self.notes))


def evaluate(
    split: Split,
    logits: np.ndarray,
    counts: np.ndarray | None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 7,
    notes: Sequence[str] = (),
) -> CtrReport:
    """Score the logits of a split against its labels.

    Parameters
    ----------
    split
        R rows with labels.
    logits
        float [R]: log-odds of a click, in the order of the split.
    counts
        int [N], see `groups.train_counts`; None leaves the figures by popularity out.
    resamples, seed
        Of the bootstrap by user.
    notes
        Put into the report as they are.

    Raises
    ------
    DataError
        No labels, one class only, not one logit for each row, or a NaN.
    """
    label = labels_of(split)
    values = check_logits(logits, len(split), f"predictions of {split.name}")
    oracle = None if split.oracle is None else np.asarray(split.oracle)

    def figures(groups: Mapping[str, np.ndarray]) -> dict[str, Figures]:
        found = {name: rows for name, rows in groups.items() if rows.any()}
        return {
            name: Figures.of(label[rows], values[rows], None if oracle is None else oracle[rows])
            for name, rows in found.items()
        }

    popularity = popularity_groups(split, counts)
    by_popularity = figures(popularity)
    warm = figures({"warm": ~popularity[COLD]})["warm"] if len(by_popularity) > 1 and COLD in by_popularity else None
    users = np.asarray(split.users)
    shared = len(np.unique(users)) < len(users)
    return CtrReport(
        split=split.name,
        overall=Figures.of(label, values, oracle),
        gauc=gauc(label, values, users),
        calibration=calibration(label, sigmoid(values)),
        by_user=bootstrap(label, values, users, resamples=resamples, seed=seed) if shared else None,
        by_length=figures(length_groups(split)),
        by_popularity=by_popularity,
        warm=warm,
        notes=tuple(notes),
    )


def labels_of(split: Split) -> np.ndarray:
    """Return the labels of a split, float32 [R]; raise `DataError` without labels or with one class only."""
    if split.label is None:
        raise DataError(
            f"the {split.name} split has no labels",
            expected="column label, or answers.parquet beside the test file",
            todo="score a run's folder: its valid split has labels",
        )
    label = np.asarray(split.label)
    if not len(label) or label.min() == label.max():
        raise DataError(
            f"the {split.name} split has one class only: there is no AUC",
            expected="clicks and no clicks",
            got=f"{len(label):,} rows, {int(label.sum()):,} clicks",
        )
    return label


def open_data(root: Path, cache: Path) -> CtrData:
    """Read the data under `root` as scoring needs it: without item embeddings."""
    from track2_mmctr.datasets.microlens import find_folder, load_data

    return load_data(find_folder(root), DataConfig(leaks="ignore"), FeatureConfig(embedding="none"), cache)


def predicted(path: Path, data: CtrData, task: Task | None = None) -> tuple[dict[SplitName, np.ndarray], list[str]]:
    """Return a run's or a submission's logits by split, for the splits whose labels are known; and notes.

    Parameters
    ----------
    path
        A run's folder, or a submission zip.
    data
        The data that it was made on. Rows are paired by place and checked (runs), or paired by ID (zips).
    task
        The zip's column; needed where it has several.

    Raises
    ------
    InvalidSubmission
        The zip breaks a rule, or its ids are not exactly those of the test file.
    DataError
        There is nothing to score: no predictions, or no labels; or the rows are of other data.
    """
    found: dict[SplitName, np.ndarray] = {}
    notes: list[str] = []
    if path.is_dir():
        for name in ("valid", "test"):
            file = predictions_path(path, name)
            if name not in data.splits or not file.is_file():
                notes.append(f"{name}: {'no such split in the data' if file.is_file() else 'the run has none'}")
                continue
            logits = logits_of(read_predictions(file), data.splits[name])
            if data.splits[name].label is None:
                notes.append(f"{name}: labels are not known")
            else:
                found[name] = logits
    else:
        found["test"] = _from_zip(path, data, task)
    if not found:
        raise DataError(
            "there is nothing to score",
            where=path,
            expected="predictions/valid.parquet or predictions/test.parquet, and labels for one of them",
            got="; ".join(notes),
            todo="give the folder of a finished run, and the data that it was made on",
        )
    return found, notes


def _from_zip(path: Path, data: CtrData, task: Task | None) -> np.ndarray:
    """Return the log-odds of a zip in the order of the test split."""
    validate_path(path, data, task).check()
    test = data.splits.get("test")
    if test is None or test.ids is None or test.label is None:
        raise DataError(
            "a submission needs the labels of the test set to be scored",
            where=path,
            expected="MicroLens_1M_x1/test.parquet with ID, and answers.parquet",
            got="neither" if test is None else "test.parquet without ID" if test.ids is None else "no answers.parquet",
            todo="the real test set's labels are not public: score the run's folder, which holds valid predictions",
        )
    back = read_submission(path)
    order = np.argsort(back.ids)
    place = order[np.searchsorted(back.ids[order], np.asarray(test.ids))]
    return log_odds(back.column(task)[place])


def score_path(path: Path, data: CtrData, task: Task | None = None, *, resamples: int = RESAMPLES) -> CtrScores:
    """Score a run's folder or a submission zip; arguments and errors as `predicted`."""
    found, notes = predicted(path, data, task)
    counts = train_counts(data) if "train" in data.splits else None
    reports: dict[SplitName, CtrReport] = {
        name: evaluate(data.splits[name], logits, counts, resamples=resamples) for name, logits in found.items()
    }
    return CtrScores(reports, tuple(notes))


def validate_path(path: Path, data: CtrData, task: Task | None = None) -> ValidationReport:
    """Check a submission zip against the ids of the test file."""
    test = data.splits.get("test")
    return validate_submission(path, None if test is None else test.ids, task=task)

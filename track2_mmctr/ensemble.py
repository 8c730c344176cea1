"""`ensemble`: the logits of several runs into one, weighed on valid, with a submission and a run record of its own.

Stacking: Wolpert 1992; non-negative weights: Breiman 1996 ("Stacked regressions").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
from pydantic import Field

from common.config import Config, flatten, read_yaml
from common.errors import ConfigError, DataError
from common.experiment import Experiment
from common.logits import log_odds, sigmoid
from common.metrics.ctr_intervals import Difference, Estimate, delong, delong_paired
from track2_mmctr.config import Task
from track2_mmctr.datasets.tables import CtrData, Split, SplitName
from track2_mmctr.ensemble_weights import cross_fit, scaled_ranks
from track2_mmctr.predictions import logits_of, predictions_path, read_predictions, write_predictions

if TYPE_CHECKING:
    from common.submission.mmctr import ValidationReport
    from track2_mmctr.evaluate import CtrReport

Say = Callable[[str], None]
Method = Literal["stacked", "mean", "rank"]


class EnsembleConfig(Config):
    """What an ensemble is made of; it is the configuration of the ensemble's own run."""

    name: str = "ensemble"
    method: Method = Field(description="stacked: logistic regression on logits; mean: of logits; rank: mean of ranks")
    runs: list[str] = Field(description="names of the runs' folders")
    weights: list[float] = Field(description="of the runs, in their order: fitted by stacked, of sum 1 otherwise")
    intercept: float = 0.0
    non_negative: bool = Field(default=True, description="stacked: no run is turned round")
    folds: int = Field(default=5, ge=2, description="stacked: parts of the users of valid, each held out once")
    seed: int = Field(default=7, description="of the deal of users to folds")
    task: Task = "Task2"


@dataclass(frozen=True, eq=False)
class EnsembleScores:
    """The figures of an ensemble and of its runs, by split, where the split's labels are known.

    Attributes
    ----------
    members
        AUC of each run, with DeLong's standard error.
    overall
        AUC of the ensemble; on valid, of out-of-fold logits where the method is fitted.
    gain
        Ensemble less the best run on valid, paired (DeLong).
    correlation
        float64 [M, M]: Spearman's correlation of the runs on valid; NaN for a run that is constant.
    reports
        Full reports of the ensemble.
    """

    members: dict[SplitName, list[Estimate]]
    overall: dict[SplitName, Estimate]
    gain: Difference
    correlation: np.ndarray
    reports: dict[SplitName, CtrReport]


@dataclass(frozen=True, eq=False)
class EnsembleResult:
    """What an ensemble leaves: runs, method and weights in `config`; figures; run folder; submission, if any."""

    config: EnsembleConfig
    scores: EnsembleScores
    folder: Path
    submission: Path | None
    validation: ValidationReport | None


@dataclass(frozen=True, eq=False)
class Combined:
    """Weights of the runs, and the ensemble's logits by split."""

    weights: np.ndarray
    intercept: float
    logits: dict[SplitName, np.ndarray]


def ensemble(
    folders: Sequence[Path],
    data: CtrData,
    out: Path,
    *,
    runs: Path,
    repository: Path | None,
    say: Say,
    method: Method = "stacked",
    weights: Sequence[float] | None = None,
    non_negative: bool = True,
    folds: int = 5,
    seed: int = 7,
    task: Task | None = None,
) -> EnsembleResult:
    """Combine runs that were made on `data`; write the submission at `out`, and a run folder in `runs`.

    Weights are fitted on valid only. The figures on valid of a fitted ensemble are out-of-fold: the logits of each
    user come from weights that were fitted without this user. The test set gets the weights of all of valid.

    Parameters
    ----------
    folders
        Two or more folders of runs, ensembles included, each with predictions of valid, and of test where
        there is a test set.
    data
        The data that the runs were made on; `train` may be absent.
    weights
        Of the runs, for `mean` and `rank`; default: equal.
    task
        Column of the submission; default: that of the runs' configurations.

    Raises
    ------
    ConfigError
        Fewer than two runs, a run given twice, an unknown method, weights that do not fit, tasks that differ.
    DataError
        A run lacks predictions, they are of other rows, users, items, IDs or labels, or a logit is not finite.
    """
    folders, names = _checked_runs(folders, method)
    logits = read_logits(folders, names, data, method)
    combined = combine(logits, data, method, weights, non_negative=non_negative, folds=folds, seed=seed)
    config = EnsembleConfig(
        method=method,
        runs=names,
        weights=[float(weight) for weight in combined.weights],
        intercept=combined.intercept,
        non_negative=non_negative,
        folds=folds,
        seed=seed,
        task=task or common_task(folders, names),
    )
    with Experiment(runs, "track2", config, seed, repository=repository) as record:
        with record.stage("save"):
            for name, values in combined.logits.items():
                write_predictions(record.folder, data.splits[name], values)
        with record.stage("submission"):
            validation = _submit(config, data, combined, out, record, say)
        with record.stage("score"):
            scored = _score(config, data, logits, combined)
            record.add_metrics({name: report.to_dict() for name, report in scored.reports.items()})
            record.add_metrics({"valid_auc": scored.overall["valid"].auc, "runs": _figures(config, scored.members)})
        return EnsembleResult(config, scored, record.folder, out if validation is not None else None, validation)


def _score(
    config: EnsembleConfig, data: CtrData, logits: dict[SplitName, np.ndarray], combined: Combined
) -> EnsembleScores:
    from track2_mmctr.evaluate import evaluate
    from track2_mmctr.groups import train_counts

    known: list[SplitName] = [name for name in combined.logits if data.splits[name].label is not None]
    counts = train_counts(data) if "train" in data.splits else None
    members: dict[SplitName, list[Estimate]] = {}
    for name in known:
        members[name] = [delong(_label(data, name), column) for column in logits[name].T]
    best = int(np.argmax([estimate.auc for estimate in members["valid"]]))
    return EnsembleScores(
        members=members,
        overall={name: delong(_label(data, name), combined.logits[name]) for name in known},
        gain=delong_paired(_label(data, "valid"), combined.logits["valid"], logits["valid"][:, best]),
        correlation=spearman(logits["valid"]),
        reports={
            name: evaluate(data.splits[name], combined.logits[name], counts, notes=_notes(config)) for name in known
        },
    )


def read_logits(
    folders: Sequence[Path], names: Sequence[str], data: CtrData, method: Method
) -> dict[SplitName, np.ndarray]:
    """Return split -> float64 [R, M], the runs' logits of the rows of `data`, each row checked to be the same one.

    Raises
    ------
    DataError
        See `ensemble`; the run, the file and the row are named.
    """
    found: dict[SplitName, np.ndarray] = {}
    names_of: list[SplitName] = ["valid", "test"]
    for split in [data.splits[name] for name in names_of if name in data.splits]:
        columns: list[np.ndarray] = []
        for folder, name in zip(folders, names, strict=True):
            path = predictions_path(folder, split.name)
            values = logits_of(read_predictions(path), split)
            wrong = np.flatnonzero(~np.isfinite(values))
            if len(wrong) and method != "rank":  # an infinite score has a rank, but no mean
                raise DataError(
                    f"{len(wrong):,} logits of run {name} are infinite",
                    where=f"{path}, row {wrong[0]}",
                    expected="finite numbers",
                    got=values[wrong[0]],
                    todo="--method rank, or leave the run out",
                )
            columns.append(values)
        found[split.name] = np.column_stack(columns)
    return found


def combine(
    logits: dict[SplitName, np.ndarray],
    data: CtrData,
    method: Method,
    weights: Sequence[float] | None = None,
    *,
    non_negative: bool = True,
    folds: int = 5,
    seed: int = 7,
) -> Combined:
    """Return the weights of the runs and the ensemble's logits; see `ensemble`. Raises `DataError`, `ConfigError`."""
    if "valid" not in logits:
        raise DataError("an ensemble needs valid.parquet", where=data.folder, todo="see data/README.md")
    label = _label(data, "valid")
    if label.min() == label.max():
        raise DataError("valid has rows of one class only", where=data.folder, expected="clicks and non-clicks")
    if method == "stacked":
        if weights is not None:
            raise ConfigError("stacked fits its weights", where="weights", expected="none", got=list(weights))
        users = np.asarray(data.splits["valid"].users)
        stack, held_out = cross_fit(logits["valid"], label, users, folds=folds, seed=seed, non_negative=non_negative)
        made = {name: stack(values) for name, values in logits.items()}
        made["valid"] = held_out
        return Combined(stack.weights, stack.intercept, made)
    shares = _shares(weights, logits["valid"].shape[1])
    made: dict[SplitName, np.ndarray] = {}
    for name, values in logits.items():
        made[name] = values @ shares if method == "mean" else log_odds(scaled_ranks(values) @ shares)
    return Combined(shares, 0.0, made)


def spearman(logits: np.ndarray) -> np.ndarray:
    """Return the rank correlations of the columns, float64 [M, M]; NaN for a constant column."""
    ranks = scaled_ranks(logits)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.corrcoef(ranks, rowvar=False)


def common_task(folders: Sequence[Path], names: Sequence[str]) -> Task:
    """Return the task that the runs' configurations name ("Task2" where none does); differing ones are an error."""
    tasks: dict[str, str] = {}
    for folder, name in zip(folders, names, strict=True):
        path = folder / "config.yaml"
        flat: dict[str, Any] = flatten(read_yaml(path)) if path.is_file() else {}
        task = flat.get("submission.task", flat.get("task"))
        if task is not None:
            tasks[name] = str(task)
    if len(set(tasks.values())) > 1:
        got = ", ".join(f"{name}: {task}" for name, task in tasks.items())
        raise ConfigError("the runs are for different tasks", expected="one task", got=got, todo="name it with --task")
    return cast("Task", next(iter(tasks.values()), "Task2"))


def _checked_runs(folders: Sequence[Path], method: str) -> tuple[list[Path], list[str]]:
    """Return the folders, and names that tell them apart."""
    if method not in get_args(Method):
        raise ConfigError(f"unknown method {method!r}", where="--method", expected=", ".join(get_args(Method)))
    places = [folder.resolve() for folder in folders]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise ConfigError("a run is given twice", where=folders[number], expected="different runs")
        if not place.is_dir():
            raise DataError("no such run", where=folders[number], expected="a folder in runs/")
    if len(places) < 2:
        raise ConfigError("an ensemble needs two runs", expected="2 or more", got=len(places))
    names = [place.name for place in places]
    return places, names if len(set(names)) == len(names) else [f"{p.parent.name}/{p.name}" for p in places]


def _shares(weights: Sequence[float] | None, runs: int) -> np.ndarray:
    values = np.ones(runs) if weights is None else np.asarray(weights, dtype=np.float64)
    if values.shape != (runs,) or not np.isfinite(values).all() or values.min() < 0 or not values.sum() > 0:
        expected = f"{runs} numbers of at least 0, not all 0"
        raise ConfigError("the weights do not fit", where="weights", expected=expected, got=values.tolist())
    return values / values.sum()


def _label(data: CtrData, name: SplitName) -> np.ndarray:
    label = data.splits[name].label
    if label is None:
        raise DataError(f"{name} has no labels", where=data.folder, expected="column label")
    return np.asarray(label)


def _submit(
    config: EnsembleConfig, data: CtrData, combined: Combined, out: Path, record: Experiment, say: Say
) -> ValidationReport | None:
    from common.submission.mmctr import write_submission

    test: Split | None = data.splits.get("test")
    if test is None or test.ids is None:
        say("no test.parquet: no submission")
        return None
    report = write_submission(out, test.ids, sigmoid(combined.logits["test"]), config.task, test.ids)
    record.add_submission(out)
    return report


def _notes(config: EnsembleConfig) -> list[str]:
    if config.method == "rank":
        return ["ranks are no probabilities: log-loss and calibration say nothing here"]
    if config.method == "stacked":
        return [f"valid: out-of-fold by user ({config.folds} folds); test: weights of all of valid"]
    return []


def _figures(config: EnsembleConfig, members: dict[SplitName, list[Estimate]]) -> list[dict[str, Any]]:
    return [
        {"run": run, "weight": weight} | {f"{split}_auc": found[number].auc for split, found in members.items()}
        for number, (run, weight) in enumerate(zip(config.runs, config.weights, strict=True))
    ]

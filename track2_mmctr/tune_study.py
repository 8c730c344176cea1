"""A tuning study on disk: one SQLite file, one process at a time (it may have workers), and the trials that count."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock, Timeout

from common.errors import DataError
from track2_mmctr.tune_space import Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

State = Literal["finished", "pruned", "failed"]
LIMIT = 300
"""Characters of a reason that are kept."""


@dataclass(frozen=True)
class TrialRow:
    """One counted trial: its place in the study (0 = the configuration itself), values, and what came of it.

    `auc` is the valid AUC of a finished trial, the last one before the end of a pruned one, None of a failed one.
    """

    index: int
    state: State
    auc: float | None
    values: dict[str, Any]
    seconds: float
    error: str | None = None


def describe(row: TrialRow) -> str:
    """Return one line on a trial: its place, outcome, time and values."""
    outcome = f"failed: {row.error}" if row.state == "failed" else f"valid AUC {row.auc:.5f}"
    values = ", ".join(f"{key}={shorten(value)}" for key, value in row.values.items())
    return f"trial {row.index}: {outcome}{' (pruned)' if row.state == 'pruned' else ''}, {row.seconds:.1f} s: {values}"


def shorten(value: Any) -> str:
    """Return a value as text, floats to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def counted(study: Study, space: Space) -> list[TrialRow]:
    """Return the trials that count, by their places. A failed one without a reason was interrupted, and does not."""
    rows: list[TrialRow] = []
    for trial in study.get_trials(deepcopy=False):
        name = trial.state.name
        error = trial.user_attrs.get("error")
        if name == "COMPLETE" or name == "PRUNED" or (name == "FAIL" and error is not None):
            state: State = "finished" if name == "COMPLETE" else "pruned" if name == "PRUNED" else "failed"
            auc = None if state == "failed" else trial.value
            seconds = float(trial.user_attrs.get("seconds", 0.0))
            place = int(trial.user_attrs.get("place", len(rows)))  # studies of before workers have none: in turn
            rows.append(TrialRow(place, state, auc, _values(trial, space), seconds, error))
    return sorted(rows, key=lambda row: row.index)


def _values(trial: FrozenTrial, space: Space) -> dict[str, Any]:
    """Return the trial's values, with the choices as the configuration knows them."""
    return {d.key: d.value(trial.params[d.key]) for d in space.dimensions if d.key in trial.params}


def best_of(rows: list[TrialRow]) -> TrialRow | None:
    """Return the finished trial of the highest AUC, the earliest of equals; None where none finished."""
    finished = [row for row in rows if row.state == "finished" and row.auc is not None]
    return max(finished, key=lambda row: (row.auc or 0.0, -row.index), default=None)


def importances(study: Study) -> dict[str, float]:
    """Shares of the variation that each key explains; PED-ANOVA compares the best tenth, so it needs 20 trials."""
    import optuna

    finished = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(finished) < 20 or len({trial.value for trial in finished}) < 2:
        return {}
    return {key: float(share) for key, share in optuna.importance.get_param_importances(study).items()}


def hanley_mcneil(auc: float, positives: int, negatives: int) -> float | None:
    """Return the standard error of an AUC from the class counts alone (Hanley and McNeil 1982, equation 1).

    >>> round(hanley_mcneil(0.9, 1000, 9000), 4)
    0.0066
    """
    if not positives or not negatives:
        return None
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    return math.sqrt(max(0.0, spread) / (positives * negatives))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process a study: a trial found running when the lock is free is a dead process's."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        todo = "wait for it, or give the other search a seed of its own: --set seed=N"
        raise DataError("another process works on this study", where=folder, todo=todo) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Study]:
    """Open or make the study in `study.db` (SQLite: a kill at any point leaves whole records)."""
    import optuna
    import sqlalchemy.exc

    path = folder / "study.db"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = None
    try:
        storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": lambda: _connect(path)})
        study = optuna.create_study(
            storage=storage,
            study_name="tune",
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
        )
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        yield study
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.DatabaseError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:LIMIT]
        todo = "free space on the disk, or remove the folder to start the study again"
        raise DataError("the study's file cannot be read or written", where=path, got=reason, todo=todo) from error
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()


def _connect(path: Path) -> sqlite3.Connection:
    """Connect by path (a URL would read "?" and "%" in it as its own), with few waits for the disk and none lost."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection

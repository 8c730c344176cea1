"""The Track 2 leaderboard's rule, the area under the ROC curve over all rows, and the usual figures beside it.

The file stands alone (numpy and pandas only), so that a host can paste it as a Kaggle metric.
Source of the rule: the organisers' baseline (WWW2025_MMCTR_Challenge) monitors and reports the global AUC.
Standard errors are in `ctr_intervals`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

LABEL = "label"
CERTAIN = 34.5
"""Logits beyond this count as this in the log-loss: a probability of 1e-15 from certainty."""


class ParticipantVisibleError(Exception):
    """A fault of the submission whose message a participant may see."""


def check_rows(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return labels as bool [R] and scores as float [R].

    Raises
    ------
    ValueError
        Unequal lengths, a label that is neither 0 nor 1, a NaN score. The row (from 0) is named.
    """
    truth, values = np.asarray(labels), np.asarray(scores)
    if truth.shape != values.shape or truth.ndim != 1:
        raise ValueError(f"labels and scores must be vectors of one length, got {truth.shape} and {values.shape}")
    if values.dtype.kind != "f":
        values = values.astype(np.float64)
    wrong = np.flatnonzero((truth != 0) & (truth != 1))
    if len(wrong):
        raise ValueError(f"label of row {wrong[0]} is {truth[wrong[0]]}; labels are 0 or 1")
    missing = np.flatnonzero(np.isnan(values))
    if len(missing):
        raise ValueError(f"score of row {missing[0]} is NaN ({len(missing)} of {len(values)} rows are)")
    return truth.astype(bool), values


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Return the share of (positive, negative) pairs in the right order; a tie counts half. O(R log R).

    Parameters
    ----------
    labels
        0 and 1 [R].
    scores
        float [R]: logits or probabilities, higher for a likelier click; infinite ones are allowed.

    Raises
    ------
    ValueError
        As `check_rows`; or all rows are of one class, for which the AUC does not exist.

    Examples
    --------
    Of the four pairs two are right, one is a tie, one is wrong:

    >>> auc([1, 0, 1, 0], [0.9, 0.4, 0.4, 0.6])
    0.625
    """
    truth, values = check_rows(labels, scores)
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        raise ValueError(f"the AUC needs both classes, got {positives} positives and {negatives} negatives")
    wins = _half_wins(truth, values, np.zeros(len(truth), dtype=np.int64), 1)
    return float(wins[0] / (2 * positives * negatives))


def _half_wins(truth: np.ndarray, values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Return per group twice the number of pairs in the right order, a tie as half of one: int64 [groups].

    Whole numbers throughout, so that the order of the rows cannot change the last digit.
    """
    order = np.argsort(values) if groups == 1 else np.lexsort((values, group))
    truth, values, group = truth[order], values[order], group[order]
    new = np.ones(len(values), dtype=bool)
    new[1:] = (values[1:] != values[:-1]) | (group[1:] != group[:-1])
    starts = np.flatnonzero(new)  # of runs of equal scores within one group
    positive = np.add.reduceat(truth, starts, dtype=np.int64)
    negative = np.diff(np.append(starts, len(values))) - positive
    below = np.cumsum(negative) - negative
    owner = group[starts]
    first = np.searchsorted(owner, np.arange(groups))  # each group's first run
    below -= below[first][owner]
    wins = np.zeros(groups, dtype=np.int64)
    np.add.at(wins, owner, positive * (2 * below + negative))
    return wins


@dataclass(frozen=True)
class GroupAuc:
    """AUC within users, averaged by their rows.

    `value` is None when no user has both classes. Users of one class have no AUC: they are left out and counted.
    """

    value: float | None
    users: int
    rows: int
    left_out_users: int
    left_out_rows: int


def gauc(labels: npt.ArrayLike, scores: npt.ArrayLike, users: npt.ArrayLike) -> GroupAuc:
    """Return the mean of the users' AUCs, weighted by their rows (Zhou et al. 2018, DIN, section 6.2).

    Raises
    ------
    ValueError
        As `check_rows`, or `users` is of another length.

    Examples
    --------
    User 7 has AUC 1 over two rows, user 8 has 1/2 over three, user 9 has no negative:

    >>> gauc([1, 0, 1, 0, 0, 1], [0.9, 0.4, 0.5, 0.6, 0.1, 0.2], [7, 7, 8, 8, 8, 9]).value
    0.7
    """
    truth, values = check_rows(labels, scores)
    owners = np.asarray(users)
    if owners.shape != truth.shape:
        raise ValueError(f"{len(owners)} users for {len(truth)} rows")
    if not len(truth):
        return GroupAuc(None, 0, 0, 0, 0)
    names, group = np.unique(owners, return_inverse=True)
    rows = np.bincount(group)
    positives = np.bincount(group, weights=truth).astype(np.int64)
    pairs = positives * (rows - positives)
    both = pairs > 0
    wins = _half_wins(truth, values, group, len(names))
    kept = int(rows[both].sum())
    value = float((wins[both] / (2 * pairs[both]) * rows[both]).sum() / kept) if kept else None
    return GroupAuc(value, int(both.sum()), kept, int((~both).sum()), len(truth) - kept)


def log_loss(labels: npt.ArrayLike, logits: npt.ArrayLike) -> float:
    """Return the mean binary cross-entropy in nats; logits beyond ±`CERTAIN` count as that.

    >>> round(log_loss([1, 0], [0.0, 0.0]), 6)
    0.693147
    """
    truth, values = check_rows(labels, logits)
    if not len(truth):
        raise ValueError("the log-loss needs at least one row")
    margin = np.clip(values.astype(np.float64), -CERTAIN, CERTAIN)
    return float(np.logaddexp(0.0, np.where(truth, -margin, margin)).mean())


@dataclass(frozen=True)
class Calibration:
    """How far predicted click rates are from the real ones.

    Attributes
    ----------
    error
        Expected calibration error: mean over rows of |click rate - mean prediction| of the row's bin.
    predicted, label
        Mean prediction and click rate over all rows.
    bins
        (rows, mean prediction, click rate) of each bin, in ascending order of the prediction.
    """

    error: float
    predicted: float
    label: float
    bins: tuple[tuple[int, float, float], ...]


def calibration(labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = 20) -> Calibration:
    """Return the calibration over bins of equal mass (Nixon et al. 2019, "adaptive" bins).

    Rows of equal prediction share a bin, so that the order of rows does not matter; bins may be fewer than asked.

    Raises
    ------
    ValueError
        As `check_rows`; no rows; a probability outside 0 to 1.

    Examples
    --------
    >>> found = calibration([0, 0, 1, 1], [0.25, 0.25, 0.75, 0.75], bins=2)
    >>> found.error, found.bins
    (0.25, ((2, 0.25, 0.0), (2, 0.75, 1.0)))
    """
    truth, values = check_rows(labels, probabilities)
    if not len(truth):
        raise ValueError("calibration needs at least one row")
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"probabilities are 0 to 1, got {values.min()} to {values.max()}")
    _, run, counts = np.unique(values, return_inverse=True, return_counts=True)
    starts = np.cumsum(counts) - counts
    place = (starts * bins // len(values))[run]
    rows = np.bincount(place, minlength=bins).astype(np.float64)
    filled = rows > 0
    rows = rows[filled]
    predicted = np.bincount(place, weights=values, minlength=bins)[filled] / rows
    rate = np.bincount(place, weights=truth, minlength=bins)[filled] / rows
    return Calibration(
        error=float((np.abs(rate - predicted) * rows).sum() / len(values)),
        predicted=float(values.mean(dtype=np.float64)),
        label=float(truth.mean()),
        bins=tuple((int(n), float(p), float(r)) for n, p, r in zip(rows, predicted, rate, strict=True)),
    )


def score(solution: pd.DataFrame, submission: pd.DataFrame, row_id_column_name: str, column: str = "Task2") -> float:
    """Return the leaderboard's score, an AUC of 0 to 1.

    Parameters
    ----------
    solution
        Columns `row_id_column_name` and `label`, 0 or 1. Other columns (such as Usage) are ignored.
    submission
        Columns `row_id_column_name` and `column`, the probability of a click; rows in any order.
    row_id_column_name
        The column that holds the row ids: "ID".
    column
        The task's column: "Task1", "Task2" or "Task1&2".

    Raises
    ------
    ParticipantVisibleError
        The submission lacks a column, has a duplicate, missing or unknown id, or a value that is not a
        probability.
    ValueError
        The solution itself breaks one of these rules, or has one class only.

    Examples
    --------
    >>> gold = pd.DataFrame({"ID": [0, 1, 2, 3], "label": [1, 0, 1, 0]})
    >>> run = pd.DataFrame({"ID": [3, 2, 1, 0], "Task2": [0.6, 0.4, 0.4, 0.9]})
    >>> score(gold, run, "ID")
    0.625
    """
    try:
        gold = _column(solution, row_id_column_name, LABEL, "the solution")
    except ParticipantVisibleError as error:
        raise ValueError(str(error)) from None
    run = _column(submission, row_id_column_name, column, "the submission")
    missing, extra = gold.index.difference(run.index), run.index.difference(gold.index)
    if len(missing) or len(extra):
        raise ParticipantVisibleError(
            f"the ids must be those of the solution: {_some('missing', missing)}, {_some('unknown', extra)}"
        )
    return auc(gold.to_numpy(), run.reindex(gold.index).to_numpy())


def _some(what: str, ids: pd.Index, limit: int = 5) -> str:
    names = ", ".join(str(i) for i in ids[:limit]) + (", ..." if len(ids) > limit else "")
    return f"{len(ids)} {what}" + (f" ({names})" if len(ids) else "")


def _column(table: pd.DataFrame, id_column: str, column: str, what: str) -> pd.Series:
    """Return id -> value, float64; raise `ParticipantVisibleError` naming the row (from 0) otherwise."""
    for name in (id_column, column):
        if name not in table.columns:
            raise ParticipantVisibleError(f"{what} has no column {name!r}; it has {list(table.columns)}")
    ids, raw = pd.Index(table[id_column].tolist()), table[column].tolist()
    absent = np.flatnonzero(np.asarray(ids.isna()))
    if len(absent):
        raise ParticipantVisibleError(f"{what}, row {absent[0]}: {id_column} is missing")
    again = np.flatnonzero(np.asarray(ids.duplicated()))
    if len(again):
        raise ParticipantVisibleError(f"{what}, row {again[0]}: {id_column} {ids[again[0]]} is given twice")
    values = np.asarray(pd.to_numeric(pd.Series(raw, dtype=object), errors="coerce"), dtype=np.float64)
    wrong = np.flatnonzero(~((values >= 0) & (values <= 1)))  # NaN compares false
    if len(wrong):
        row = int(wrong[0])
        raise ParticipantVisibleError(
            f"{what}, row {row} ({id_column} {ids[row]}): {column} is {raw[row]!r}, not a number from 0 to 1"
        )
    return pd.Series(values, index=ids)

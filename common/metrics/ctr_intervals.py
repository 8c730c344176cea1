"""Standard errors of the AUC, and of the difference of two AUCs on the same rows.

Two ways: DeLong's, in closed form, for independent rows; and a bootstrap of whole users, for rows that share users.
Sources: DeLong, DeLong and Clarke-Pearson 1988; its fast form, Sun and Xu 2014 (IEEE SPL 21:11); clustered rows,
Obuchowski 1997 (Biometrics 53:2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from common.metrics.ctr import auc, check_rows

RESAMPLES = 1000
Z95 = 1.959963984540054
"""Two-sided 95 % point of the normal distribution."""


class Estimate(NamedTuple):
    """An AUC and its standard error; NaN where a class has a single row."""

    auc: float
    error: float


class Difference(NamedTuple):
    """AUC of `a` minus that of `b` on the same rows, its standard error, and the two-sided p of "no difference"."""

    value: float
    error: float
    p: float


def placements(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return DeLong's structural components, whose means are both the AUC.

    Returns
    -------
    of_positives : float64 [P]
        For each positive, in the order of the rows, the share of negatives that it beats; a tie counts half.
    of_negatives : float64 [N]
        For each negative, the share of positives that beat it.

    Raises
    ------
    ValueError
        A label that is not 0 or 1, a NaN score, or one class only.
    """
    truth, values = check_rows(labels, scores)
    positive, negative = values[truth], values[~truth]
    if not len(positive) or not len(negative):
        raise ValueError(f"DeLong's method needs both classes, got {len(positive)} positives of {len(truth)} rows")
    return _beaten(positive, negative), 1.0 - _beaten(negative, positive)


def _beaten(mine: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return for each of `mine` the share of `others` below it, ties as half: float64 [len(mine)]."""
    order = np.argsort(mine)
    ordered, queries = np.sort(others), mine[order]  # sorted queries walk through memory in order
    twice = np.searchsorted(ordered, queries, "left") + np.searchsorted(ordered, queries, "right")
    shares = np.empty(len(mine))
    shares[order] = twice / (2 * len(others))
    return shares


def _error(of_positives: np.ndarray, of_negatives: np.ndarray) -> float:
    if min(len(of_positives), len(of_negatives)) < 2:
        return math.nan
    return math.sqrt(of_positives.var(ddof=1) / len(of_positives) + of_negatives.var(ddof=1) / len(of_negatives))


def delong(labels: npt.ArrayLike, scores: npt.ArrayLike) -> Estimate:
    """Return the AUC and its standard error for independent rows, in O(R log R). Raises as `placements`.

    >>> found = delong([1, 0, 1, 0], [0.9, 0.4, 0.4, 0.6])
    >>> found.auc, round(found.error, 6)
    (0.625, 0.395285)
    """
    of_positives, of_negatives = placements(labels, scores)
    return Estimate(auc(labels, scores), _error(of_positives, of_negatives))


def delong_paired(labels: npt.ArrayLike, a: npt.ArrayLike, b: npt.ArrayLike) -> Difference:
    """Compare two models on the same independent rows. Raises as `placements`.

    The standard error takes the correlation of the two AUCs into account. Where it is 0 (the two models order
    the pairs alike), p is 1 for equal AUCs and 0 otherwise.
    """
    components_a, components_b = placements(labels, a), placements(labels, b)
    value = auc(labels, a) - auc(labels, b)
    error = _error(components_a[0] - components_b[0], components_a[1] - components_b[1])
    if math.isnan(error):
        return Difference(value, error, math.nan)
    if error == 0:
        return Difference(value, error, 1.0 if value == 0 else 0.0)
    return Difference(value, error, math.erfc(abs(value) / error / math.sqrt(2.0)))


def clustered_error(labels: npt.ArrayLike, scores: npt.ArrayLike, clusters: npt.ArrayLike) -> float:
    """Return the standard error of the AUC with the rows of a cluster taken together, in closed form.

    Each row's share in the AUC's deviation is summed within its cluster (Obuchowski 1997). NaN for one cluster.
    Raises as `placements`.
    """
    truth, _ = check_rows(labels, scores)
    of_positives, of_negatives = placements(labels, scores)
    shares = np.empty(len(truth))
    shares[truth] = (of_positives - of_positives.mean()) / len(of_positives)
    shares[~truth] = (of_negatives - of_negatives.mean()) / len(of_negatives)
    _, group = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(group, weights=shares)
    count = len(sums)
    return math.sqrt((sums**2).sum() * count / (count - 1)) if count > 1 else math.nan


@dataclass(frozen=True)
class Resampled:
    """Outcome of a bootstrap of whole clusters.

    Attributes
    ----------
    error
        Standard deviation over the resamples.
    low, high
        95 % percentile interval.
    clusters, resamples
        Clusters, and resamples that had both classes (others have no AUC and are not counted).
    """

    error: float
    low: float
    high: float
    clusters: int
    resamples: int


class _Ranked:
    """Rows sorted once, so that a weighted AUC takes one pass."""

    def __init__(self, truth: np.ndarray, values: np.ndarray, group: np.ndarray) -> None:
        negative = values[~truth]
        order = np.argsort(negative, kind="stable")
        ordered = negative[order]
        self.negative_group, self.positive_group = group[~truth][order], group[truth]
        self.left = np.searchsorted(ordered, values[truth], "left")
        self.right = np.searchsorted(ordered, values[truth], "right")

    def auc(self, weights: np.ndarray) -> float:
        """Return the AUC of rows weighted by their cluster's weight, int64 [C]; NaN with one class only."""
        below = np.concatenate([[0], np.cumsum(weights[self.negative_group])])
        positive = weights[self.positive_group]
        pairs = int(positive.sum()) * int(below[-1])
        return float((positive * (below[self.left] + below[self.right])).sum() / (2 * pairs)) if pairs else math.nan


def bootstrap(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    clusters: npt.ArrayLike,
    *,
    against: npt.ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 7,
) -> Resampled | None:
    """Resample whole clusters (users) with replacement; return the spread of the AUC, or of its difference.

    Parameters
    ----------
    labels, scores
        0 and 1, and float: [R].
    clusters
        [R]: rows of equal value are drawn together.
    against
        Scores of a second model on the same rows: the spread is that of AUC(scores) - AUC(against), both
        measured on each resample.
    resamples, seed
        Draws, and the seed of their generator: the same arguments give the same figures.

    Returns
    -------
    None where it says nothing: one cluster, or both classes in fewer than half of the resamples.

    Raises
    ------
    ValueError
        A label that is not 0 or 1, a NaN score, unequal lengths.
    """
    truth, values = check_rows(labels, scores)
    _, group = np.unique(np.asarray(clusters), return_inverse=True)
    if group.shape != truth.shape:
        raise ValueError(f"{len(group)} clusters for {len(truth)} rows")
    count = int(group.max()) + 1 if len(group) else 0
    if count < 2:
        return None
    first = _Ranked(truth, values, group)
    second = None if against is None else _Ranked(*check_rows(labels, against), group)
    rng = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    for number in range(resamples):
        weights = np.bincount(rng.integers(0, count, count), minlength=count)
        drawn[number] = first.auc(weights) - (0.0 if second is None else second.auc(weights))
    drawn = drawn[~np.isnan(drawn)]
    if len(drawn) < max(2, resamples / 2):
        return None
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Resampled(float(drawn.std(ddof=1)), float(low), float(high), count, len(drawn))

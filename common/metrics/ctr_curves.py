"""Curves of predicted clicks: the ROC curve, whose area is `ctr.auc`, and intervals of the rates in a calibration plot.

Sources: Fawcett 2006 (Pattern Recognition Letters 27:8) for the curve with ties; Wilson 1927 for the interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.metrics.ctr import check_rows
from common.metrics.ctr_intervals import Z95

POINTS = 300


@dataclass(frozen=True, eq=False)
class RocCurve:
    """Rates of rows at or above a threshold, from (0, 0) to (1, 1); rows of one score are one step.

    Attributes
    ----------
    false_positive, true_positive
        float64 [K]: share of the negatives, and of the positives, that are called positive.
    thresholds
        float64 [K]: the lowest score that is called positive; the first is infinite.
    """

    false_positive: np.ndarray
    true_positive: np.ndarray
    thresholds: np.ndarray

    def __len__(self) -> int:
        return len(self.thresholds)

    @property
    def area(self) -> float:
        """Area under the straight lines between the points: for a curve that is not thinned, the AUC."""
        return float(np.trapezoid(self.true_positive, self.false_positive))

    def thinned(self, points: int = POINTS) -> RocCurve:
        """Return at most `points` of the points, even along the curve, both ends among them: for drawing.

        The area differs by at most 1 / (points - 2), mostly by far less.

        Raises
        ------
        ValueError
            Fewer than 4 points.
        """
        if points < 4:
            raise ValueError(f"a thinned curve needs at least 4 points, got {points}")
        if len(self) <= points:
            return self
        along = self.false_positive + self.true_positive
        after = np.searchsorted(along, np.linspace(0.0, along[-1], points // 2))
        # The point before each as well: where many rows share a score, a long step starts there.
        kept = np.unique(np.concatenate([after, np.maximum(after - 1, 0)]))
        return RocCurve(self.false_positive[kept], self.true_positive[kept], self.thresholds[kept])


def roc_curve(labels: npt.ArrayLike, scores: npt.ArrayLike) -> RocCurve:
    """Return the whole ROC curve, one point for each different score and the origin. O(R log R).

    Parameters
    ----------
    labels
        0 and 1 [R].
    scores
        float [R]: higher for a likelier click.

    Raises
    ------
    ValueError
        As `check_rows`; or all rows are of one class.

    Examples
    --------
    >>> curve = roc_curve([1, 0, 1, 0], [0.9, 0.4, 0.4, 0.6])
    >>> curve.false_positive.tolist(), curve.true_positive.tolist(), curve.area
    ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0], 0.625)
    """
    truth, values = check_rows(labels, scores)
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        raise ValueError(f"the ROC curve needs both classes, got {positives} positives and {negatives} negatives")
    order = np.argsort(-values, kind="stable")
    truth, values = truth[order], values[order]
    last = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)  # of each run of equal scores
    hits = np.cumsum(truth, dtype=np.int64)[last]
    false = last + 1 - hits
    return RocCurve(
        np.concatenate([[0.0], false / negatives]),
        np.concatenate([[0.0], hits / positives]),
        np.concatenate([[np.inf], values[last]]),
    )


def wilson(successes: float, rows: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate (Wilson's score interval), for rows taken as independent.

    Raises
    ------
    ValueError
        No rows, or successes beyond 0 to `rows`.

    >>> low, high = wilson(5, 10)
    >>> round(low, 4), round(high, 4)
    (0.2366, 0.7634)
    """
    if rows < 1 or not 0 <= successes <= rows:
        raise ValueError(f"a rate needs rows, and 0 to rows successes, got {successes} of {rows}")
    rate, square = successes / rows, Z95 * Z95
    middle = rate + square / (2 * rows)
    half = Z95 * math.sqrt(rate * (1 - rate) / rows + square / (4 * rows * rows))
    scale = 1 + square / rows
    low = 0.0 if successes == 0 else max(0.0, (middle - half) / scale)  # both are exact at the ends
    return low, 1.0 if successes == rows else min(1.0, (middle + half) / scale)

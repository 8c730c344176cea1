"""How runs are combined: ranks, and logits stacked by a logistic regression whose figures are out-of-fold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import DataError
from common.logits import sigmoid


@dataclass(frozen=True, eq=False)
class Stack:
    """A logistic regression over the logits of M runs: `logits @ weights + intercept`."""

    weights: np.ndarray
    intercept: float

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Return the combined logit of each row, float64 [R], of the runs' logits [R, M]."""
        return logits @ self.weights + self.intercept


def scaled_ranks(scores: np.ndarray) -> np.ndarray:
    """Return each score's rank within the column, scaled into (0, 1); ties share their mean rank.

    >>> scaled_ranks(np.array([[3.0], [1.0], [1.0], [9.0]])).ravel()
    array([0.625, 0.25 , 0.25 , 0.875])
    """
    from scipy.stats import rankdata

    return (rankdata(scores, axis=0) - 0.5) / len(scores)


def fit_stack(logits: np.ndarray, label: np.ndarray, *, non_negative: bool = True) -> Stack:
    """Fit a logistic regression on the logits of runs, by L-BFGS-B.

    The weights, at unit spread of each run's logits, have a standard normal prior (one row's worth of pull towards
    zero), so that separable or collinear runs have a finite and single answer.

    Parameters
    ----------
    logits
        float64 [R, M], finite.
    label
        0 and 1 [R], both present.
    non_negative
        Keep the weights at or above 0: a run is used or left out, never turned round.
    """
    from scipy.optimize import minimize

    truth = label.astype(np.float64)
    mean, spread = logits.mean(axis=0), logits.std(axis=0)
    spread = np.where(spread > 1e-12 * (1 + np.abs(mean)), spread, np.inf)  # a constant run says nothing: weight 0
    unit = (logits - mean) / spread
    rows, runs = unit.shape

    def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
        weights, intercept = values[:runs], values[runs]
        margin = unit @ weights + intercept
        loss = (np.logaddexp(0.0, margin) - truth * margin).mean() + 0.5 * (weights @ weights) / rows
        pull = (sigmoid(margin) - truth) / rows
        return float(loss), np.append(unit.T @ pull + weights / rows, pull.sum())

    rate = truth.mean()
    start = np.append(np.full(runs, 1.0 / runs), np.log(rate / (1 - rate)))
    bounds = [(0.0 if non_negative else None, None)] * runs + [(None, None)]
    options = {"maxiter": 2000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-9}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    weights = found.x[:runs] / spread
    return Stack(weights, float(found.x[runs] - weights @ mean))


def user_folds(users: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Return the fold of each row, int64 [R]: all rows of a user in one fold, users dealt out by `seed`.

    Raises
    ------
    DataError
        Fewer users than two: nothing can be held out.
    """
    names, place = np.unique(users, return_inverse=True)
    if len(names) < 2:
        raise DataError("stacking holds out users, and valid has fewer than two", got=len(names), todo="--method mean")
    order = np.random.default_rng(seed).permutation(len(names))
    return (order % min(folds, len(names)))[place]


def cross_fit(
    logits: np.ndarray, label: np.ndarray, users: np.ndarray, *, folds: int, seed: int, non_negative: bool = True
) -> tuple[Stack, np.ndarray]:
    """Fit on all rows, and give each row the logit of a fit that has seen neither the row nor its user.

    The out-of-fold logits differ between folds in their weights only: each is `w_fold · (x - mean x)` plus one
    intercept for all. A fold's own intercept would follow the click rate of the *other* folds, which is low where
    its own is high, and would pull the AUC of useless runs below 0.5.

    Returns
    -------
    stack : Stack
        Fitted on all rows: for the test set.
    out_of_fold : float64 [R]
        For honest figures on these rows.

    Raises
    ------
    DataError
        Fewer than two users, or the rows of the other folds have one class only.
    """
    stack = fit_stack(logits, label, non_negative=non_negative)
    fold = user_folds(users, folds, seed)
    mean = logits.mean(axis=0)
    out = np.full(len(label), stack(mean[None])[0])
    for number in range(int(fold.max()) + 1):
        held = fold == number
        if label[~held].min() == label[~held].max():
            raise DataError(
                "stacking needs clicks and non-clicks outside of each fold",
                where=f"valid, fold {number} of {int(fold.max()) + 1}",
                got=f"{int(label.sum())} clicks in {len(label)} rows",
                todo="--method mean, or rank",
            )
        part = fit_stack(logits[~held], label[~held], non_negative=non_negative)
        out[held] += (logits[held] - mean) @ part.weights
    return stack, out

"""Logistic regression by Newton's method, for the floors: a few columns, deterministic, no library."""

from __future__ import annotations

import numpy as np

from common.logits import sigmoid

STEPS = 50


def fit_logistic(columns: np.ndarray, label: np.ndarray, ridge: float = 1.0) -> np.ndarray:
    """Return the weights [F + 1] of a logistic model, the intercept last.

    Parameters
    ----------
    columns
        Float64 [R, F].
    label
        [R] of 0 and 1.
    ridge
        λ of (λ/2)·‖w‖² beside the summed loss; the intercept gets a trace of it, so that data of one class ends.
    """
    x = np.column_stack([np.asarray(columns, dtype=np.float64), np.ones(len(label))])
    y = np.asarray(label, dtype=np.float64)
    penalty = np.full(x.shape[1], ridge)
    penalty[-1] = 1e-6 + 1e-3 * (y.min() == y.max())
    weights = np.zeros(x.shape[1])
    for _ in range(STEPS):
        rate = sigmoid(x @ weights)
        gradient = x.T @ (rate - y) + penalty * weights
        curvature = (x * (rate * (1 - rate))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        step *= min(1.0, 5.0 / max(np.abs(x @ step).max(), 1e-300))  # a full step may overshoot where rates saturate
        weights -= step
        if np.abs(step).max() < 1e-10:
            break
    return weights

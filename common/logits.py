"""Logits and probabilities."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def sigmoid(logits: npt.ArrayLike) -> np.ndarray:
    """Return 1 / (1 + exp(-logit)) without overflow: float64, of the shape of `logits`."""
    values = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1.0, small) / (1.0 + small)


def log_odds(probabilities: npt.ArrayLike) -> np.ndarray:
    """Return log(p / (1 - p)), float64; 0 and 1 give -inf and inf, so that the order of rows is kept."""
    values = np.asarray(probabilities, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.log(values) - np.log1p(-values)

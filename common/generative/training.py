"""Training of a generator: `common.training.fit`, with checkpoints tied to the model and its IDs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from common.generative.base import GenerativeRetriever
from common.training.fit import Batches, FitConfig, FitResult, fit_model

__all__ = ["Evaluate", "FitConfig", "FitResult", "fit_generator"]

Evaluate = Callable[[GenerativeRetriever], Mapping[str, float]]


def fit_generator(
    model: GenerativeRetriever, batches: Batches, config: FitConfig, *, seed: int, **options: Any
) -> FitResult:
    """Train a generator in place; `options` are those of `fit_model`: evaluate, device, folder, say, keep, ..."""
    key = {"kind": model.kind, "settings": model.settings(), "ids": model.id_map.version}
    return fit_model(model, batches, config, key=key, seed=seed, **options)

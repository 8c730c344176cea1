"""Figures of Uni-Code: on held-out samples while it trains, and of the codes of a fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from common.tokenizers.quality import perplexity
from common.tokenizers.uni_code.batches import PairedBatches
from common.tokenizers.uni_code.model import UniCodeModel
from common.training.fit_config import FitResult


def fit_figures(codes: Mapping[str, np.ndarray], size: int, result: FitResult) -> dict[str, Any]:
    """Return the figures of a fit from the codes [N, T] of its own rows by modality; times are left out.

    agreement: share of steps where modalities have the same code; shared: see `shared_codes`.
    """
    first, *others = codes.values()
    uses = {name: np.bincount(part.ravel(), minlength=size) for name, part in codes.items()}
    return {
        "samples": len(first),
        "agreement": float(np.mean([np.mean(first == other) for other in others])),
        "perplexity": {name: perplexity(counts) for name, counts in uses.items()},
        "used": {name: int((counts > 0).sum()) for name, counts in uses.items()},
        "shared": shared_codes(list(uses.values())),
        "epochs": result.epochs,
        "stopped": result.stopped,
        "curve": [_untimed(asdict(point)) for point in result.curve],
    }


@torch.no_grad()
def evaluate(model: UniCodeModel, batches: PairedBatches, device: str = "cpu") -> dict[str, float]:
    """Return figures on held-out samples: agreement of the modalities' codes, and negated losses."""
    found = [model.loss(batches.make(rows).to(device)) for rows in batches.epoch(0)]
    mean = {name: float(np.mean([float(one[name]) for one in found])) for name in found[0]}
    return {
        "score": -mean["loss"],
        "agreement": mean["agreement"],
        "reconstruction": -mean["reconstruction"],
    }


def shared_codes(uses: list[np.ndarray], least: float = 0.2) -> float:
    """Return the share of active codes that every modality uses: the paper's "green" ones.

    Each modality's counts [K] are divided by their sum; it uses a code if it has more than `least` of the code's whole.

    >>> shared_codes([np.array([5, 5, 0]), np.array([4, 0, 6])])
    0.3333333333333333
    """
    shares = np.stack([counts / max(1, counts.sum()) for counts in uses])
    whole = shares.sum(0)
    active = whole > 0
    green = (shares[:, active] > least * whole[active]).all(0)
    return float(green.mean()) if active.any() else 0.0


def _untimed(point: dict[str, Any]) -> dict[str, Any]:
    """Return a point of the learning curve without what differs from run to run."""
    return {name: value for name, value in point.items() if name not in ("seconds", "cpu_seconds")}

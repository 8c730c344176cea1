"""What training needs before its first step: checks and the optimiser."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from common.errors import ConfigError, DataError
from common.products import matrix_weights
from track2_mmctr.config import LossConfig, TrainConfig
from track2_mmctr.datasets.tables import CtrData

WORTH = 1 << 28
"""Weights times rows of a step from which on oneDNN's products pay: 2 GFLOP, 20 ms."""


def check(model: nn.Module, data: CtrData, config: TrainConfig, loss: LossConfig) -> None:
    """Raise what can be known to go wrong before the first step."""
    for name in ("train", "valid"):
        split = data.splits.get(name)
        if split is None or split.label is None or not len(split):
            raise DataError(f"training needs the {name} split with labels", where=data.folder, expected=name)
    mean = float(np.mean(data.splits["valid"].label))  # pyright: ignore[reportArgumentType, reportCallIssue]
    if not 0 < mean < 1:
        raise DataError("the valid split needs both classes: its AUC does not exist", where=data.folder, got=mean)
    if loss.pairwise > 0 and config.accumulate > 1:
        raise ConfigError(
            "the pairwise loss needs all pairs of a batch at once: it cannot be added up over parts",
            where="loss.pairwise, train.accumulate",
            got=f"{loss.pairwise}, {config.accumulate}",
            todo="set train.accumulate=1 (and a smaller train.batch_size), or loss.pairwise=0",
        )
    rows = min(config.rows or len(data.train), len(data.train))
    if min(config.batch_size, rows) < 2 and has_batch_norm(model):
        raise ConfigError(
            "batch norm needs two rows a step",
            where="train.batch_size, train.rows",
            got=f"batches of {config.batch_size} of {rows} rows",
            todo="set train.batch_size of 2 or more, or ranker.batch_norm=false",
        )


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a step on a single row is impossible."""
    return any(isinstance(module, nn.BatchNorm1d) for module in model.modules())


def large(model: nn.Module, batch_size: int) -> bool:
    """Whether a step's products of matrices are worth a kernel of oneDNN's for every new shape."""
    return matrix_weights(model) * batch_size >= WORTH


def make_optimizer(model: nn.Module, config: TrainConfig, device: torch.device) -> torch.optim.Adam:
    """Return Adam over two groups, embedding tables and all other weights, each with its own regulariser.

    Adam's weight decay λ adds λW to the gradient: that of FuxiCTR's term (λ/2)·‖W‖² in the loss. Unlike there,
    it is added after the gradient was clipped, and so is no part of the clipped norm.
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in weights if id(w) in tables], "weight_decay": config.embedding_regularizer},
        {"params": [w for w in weights if id(w) not in tables], "weight_decay": config.net_regularizer},
    ]
    fused = device.type in ("cpu", "cuda")
    return torch.optim.Adam([g for g in groups if g["params"]], lr=config.learning_rate, fused=fused)

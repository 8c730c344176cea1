"""The state of a training run that was interrupted: one file, replaced in one step, tied to what it belongs to."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.training.state import check_key, core_tensors, fitting, load_optimizer, part, prefixed, todo
from common.training.tensors import read_tensors, write_tensors
from track2_mmctr.training.averaging import Weights

FORMAT = "mirc-track2-training-1"


@dataclass(frozen=True)
class Evaluation:
    """One evaluation on the valid split, after `step` optimiser steps; `epoch` counts from 1.

    `train_loss` is the mean since the evaluation before; `auc` is that of the weights as they are, `average_auc`
    that of the mean of the last evaluations' weights (None without averaging).
    """

    epoch: int
    step: int
    train_loss: float
    auc: float
    logloss: float
    learning_rate: float
    seconds: float
    rows_per_second: float
    average_auc: float | None = None


@dataclass
class Progress:
    """Where training stands: `batch` of `epoch` (from 0) is the next one."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_auc: float = float("-inf")
    best_logloss: float = float("inf")
    waited: int = 0
    losses: int = 0
    loss_sum: float = 0.0
    loss_rows: int = 0
    stopped: str | None = None
    evaluations: list[Evaluation] = field(default_factory=list)


@dataclass
class State:
    """All that changes while training, less the model and the optimiser."""

    progress: Progress = field(default_factory=Progress)
    best: Weights | None = None
    snapshots: list[Weights] = field(default_factory=list)


def save_state(
    path: Path, key: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, state: State
) -> None:
    """Write everything that a run needs to go on; a full disk leaves the file before it as it was."""
    tensors = core_tensors(model.state_dict(), optimizer, state.best)
    for number, weights in enumerate(state.snapshots):
        tensors |= prefixed(f"snapshot/{number}", weights)
    write_tensors(path, tensors, {"format": FORMAT, "key": key, "progress": asdict(state.progress)})


def load_state(path: Path, key: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Put the model and the optimiser where `save_state` left them; return the rest.

    Raises
    ------
    DataError
        The file is damaged.
    ConfigError
        It belongs to another configuration, other data or another seed; what differs is named.
    """
    tensors, header = read_tensors(path, FORMAT, todo(path))
    check_key(path, header["key"], key)
    with fitting(path):
        model.load_state_dict(part(tensors, "model"))
        load_optimizer(optimizer, part(tensors, "optimizer"))
        progress = Progress(**header["progress"])
        progress.evaluations = [Evaluation(**values) for values in header["progress"]["evaluations"]]
    snapshots = part(tensors, "snapshot")
    numbers = sorted({int(name.partition("/")[0]) for name in snapshots})
    best = part(tensors, "best")
    return State(progress, best or None, [part(snapshots, str(number)) for number in numbers])

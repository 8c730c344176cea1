"""The state of a training: one file, replaced in one step, tied to what it belongs to."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.training.state import Weights, check_key, core_tensors, fitting, load_optimizer, part, todo
from common.training.tensors import read_tensors, write_tensors

FORMAT = "mirc-training-2"


@dataclass(frozen=True)
class Point:
    """One point of the learning curve, after `epoch` epochs and `step` optimiser steps.

    Attributes
    ----------
    loss
        Mean training loss since the point before.
    figures
        What the evaluation gave; empty without one.
    seconds, cpu_seconds
        Wall and processor time of this run so far, evaluations and earlier parts of a resumed run included.
    """

    epoch: int
    step: int
    loss: float
    figures: dict[str, float]
    learning_rate: float
    seconds: float
    cpu_seconds: float


@dataclass
class Progress:
    """Where training stands: `batch` of `epoch` (from 0) is the next one."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float = float("-inf")
    best_epoch: int = 0
    waited: int = 0
    losses: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    stopped: str | None = None
    curve: list[Point] = field(default_factory=list)


@dataclass
class State:
    """All that changes while training, less the model and the optimiser."""

    progress: Progress = field(default_factory=Progress)
    best: Weights | None = None


def save_state(
    path: Path, key: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, state: State
) -> None:
    """Write everything that a run needs to go on; a full disk leaves the file before it as it was."""
    tensors = core_tensors(learnt_state(model), optimizer, state.best)
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
        restore(model, part(tensors, "model"))
        load_optimizer(optimizer, part(tensors, "optimizer"))
        progress = Progress(**header["progress"])
        progress.curve = [Point(**values) for values in header["progress"]["curve"]]
    return State(progress, part(tensors, "best") or None)


def learnt_state(model: nn.Module) -> Weights:
    """Return the model's state without the weights that are frozen: those are not the training's to keep."""
    frozen = {name for name, value in model.named_parameters(remove_duplicate=False) if not value.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def copy_weights(model: nn.Module) -> Weights:
    """Return a copy of what the model has learnt, which further training does not change."""
    return {name: value.detach().clone() for name, value in learnt_state(model).items()}


def restore(model: nn.Module, weights: Weights) -> None:
    """Put back what `learnt_state` or `copy_weights` returned; raise `RuntimeError` where the names differ."""
    wanted = learnt_state(model).keys()
    if wanted != weights.keys():
        raise RuntimeError(f"other weights than the model learns: {', '.join(sorted(wanted ^ weights.keys()))}")
    model.load_state_dict(weights, strict=False)

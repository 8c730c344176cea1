"""The state of a training run that was interrupted: one file, replaced in one step, tied to what it belongs to."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.config import flatten
from common.errors import ConfigError, DataError
from track2_mmctr.training.averaging import Weights
from track2_mmctr.training.tensors import read_tensors, write_tensors

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
    tensors = _prefixed("model", model.state_dict())
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= _prefixed(f"optimizer/{number}", values)
    for number, weights in enumerate(state.snapshots):
        tensors |= _prefixed(f"snapshot/{number}", weights)
    if state.best is not None:
        tensors |= _prefixed("best", state.best)
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
    tensors, header = read_tensors(path, FORMAT, _todo(path))
    check_key(path, header["key"], key)
    try:
        model.load_state_dict(_part(tensors, "model"))
        _load_optimizer(optimizer, _part(tensors, "optimizer"))
        progress = Progress(**header["progress"])
        progress.evaluations = [Evaluation(**values) for values in header["progress"]["evaluations"]]
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            "the checkpoint does not fit the model", where=path, got=str(error).splitlines()[0], todo=_todo(path)
        ) from None
    snapshots = _part(tensors, "snapshot")
    numbers = sorted({int(name.partition("/")[0]) for name in snapshots})
    best = _part(tensors, "best")
    return State(progress, best or None, [_part(snapshots, str(number)) for number in numbers])


def check_key(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise `ConfigError` that names what differs between a checkpoint's key and that of this run."""
    old, new = flatten(json.loads(json.dumps(found))), flatten(json.loads(json.dumps(wanted)))
    differ = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if differ:
        raise ConfigError(
            "a checkpoint of another configuration is in the way: " + ", ".join(differ[:8]),
            where=path,
            expected="; ".join(f"{name} = {_short(new.get(name))}" for name in differ[:8]),
            got="; ".join(f"{name} = {_short(old.get(name))}" for name in differ[:8]),
            todo=f"{_todo(path)}; or go on with the configuration, data and seed that it was made with",
        )


def remove_state(folder: Path) -> None:
    """Delete the folder of a state that is no longer needed."""
    shutil.rmtree(folder, ignore_errors=True)


def _todo(path: Path) -> str:
    return f"delete {path.parent} to train from the start"


def _short(value: object, limit: int = 60) -> str:
    text = str(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> Weights:
    return {f"{prefix}/{name}": value for name, value in tensors.items()}


def _part(tensors: Weights, prefix: str) -> Weights:
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{prefix}/")}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Weights) -> None:
    own = optimizer.state_dict()
    values: dict[int, Weights] = {}
    for name, tensor in tensors.items():
        number, _, leaf = name.partition("/")
        values.setdefault(int(number), {})[leaf] = tensor
    optimizer.load_state_dict({"state": values, "param_groups": own["param_groups"]})

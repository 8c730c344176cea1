"""The parts of a resumable training state: names with prefixes in one file, and the key that ties it to its run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.config import flatten
from common.errors import ConfigError, DataError

Weights = dict[str, Tensor]


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
            todo=f"{todo(path)}; or go on with the configuration, data and seed that it was made with",
        )


def remove_state(folder: Path) -> None:
    """Delete the folder of a state that is no longer needed."""
    shutil.rmtree(folder, ignore_errors=True)


def todo(path: Path) -> str:
    """Return what to do about a state that cannot be used."""
    return f"delete {path.parent} to train from the start"


def _short(value: object, limit: int = 60) -> str:
    text = str(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> Weights:
    """Return the tensors under `prefix/name`."""
    return {f"{prefix}/{name}": value for name, value in tensors.items()}


def part(tensors: Weights, prefix: str) -> Weights:
    """Return the tensors whose names begin with `prefix/`, without it."""
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{prefix}/")}


def core_tensors(weights: Weights, optimizer: torch.optim.Optimizer, best: Weights | None) -> Weights:
    """Return what every training state holds: the model's weights, the optimiser's state, the best weights so far."""
    tensors = prefixed("model", weights)
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= prefixed(f"optimizer/{number}", values)
    return tensors if best is None else tensors | prefixed("best", best)


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Turn what goes wrong when a checkpoint is put back into `DataError`: it is of another model, or damaged."""
    try:
        yield
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        got = str(error).splitlines()[0]
        raise DataError("the checkpoint does not fit the model", where=path, got=got, todo=todo(path)) from None


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Weights) -> None:
    """Put back the optimiser's state, saved as `prefixed(number, values)` a parameter."""
    own = optimizer.state_dict()
    values: dict[int, Weights] = {}
    for name, tensor in tensors.items():
        number, _, leaf = name.partition("/")
        values.setdefault(int(number), {})[leaf] = tensor
    optimizer.load_state_dict({"state": values, "param_groups": own["param_groups"]})

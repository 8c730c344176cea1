"""One step on a batch, taken by one process or by several that share its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.training.distributed import World, sum_gradients, total
from common.training.fit_config import Batches


def backward(
    model: Any,
    parameters: Sequence[nn.Parameter],
    batches: Batches,
    rows: np.ndarray,
    device: torch.device,
    world: World,
) -> Tensor:
    """Compute the loss of a batch's rows and its gradient; return the loss, the same on every process.

    Each process takes every `world.size`-th row. Losses are means over what a batch counts (rows, targets, tokens: its
    `counts`), so each process's are weighed by its part of what the whole batch has, and the sum over the processes is
    the loss of the whole batch. Not the same as in one process, apart from rounding: dropout and whatever else a model
    draws, which each process draws for itself (EAGER's and EAGER-LLM's negatives are drawn once a process and batch).
    """
    if world.size == 1:
        loss: Tensor = model.loss(batches.make(rows).to(device))["loss"]
        loss.backward()
        return loss.detach()
    own = rows[world.rank :: world.size]
    batch = batches.make(own if len(own) else rows[:1]).to(device)  # fewer rows than processes: a stand-in row
    counts = _counts(batch) if len(own) else dict.fromkeys(_counts(batch), 0)
    sums = total(list(counts.values()), world)
    parts = {name: counts[name] / all_ if all_ else 0.0 for name, all_ in zip(counts, sums, strict=True)}
    loss = weighed(model.loss(batch), parts)
    loss.backward()
    sum_gradients(parameters, world)
    return torch.tensor(total([float(loss.detach())], world)[0], device=device)


def weighed(losses: Mapping[str, Tensor], parts: Mapping[str, float]) -> Tensor:
    """Return losses["loss"], a sum of terms times constants, with each term of `parts` times its part.

    The constants are the derivatives by the terms. A term that the batch has no example of is left out.
    """
    if "loss" in parts:
        return losses["loss"] * parts["loss"]
    names = [name for name in parts if name in losses]
    constants = torch.autograd.grad(losses["loss"], [losses[name] for name in names], retain_graph=True)
    terms = [parts[name] * constant * losses[name] for name, constant in zip(names, constants, strict=True)]
    return torch.stack(terms).sum()


def _counts(batch: Any) -> dict[str, int]:
    counts = getattr(batch, "counts", None)
    if counts is None:
        raise ConfigError(
            "this training runs in one process: its batches do not say how to weigh shares of them",
            where=type(batch).__name__,
            expected="a method counts()",
            todo="start it without torchrun and without --engine ray",
        )
    return counts()

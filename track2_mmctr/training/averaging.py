"""Average of weights over evaluations (Izmailov et al., "Averaging Weights Leads to Wider Optima", UAI 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]


def copy_weights(model: nn.Module) -> Weights:
    """Return a copy of a model's weights and persistent buffers in main memory."""
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


def average_weights(snapshots: Sequence[Weights]) -> Weights:
    """Return the mean of weights, statistics of batch norm included; whole numbers are those of the last one."""
    mean: Weights = {}
    for name, last in snapshots[-1].items():
        values = [snapshot[name] for snapshot in snapshots]
        if torch.is_floating_point(last):
            mean[name] = (sum(value.double() for value in values) / len(values)).to(last.dtype)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            mean[name] = last
    return mean

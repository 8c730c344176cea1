"""Batch norm over the rows of all processes that train together: torch's own is for CUDA only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn

from common.training.distributed import at_least_float32


class SyncBatchNorm(nn.BatchNorm1d):
    """`nn.BatchNorm1d` whose statistics are those of all processes' rows (torch's own is for CUDA only).

    `silent` is set while a process without rows takes part with a stand-in row, which must not count.
    """

    silent = False

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [N, C]."""
        if not self.training:
            return super().forward(input)
        x = at_least_float32(input)
        weight = 0.0 if self.silent else 1.0
        count = _AllSum.apply(x.new_tensor([weight * len(x)]))
        mean = _AllSum.apply(weight * x.sum(0)) / count
        centred = x - mean
        variance = _AllSum.apply(weight * centred.square().sum(0)) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        out = centred / (variance + self.eps).sqrt()
        return out if self.weight is None else out * self.weight + self.bias

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class _AllSum(torch.autograd.Function):
    """Sum over processes; the gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        x = x.clone()
        distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad = grad.clone()
        distributed.all_reduce(grad)
        return grad


def synchronise(model: nn.Module) -> list[tuple[nn.Module, str, nn.BatchNorm1d]]:
    """Replace every `BatchNorm1d` below `model` by one over all processes; return what `restore` needs."""
    replaced: list[tuple[nn.Module, str, nn.BatchNorm1d]] = []
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm1d:
                new = SyncBatchNorm(
                    child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
                )
                new.weight, new.bias = child.weight, child.bias  # the very same tensors
                for buffer in ("running_mean", "running_var", "num_batches_tracked"):
                    setattr(new, buffer, getattr(child, buffer))
                new.train(child.training)
                setattr(parent, name, new)
                replaced.append((parent, name, child))
    return replaced


def restore(replaced: list[tuple[nn.Module, str, nn.BatchNorm1d]]) -> None:
    """Put the layers back that `synchronise` has replaced; weights and statistics are shared."""
    for parent, name, child in replaced:
        setattr(parent, name, child)


def set_silent(model: nn.Module, silent: bool) -> None:
    """Say whether the rows of the next forward pass count in batch norm's statistics."""
    for module in model.modules():
        if isinstance(module, SyncBatchNorm):
            module.silent = silent

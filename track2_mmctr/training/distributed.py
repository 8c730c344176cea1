"""Training over several processes (torchrun): the same step as one process takes on the whole batch.

Each process computes the logits of its share of a batch; `gather` puts them together, so that every process sees
the loss of the whole batch, pairs across processes included, and sends back only the gradient of its own share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from common.errors import ConfigError


@dataclass(frozen=True)
class World:
    """The processes that train together: this one is `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0


def init_world(environment: Mapping[str, str], device: str = "cpu") -> World:
    """Join the processes that torchrun has started; without torchrun's variables it is a world of one.

    Parameters
    ----------
    environment
        RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun sets them.
    device
        "cuda…" talks over NCCL, everything else over gloo.

    Raises
    ------
    ConfigError
        The variables are incomplete or not numbers.
    """
    if "WORLD_SIZE" not in environment:
        return World()
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
    try:
        if missing:
            raise ValueError(f"{', '.join(missing)} not set")
        rank, size, port = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
        if not 0 <= rank < size:
            raise ValueError(f"rank {rank} of {size}")
    except ValueError as error:
        raise ConfigError(
            "the variables of a multi-process run are not complete",
            where="RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT",
            got=str(error),
            todo="start with: torchrun --nproc-per-node N -m track2_mmctr run …",
        ) from None
    if size == 1:
        return World()
    if not distributed.is_initialized():
        cuda = device.startswith("cuda")
        if cuda:
            torch.cuda.set_device(int(environment.get("LOCAL_RANK", rank)))
        agent = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun itself keeps the store
        store = distributed.TCPStore(environment["MASTER_ADDR"], port, size, rank == 0 and not agent)  # pyright: ignore[reportPrivateImportUsage]
        attempt = distributed.PrefixStore(f"mirc/{environment.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)  # pyright: ignore[reportPrivateImportUsage]
        distributed.init_process_group("nccl" if cuda else "gloo", store=attempt, rank=rank, world_size=size)
    return World(rank, size)


def at_least_float32(x: Tensor) -> Tensor:
    """Return x, in float32 where it has half precision."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


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


def share_sizes(rows: int, world: World) -> list[int]:
    """Return how many of `rows` dealt-out rows each process has."""
    return [len(range(rank, rows, world.size)) for rank in range(world.size)]


def gather(x: Tensor, sizes: list[int], world: World) -> Tensor:
    """Return all processes' rows, [sum of sizes, ...], those of process 0 first; differentiable in the own ones.

    The gradient is multiplied by the number of processes, because DistributedDataParallel takes the mean.
    """
    return x if world.size == 1 else _Gather.apply(x, sizes, world)  # pyright: ignore[reportReturnType]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int], world: World) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.start, ctx.stop, ctx.size = sum(sizes[: world.rank]), sum(sizes[: world.rank + 1]), world.size
        padded = x.new_zeros(max(sizes), *x.shape[1:])  # all parts of a collective have one shape
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad[ctx.start : ctx.stop] * ctx.size, None, None


def parallel(model: nn.Module, world: World) -> nn.Module:
    """Return the model with gradients averaged over processes; itself in a world of one.

    Every process must start from the same weights: those of process 0 are sent to all.
    """
    if world.size == 1:
        return model
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(model, forward_sync_buffers=False, find_unused_parameters=True)

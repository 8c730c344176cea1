"""Several processes that train together: who they are, and what they tell each other.

They are started by torchrun, or by Ray Train (`common.training.ray_train`). Everything here does nothing at all in a
world of one, so that one process computes what it always did, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn

from common.errors import ConfigError
from common.hashing import digest

PATIENCE = timedelta(hours=12)
"""How long processes wait for each other: one may prepare data meanwhile. A process that died is noticed at once."""
BUCKET = 32 << 20
"""Bytes of gradients that are added up in one go."""


@dataclass(frozen=True)
class World:
    """The processes that train together: this one is `rank` of `size`, and `local` of them share its machine (0: all).

    The main one writes files and speaks.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def threads(self, cores: int) -> int:
        """Return this process's share of a machine's cores, one at least.

        Processes with more threads than cores in all wait for each other in busy loops, which takes many times as long.
        """
        return max(1, cores // (self.local or self.size))


def init_world(environment: Mapping[str, str], device: str = "cpu") -> World:
    """Join the processes that torchrun has started; without torchrun's variables it is a world of one.

    Parameters
    ----------
    environment
        RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT (and LOCAL_WORLD_SIZE), as torchrun sets them.
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
        local = int(environment.get("LOCAL_WORLD_SIZE", 0))
        if not 0 <= rank < size or not 0 <= local <= size:
            raise ValueError(f"rank {rank} of {size}, {local} of them here")
    except ValueError as error:
        raise ConfigError(
            "the variables of a multi-process run are not complete",
            where="RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT",
            got=str(error),
            todo="start with: torchrun --nproc-per-node N -m MODULE VERB …",
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
        backend = "nccl" if cuda else "gloo"
        distributed.init_process_group(backend, store=attempt, rank=rank, world_size=size, timeout=PATIENCE)
    return World(rank, size, local)


def at_least_float32(x: Tensor) -> Tensor:
    """Return x, in float32 where it has half precision."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


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


def gather_rows(values: np.ndarray, rows: int, world: World) -> np.ndarray:
    """Return the values [rows, ...] of all rows, in their order, from the shares `rank::size` of the processes."""
    if world.size == 1:
        return values
    parts = gather(torch.from_numpy(values).to(_device()), share_sizes(rows, world), world).cpu().numpy()
    whole = np.empty((rows, *values.shape[1:]), values.dtype)
    whole[np.concatenate([np.arange(rank, rows, world.size) for rank in range(world.size)])] = parts
    return whole


def parallel(model: nn.Module, world: World) -> nn.Module:
    """Return the model with gradients averaged over processes; itself in a world of one.

    Every process must start from the same weights: those of process 0 are sent to all.
    """
    if world.size == 1:
        return model
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(model, forward_sync_buffers=False, find_unused_parameters=True)


def share_weights(model: nn.Module, world: World) -> None:
    """Give every process the weights and buffers of the main one."""
    if world.size > 1:
        for tensor in model.state_dict().values():
            distributed.broadcast(tensor, 0)


def sum_gradients(parameters: Sequence[nn.Parameter], world: World) -> None:
    """Add up the gradients of all processes; a parameter that none of them has one for still has none."""
    if world.size == 1:
        return
    found = total([parameter.grad is not None for parameter in parameters], world)
    learnt = [parameter for parameter, count in zip(parameters, found, strict=True) if count]
    for parameter in learnt:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets(learnt):
        grads = [parameter.grad for parameter in bucket if parameter.grad is not None]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        distributed.all_reduce(flat)
        for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield neighbours of one type, about `BUCKET` bytes of them."""
    bucket: list[nn.Parameter] = []
    size = 0
    for one in parameters:
        if bucket and (size > BUCKET or one.dtype != bucket[0].dtype or one.device != bucket[0].device):
            yield bucket
            bucket, size = [], 0
        bucket.append(one)
        size += one.numel() * one.element_size()
    if bucket:
        yield bucket


def total(values: Sequence[float], world: World) -> list[float]:
    """Return the sum over all processes of each value, in double precision; the same on every process."""
    if world.size == 1:
        return list(values)
    summed = torch.tensor(values, dtype=torch.float64, device=_device())
    distributed.all_reduce(summed)
    return summed.tolist()


def told_by_main(value: Any, world: World) -> Any:
    """Return the main process's `value`, which is made of JSON values, on every process."""
    if world.size == 1:
        return value
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(_device())
    size = torch.tensor([len(text)], device=_device())
    distributed.broadcast(size, 0)
    if not world.main:
        text = torch.empty(int(size), dtype=torch.uint8, device=_device())
    distributed.broadcast(text, 0)
    return json.loads(bytes(text.cpu().tolist()))


@contextmanager
def main_first(world: World) -> Iterator[None]:
    """Let the main process do what is within, and then the others, who read what it has written.

    No process may wait for another one within. An error of one is an error of all: nobody is left waiting.
    """
    if not world.main:
        _all_well(True, world)
    well = False
    try:
        yield
        well = True
    finally:
        if world.main:
            _all_well(well, world)


def _all_well(well: bool, world: World) -> None:
    if not told_by_main(well, world) and not world.main:
        raise ConfigError("the main process failed", where="process 0", todo="see its message")


def check_same(value: str, what: str, world: World) -> None:
    """Raise `ConfigError`, on every process, unless all have the same `value`; `what` says what it stands for."""
    if world.size == 1:
        return
    own = torch.tensor(list(bytes.fromhex(digest(value))), dtype=torch.uint8, device=_device())
    found = [torch.empty_like(own) for _ in range(world.size)]
    distributed.all_gather(found, own)
    other = [rank for rank, one in enumerate(found) if not torch.equal(one, found[0])]
    if other:
        raise ConfigError(
            f"the processes do not train the same: {what}",
            where=f"process {other[0]} differs from process 0",
            expected="one command, the same files, code and library versions on every machine",
            todo="put data, configuration and the run's folder on storage that all machines share",
        )


def _device() -> torch.device:
    """Where the processes' backend wants what they exchange."""
    nccl = distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")

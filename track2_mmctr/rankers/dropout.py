"""Dropout whose random bits cost a tenth of torch's on a CPU; in training, the bits are most of what dropout costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
STEPS = 1 << 16


class Dropper:
    """Sets a share `p` of values to zero, in place, and leaves it to the caller to scale the rest by `scale`.

    The bits come from a generator that one draw of torch's seeds, so that resuming works. The share is a multiple of
    1 / 65,536.
    """

    def __init__(self, p: float) -> None:
        self.p, self.scale = p, 1 / (1 - p)
        self._limit = round(p * STEPS)
        if p:
            seed = int(torch.randint(2**62, ()))
            self._bits = np.random.Generator(np.random.SFC64(seed))

    def keep(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return a mask, bool: True = kept."""
        count = int(np.prod(shape))
        words = self._bits.integers(0, 2**64 - 1, size=-(-count // 4), dtype=np.uint64, endpoint=True)
        return (words.view(np.uint16)[:count] >= self._limit).reshape(shape)

    def __call__(self, values: Tensor) -> Tensor:
        """Set a share of `values` to zero, in place; they are contiguous."""
        if not self._limit:
            return values
        if values.device.type == "cpu":
            zero(values, self.keep(tuple(values.shape)))
            return values
        return values.masked_fill_(torch.rand(values.shape, device=values.device) < self._limit / STEPS, 0)


def zero(values: Tensor, keep: np.ndarray) -> None:
    """Set values to zero where `keep` is False, in place: as whole numbers, of any type, even one that numpy lacks."""
    whole = values.view(INTEGERS[values.element_size()]).numpy()
    np.multiply(whole, keep, out=whole)


class Dropout(nn.Dropout):
    """`nn.Dropout`, with `Dropper`'s bits on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the input with a share `p` set to zero and the rest scaled; in evaluation the input itself."""
        plain = input.device.type != "cpu" or torch.compiler.is_compiling()
        if not self.training or not self.p or plain:
            return super().forward(input)
        return _Dropped.apply(input, self.p)  # pyright: ignore[reportReturnType]


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, p: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        drop = Dropper(p)
        ctx.keep, ctx.scale = drop.keep(tuple(values.shape)), drop.scale
        return _dropped(values, ctx.keep, ctx.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _dropped(grads[0], ctx.keep, ctx.scale), None


def _dropped(values: Tensor, keep: np.ndarray, scale: float) -> Tensor:
    made = torch.mul(values, scale).contiguous()
    zero(made, keep)
    return made

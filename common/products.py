"""Matrix products in float32 by oneDNN where it has a better kernel than the BLAS that torch ships.

torch multiplies float32 matrices by MKL, which takes its AVX2 kernels on processors of other makers even where they
have AVX-512: half of what they can do. oneDNN chooses by what the processor can do. torch uses oneDNN for float32
only when lower precision is allowed; without matrix units for bfloat16 (AMX, SVE) the arithmetic stays that of
float32 all the same. A probe makes sure of that, or leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import nn


@contextmanager
def fast_products(device: torch.device | str, *, enabled: bool = True) -> Iterator[bool]:
    """Within the context, float32 products on a CPU are oneDNN's where that is exact; yields whether they are.

    Parameters
    ----------
    device
        Where the products are made: anything but a CPU changes nothing.
    enabled
        False changes nothing either.

    Examples
    --------
    >>> with fast_products("cpu"):
    ...     product = torch.eye(64) @ torch.full((64, 64), 1 + 2**-20)
    >>> bool((product == 1 + 2**-20).all())
    True
    """
    before = torch.get_float32_matmul_precision() if enabled and torch.device(device).type == "cpu" else ""
    if before != "highest" or not exact():  # a user who has chosen a precision keeps it
        yield False
        return
    torch.set_float32_matmul_precision("medium")
    try:
        yield True
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def plain_products() -> Iterator[None]:
    """Within the context, float32 products are again those of the BLAS that torch ships.

    For many small products of shapes that do not recur: oneDNN makes a kernel for each shape, in half a millisecond.
    """
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def matrix_weights(model: nn.Module) -> int:
    """Return how many weights a model has outside its embedding tables: each is in a product once a row, or more."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return sum(weight.numel() for weight in model.parameters() if id(weight) not in tables)


@lru_cache(maxsize=1)
def exact() -> bool:
    """Whether products in float32 keep all of float32's digits on this CPU when lower precision is allowed."""
    if not torch.backends.mkldnn.is_available():
        return False
    before = torch.get_float32_matmul_precision()
    value = torch.full((64, 64), 1 + 2**-20)  # bfloat16 has 8 digits, TF32 11: both would round it to 1
    one = torch.eye(64)
    try:
        torch.set_float32_matmul_precision("medium")
        results = [value @ one, one @ value, torch.addmm(one[0] * 0, value, one.t())]
        results += list(torch.bmm(value.expand(2, -1, -1), one.expand(2, -1, -1)))
        return all(torch.equal(result, value) for result in results)
    finally:
        torch.set_float32_matmul_precision(before)

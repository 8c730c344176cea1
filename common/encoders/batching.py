"""Forward passes in batches of one size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from common.errors import ConfigError


def in_full_batches(
    items: Sequence[Any], batch_size: int, forward: Callable[[list[Any]], np.ndarray], model: str, dim: int
) -> np.ndarray:
    """Return the vectors of items, float32 [N, D], by forward passes of `batch_size` items each.

    The last batch is filled up with copies of its last item, so that a vector does not depend on how many items
    are encoded with it. `dim` is D where there are no items.

    Raises
    ------
    ConfigError
        The device has too little memory.
    """
    import torch

    parts: list[np.ndarray] = []
    for start in range(0, len(items), batch_size):
        batch = list(items[start : start + batch_size])
        try:
            with torch.inference_mode():
                parts.append(forward(batch + batch[-1:] * (batch_size - len(batch)))[: len(batch)])
        except torch.OutOfMemoryError:
            raise ConfigError(
                "the image encoder runs out of memory",
                where=f"model {model}",
                got=f"batch_size {batch_size}",
                todo="set a smaller batch_size",
            ) from None
    return np.concatenate(parts) if parts else np.empty((0, dim), np.float32)

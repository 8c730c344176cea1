"""Randomness that depends on the step alone, and sums in a fixed order: the same seed gives the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.utils.deterministic as fill


def step_seed(seed: int, epoch: int, batch: int, rank: int) -> int:
    """Return the seed of torch's random state for one step: resuming needs to keep no random state."""
    return int(np.random.SeedSequence([seed, epoch, batch, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """On a CPU the same bytes each time: the gradient of `x[index]`, for one, adds up in a fixed order."""
    before, filled = torch.are_deterministic_algorithms_enabled(), fill.fill_uninitialized_memory  # pyright: ignore[reportAttributeAccessIssue]
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        fill.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        fill.fill_uninitialized_memory = filled  # pyright: ignore[reportAttributeAccessIssue]

"""The learning rate over time, and when training has stopped to gain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from common.config import Config

MIN_DELTA = 1e-6
"""An evaluation is a gain when its figure is above the best so far by more than this (FuxiCTR's value)."""


class ScheduleConfig(Config):
    """The learning rate over time."""

    type: Literal["constant", "plateau", "cosine"] = "plateau"
    factor: float = Field(
        default=0.1, gt=0, lt=1, description="plateau: times the rate after an evaluation without a gain"
    )
    floor: float = Field(default=1e-6, ge=0)
    warmup_steps: int = Field(default=0, ge=0, description="linear warm-up")


@dataclass(frozen=True)
class Schedule:
    """Learning rates as a pure function of the step and of the evaluations without a gain.

    - constant: the base rate.
    - plateau: times `factor` after each evaluation without a gain, not below `floor`; factor 0.5 is QIN's halving.
    - cosine: from the base rate to `floor` in half a cosine over `total` steps (Loshchilov & Hutter, ICLR 2017).

    Warm-up multiplies each of them by (step + 1) / warmup_steps at first.
    """

    config: ScheduleConfig
    base: float
    total: int

    def rate(self, step: int, losses: int = 0) -> float:
        """Return the rate of optimiser step `step` (from 0) after `losses` evaluations without a gain."""
        floor = min(self.config.floor, self.base)
        rate = self.base
        if self.config.type == "plateau":
            rate = max(floor, self.base * self.config.factor**losses)
        elif self.config.type == "cosine":
            done = min(1.0, step / max(1, self.total))
            rate = floor + (self.base - floor) * (1 + math.cos(math.pi * done)) / 2
        warmup = self.config.warmup_steps
        return rate * min(1.0, (step + 1) / warmup) if warmup else rate


def evaluation_points(steps: int, evaluations: int) -> frozenset[int]:
    """Return after how many steps of an epoch it is evaluated: evenly spread, the last at its end.

    >>> sorted(evaluation_points(10, 4))
    [3, 5, 8, 10]
    """
    return frozenset(math.ceil(steps * k / evaluations) for k in range(1, evaluations + 1))

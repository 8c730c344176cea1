"""How a model is trained and what came of it; what the training loop asks of batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from pydantic import Field

from common.config import Config
from common.training.fit_state import Point
from common.training.schedule import ScheduleConfig


class Batches(Protocol):
    """Training batches: which rows make each batch of an epoch, and the batch of given rows.

    Attributes
    ----------
    digest
        SHA-256 over the data and all that decides the batches, the seed of their order included.
    """

    digest: str

    def __len__(self) -> int:
        """Return the number of batches, the same in each epoch."""
        ...

    def epoch(self, number: int) -> Sequence[np.ndarray]:
        """Return the rows of each batch of an epoch: a pure function of its number."""
        ...

    def make(self, rows: np.ndarray) -> Any:
        """Return the batch of these rows, with a method `to(device)`.

        For several processes, which each take a part of the rows (of the first axis), the batch has also a method
        `counts()`: the name of each term of the loss -> how many things it is the mean of, 0 for a term without any,
        the same names always; "loss" alone where the whole loss is one mean.
        """
        ...


class FitConfig(Config):
    """How a model is trained."""

    epochs: int = Field(default=20, ge=1)
    max_seconds: float | None = Field(
        default=None,
        gt=0,
        description="stop after this wall time, resumed parts counted; the result then depends on it",
    )
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW's, on matrices and embeddings")
    clip_norm: float = Field(default=1.0, gt=0)
    schedule: ScheduleConfig = ScheduleConfig(type="constant", warmup_steps=100)
    evaluate_every: int = Field(default=1, ge=1, description="epochs between two evaluations; the last is evaluated")
    figure: str = Field(default="recall@10", description="the evaluation's figure that decides; larger is better")
    patience: int = Field(default=5, ge=1, description="evaluations without a gain after which training stops")


@dataclass(frozen=True)
class FitResult:
    """What training came to; the model holds the weights of `best`, or without an evaluation the last ones.

    Attributes
    ----------
    best, best_epoch
        The best value of the figure and the epochs behind it (-inf and 0 without an evaluation).
    curve
        The learning curve, one point an evaluation (an epoch without one).
    stopped
        epochs, patience or max_seconds.
    seconds, cpu_seconds
        Wall and processor time, resumed parts included.
    """

    best: float
    best_epoch: int
    epochs: int
    steps: int
    stopped: str
    seconds: float
    cpu_seconds: float
    resumed_from: int | None
    curve: list[Point] = field(default_factory=list)

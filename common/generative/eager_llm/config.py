"""Configuration of EAGER-LLM; imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator, model_validator

from common.config import Config
from common.generative.lm.config import LmConfig

Source = Literal["behaviour", "semantic"]
SOURCES: tuple[Source, Source] = ("behaviour", "semantic")
Task = Literal["recommendation", "reconstruction", "preference"]
TASKS: tuple[Task, Task, Task] = ("recommendation", "reconstruction", "preference")


@dataclass(frozen=True)
class Stage:
    """A stage of training.

    Attributes
    ----------
    share
        Of the epochs, 0..1.
    weights
        The share of each of `TASKS` in the examples that are drawn; they sum to 1.
    adapters_only
        Whether only adapters (and the projectors of the contrastive tasks) learn.
    """

    share: float
    weights: tuple[float, ...]
    adapters_only: bool = False


class EagerLlmConfig(Config):
    """Size and variant of EAGER-LLM.

    The paper's text was not at hand: weights, stages and templates are our own choice, those of facts 2.9.
    """

    lm: LmConfig = LmConfig()
    indices: Literal["both", "behaviour", "semantic"] = Field(
        default="both", description="whose codes an item's ID is made of; one source alone is an ablation"
    )
    branching: tuple[int, ...] = Field(
        default=(), description="branches of each level of a source's tree. Empty: two levels of about N^(1/3)"
    )
    iterations: int = Field(default=20, ge=1, description="of each k-means split of the trees")
    max_items: int = Field(default=20, ge=1, description="items of a history, the most recent ones")
    max_text: int = Field(default=64, ge=1, description="tokens of a title, a description or a preference at most")
    title_words: int = Field(
        default=16, ge=1, description="an item's title is the first line of its text, and at most so many words"
    )
    preference_words: int = Field(default=5, ge=1, description="words that tell what a user likes")
    teach: Literal["every", "last"] = Field(
        default="every",
        description="every: all items of a history are told, each from those before it (our own choice, several times "
        "cheaper). last: one example a target, as in the paper's instructions",
    )
    reconstruction: bool = Field(default=True, description="the task: title from ID, ID from title or description")
    preference: bool = Field(default=True, description="the task: what a user likes, in words, from the history")
    annealing: bool = Field(default=True, description="stages; False: their mean weights all along, no adapter stage")
    shares: tuple[float, ...] = Field(default=(1.0, 1.0, 1.0), description="epochs of each stage, in proportion")
    recommendation_weights: tuple[float, ...] = Field(default=(0.3, 0.6, 1.0), description="a stage's, in proportion")
    reconstruction_weights: tuple[float, ...] = (0.7, 0.4, 0.0)
    preference_weights: tuple[float, ...] = (0.2, 0.1, 0.0)
    lora_stage: bool = Field(default=True, description="in the last stage only LoRA adapters of the model learn")
    gct_behaviour: bool = Field(default=True, description="the contrastive loss to the items' behaviour vectors")
    gct_semantic: bool = Field(default=True, description="the contrastive loss to the items' semantic vectors")
    gct: float = Field(default=0.1, gt=0, description="lambda, the weight of each contrastive loss")
    temperature: float = Field(default=0.07, gt=0, description="tau, of the contrastive losses")
    hidden: int = Field(default=4, ge=1, description="K: the last hidden states that are projected, their mean")
    negatives: int = Field(default=2048, ge=1, description="items that the contrastive losses choose among, about")

    @field_validator("branching")
    @classmethod
    def _branches(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if value and min(value) < 2:
            raise ValueError("a level needs two branches at least")
        return value

    @model_validator(mode="after")
    def _stages_fit(self) -> EagerLlmConfig:
        lists = (self.shares, self.recommendation_weights, self.reconstruction_weights, self.preference_weights)
        if not self.shares or len({len(one) for one in lists}) > 1:
            raise ValueError("shares and the weights of the three tasks need one number a stage each")
        if not all(math.isfinite(x) and x >= 0 for one in lists for x in one) or min(self.shares) <= 0:
            raise ValueError("weights are not negative, shares are above 0")
        if not all(sum(stage.weights) > 0 for stage in self.stages):
            raise ValueError("each stage needs a task that is switched on and has a weight above 0")
        return self

    @property
    def code_sources(self) -> tuple[Source, ...]:
        """The sources that IDs are made of."""
        return tuple(name for name in SOURCES if self.indices in ("both", name))

    @property
    def contrasts(self) -> tuple[Source, ...]:
        """The sources that there is a contrastive loss to."""
        return tuple(name for name in SOURCES if getattr(self, f"gct_{name}"))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages; a task that is switched off leaves its share to the others."""
        on = (True, self.reconstruction, self.preference)
        columns = (self.recommendation_weights, self.reconstruction_weights, self.preference_weights)
        rows = [tuple(w * kept for w, kept in zip(row, on, strict=True)) for row in zip(*columns, strict=True)]
        total = sum(self.shares)
        if not self.annealing:
            mean = [sum(s * row[task] for s, row in zip(self.shares, rows, strict=True)) for task in range(3)]
            return (Stage(1.0, _normalised(mean)),)
        last = len(rows) - 1
        return tuple(
            Stage(share / total, _normalised(row), self.lora_stage and number == last)
            for number, (share, row) in enumerate(zip(self.shares, rows, strict=True))
        )

    @property
    def adapters(self) -> bool:
        """Whether there is a stage in which only adapters learn."""
        return any(stage.adapters_only for stage in self.stages)

    def stage_of(self, epoch: int, epochs: int) -> int:
        """Return the stage of an epoch, both from 0, of `epochs` in all; the middle of the epoch decides.

        >>> [EagerLlmConfig().stage_of(epoch, 7) for epoch in range(7)]
        [0, 0, 1, 1, 1, 2, 2]
        """
        done, passed = (epoch + 0.5) / epochs, 0.0
        for number, stage in enumerate(self.stages):
            passed += stage.share
            if done < passed:
                return number
        return len(self.stages) - 1


def _normalised(weights: tuple[float, ...] | list[float]) -> tuple[float, ...]:
    total = sum(weights)
    return tuple(weight / total if total else 0.0 for weight in weights)

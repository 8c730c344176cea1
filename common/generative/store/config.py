"""Configuration of STORE: its language model, the dense tokenizer, the codes, the four tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from common.config import Config
from common.generative.lm.config import LmConfig
from common.training.fit_config import FitConfig
from common.training.schedule import ScheduleConfig


class ItemFieldsConfig(Config):
    """What the auxiliary tasks tell of an item beside its text: string columns of a parquet file with item_id."""

    file: Path | None = None
    longer: str | None = Field(default=None, description="column of longer texts: abstract, overview, description")
    category: str | None = Field(default=None, description="column of categories")

    @model_validator(mode="after")
    def _both_or_none(self) -> ItemFieldsConfig:
        if (self.file is None) != (self.longer is None and self.category is None):
            raise ValueError("a file needs a column (longer, category), and a column needs the file")
        return self


class DenseFitConfig(FitConfig):
    """How the dense tokenizer is trained; `accuracy` is the share of text tokens copied from slots alone."""

    epochs: int = Field(default=30, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    schedule: ScheduleConfig = ScheduleConfig(type="cosine", warmup_steps=100)
    evaluate_every: int = Field(default=2, ge=1)
    figure: str = "accuracy"
    patience: int = Field(default=3, ge=1)


class DenseConfig(Config):
    """Stage 1, the dense tokenizer."""

    slots: int = Field(default=4, ge=1, description="m, placeholders after an item's text, and codes of its ID")
    mask: Literal["cascaded", "causal"] = Field(
        default="cascaded", description="causal: what is written from the slots sees the text as well (ablation)"
    )
    auxiliary: float = Field(default=1.0, ge=0, description="weight of the auxiliary tasks; 0 = none (ablation)")
    batch_size: int = Field(default=64, ge=1, description="items of a batch")
    watched: int = Field(default=500, ge=1, description="items, drawn by the seed, that early stopping looks at")
    train: DenseFitConfig = DenseFitConfig()


class CodesConfig(Config):
    """Stage 2, from dense tokens to codes."""

    kind: Literal["slots", "rq"] = Field(
        default="slots",
        description="slots: k-means of each slot, codes in parallel. rq: RQ-KMeans of the mean dense token (ablation)",
    )
    size: int = Field(default=256, ge=2, description="codes of a slot; cut to a quarter of the different texts")
    components: int = Field(default=64, ge=0, description="principal components that k-means sees; 0 = no PCA")
    iterations: int = Field(default=25, ge=1)


class TasksConfig(Config):
    """Stage 3: weights of the tasks in the loss (0 = none of it, the ablation), and how many examples each has.

    The weights are our own: on planted data, tasks of equal weight held back the next item's in a short training.
    """

    token_to_token: float = Field(default=1.0, ge=0, description="the next item of a history of IDs")
    text_to_token: float = Field(default=0.25, ge=0, description="an item's ID from its text")
    token_to_text: float = Field(default=0.25, ge=0, description="an item's text from its ID")
    text_to_text: float = Field(default=0.25, ge=0, description="the next item's text from a history of texts")
    item_passes: int = Field(default=1, ge=1, description="times an item's text and ID are told in an epoch")
    text_share: float = Field(
        default=0.25, gt=0, le=1, description="share of the next items that an epoch asks for in text"
    )
    text_items: int = Field(default=5, ge=1, description="items of a history of texts, the most recent ones")

    @model_validator(mode="after")
    def _some(self) -> TasksConfig:
        if not any((self.token_to_token, self.text_to_token, self.token_to_text, self.text_to_text)):
            raise ValueError("at least one task needs a weight above 0")
        return self


class StoreConfig(Config):
    """STORE."""

    lm: LmConfig = LmConfig()
    items: ItemFieldsConfig = ItemFieldsConfig()
    dense: DenseConfig = DenseConfig()
    codes: CodesConfig = CodesConfig()
    tasks: TasksConfig = TasksConfig()
    instructions: bool = Field(default=True, description="word each task beside its own token")
    max_items: int = Field(default=20, ge=1, description="items of a history of IDs, the most recent ones that fit")
    max_text: int = Field(default=32, ge=1, description="tokens of an item's text")
    max_longer: int = Field(default=32, ge=1, description="tokens of longer texts and of categories")

"""Settings of EASE, with a switch for each of its parts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.config import Config
from common.representation.base import MethodConfig
from common.representation.ease.qformer import QFormerConfig
from common.training.fit import FitConfig
from common.training.schedule import ScheduleConfig


class LanguageModelConfig(Config):
    """Which frozen language model decodes."""

    name: str = Field(min_length=1, description="hub name, or a folder")
    revision: str | None = None
    gguf_file: str | None = Field(default=None, description="a GGUF file in that folder or repository")
    prompt: str = Field(default="", description="text between the soft prompt and the description")
    max_tokens: int = Field(default=64, ge=1, description="tokens of a description that are told; the rest is cut")


class SemanticConfig(Config):
    """The semantic adapter: one linear map from pooled Z to the feature, trained on clicks."""

    dim: int = Field(default=32, ge=1)
    negatives: int = Field(default=4, ge=1, description="drawn for each item of a history, where no clicks are given")
    batch_size: int = Field(default=1024, ge=2)
    fit: FitConfig = FitConfig(
        epochs=20,
        learning_rate=5e-3,
        schedule=ScheduleConfig(type="cosine", warmup_steps=20),
        figure="auc",
        patience=3,
    )


class RetrievalConfig(Config):
    """The retrieval head: a map from pooled Z to the space of a teacher encoder, trained by distillation."""

    loss: Literal["cosine", "infonce", "both"] = "both"
    temperature: float = Field(default=0.05, gt=0)
    hidden: int = Field(default=0, ge=0, description="width of a hidden layer; 0 = one linear map")
    weight: float = Field(default=1.0, gt=0, description="of this loss beside L_LM")


class EaseConfig(MethodConfig):
    """Settings of EASE. Ablations: qformer.type mean, qformer.train_queries, lm_weight 0, adapter none, modalities."""

    fit: FitConfig = FitConfig(
        epochs=30,
        learning_rate=2e-3,
        schedule=ScheduleConfig(type="cosine", warmup_steps=50),
        figure="score",
        patience=5,
    )
    batch_size: int = Field(default=64, ge=2)
    modalities: tuple[str, ...] | None = Field(default=None, description="which are read; none = all of the items")
    need: Literal["all", "any"] = Field(default="all", description="an item needs all of the modalities, or one")
    max_missing: int = Field(
        default=0, ge=0, description="items without a description or modality that are left out, and counted"
    )
    qformer: QFormerConfig = QFormerConfig()
    language_model: LanguageModelConfig | None = Field(default=None, description="none = distillation only")
    lm_weight: float = Field(default=1.0, ge=0, description="of L_LM; 0 leaves the language model out")
    validation: float = Field(default=0.1, ge=0, lt=0.9, description="share of items held out to choose the epoch")
    pool: Literal["mean", "flatten"] = "flatten"
    adapter: Literal["none", "semantic", "retrieval"] = Field(
        default="semantic", description="what follows Z: nothing; a map trained on clicks; a map to a teacher's space"
    )
    semantic: SemanticConfig = SemanticConfig()
    retrieval: RetrievalConfig = RetrievalConfig()

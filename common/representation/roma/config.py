"""The settings of ROMA. Each of the method's parts has a switch that takes it away."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from common.config import Config
from common.representation.base import MethodConfig
from common.training.fit import FitConfig
from common.training.schedule import ScheduleConfig


class ScratchConfig(Config):
    """A small BERT with random weights, and a vocabulary made of the items' own words."""

    dim: int = Field(default=64, gt=0)
    layers: int = Field(default=4, ge=2)
    heads: int = Field(default=4, gt=0)
    feedforward: int = Field(default=256, gt=0)
    positions: int = Field(default=128, gt=2)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    words: int = Field(default=20_000, gt=0, description="the most frequent words that are kept whole")

    @model_validator(mode="after")
    def _heads_divide(self) -> ScratchConfig:
        if self.dim % self.heads:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads})")
        return self


class RomaConfig(MethodConfig):
    """The settings of ROMA.

    Defaults are those of our specification (facts 2.2, [I]): LoRA rank 8, four experts of width 64, temperature 0.07,
    15 % of the words masked, lambda 1. `fit` is the fine-tuning, `pretrain` the training before it. `batch_size` counts
    users' windows.
    """

    batch_size: int = Field(default=32, ge=2)
    fit: FitConfig = FitConfig(epochs=5, schedule=ScheduleConfig(type="cosine", warmup_steps=20), figure="score")
    plm: str = Field(
        default="sentence-transformers/all-MiniLM-L6-v2",
        description="a BERT-like encoder: a local folder, a hub name, or one whose weights a package ships",
    )
    scratch: ScratchConfig | None = Field(default=None, description="train a small one instead of loading `plm`")
    top: int = Field(default=2, ge=1, description="the last blocks, which read users; the rest read items")
    modality: str = Field(default="image", description="whose tokens stand before the words")
    max_words: int = Field(default=48, ge=3, description="tokens of a text, [CLS] and [SEP] counted")
    history: int = Field(default=20, ge=1, description="the last items of a user that are read")
    output: int = Field(default=64, gt=0, description="width of the vectors of items and users")

    pretrain: FitConfig | None = FitConfig(
        epochs=5, learning_rate=3e-4, schedule=ScheduleConfig(type="cosine", warmup_steps=50), figure="score"
    )
    pretrain_part: Literal["whole", "peft"] = Field(
        default="whole", description="whole: the language model learns too, adapters stay at zero; peft: it is frozen"
    )
    item_batch: int = Field(default=64, ge=1, description="items of a batch of masked language modelling")
    mask_share: float = Field(default=0.15, gt=0, lt=1)
    uic_weight: float = Field(default=1.0, gt=0, description="lambda, the weight of the user-item contrast")
    temperature: float = Field(default=0.07, gt=0)
    finetune: bool = True
    finetune_items: bool = Field(
        default=True, description="fine-tune LoRA too; off: item states are computed once, many times faster"
    )
    valid_users: int = Field(
        default=0,
        ge=0,
        description="users whose last item is held out: fine-tuning keeps the weights of the best Recall@10 on them",
    )

    lora_rank: int = Field(default=8, ge=1)
    lora_alpha: float = Field(default=16.0, gt=0)
    experts: int = Field(default=4, ge=1)
    bottleneck: int = Field(default=64, ge=1, description="of one expert")
    domain_dim: int = Field(default=16, ge=1, description="width of a domain's embedding in the router")

    vision: bool = Field(default=True, description="ablation: off = words only")
    vmlm: bool = Field(default=True, description="ablation: off = no masked language modelling in pre-training")
    uic: bool = Field(default=True, description="ablation: off = no user-item contrast in pre-training")
    lora: bool = Field(default=True, description="ablation: off = no modality adapters at the bottom")
    adapters: Literal["mixture", "single"] = Field(
        default="mixture", description="ablation: single = one adapter of experts x bottleneck, without a router"
    )
    router_domain: bool = Field(default=True, description="ablation: off = the router does not know the domain")

    @model_validator(mode="after")
    def _has_something_to_learn(self) -> RomaConfig:
        if self.pretrain is None and not self.finetune:
            raise ValueError("nothing is trained: give pretrain, or set finetune")
        if self.pretrain is not None and not (self.vmlm or self.uic):
            raise ValueError("pre-training without vmlm and uic has no loss: set pretrain to null")
        return self

    @property
    def reads_users(self) -> bool:
        """Whether training needs histories."""
        return self.finetune or (self.pretrain is not None and self.uic)

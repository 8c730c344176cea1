"""Settings of UniEmbedding."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from common.representation.base import MethodConfig


class UniEmbeddingConfig(MethodConfig):
    """Sizes, losses and ablation switches.

    Ablations: `inter_weight=0` (no inter-domain loss), `intra_weight=0` (no intra-domain loss), `view=false` (no
    user-view projection), `domain_aware=false` (one adapter and one gate for all domains), `gate=false` (the mean
    of the modalities).
    """

    modalities: tuple[str, ...] | None = Field(default=None, description="which modalities; null = all that items have")
    dim: int = Field(default=64, ge=2, description="d, the width of an embedding")
    hidden: int = Field(default=128, ge=1, description="of each modality's shared network, and of the user view's")
    rank: int = Field(default=8, ge=1, description="of each domain's own part of an adapter")
    window: int = Field(
        default=10, ge=1, description="an intra-domain pair is at most so many places apart in the domain's history"
    )
    history: int = Field(default=16, ge=1, description="items drawn of a user's history to make the view in training")
    history_gradient: bool = Field(
        default=False,
        description="true = items also learn from their part in views, which by itself draws domains together "
        "where histories mix them",
    )
    temperature: float = Field(default=0.1, gt=0, description="tau of both losses")
    intra_weight: float = Field(default=1.0, ge=0, description="0 = no intra-domain loss")
    inter_weight: float = Field(default=0.5, ge=0, description="mu; 0 = no inter-domain loss")
    view: bool = Field(default=True, description="false = no user-view projection")
    domain_aware: bool = Field(default=True, description="false = one adapter and one gate for all domains")
    gate: bool = Field(default=True, description="false = the mean of the modalities that an item has")
    validation: float = Field(
        default=0.05, ge=0, lt=1, description="share of users held out to stop early; 0 = run all epochs"
    )

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if self.intra_weight == 0 and self.inter_weight == 0:
            raise ValueError("intra_weight and inter_weight are both 0: nothing is left to learn from")
        if self.modalities is not None and (not self.modalities or len(set(self.modalities)) < len(self.modalities)):
            raise ValueError("modalities needs at least one name, each once")
        return self

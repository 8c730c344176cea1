"""The settings of UIST's two tokenizers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from common.representation.base import MethodConfig
from common.tokenizers.rq_vae_model import Gradient, Update
from common.training.fit import FitConfig
from common.training.schedule import ScheduleConfig

Side = Literal["items", "users"]
SIDES: tuple[Side, Side] = ("items", "users")


class UistConfig(MethodConfig):
    """Settings of `Uist`; facts 2.5 says which the released code has, [I] marks our own."""

    fit: FitConfig = FitConfig(
        epochs=30, schedule=ScheduleConfig(type="cosine", warmup_steps=50), figure="score", patience=5
    )
    tokenizer: Literal["rq_kmeans", "transformer"] = Field(
        default="rq_kmeans",
        description="rq_kmeans: RQ of pooled vectors, no encoder [I]; transformer: the paper's autoencoder",
    )
    parts: Literal["both", "items", "users"] = Field(default="both", description="ablation: only one of the two")
    source: Literal["auto", "vectors", "words"] = Field(
        default="auto", description="what an item's tokens are; auto: vectors if there are any, else words"
    )
    modalities: tuple[str, ...] = Field(default=(), description="which to read as vectors; none named: all")
    codebook_sizes: tuple[int, ...] = Field(default=(64, 64, 64, 64), min_length=1)
    user_codebook_sizes: tuple[int, ...] = Field(default=(), description="empty: those of items")
    dim: int = Field(default=64, gt=0, description="d, of hidden states, latents and codewords (the paper's: 768)")
    heads: int = Field(default=4, gt=0)
    layers: int = Field(default=1, ge=1, description="of the encoder, and of the decoder")
    feedforward: int = Field(default=128, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    gen_weight: float = Field(default=1.0, ge=0, description="w_gen; 0 is the ablation without a decoder")
    quant_weight: float = Field(default=1.0, ge=0, description="w_quant")
    commitment: float = Field(default=0.25, ge=0, description="c (the released code's default: 0)")
    item_reconstruction: Literal["regression", "contrastive"] = "regression"
    user_reconstruction: Literal["regression", "contrastive"] = "contrastive"
    negatives: int = Field(default=256, ge=1, description="tokens of the batch that a contrastive target competes with")
    gradient: Gradient = "straight_through"
    update: Update = "gradient"
    decay: float = Field(default=0.99, ge=0, lt=1)
    dead_codes: float = Field(
        default=0.05, ge=0, lt=1, description="a code used less than this share of the mean is moved; 0 = never"
    )
    warmup_epochs: int = Field(default=5, ge=0, description="as a plain autoencoder, before k-means sets the codebooks")
    validation: float = Field(default=0.05, ge=0, lt=0.5, description="share of rows that decide when to stop")
    max_tokens: int = Field(default=32, ge=1, description="of an item's modality or text")
    max_history: int = Field(default=50, ge=1, description="of a user: the most recent items")
    max_words: int = Field(default=20_000, ge=1, description="words known, the most frequent ones")

    @field_validator("codebook_sizes", "user_codebook_sizes")
    @classmethod
    def _sizes(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if any(size < 2 for size in sizes):
            raise ValueError("each level needs at least 2 codes")
        return sizes

    @model_validator(mode="after")
    def _fits(self) -> UistConfig:
        if self.dim % self.heads:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads})")
        learnt = self.commitment > 0 or self.update == "gradient"
        if not self.gen_weight and not (self.quant_weight and learnt):
            raise ValueError("with gen_weight 0 the loss needs quant_weight, and commitment or update: gradient")
        return self

    def sides(self) -> tuple[Side, ...]:
        """Return the sides that have a tokenizer."""
        return SIDES if self.parts == "both" else (self.parts,)

    def sizes(self, side: Side) -> tuple[int, ...]:
        """Return the codebook sizes of a side, coarse to fine."""
        return self.user_codebook_sizes or self.codebook_sizes if side == "users" else self.codebook_sizes

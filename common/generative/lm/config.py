"""Which causal language model, and what of it is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from common.config import Config

SCRATCH = "scratch"


class ScratchConfig(Config):
    """A small Llama with random weights and a byte-level BPE vocabulary of the data's own texts."""

    dim: int = Field(default=128, gt=0)
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=4, gt=0)
    feedforward: int = Field(default=512, gt=0)
    context: int = Field(default=512, ge=8, description="positions at most")
    vocabulary: int = Field(default=4096, ge=257, description="text tokens at most, 256 bytes and the end among them")

    @model_validator(mode="after")
    def _heads_divide(self) -> ScratchConfig:
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(f"dim ({self.dim}) must be heads ({self.heads}) times an even number")
        return self


class LoraConfig(Config):
    """Low-rank adapters (Hu et al., ICLR 2022) on all linear maps but the output, by peft."""

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class LmConfig(Config):
    """The language model."""

    name: str = Field(
        default=SCRATCH,
        min_length=1,
        description="scratch, a hub name, or a folder; a package that ships a hub name's weights is preferred",
    )
    revision: str | None = None
    gguf_file: str | None = Field(default=None, description="GGUF file in that folder (needs the package gguf)")
    tune: Literal["full", "lora", "codes"] = Field(
        default="full",
        description="full: all weights; lora: adapters and embeddings of codes; codes: those alone",
    )
    lora: LoraConfig = LoraConfig()
    scratch: ScratchConfig = ScratchConfig()

    @model_validator(mode="after")
    def _scratch_is_trained(self) -> LmConfig:
        if self.name == SCRATCH and self.tune != "full":
            raise ValueError(f"a model from scratch has random weights: tune must be full, not {self.tune}")
        return self

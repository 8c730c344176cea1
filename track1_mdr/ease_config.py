"""Configuration of the route `type: ease`. It imports no torch: a lexical run reads it too."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from common.config import Config
from track1_mdr.cart_config import PseudoQueryConfig
from track1_mdr.route_config import BaseRouteConfig, TextModelConfig


class EaseNetworkConfig(Config):
    """The Q-Former over the tokens of a page; `common.representation.ease` says more."""

    reader: Literal["qformer", "mean"] = Field(default="qformer", description="mean: no queries (the control arm)")
    queries: int = Field(default=8, ge=1)
    width: int = Field(default=128, ge=1)
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    pool: Literal["mean", "flatten"] = "flatten"


class EaseDecoderConfig(Config):
    """A frozen language model that must tell the page's text while training; it is not needed to search."""

    name: str = Field(min_length=1, description="hub name, or a folder")
    revision: str | None = None
    gguf_file: str | None = None
    prompt: str = ""
    max_tokens: int = Field(default=64, ge=1, description="tokens of the page's text that are told")
    weight: float = Field(default=1.0, gt=0, description="of this loss beside the distillation")


class EaseTrainConfig(Config):
    """Training of the Q-Former and the head."""

    epochs: int = Field(default=40, ge=1)
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=2e-3, gt=0)
    loss: Literal["cosine", "infonce", "both"] = "both"
    temperature: float = Field(default=0.05, gt=0)


class EaseRouteConfig(TextModelConfig, BaseRouteConfig):
    """One vector a page, distilled from a text encoder: `model` is the teacher, and it encodes the questions."""

    embeds: ClassVar[bool] = True
    type: Literal["ease"]
    words: int = Field(150, ge=1, description="chunk length in words; a chunk's vector is one token of the page")
    stride: int = Field(110, ge=1)
    max_chunks: int = Field(8, ge=1, description="chunks of a page that are read, from its beginning")
    image_model: str | None = Field(None, description="open_clip model whose vector of the page image is a token too")
    image_pretrained: str | None = Field(None, description="open_clip weights tag or a local file")
    teacher: Literal["pseudo", "chunks"] = Field(
        "chunks", description="a page's target: the mean of its pseudo-texts' vectors, or of its chunks'"
    )
    pseudo: PseudoQueryConfig = PseudoQueryConfig(per_page=8)
    network: EaseNetworkConfig = EaseNetworkConfig()
    language_model: EaseDecoderConfig | None = Field(None, description="none = the page learns by distillation alone")
    training: EaseTrainConfig = EaseTrainConfig()
    top: int = Field(1000, ge=1, description="passages kept per query")

"""What the configurations of all routes share."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from common.config import Config

Coverage = Literal["dense", "sparse"]
"""Dense: a route scores nearly every candidate. Sparse: a remark on a few of them, as on a named page."""


class BaseRouteConfig(Config):
    """What all routes' configurations have in common.

    `embeds`: the route encodes passages into the embedding store, so that `--shard i/n` makes sense for it.
    `coverage`: of a sparse route the learned fusion takes the raw score, since a z-score over a few means nothing.
    """

    embeds: ClassVar[bool] = False
    coverage: ClassVar[Coverage] = "dense"


class TextModelConfig(Config):
    """A text encoder by hub name or local folder."""

    model: str
    backend: Literal["auto", "torch", "onnx"] = "auto"
    query_prompt: str = ""
    passage_prompt: str = ""
    max_tokens: int = Field(256, ge=8)
    batch_size: int = Field(32, ge=1)

"""Configuration of the generative route, `type: cart`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from common.config import Config
from track1_mdr.route_config import BaseRouteConfig, TextModelConfig

QueryKind = Literal["title", "caption", "phrase", "sentence"]


class PseudoQueryConfig(Config):
    """Which texts of a passage stand in for questions (`pseudo_queries.py`)."""

    kinds: tuple[QueryKind, ...] = ("title", "caption", "phrase", "sentence")
    per_page: int = Field(default=24, ge=1, description="pseudo-queries of a passage at most")
    phrases: int = Field(default=6, ge=0, description="key phrases of a passage at most")
    shared: int = Field(default=3, ge=1, description="a text on more passages than this (a running header) is left out")
    min_words: int = Field(default=4, ge=1, description="shorter sentences are left out")
    max_words: int = Field(default=32, ge=4, description="longer texts are cut into parts")


class CartIdsConfig(Config):
    """Semantic IDs of the pages: a k-means code, residual codes, and a rank where codes collide."""

    coarse: int = Field(default=32, ge=0, description="k-means clusters of the first code; 0 = no coarse code")
    fine: tuple[int, ...] = Field(default=(32, 32), description="codes of each residual level")
    random: bool = Field(default=False, description="IDs without meaning: the control arm")
    file: str | None = Field(
        default=None,
        description="parquet file of IDs in place of our own, as `common.tokenizers encode` or `uni-code` writes them; "
        "item_id is the passage's row in the task's table, from 0",
    )

    @model_validator(mode="after")
    def _one_source(self) -> CartIdsConfig:
        if self.random and self.file is not None:
            raise ValueError("random IDs and a file of IDs: take one of them")
        return self


class CartNetworkConfig(Config):
    """The generator and its contributions to switch off; `common.generative.cart.CartConfig` says more."""

    encoder: Literal["frozen", "trained", "words"] = Field(
        default="frozen", description="frozen or trained: the layers of `model`; words: a small one, from scratch"
    )
    layers: int = Field(default=3, ge=0, description="layers of `model` that the decoder sees; 0 = all")
    max_tokens: int = Field(default=32, ge=4, description="tokens read of a query")
    architecture: Literal["encoder_decoder", "decoder_only"] = "encoder_decoder"
    fusion: Literal["both", "coarse", "fine", "none"] = Field(
        default="both", description="how the decoder sees the encoder's layers; none = the last one only"
    )
    omega: float = Field(default=1.0, ge=0, description="weight of the KL between two dropout passes; 0 = one pass")
    dim: int = Field(default=128, ge=8)
    heads: int = Field(default=4, ge=1)
    feedforward: int = Field(default=256, ge=8)
    encoder_layers: int = Field(default=2, ge=1, description="of an encoder from scratch")
    decoder_layers: int = Field(default=2, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class CartTrainConfig(Config):
    """Training of the generator."""

    epochs: int = Field(default=20, ge=1)
    max_seconds: float | None = Field(
        default=None, gt=0, description="stop after this wall time; the result then depends on the machine"
    )
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)


class CartRouteConfig(TextModelConfig, BaseRouteConfig):
    """Generative retrieval: a question is translated into the ID of its page (CART, ACL 2025).

    `model` gives the vectors that the pages' IDs are made of.
    """

    embeds: ClassVar[bool] = True
    type: Literal["cart"]
    words: int = Field(150, ge=1, description="chunk length in words")
    stride: int = Field(110, ge=1)
    pooling: Literal["mean", "max"] = Field("mean", description="of a page's chunks to its vector")
    pseudo: PseudoQueryConfig = PseudoQueryConfig()
    queries: str | None = Field(
        None, description="file of your own training queries: columns passage_id, text and, for documents, doc_name"
    )
    ids: CartIdsConfig = CartIdsConfig()
    network: CartNetworkConfig = CartNetworkConfig()
    training: CartTrainConfig = CartTrainConfig()
    beam: int = Field(100, ge=1, description="IDs held while decoding; exact where a document has no more pages")
    top: int = Field(100, ge=1, description="passages kept per query")

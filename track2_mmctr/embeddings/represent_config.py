"""The configuration of `embed` with a representation method: what it reads of items and users."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from common.config import Config
from track2_mmctr.embeddings.config import EmbedConfig, ImageModelConfig, TextField, TextModelConfig

Modalities = tuple[Literal["text", "image"], ...]


class DomainConfig(Config):
    """How the items are split in domains, for methods that tell domains apart."""

    by: Literal["auto", "none", "tag", "popularity"] = Field(
        default="auto",
        description="auto = the method's own; tag = items with the tag, and the others; popularity = the half of the "
        "items that is more often in training histories, and the other half",
    )
    tag: int = Field(default=0, ge=0, description="tag id of by: tag; 0 = the one that comes nearest to halving them")


class HistoryConfig(Config):
    """Which history describes a user in the users' table."""

    items: int = Field(
        default=10,
        ge=1,
        description="a user is described by the shortest of the histories with so many items, or by the longest",
    )
    users: Literal["all", "train"] = Field(
        default="all", description="all = users that train does not have, too, by histories of valid and test rows"
    )


class RepresentConfig(Config):
    """One run of a representation method."""

    modalities: list[Literal["text", "image"]] | None = Field(default=None, description="null = the method's own")
    source: Literal["encoders", "files"] = Field(
        default="encoders", description="files = txt_emb_BERT and img_emb_CLIPRN50 of item_feature or item_emb"
    )
    text: TextModelConfig = TextModelConfig()
    image: ImageModelConfig = ImageModelConfig()
    fields: list[TextField] | None = Field(default=None, min_length=1, description="texts that are read; null = all")
    domains: DomainConfig = DomainConfig()
    history: HistoryConfig = HistoryConfig()
    teacher: Literal["none", "text"] = Field(
        default="none", description="ease: distil from the text encoder's vectors, in place of a language model"
    )
    scale: float = Field(default=0.25, ge=0, description="root mean square of an embedding's values; 0 = as it is")
    seed: int = 7
    batch_size: int = Field(default=4, ge=1, description="covers of one forward pass of the image encoder")
    allow_faults: int = Field(default=0, ge=0, description="undecodable covers, items with nothing to read")
    method: dict[str, Any] = Field(default={}, description="settings of the method itself: --set method.NAME=VALUE")

    def encoding(self, modalities: Modalities, fields: list[TextField]) -> EmbedConfig:
        """Return how the modalities are encoded."""
        method = "pca_concat" if len(modalities) == 2 else modalities[0]
        return EmbedConfig(
            method=method,
            source=self.source,
            text=self.text,
            image=self.image,
            fields=fields,
            seed=self.seed,
            batch_size=self.batch_size,
            allow_faults=self.allow_faults,
        )

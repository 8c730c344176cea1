"""The configuration of `embed`: which encoders, and how their vectors become one of 128 numbers an item."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from common.config import Config

Method = Literal["joint_pca", "pca_concat", "whitening", "weighted_sum", "contrastive", "text", "image"]
TextField = Literal["title", "overview", "genres", "director", "cast"]


class TextModelConfig(Config):
    """The encoder of titles and overviews."""

    library: Literal["sentence_transformers", "open_clip"] = Field(
        default="sentence_transformers", description="open_clip = the text side of the image model: one space for both"
    )
    model: str = Field(default="BAAI/bge-small-en-v1.5", description="hub name or local folder; not for open_clip")
    prompt: str = Field(default="", description="put before every text")
    max_tokens: int = Field(default=256, ge=8)


class ImageModelConfig(Config):
    """The encoder of covers."""

    library: Literal["open_clip", "timm"] = "timm"
    model: str = Field(default="tf_efficientnet_lite0", description="architecture, hf-hub:owner/name, or local folder")
    pretrained: str = Field(
        default="auto",
        description="auto = the model's own weights; an open_clip tag; a checkpoint file; none = random weights",
    )


class ContrastiveConfig(Config):
    """The learnt projection: items near each other in a training history become neighbours (InfoNCE)."""

    window: int = Field(default=5, ge=1, description="two items at most this far apart in a history are a positive")
    hidden: int = Field(default=0, ge=0, description="units of one hidden layer; 0 = a linear map")
    temperature: float = Field(default=0.1, gt=0, description="at the start; learnt with the projection")
    learning_rate: float = Field(default=5e-3, gt=0)
    batch_size: int = Field(default=1024, ge=2, description="positives a step; the others' items are the negatives")
    pairs: int = Field(default=200_000, ge=1, description="positives drawn an epoch")
    epochs: int = Field(default=10, ge=1)
    patience: int = Field(default=2, ge=1, description="epochs without a better held-out loss")
    held_out: float = Field(default=0.1, gt=0, lt=1, description="share of users that only judge")


class EmbedConfig(Config):
    """One item embedding."""

    method: Method = Field(
        default="pca_concat",
        description="joint_pca = PCA of both side by side (the organisers' item_emb_d128); pca_concat = PCA of each, "
        "then side by side (the Task-2 prize's V4); whitening = the same at unit variance; weighted_sum = of both in "
        "one space (third place); contrastive = learnt from training histories; text, image = PCA of one",
    )
    source: Literal["encoders", "files"] = Field(
        default="encoders", description="files = txt_emb_BERT and img_emb_CLIPRN50 of item_feature or item_emb"
    )
    text: TextModelConfig = TextModelConfig()
    image: ImageModelConfig = ImageModelConfig()
    fields: list[TextField] = Field(default=["title", "overview"], min_length=1, description="texts that are read")
    dim: int = Field(default=128, ge=2, le=128, description="numbers that carry something; the rest of 128 is zero")
    image_weight: float = Field(default=0.8, ge=0, le=1, description="of weighted_sum; the text has the rest")
    scale: float = Field(
        default=0.25,
        ge=0,
        description="root mean square of the table's values, by one factor for all; 0 = as the fusion gives them",
    )
    contrastive: ContrastiveConfig = ContrastiveConfig()
    seed: int = 7
    batch_size: int = Field(
        default=4, ge=1, description="covers of one forward pass: few on a CPU, 64 and more on a GPU"
    )
    allow_faults: int = Field(default=0, ge=0, description="undecodable covers, items with nothing to encode")

    @model_validator(mode="after")
    def _fits_together(self) -> EmbedConfig:
        if self.text.library == "open_clip" and self.image.library != "open_clip":
            raise ValueError("text.library open_clip takes the text side of image.model: set image.library open_clip")
        if self.method in ("pca_concat", "whitening") and self.dim % 2:
            raise ValueError(f"{self.method} gives each modality half of dim: dim must be even")
        return self

    @property
    def modalities(self) -> tuple[Literal["text", "image"], ...]:
        """What the method reads."""
        if self.method in ("text", "image"):
            return (self.method,)
        return ("text", "image")

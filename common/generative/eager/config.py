"""Configuration of EAGER; imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from common.generative.layers import TransformerConfig
from common.generative.tiger_batches import Mode

StreamName = Literal["behaviour", "semantic"]
Fusion = Literal["confidence", "concatenate", "behaviour", "semantic"]
STREAMS: tuple[StreamName, StreamName] = ("behaviour", "semantic")


class EagerConfig(TransformerConfig):
    """Size and variant of EAGER; the defaults are those of the released code where it has them.

    The released code has both auxiliary tasks switched off; here they are on, as in the paper.
    """

    dim: int = Field(default=96, gt=0)
    heads: int = Field(default=4, gt=0)
    feedforward: int = Field(default=1024, gt=0, description="width inside the feed-forward blocks")
    encoder_layers: int = Field(default=1, ge=0)
    decoder_layers: int = Field(default=2, ge=1, description="of each stream's decoder")
    streams: Literal["both", "behaviour", "semantic"] = Field(
        default="both", description="which streams there are; one alone is an ablation, and has no transfer task"
    )
    encoder: Literal["shared", "separate"] = Field(
        default="separate",
        description="separate: each stream has an encoder of its own (the released code). shared: one encoder of the "
        "history for both decoders (the paper's idea); the streams then err alike, and fusion gains less: see "
        "benchmarks/planted_eager.py",
    )
    history: Literal["items", "codes", "both"] = Field(
        default="codes",
        description="what an item of the history is: an embedding of its own (the released code), the sum of its "
        "codes' embeddings, of all streams that the encoder serves (our choice; items that come later are known "
        "too), or the sum of both",
    )
    attention: Mode = Field(
        default="causal",
        description="bidirectional: one example a row, as in the paper. causal: one pass over a user teaches every "
        "position (our own choice, as in TIGER)",
    )
    max_items: int = Field(default=20, ge=1, description="items of a history, the most recent ones")
    learn_first: bool = Field(default=False, description="learn each user's first item too, from an empty history")
    branching: tuple[int, ...] = Field(
        default=(),
        description="branches of each level of the balanced trees of our IDs; their product is at least the number "
        "of items. Empty: two levels of about the square root of it (the released code has 128 and 128)",
    )
    iterations: int = Field(default=20, ge=1, description="of each k-means split of the trees")
    semantic: str = Field(
        default="vectors",
        description="the codes of the semantic stream: vectors (a balanced tree on the items' content vectors), "
        "published (the codes that came with the data), or a file or folder of IDs",
    )
    path_limit: int = Field(
        default=32_768,
        ge=0,
        description="a level's codes have an embedding for each path (EAGER's k c1 + c2) where that are at most so "
        "many; deeper levels share embeddings between parents, as TIGER does. 0: all levels share",
    )
    gct: float = Field(
        default=0.1,
        ge=0,
        description="weight of the global contrastive task, 0 = off. 1 is the released code's, made for 60,000 steps: "
        "in trainings as short as ours it keeps the codes from being learnt",
    )
    gct_weights: tuple[float, float] = Field(
        default=(1.0, 10.0), description="the task's weight in the behaviour and in the semantic stream, times `gct`"
    )
    temperature: float = Field(default=0.3, gt=0, description="of the global contrastive task")
    negatives: int = Field(default=2048, ge=1, description="items drawn a step for the global contrastive task")
    recon: float = Field(default=1.0, ge=0, description="weight of the transfer task's reconstruction, 0 = off")
    est: float = Field(default=1.0, ge=0, description="weight of the transfer task's estimate, 0 = off")
    transfer_layers: int = Field(default=1, ge=1, description="layers of the transfer task's decoder")
    fusion: Fusion = Field(
        default="confidence",
        description="confidence: candidates of both streams, each scored by both, sums sorted. concatenate: both "
        "lists together, each item with the score of the stream that found it. behaviour, semantic: one stream",
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    bf16: bool = Field(default=False, description="bfloat16 autocast in training")

    @field_validator("gct_weights")
    @classmethod
    def _weights(cls, value: tuple[float, float]) -> tuple[float, float]:
        if min(value) < 0:
            raise ValueError("weights are not negative")
        return value

    @property
    def names(self) -> tuple[StreamName, ...]:
        """The streams that there are."""
        return tuple(name for name in STREAMS if self.streams in ("both", name))

    @property
    def answers(self) -> Fusion:
        """How answers are made: with one stream alone, by that one."""
        return self.fusion if self.streams == "both" else self.streams

    @property
    def transfers(self) -> bool:
        """Whether there is a transfer task: it needs both streams."""
        return self.streams == "both" and self.recon + self.est > 0

    @property
    def summarises(self) -> bool:
        """Whether the decoders read a summary token."""
        return self.gct > 0 or self.transfers

    def gct_weight(self, name: StreamName) -> float:
        """Return the weight of the global contrastive task in a stream."""
        return self.gct * self.gct_weights[STREAMS.index(name)]

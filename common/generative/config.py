"""Configuration of a run: `common/generative/configs/*.yaml`, overridden by `--set a.b=value`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from common.config import Config
from common.generative.eager.config import EagerConfig
from common.generative.eager_llm.config import EagerLlmConfig
from common.generative.sasrec import SasRecConfig
from common.generative.store.config import StoreConfig
from common.generative.tiger import TigerConfig
from common.generative.training import FitConfig

CONFIG_FOLDER = Path(__file__).parent / "configs"
Model = Literal["tiger", "eager", "eager_llm", "store", "sasrec", "popularity", "nearest"]
TRAINED: tuple[Model, ...] = ("tiger", "eager", "eager_llm", "store", "sasrec")
SECTIONS: dict[Model, tuple[str, ...]] = {
    "tiger": ("tiger",),
    "sasrec": ("sasrec",),
    "popularity": (),
    "nearest": ("nearest",),
    "eager": ("eager", "behaviour", "texts", "sasrec"),
    "eager_llm": ("eager_llm", "behaviour", "texts", "sasrec"),
    "store": ("store", "texts"),
}
"""The sections that only some models read: what a run's key leaves out of the others'."""


class ItemIdsConfig(Config):
    """How `ids: ours` and `ids: random` are made."""

    codebook_sizes: tuple[int, ...] = Field(default=(256, 256, 256), description="cut to N / 4 for few items")
    iterations: int = Field(default=25, ge=1, description="of each level's k-means")
    vectors: Literal["auto", "given", "co_occurrence"] = Field(
        default="auto", description="given: the data's own; co_occurrence: of the training part; auto: given, if any"
    )
    dim: int = Field(default=64, ge=1, description="of co-occurrence vectors")
    window: int = Field(default=5, ge=1, description="steps between items that co-occur, at most")

    @field_validator("codebook_sizes")
    @classmethod
    def _sizes(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or min(value) < 2:
            raise ValueError("need one level at least, of 2 codes or more")
        return value


class TrainConfig(FitConfig):
    """How a model is trained, and on what part of valid it is watched."""

    batch_size: int = Field(default=256, ge=1, description="targets of a batch, about")
    valid_users: int = Field(default=2000, ge=1, description="users, drawn by the seed, that early stopping looks at")
    valid_beam: int = Field(default=10, ge=1, description="beam width of these looks (widened to the largest k)")


class NearestConfig(Config):
    """Nearest-vector baseline."""

    to: Literal["last", "mean"] = "last"


class BehaviourConfig(Config):
    """Vectors of how items are used, for models that have a stream of behaviour."""

    source: str = Field(
        default="sasrec",
        description="sasrec: item embeddings of a SASRec trained on the training part, in OUT/behaviour (its size is "
        "the section sasrec). co_occurrence: vectors of the training part. Or a parquet file (item_id, vector), or the "
        "folder of a run of --model sasrec on the same data",
    )
    train: TrainConfig = Field(default=TrainConfig(), description="of that SASRec")


class TextsConfig(Config):
    """How item texts become vectors, where the data has none."""

    encoder: str = Field(default="sentence-transformers/all-MiniLM-L6-v2", description="hub name or local folder")
    max_tokens: int = Field(default=256, ge=8)
    batch_size: int = Field(default=64, ge=1)
    threads: int = Field(default=2, ge=1)
    cache: Path | None = Field(default=None, description="where vectors are kept; by default OUT/texts")


class EvaluateConfig(Config):
    """What `evaluate` reports."""

    ks: tuple[int, ...] = (5, 10)
    beam: int = Field(default=50, ge=1, description="beam width, and how deep lists are asked for")
    exclude_history: bool = Field(default=False, description="never recommend what the user had")

    @field_validator("ks")
    @classmethod
    def _ks(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or min(value) < 1:
            raise ValueError("need one k at least, from 1")
        return value


class RunConfig(Config):
    """One run."""

    name: str
    about: str = ""
    model: Model
    seed: int = 7
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    ids: str = Field(default="ours", description="ours, published, random, atomic, or a file or folder")
    tokenizer: ItemIdsConfig = ItemIdsConfig()
    tiger: TigerConfig = TigerConfig()
    eager: EagerConfig = EagerConfig()
    eager_llm: EagerLlmConfig = EagerLlmConfig()
    store: StoreConfig = StoreConfig()
    sasrec: SasRecConfig = SasRecConfig()
    nearest: NearestConfig = NearestConfig()
    behaviour: BehaviourConfig = BehaviourConfig()
    texts: TextsConfig = TextsConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

"""Track 2's configuration: one section a stage, one model a ranker. `configs/*.yaml` are instances of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from common.config import Config
from common.own_code import OWN_FILE
from common.training.schedule import ScheduleConfig
from track2_mmctr.feature_config import FeatureConfig as FeatureConfig
from track2_mmctr.feature_config import KnowledgeConfig as KnowledgeConfig
from track2_mmctr.feature_config import SidConfig as SidConfig
from track2_mmctr.feature_config import UserSidConfig as UserSidConfig

CONFIG_FOLDER = Path(__file__).parent / "configs"
Scalar = int | float | str | bool
Task = Literal["Task1", "Task2", "Task1&2"]


class DataConfig(Config):
    """How files become tables."""

    max_len: int = Field(default=64, ge=1, description="newest history items that a ranker reads")
    leaks: Literal["error", "warn", "ignore"] = Field(
        default="warn", description="what to do when a row's target is already in the user's history at that time"
    )


class BaseRankerConfig(Config):
    """What all rankers' configurations have in common. `neural`: trained by gradient, by `training/`."""

    neural: ClassVar[bool] = True


class DinConfig(BaseRankerConfig):
    """Deep Interest Network, the organisers' baseline (Zhou et al. 2018; FuxiCTR's layers)."""

    type: Literal["din"]
    attention_units: list[int] = [512, 256]
    hidden_units: list[int] = [1024, 512, 256]
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)
    net_dropout: float = Field(default=0.1, ge=0, lt=1)
    batch_norm: bool = True


class DcnV2Config(BaseRankerConfig):
    """DCN-V2 over side ‖ target ‖ mean of history; `experts` > 0 makes it DCN-Mix (Wang et al. 2021)."""

    type: Literal["dcnv2"]
    cross_layers: int = Field(default=3, ge=1)
    rank: int = Field(default=0, ge=0, description="of the cross matrices; 0 = full")
    experts: int = Field(default=0, ge=0, description="low-rank experts a layer (DCN-Mix); needs rank > 0")
    hidden_units: list[int] = [1024, 512, 256]
    net_dropout: float = Field(default=0.1, ge=0, lt=1)
    batch_norm: bool = True


class QinConfig(BaseRankerConfig):
    """Quadratic Interest Network, 2nd place: sparse target attention (ASTA) and quadratic layers (arXiv 2504.17699)."""

    type: Literal["qin"]
    attention_dim: int = Field(default=0, ge=0, description="0 = twice the item vector")
    layers: int = Field(default=4, ge=1)
    rows: int = Field(default=4, ge=1, description="linear maps summed in each quadratic layer (num_row)")
    net_dropout: float = Field(default=0.1, ge=0, lt=1)
    batch_norm: bool = True


class TransformerDcnConfig(BaseRankerConfig):
    """The 1st place's ranker: a transformer over [history item ‖ target], then DCN-V2 beside an MLP."""

    type: Literal["transformer_dcn"]
    transformer_layers: int = Field(default=2, ge=1)
    heads: int = Field(default=1, ge=1)
    feed_forward: int = Field(default=256, ge=1)
    transformer_dropout: float = Field(default=0.2, ge=0, lt=1)
    last: int = Field(default=16, ge=1, description="newest positions that are flattened beside the maximum over all")
    mask: Literal["right", "inverted"] = Field(
        default="right", description="inverted = as published: real positions are ignored and padding is read"
    )
    width: int = Field(default=100, ge=1, description="columns of the stored history, padding included (inverted)")
    cross_layers: int = Field(default=3, ge=0)
    cross_rank: int = Field(
        default=0, ge=0, description="of the cross matrices; 0 = full, as published (248 M parameters)"
    )
    hidden_units: list[int] = [1024, 512, 256]
    head_units: list[int] = [64, 32]
    net_dropout: float = Field(default=0.2, ge=0, lt=1)
    batch_norm: bool = False


class TransformerDcnQuantConfig(TransformerDcnConfig):
    """`transformer_dcn` with semantic IDs: codes of a residual quantizer and nearest items as learnt features."""

    type: Literal["transformer_dcn_quant"]  # pyright: ignore[reportIncompatibleVariableOverride]
    levels: int = Field(default=5, ge=1, description="levels of the residual quantizer (codebook_num)")
    codes: int = Field(default=5, ge=2, description="k-means centres a level")
    neighbours: int = Field(default=10, ge=0, description="nearest items by inner product, embedded as ids (top_k)")
    code_items: bool = Field(
        default=False,
        description="a level's code is the item nearest to the residual, as published; false = its centre's number",
    )
    combine: Literal["concat", "mean"] = Field(
        default="concat", description="of the learnt vectors of codes and neighbours; concat = as published"
    )
    keep_embedding: bool = Field(
        default=False, description="keep the frozen vector beside the codes (published: dropped)"
    )


class DinDcnConfig(BaseRankerConfig):
    """3rd place: multi-head target attention, then stacked DCN-Mix and MLP."""

    type: Literal["din_dcn"]
    heads: int = Field(default=4, ge=1)
    attention_dim: int = Field(default=64, ge=1)
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)
    cross_layers: int = Field(default=6, ge=1)
    rank: int = Field(default=32, ge=1)
    experts: int = Field(default=4, ge=1)
    hidden_units: list[int] = [1024, 1024]
    net_dropout: float = Field(default=0.0, ge=0, lt=1)
    batch_norm: bool = True


class DinSenetConfig(BaseRankerConfig):
    """Task-2 prize (zhou123): DIN and multi-head target attention, SENet over the fields, MLP (arXiv 2504.18961)."""

    type: Literal["din_senet"]
    attention_units: list[int] = [512, 256]
    heads: int = Field(default=4, ge=1)
    attention_dim: int = Field(default=64, ge=1)
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)
    reduction: int = Field(default=3, ge=1, description="of the SENet bottleneck")
    hidden_units: list[int] = [1024, 512, 256]
    net_dropout: float = Field(default=0.1, ge=0, lt=1)
    batch_norm: bool = True


class CrossAttentionConfig(BaseRankerConfig):
    """Target cross-attention encoder beside DIN pooling, the strongest public runs (GAV: valid .985, test .989)."""

    type: Literal["cross_attention"]
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    feed_forward: int = Field(default=384, ge=1)
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)
    din_units: list[int] = Field(
        default=[512, 256], description="attention MLP of the DIN pooling; [] = no DIN pooling"
    )
    pooled: bool = Field(
        default=False, description="also the mean of the history, and its product with the target (our addition)"
    )
    hidden_units: list[int] = [1024, 512, 256, 64, 16]
    net_dropout: float = Field(default=0.1, ge=0, lt=1)
    batch_norm: bool = True


class GbdtConfig(BaseRankerConfig):
    """LightGBM on engineered features: similarity of target to history, recency, counts, levels."""

    neural: ClassVar[bool] = False
    type: Literal["gbdt"]
    rounds: int = Field(default=600, ge=1)
    learning_rate: float = Field(default=0.05, gt=0)
    leaves: int = Field(default=63, ge=2)
    min_rows: int = Field(default=50, ge=1, description="rows a leaf")
    feature_fraction: float = Field(default=0.8, gt=0, le=1)
    early_stopping: int = Field(default=50, ge=1, description="rounds without a better valid AUC")
    window: int = Field(
        default=10, ge=0, description="two items of a train history count as seen together up to this many places apart"
    )


class PopularityConfig(BaseRankerConfig):
    """Floor: the smoothed click rate of the target in train, and its levels; knows no history."""

    neural: ClassVar[bool] = False
    type: Literal["popularity"]
    smoothing: float = Field(default=20, gt=0, description="rows of the mean click rate added to each item")


class SimilarityConfig(BaseRankerConfig):
    """Floor: cosine of the target's frozen embedding with the mean of the history's; learns nothing but its scale."""

    neural: ClassVar[bool] = False
    type: Literal["similarity"]


class MyRankerConfig(BaseRankerConfig):
    """A team's own ranker: the class `MyRanker` of `file`, which reads what it likes from `params`."""

    type: Literal["my_ranker"]
    file: str = Field(
        "my_ranker", pattern=OWN_FILE, description="of track2_mmctr/, without .py: each own ranker has one"
    )
    params: dict[str, Scalar] = {}


NeuralConfig = (
    DinConfig
    | DcnV2Config
    | QinConfig
    | TransformerDcnConfig
    | TransformerDcnQuantConfig
    | DinDcnConfig
    | DinSenetConfig
    | CrossAttentionConfig
    | MyRankerConfig
)
RankerConfig = Annotated[NeuralConfig | GbdtConfig | PopularityConfig | SimilarityConfig, Field(discriminator="type")]


class LossConfig(Config):
    """Binary cross-entropy, and a share of it replaced by a pairwise loss over all (positive, negative) pairs."""

    pairwise: float = Field(
        default=0.0, ge=0, le=1, description="weight of mean softplus(negative - positive), an AUC surrogate"
    )
    positive_weight: float = Field(default=1.0, gt=0, description="of positives in the cross-entropy")


class TrainConfig(Config):
    """Gradient training of a neural ranker."""

    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=8192, ge=1, description="rows of one optimiser step, over all processes")
    accumulate: int = Field(
        default=1, ge=1, description="parts a batch is cut into, to save memory; the step is the same"
    )
    learning_rate: float = Field(default=1e-3, gt=0)
    schedule: ScheduleConfig = ScheduleConfig()
    embedding_regularizer: float = Field(default=0.0, ge=0, description="λ of (λ/2)·‖W‖² over the embedding tables")
    net_regularizer: float = Field(default=0.0, ge=0, description="λ of (λ/2)·‖W‖² over all other weights")
    clip_norm: float = Field(default=10.0, gt=0, description="of the gradient over all weights")
    evaluations: int = Field(default=1, ge=1, description="evaluations on valid in one epoch")
    patience: int = Field(default=3, ge=1, description="evaluations without a better valid AUC before training stops")
    average: int = Field(
        default=0, ge=0, description="average the weights of the last N evaluations too; the better one is kept"
    )
    seeds: int = Field(default=1, ge=1, description="train with this many seeds and average their logits")
    amp: bool = Field(default=False, description="products of matrices in bfloat16 (torch autocast)")
    compile: bool = Field(default=False, description="torch.compile the ranker")
    rows: int = Field(default=0, ge=0, description="train on the first N rows only; 0 = all")


class SubmissionConfig(Config):
    """What `prediction.csv` holds."""

    task: Task = "Task2"


class RangeConfig(Config):
    """Values that `tune` tries for one key: a range, or a list of choices."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    integer: bool = False
    choices: list[Scalar] | None = None


class TuneConfig(Config):
    """The space that `tune` searches, by dotted key of this configuration."""

    space: dict[str, RangeConfig] = {}


class RunConfig(Config):
    """One Track 2 run."""

    name: str
    about: str = Field(default="", description="what the configuration does, and what it needs")
    seed: int = 7
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    data: DataConfig = DataConfig()
    features: FeatureConfig = FeatureConfig()
    ranker: RankerConfig
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    submission: SubmissionConfig = SubmissionConfig()
    tune: TuneConfig = TuneConfig()

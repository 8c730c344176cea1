"""Track 1's configuration: one section a stage, one model a route. `configs/*.yaml` are instances of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from common.config import Config
from common.own_code import OWN_FILE
from track1_mdr.cart_config import CartRouteConfig
from track1_mdr.ease_config import EaseRouteConfig
from track1_mdr.route_config import BaseRouteConfig, Coverage, TextModelConfig

CONFIG_FOLDER = Path(__file__).parent / "configs"
Scalar = int | float | str | bool


class OcrConfig(Config):
    """Optical character recognition of PDF pages (PP-OCRv6 models of rapidocr, on OpenVINO)."""

    enabled: bool = True
    min_words: int = Field(default=10, ge=0, description="a page with fewer words in its text layer is read whole")
    page_pixels: int = Field(default=1000, ge=200, le=4000, description="long side of a whole page, in pixels")
    figures: bool = Field(default=True, description="also read raster figures on pages that have a text layer")
    figure_share: float = Field(default=0.03, gt=0, le=1, description="smallest figure, as a share of the page's area")
    workers: int = Field(default=0, ge=0, description="processes; 0 = one per core")


class DataConfig(Config):
    """How files become tables."""

    text: Literal["auto", "ocr_text", "vlm_text", "both"] = Field(
        default="auto",
        description="which text of the page table the text routes read; auto = vlm_text and ocr_text joined",
    )
    page_source: Literal["auto", "table", "pdfs"] = Field(
        default="auto", description="auto = the official page table where present, else the PDFs"
    )
    image_pixels: int = Field(default=1240, ge=200, le=4000, description="long side of a PDF page image, in pixels")
    m2kr_restrict: Literal["none", "block_prefix"] = Field(
        default="none", description="block_prefix = the 1st place's restriction by query block and passage id prefix"
    )
    allow_faults: int = Field(default=0, ge=0, description="failed pages or images that a run may leave out")
    ocr: OcrConfig = OcrConfig()


class Bm25Config(BaseRouteConfig):
    """BM25 over pages or over chunks of pages, best chunk counts."""

    type: Literal["bm25"]
    unit: Literal["page", "chunk"] = "page"
    tokens: Literal["words", "characters", "names"] = Field(
        "words", description="stemmed words; 4-grams of characters (OCR slips); capitalised words and numbers"
    )
    ngrams: int = Field(1, ge=1, le=3, description="index runs of up to this many neighbouring tokens as well")
    scope: Literal["document", "collection"] = Field("collection", description="where document frequencies are counted")
    k1: float = Field(1.2, ge=0)
    b: float = Field(0.75, ge=0, le=1)
    words: int = Field(150, ge=1, description="chunk length in words")
    stride: int = Field(110, ge=1)
    top: int = Field(1000, ge=1, description="passages kept per query where all passages are candidates")


class ReferenceConfig(BaseRouteConfig):
    """The question names a page or slide (`page`), or a figure, table or section (`caption`)."""

    coverage: ClassVar[Coverage] = "sparse"
    type: Literal["reference"]
    kind: Literal["page", "caption"] = "page"


class DenseTextConfig(TextModelConfig, BaseRouteConfig):
    """Single-vector text retrieval; chunk to page by maximum."""

    embeds: ClassVar[bool] = True
    type: Literal["dense_text"]
    precision: Literal["float32", "bfloat16", "int8"] = Field(
        "float32", description="on a CPU int8 is fastest (exported to ONNX once); bfloat16 is for torch"
    )
    words: int = Field(150, ge=1)
    stride: int = Field(110, ge=1)
    top: int = Field(1000, ge=1)


class ColbertConfig(TextModelConfig, BaseRouteConfig):
    """Late interaction over text: mean over query tokens of the best passage token (MaxSim)."""

    embeds: ClassVar[bool] = True
    type: Literal["colbert"]
    words: int = Field(150, ge=1)
    stride: int = Field(110, ge=1)
    top: int = Field(1000, ge=1)
    idf: bool = Field(False, description="weigh query tokens by their rarity among the candidate passages")


class LayoutConfig(BaseRouteConfig):
    """BM25 over layout blocks (title, text, figure, table), best block counts."""

    type: Literal["layout"]
    ngrams: int = Field(1, ge=1, le=3)
    k1: float = Field(1.2, ge=0)
    b: float = Field(0.75, ge=0, le=1)
    min_words: int = Field(30, ge=1, description="smaller blocks are joined with the next ones")
    top: int = Field(1000, ge=1)


class ImageConfig(BaseRouteConfig):
    """CLIP-like image encoder: text to page image, query image to screenshot and its sub-figures."""

    embeds: ClassVar[bool] = True
    type: Literal["image"]
    model: str = Field(description="open_clip architecture, hub name (hf-hub:...) or local folder")
    pretrained: str | None = Field(None, description="open_clip weights tag or a local file; none = random weights")
    sub_figures: bool = Field(True, description="also embed figures cut out of passage screenshots")
    query: Literal["auto", "text", "image", "both"] = "auto"
    batch_size: int = Field(32, ge=1)
    top: int = Field(100, ge=1)


class PageImageConfig(BaseRouteConfig):
    """Page images by a vision-language model: late interaction (ColPali, ColQwen2), or one vector (GME)."""

    embeds: ClassVar[bool] = True
    type: Literal["page_image_late_interaction"]
    model: str = Field(description="hub name in transformers' format (ColQwen2: with -hf), or a local folder")
    batch_size: int = Field(4, ge=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    max_pixels: int | None = Field(None, ge=784, description="larger images are scaled down to this area")
    pooling: Literal["multi", "mean", "last"] = Field(
        "multi", description="multi = a vector a token, MaxSim; mean = their mean; last = end tokens of a chat model"
    )
    last_k: int = Field(1, ge=1, description="end tokens that pooling `last` appends and averages")
    end_token: str = "<|endoftext|>"  # noqa: S105 - a token of text
    query: Literal["auto", "text", "image"] = Field("auto", description="auto = the question and its image, if any")
    table_instruction: bool = Field(False, description="put the query's own instruction (M2KR) before the question")
    query_instruction: str = Field("", description="system message of pooling `last`")
    passage: Literal["image", "text"] = "image"
    passage_instruction: str = Field("", description="system message of pooling `last`")
    passage_prompt: str = Field("", description="text before the passage's text, or beside its image")
    join_text: bool = Field(False, description="add the page's text to its image (3rd place)")
    text_tokens: int = Field(1024, ge=1, description="tokens read of a text")
    words: int = Field(0, ge=0, description="chunk length for `passage: text`, best chunk counts; 0 = whole text")
    stride: int = Field(0, ge=0, description="words from chunk to chunk; 0 = `words`")
    max_chunks: int = Field(0, ge=0, description="first chunks of a passage that count; 0 = all")
    crops: int = Field(0, ge=0, description="figures cut out of each image and encoded too; the best one counts")
    top: int = Field(100, ge=1)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.crops and (self.pooling == "multi" or self.passage == "text"):
            raise ValueError("`crops` needs one vector an image: pooling mean or last, and passage: image")
        if self.join_text and self.passage == "text":
            raise ValueError("`join_text` adds text to an image: it needs passage: image")
        if self.words and self.pooling == "multi":
            raise ValueError("`words` (chunks) needs one vector a chunk: pooling mean or last")
        if self.stride > self.words:
            raise ValueError("`stride` above `words` would leave words out")
        return self


class SubfigureConfig(BaseRouteConfig):
    """Query image against figures cut out of screenshots, verified by matched keypoints (RANSAC)."""

    coverage: ClassVar[Coverage] = "sparse"
    type: Literal["subfigure"]
    max_figures: int = Field(10, ge=1, description="figures per screenshot")
    min_inliers: int = Field(12, ge=4)
    min_inlier_ratio: float = Field(0.3, ge=0, le=1)
    shortlist: int = Field(50, ge=1, description="passages per query whose keypoints are matched")
    features: int = Field(500, ge=50, description="keypoints per image")
    top: int = Field(100, ge=1)


class MyRouteConfig(BaseRouteConfig):
    """A team's own route: the class `MyRoute` of `file`, which reads what it likes from `params`."""

    type: Literal["my_route"]
    file: str = Field("my_route", pattern=OWN_FILE, description="of track1_mdr/, without .py: each own route has one")
    params: dict[str, Scalar] = {}


RouteConfig = Annotated[
    Bm25Config
    | ReferenceConfig
    | DenseTextConfig
    | ColbertConfig
    | LayoutConfig
    | ImageConfig
    | PageImageConfig
    | SubfigureConfig
    | CartRouteConfig
    | EaseRouteConfig
    | MyRouteConfig,
    Field(discriminator="type"),
]


class RrfConfig(Config):
    """Reciprocal rank fusion: sum of weight / (k + rank)."""

    type: Literal["rrf"]
    k: float = Field(10, gt=0)
    weights: dict[str, float] = Field({}, description="by route; 1 where not given")


class ZScoreConfig(Config):
    """Weighted per-query z-scores over the union; a missing score takes the lowest observed z-score.

    A route in `bonus` adds weight x its raw score, and nothing where it has none: for routes that speak
    about a few candidates only, where a z-score means nothing.
    """

    type: Literal["zscore"]
    weights: dict[str, float] = Field({}, description="by route; 1 where not given and not in bonus")
    bonus: dict[str, float] = {}


class MeanRankConfig(Config):
    """Mean rank over the routes, the 1st place's ensemble; a missing candidate has rank `absent`."""

    type: Literal["mean_rank"]
    absent: float = Field(22, ge=1)
    anchors: dict[str, float] = Field(
        {}, description="by route: its best candidate is forced to rank 1 when its score exceeds this"
    )


class LearnedConfig(Config):
    """LightGBM LambdaMART over all routes' scores, ranks and query features."""

    type: Literal["learned"]
    model: str = Field(description="folder of a fitted fusion: a name in `models/`, or a path")


FusionConfig = Annotated[RrfConfig | ZScoreConfig | MeanRankConfig | LearnedConfig, Field(discriminator="type")]


class CrossEncoderConfig(Config):
    """A cross-encoder on the best chunk of each of the top passages."""

    type: Literal["cross_encoder"]
    model: str
    backend: Literal["auto", "torch", "onnx"] = "auto"
    depth: int = Field(10, ge=1, description="passages re-scored per query")
    chunks: int = Field(1, ge=1, description="chunks read per passage; the best counts")
    words: int = Field(150, ge=1)
    stride: int = Field(110, ge=1)
    max_tokens: int = Field(400, ge=16)
    batch_size: int = Field(32, ge=1)
    weight: float = Field(0.3, ge=0, description="of the reranker's probability, added to the fused z-score")


class VlmJudgeConfig(Config):
    """A vision-language model is asked whether the question can be answered from this page: yes or no."""

    type: Literal["vlm_judge"]
    model: str = Field(description="hub name or local folder of a chat model that takes images")
    depth: int = Field(5, ge=1, description="passages judged per query")
    batch_size: int = Field(1, ge=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    use_image: bool = True
    use_text: bool = True
    max_words: int = Field(1000, ge=1, description="words of the page's text that are shown")
    max_pixels: int = Field(1_003_520, ge=784)
    mode: Literal["probability", "yes_first"] = Field(
        "probability", description="probability of yes, blended by `weight`; yes_first = the 2nd place's stable order"
    )
    weight: float = Field(1.0, ge=0)


RerankConfig = Annotated[CrossEncoderConfig | VlmJudgeConfig, Field(discriminator="type")]


class TaskConfig(Config):
    """Routes, fusion and reranking of one task.

    `fusion` ranks the candidates by the routes. Each reranker scores the head of that ranking. `final`
    ranks again, over the routes and the rerankers' scores; without it, the rerankers' scores are blended
    into the fused ones by their `weight`.
    """

    routes: dict[str, RouteConfig | None] = Field(min_length=1, description="a route set to null is off")
    fusion: FusionConfig
    rerank: dict[str, RerankConfig | None] = {}
    final: FusionConfig | None = None


def coverages(task: TaskConfig) -> dict[str, Coverage]:
    """Return the coverage of each route and reranker of a task; a reranker's head counts as dense."""
    routes: dict[str, Coverage] = {name: route.coverage for name, route in task.routes.items() if route is not None}
    rerankers: dict[str, Coverage] = {name: "dense" for name, item in task.rerank.items() if item is not None}
    return routes | rerankers


class TasksConfig(Config):
    """The two tasks; a task left out is not run."""

    mmdocir: TaskConfig | None = None
    m2kr: TaskConfig | None = None


class RunConfig(Config):
    """One Track 1 run."""

    name: str
    about: str = Field("", description="what the configuration does, and what it needs")
    seed: int = 7
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    data: DataConfig = DataConfig()
    tasks: TasksConfig

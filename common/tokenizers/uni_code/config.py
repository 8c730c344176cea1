"""Configuration of Uni-Code: sizes, the weight of each loss, and a switch for each contribution."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from common.config import Config
from common.training.fit_config import FitConfig
from common.training.schedule import ScheduleConfig

Ema = Literal["cross_attention", "paired", "none"]
Mi = Literal["semantic", "quantized", "none"]
Cpc = Literal["cross", "all", "none"]
Reset = Literal["unused_by_all", "unused_by_any", "none"]


class UniCodeFitConfig(FitConfig):
    """Training: the paper's Adam (no weight decay), rate, epochs and bound on gradients."""

    epochs: int = Field(default=6, ge=1)
    learning_rate: float = Field(default=4e-4, gt=0)
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's, on matrices and embeddings")
    clip_norm: float = Field(default=0.5, gt=0)
    schedule: ScheduleConfig = ScheduleConfig(type="constant")
    figure: str = Field(default="score", description="what decides: score, agreement or reconstruction")


ENOUGH = 600
"""Steps that a codebook needs, at least: with fewer than the paper's `reset_after` no unused code is ever reset."""


class UniCodeConfig(Config):
    """How a shared codebook is built and trained.

    The paper's figures: 400 codes of 256 numbers, decay 0.99, beta 0.25, five inner steps, reset after 300 steps, Adam
    at 4e-4, batches of 80, six epochs, gradients cut at 0.5 (facts 2.6). All losses have weight 1 and code matching
    0.5. What the paper's text does not settle for us is our choice [I] and says so.
    """

    codes: int = Field(default=400, ge=2, description="K, codes of the one codebook")
    dim: int = Field(default=256, ge=2, description="D, width of codes and of semantic features")
    specific_dim: int = Field(default=64, ge=1, description="S, width of a modality's specific features [I]")
    hidden: int = Field(default=256, ge=1, description="width of the hidden layer of encoders and decoders [I]")
    depth: int = Field(default=1, ge=0, description="hidden layers of encoders and decoders [I]; 0 = linear maps")
    beta: float = Field(default=0.25, ge=0, description="of the commitment loss; half of it towards the others' codes")
    decay: float = Field(default=0.99, gt=0, lt=1, description="gamma, of the moving averages")

    cpc: Cpc = Field(
        default="cross",
        description="Cross-CPC over the ordered pairs of modalities; all: each modality's own future as well, as the "
        "released code for three modalities has it (9 pairs); none: ablation",
    )
    horizon: int = Field(default=1, ge=1, description="steps ahead that Cross-CPC predicts, T - 1 at most [2]")
    context_dim: int = Field(default=128, ge=1, description="width of Cross-CPC's LSTM [I]")
    ema: Ema = Field(
        default="cross_attention",
        description="what moves the codebook: a modality's vectors and what it attends to in the others (the paper); "
        "paired: the others' vectors of the same step (the released code); none: its own vectors alone, committed to "
        "its own code alone (ablation)",
    )
    mi: Mi = Field(
        default="semantic",
        description="CLUB's bound on the information that specific features share with the semantic ones (the paper) "
        "or with their codes' vectors (the released code); none: ablation",
    )
    mi_hidden: int = Field(default=64, ge=1, description="width of CLUB's networks [I]")
    mi_steps: int = Field(default=5, ge=1, description="inner steps of CLUB's networks before each step")
    mi_learning_rate: float = Field(
        default=1e-4,
        gt=0,
        description="Adam's, of the inner steps [I]; a faster network learns few samples by heart, and its bound then "
        "drives features to nowhere",
    )
    cmcm: bool = Field(default=True, description="code matching")
    cmcm_weight: float = Field(default=0.5, ge=0)
    reset: Reset = Field(
        default="unused_by_all",
        description="which codes are moved onto a used one: unused by every modality (the paper), or by at least one "
        "(the released code); none: ablation",
    )
    reset_after: int = Field(default=300, ge=1, description="steps without use after which a code is reset")
    active_within: int = Field(default=100, ge=1, description="steps within which a used code is a source of resets")

    batch_size: int = Field(default=80, ge=2)
    validation: float = Field(
        default=0.1, ge=0, lt=1, description="share of samples held out for early stopping; 0: none"
    )
    fit: UniCodeFitConfig = UniCodeFitConfig()


def for_few(samples: int, steps: int) -> dict[str, Any]:
    """Return settings for few samples of one vector an item, in place of the paper's; nothing where they are not few.

    Samples are few where the paper's epochs make fewer than `ENOUGH` steps. Then encoders are linear maps to 64
    numbers, training has `ENOUGH` steps, unused codes are reset after 60, and none is held out: on 1,663 movies the
    paper's settings leave 40 to 170 different pairs of codes, these 1,400 (README, Few samples). They were chosen
    there, and for several steps an item nothing is known: then the paper's stay.

    Parameters
    ----------
    samples, steps
        N and T of the features.
    """
    paper = UniCodeConfig()
    batches = max(1, samples // paper.batch_size)
    if steps > 1 or batches * paper.fit.epochs >= ENOUGH:
        return {}
    fit = {"epochs": -(-ENOUGH // batches), "learning_rate": 1e-3, "weight_decay": 0.01}
    sizes = {"codes": min(paper.codes, max(2, samples // 4)), "dim": 64, "specific_dim": 8, "context_dim": 64}
    return {**sizes, "depth": 0, "reset_after": 60, "active_within": 20, "validation": 0.0, "fit": fit}

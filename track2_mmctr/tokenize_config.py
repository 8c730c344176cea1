"""The configuration of `tokenize`: which quantizer makes the semantic IDs of the items."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from common.config import Config


class TokenizeConfig(Config):
    """One set of semantic IDs."""

    kind: str = Field(default="rq_kmeans", description="a quantizer of common.tokenizers")
    codebook_sizes: list[int] = Field(
        default=[], description="codes of each level; [] = three levels of 256, of fewer where there are few items"
    )
    dedup: Literal["append", "sinkhorn", "raise"] = Field(
        default="append",
        description="of items with equal codes: append a rank, move them to other codes of the last level, or refuse",
    )
    rank_codes: int = Field(default=0, ge=0, description="codes of the rank level; 0 = as many as needed")
    seed: int = 7
    quantizer: dict[str, Any] = Field(default={}, description="other arguments of the quantizer")

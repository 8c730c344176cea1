"""Track 2's section `features`: what rankers know of items, users and rows."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.config import Config
from common.representation.kar.adaptor import AdaptorConfig


class SidConfig(Config):
    """How the codes of a semantic ID become a feature."""

    by: Literal["level", "prefix"] = Field(
        default="level", description="a learnt vector for each code of a level, or for each prefix of codes"
    )
    combine: Literal["mean", "sum", "concat"] = Field(
        default="mean", description="of the levels' vectors; sum = coarse to fine, as features.hmi reads them"
    )
    levels: int = Field(default=0, ge=0, description="read the first N levels; 0 = all that the quantizer made")
    buckets: int = Field(
        default=0, ge=0, description="prefixes of a level are hashed into so many rows; 0 = a row for each prefix"
    )
    version: str = Field(default="", description="refuse a file of another version; empty = take any")


class UserSidConfig(Config):
    """How the semantic tokens of a user become a feature."""

    levels: int = Field(default=0, ge=0, description="read the first N levels; 0 = all")
    version: str = Field(default="", description="refuse a table of another version; empty = take any")
    allow_missing: int = Field(default=0, ge=0, description="users that may lack codes: they share one learnt vector")


class KnowledgeConfig(Config):
    """Knowledge vectors of items and users, as `embed --method kar` writes them, and the adaptor over them."""

    items: str = Field(default="none", description="a parquet table with item_id and knowledge")
    users: str = Field(default="none", description="a parquet table with user_id and knowledge")
    adaptor: AdaptorConfig = AdaptorConfig()
    center: bool = Field(
        default=True, description="subtract the mean of a table's vectors: texts of one template say much the same"
    )
    encoder: str = Field(default="", description="refuse tables of another encoder; empty = take any")
    allow_missing: int = Field(
        default=0, ge=0, description="items, and as many users, that may lack a row: they share one learnt vector"
    )

    @property
    def used(self) -> bool:
        """Whether there is any."""
        return self.items != "none" or self.users != "none"


class FeatureConfig(Config):
    """What rankers know of an item: its vector is id ‖ mean of tags ‖ frozen embedding ‖ levels ‖ codes.

    Of a row they know: the target's levels ‖ knowledge of user and target ‖ the user's semantic tokens; and as numbers:
    cosines of target and history ‖ what a generator thinks of the target.
    """

    dim: int = Field(default=64, ge=1, description="size of each learnt embedding: id, tags, likes level, views level")
    ids: bool = True
    tags: bool = True
    embedding: str = Field(
        default="auto", description="auto = item_emb_d128 of item_info; none; or a parquet file made by `embed`"
    )
    project: bool = Field(
        default=True, description="a learnt linear map (no bias) over the frozen embedding, as FuxiCTR has"
    )
    semantic_ids: str = Field(
        default="none", description="a parquet file made by `tokenize`: codes of the item as learnt features"
    )
    sid: SidConfig = SidConfig()
    user_semantic_ids: str = Field(
        default="none", description="a parquet table of `embed --method uist`: the user's tokens as learnt features"
    )
    user_sid: UserSidConfig = UserSidConfig()
    hmi: bool = Field(
        default=False,
        description="hierarchical mixture inference: the ranker scores each pair of a user level and an item level, "
        "and one linear layer mixes the scores; needs semantic_ids with sid.combine=sum, and user_semantic_ids",
    )
    knowledge: KnowledgeConfig = KnowledgeConfig()
    candidates: str = Field(
        default="none",
        description="a parquet file of `common.generative export --rows`: how likely a generator finds the row's item "
        "after the row's history, and the item's rank in the list it generates",
    )
    item_levels: bool = Field(default=False, description="likes and views levels of every item, history included")
    target_levels: bool = Field(
        default=True, description="likes and views levels of the target, as the split file has them"
    )
    similarity: bool = Field(
        default=False,
        description="cosines of the target's frozen embedding with the history (mean, max, last) as features",
    )

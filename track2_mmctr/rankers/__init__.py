"""Rankers: one file each. `RANKERS` is the list of them, by the `type` of their configuration."""

from __future__ import annotations

from common.errors import ConfigError
from common.own_code import load_class, own_module
from track2_mmctr.config import BaseRankerConfig, FeatureConfig, MyRankerConfig
from track2_mmctr.datasets.tables import ItemTable
from track2_mmctr.rankers.base import FittedRanker, Ranker

RANKERS: dict[str, str] = {
    "din": "track2_mmctr.rankers.din:Din",
    "dcnv2": "track2_mmctr.rankers.dcnv2:DcnV2",
    "qin": "track2_mmctr.rankers.qin:Qin",
    "transformer_dcn": "track2_mmctr.rankers.transformer_dcn:TransformerDcn",
    "transformer_dcn_quant": "track2_mmctr.rankers.transformer_dcn_quant:TransformerDcnQuant",
    "din_dcn": "track2_mmctr.rankers.din_dcn:DinDcn",
    "din_senet": "track2_mmctr.rankers.din_senet:DinSenet",
    "cross_attention": "track2_mmctr.rankers.cross_attention:CrossAttention",
    "gbdt": "track2_mmctr.rankers.gbdt:Gbdt",
    "popularity": "track2_mmctr.rankers.popularity:Popularity",
    "similarity": "track2_mmctr.rankers.similarity:Similarity",
    "my_ranker": "track2_mmctr.my_ranker:MyRanker",
}


def ranker_place(config: BaseRankerConfig) -> tuple[str, str]:
    """Return (module, class) that a ranker's configuration names; of one's own, `config.file` says which."""
    module, _, name = RANKERS[config.type].partition(":")  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(config, MyRankerConfig):
        module = own_module("track2_mmctr", config.file)
    return module, name


def ranker_class(config: BaseRankerConfig) -> type:
    """Return the class that a ranker's configuration names."""
    return load_class(*ranker_place(config))


def build_ranker(config: BaseRankerConfig, features: FeatureConfig, items: ItemTable) -> Ranker:
    """Return a neural ranker, freshly initialised from torch's random state."""
    ranker = ranker_class(config)(config, features, items)
    if not features.hmi:
        return ranker
    from track2_mmctr.rankers.hierarchical import HierarchicalRanker

    return HierarchicalRanker(ranker)


def build_fitted(config: BaseRankerConfig, features: FeatureConfig) -> FittedRanker:
    """Return a ranker that is not trained by gradient, not yet fitted.

    Raises
    ------
    ConfigError
        A feature that is learnt by gradient is asked for.
    """
    asked = {
        "features.knowledge": features.knowledge.used,
        "features.user_semantic_ids": features.user_semantic_ids != "none",
        "features.hmi": features.hmi,
    }
    for setting, used in asked.items():
        if used:
            name: str = config.type  # pyright: ignore[reportAttributeAccessIssue]
            raise ConfigError(
                f"{name} is not trained by gradient, and this feature is learnt by it",
                where=setting,
                got="a table" if setting != "features.hmi" else True,
                todo="take a neural ranker, for instance --config din, or leave the feature out",
            )
    return ranker_class(config)(config, features)

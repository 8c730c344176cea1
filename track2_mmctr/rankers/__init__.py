"""Rankers: one file each. `RANKERS` is the list of them, by the `type` of their configuration."""

from __future__ import annotations

from importlib import import_module

from track2_mmctr.config import BaseRankerConfig, FeatureConfig
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


def ranker_class(config: BaseRankerConfig) -> type:
    """Return the class that a ranker's configuration names."""
    module, _, name = RANKERS[config.type].partition(":")  # pyright: ignore[reportAttributeAccessIssue]
    return getattr(import_module(module), name)


def build_ranker(config: BaseRankerConfig, features: FeatureConfig, items: ItemTable) -> Ranker:
    """Return a neural ranker, freshly initialised from torch's random state."""
    return ranker_class(config)(config, features, items)


def build_fitted(config: BaseRankerConfig, features: FeatureConfig) -> FittedRanker:
    """Return a ranker that is not trained by gradient, not yet fitted."""
    return ranker_class(config)(config, features)

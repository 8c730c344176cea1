"""Feature tables of items and users as methods write them, for tests of the rankers that read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from common.representation.table import FeatureTable
from track2_mmctr.config import FeatureConfig
from track2_mmctr.datasets.id_tables import IdTable
from track2_mmctr.datasets.items import ItemFeatures, ItemInfo, item_table
from track2_mmctr.datasets.knowledge import Knowledge, UserCodes
from track2_mmctr.datasets.semantic_ids import SemanticIds
from track2_mmctr.datasets.tables import ItemTable

SIZES = (3, 4)
ENCODERS = {"text": "tiny@1"}


def id_table_of(ids: np.ndarray, values: np.ndarray, after: int = 0) -> IdTable:
    return IdTable(ids.astype(np.int64), values, np.full(len(ids), after, np.int64), "test")


def some_knowledge(items: int, users: np.ndarray, seed: int = 0, after: int = 0) -> Knowledge:
    rng = np.random.default_rng(seed)
    of_items = rng.normal(size=(items - 1, 6)).astype(np.float32)
    of_users = rng.normal(size=(len(users), 5)).astype(np.float32)
    return Knowledge(id_table_of(np.arange(1, items), of_items), id_table_of(users, of_users, after))


def some_user_codes(users: np.ndarray, seed: int = 0, after: int = 0) -> UserCodes:
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, len(users)) for size in SIZES], axis=1).astype(np.int32)
    return UserCodes(id_table_of(users, codes, after), SIZES, f"u{seed}")


def some_item_codes(items: int, seed: int = 0) -> SemanticIds:
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, items) for size in SIZES], axis=1).astype(np.int32)
    codes[0] = 0
    return SemanticIds(codes, SIZES, f"i{seed}")


def with_tables(table: ItemTable, **parts: Any) -> ItemTable:
    """Return an item table with semantic_ids, knowledge or user_codes, and the digest that belongs to it."""
    info = ItemInfo(table.tags, None)
    levels = ItemFeatures(np.stack([table.likes, table.views], 1), None)
    have = {name: getattr(table, name) for name in ("semantic_ids", "knowledge", "user_codes")} | parts
    return item_table(info, levels, table.embedding, **have)


def knowledge_features(**values: Any) -> FeatureConfig:
    """Features with knowledge; the files themselves are read by `load_data`."""
    section = {"items": "i.parquet", "users": "u.parquet", "adaptor": {"units": [8, 4]}, **values.pop("knowledge", {})}
    return FeatureConfig.model_validate({"dim": 4, "knowledge": section, **values})


def hmi_features(**values: Any) -> FeatureConfig:
    made = {"semantic_ids": "i.parquet", "sid": {"combine": "sum"}, "user_semantic_ids": "u.parquet", "hmi": True}
    return FeatureConfig.model_validate({"dim": 4, **made, **values})


def write_knowledge(path: Path, ids: np.ndarray, id_name: str, *, dim: int = 6, seed: int = 0, **about: Any) -> Path:
    values = np.random.default_rng(seed).normal(size=(len(ids), dim)).astype(np.float32)
    made = {"method": "kar", "encoders": ENCODERS, **about}
    FeatureTable(ids, {"knowledge": values}, made, id_name).write(path)
    return path


def write_codes(path: Path, ids: np.ndarray, id_name: str, *, seed: int = 0, **about: Any) -> Path:
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, len(ids)) for size in SIZES], axis=1).astype(np.int32)
    made = {"method": "uist", "sizes": list(SIZES), "version": f"v{seed}", **about}
    FeatureTable(ids, {"codes": codes}, made, id_name).write(path)
    return path


def damaged_copy(path: Path, out: Path) -> Path:
    out.write_bytes(path.read_bytes()[:-40])
    return out


def replaced(features: FeatureConfig, section: str, **values: Any) -> FeatureConfig:
    """Return features with some values of one section changed."""
    return features.model_copy(update={section: getattr(features, section).model_copy(update=values)})

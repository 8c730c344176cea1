"""A small STORE that the tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from common.generative.sequences import Sequences, from_lists
from common.generative.store.config import StoreConfig
from common.generative.store.dense import DenseTokenizer
from common.generative.store.items import StoreItems
from common.generative.store.model import Store
from common.generative.store.tokens import TASKS
from common.planted import ClusterChain
from common.tokenizers.semantic_ids import SemanticIdMap

ITEMS = 12
COLOURS, THINGS = ("red", "blue", "green"), ("fox", "whale", "owl", "bee")
TEXTS = [f"the {COLOURS[row % 3]} {THINGS[row // 3]}" for row in range(ITEMS)]
LONGER = [f"{text} that sings" if row % 2 else "" for row, text in enumerate(TEXTS)]
CATEGORIES = [COLOURS[row % 3] for row in range(ITEMS)]
IDS = SemanticIdMap.from_sids(np.array([[row % 3, row // 3] for row in range(ITEMS)], np.int32), (3, 4))
FIT = {"epochs": 2, "learning_rate": 5e-3, "schedule": {"type": "constant"}}


def config(**changes: Any) -> StoreConfig:
    """Return a small configuration; keys with a dot are of a section."""
    values: dict[str, Any] = {
        "lm": {"scratch": {"dim": 16, "layers": 2, "heads": 2, "feedforward": 32, "context": 64, "vocabulary": 400}},
        "dense": {"slots": 2, "batch_size": 4, "train": FIT},
        "codes": {"size": 3, "components": 4},
        "tasks": dict.fromkeys(TASKS, 1) | {"text_share": 0.5, "text_items": 2},
        "instructions": False,
        "max_items": 4,
        "max_text": 8,
        "max_longer": 8,
    }
    for name, value in changes.items():
        section, _, leaf = name.rpartition("__")
        (values[section] if section else values)[leaf] = value
    return StoreConfig.model_validate(values)


def items() -> StoreItems:
    """Return the items with all that the auxiliary tasks tell."""
    return StoreItems(TEXTS, LONGER, CATEGORIES)


def tokenizer(**changes: Any) -> DenseTokenizer:
    """Return an untrained dense tokenizer."""
    torch.manual_seed(3)
    return DenseTokenizer.untrained(config(**changes), items()).eval()


def store(ids: SemanticIdMap = IDS, **changes: Any) -> Store:
    """Return an untrained recommender."""
    return Store.of(tokenizer(**changes), ids, config(**changes)).eval()


def sequences(users: int = 10, length: int = 6) -> Sequences:
    """Return walks over the items: the next one is of the next colour."""
    chain = ClusterChain(np.arange(ITEMS) % 3, stay=1.0, seed=1)
    return from_lists(chain.sequences(users, length, 1), ITEMS, texts=list(TEXTS), name="small")

"""What knowledge and user tokens are for: users and items that training never saw, against shuffled tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from tests.processes import one_thread as one_thread
from tests.track2.planted_rows import make_items, make_split, rank_auc
from tests.track2.representation_tables import (
    hmi_features,
    id_table_of,
    knowledge_features,
    with_tables,
)
from track2_mmctr.batches import batches, epoch_order, make_batch
from track2_mmctr.config import (
    DinConfig,
    FeatureConfig,
)
from track2_mmctr.datasets.knowledge import Knowledge, UserCodes
from track2_mmctr.datasets.semantic_ids import SemanticIds
from track2_mmctr.datasets.tables import CtrData, SplitName
from track2_mmctr.rankers import build_ranker
from track2_mmctr.rankers.base import Ranker
from track2_mmctr.rankers.hierarchical import HierarchicalRanker


def cold(seed: int = 0, rows: int = 2000) -> CtrData:
    """A click = the taste in the user's knowledge is the target's; users and items of valid are not in train."""
    rng = np.random.default_rng(seed)
    items, users = 400, 400
    taste, kind = rng.integers(0, 4, users), rng.integers(0, 4, items)
    table = replace(make_items(rng, rng.normal(size=(items, 8))), tags=np.zeros((items, 5), np.int32))
    of_user, of_item = rng.normal(size=(2, 4, 6))
    knowledge = Knowledge(
        id_table_of(np.arange(1, items), (of_item[kind] + 0.1 * rng.normal(size=(items, 6)))[1:].astype(np.float32)),
        id_table_of(np.arange(users), (of_user[taste] + 0.1 * rng.normal(size=(users, 6))).astype(np.float32)),
    )
    fine = rng.integers(0, 4, (2, 400))
    user_codes = UserCodes(id_table_of(np.arange(users), np.stack([taste, fine[0]], 1).astype(np.int32)), (4, 4), "u")
    codes = np.stack([kind, fine[1]], 1).astype(np.int32)
    codes[0] = 0
    splits = {}
    parts: tuple[tuple[SplitName, int, int], ...] = (("train", 1, 300), ("valid", 300, 400))
    for name, first, last in parts:
        target = rng.integers(first, last, rows)
        user = rng.integers(first, last, rows)
        wanted = rng.random(rows) < 0.5
        pools = [first + np.flatnonzero(kind[first:last] == t) for t in range(4)]
        target[wanted] = [rng.choice(pools[taste[u]]) for u in user[wanted]]
        label = (kind[target] == taste[user]) ^ (rng.random(rows) < 0.03)
        histories = [rng.integers(1, 300, rng.integers(1, 4)) for _ in range(rows)]
        splits[name] = replace(make_split(rng, name, histories, target, label), users=user)
    made = with_tables(table, knowledge=knowledge, user_codes=user_codes, semantic_ids=SemanticIds(codes, (4, 4), "i"))
    return CtrData(Path("planted"), splits, made)


def learn(data: CtrData, features: FeatureConfig, epochs: int = 5) -> tuple[float, Ranker]:
    torch.manual_seed(0)
    model = build_ranker(DinConfig(type="din", attention_units=[8], hidden_units=[32]), features, data.items)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for epoch in range(epochs):
        for batch in batches(data.train, 100, 64, order=epoch_order(len(data.train), 0, epoch)):
            assert batch.label is not None
            loss = functional.binary_cross_entropy_with_logits(model(batch), batch.label)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    valid = data.splits["valid"]
    batch = make_batch(valid, np.arange(len(valid)), 64)
    with torch.no_grad():
        logits = model.eval()(batch)[batch.rows.argsort()]
    return rank_auc(valid.label, logits.numpy()), model


BARE = {"embedding": "none", "tags": False, "target_levels": False}


def test_knowledge_tells_cold_users_and_items_and_its_placebo_does_not() -> None:
    data = cold()
    assert data.items.knowledge is not None
    assert learn(data, knowledge_features(**BARE))[0] > 0.88
    placebo = with_tables(data.items, knowledge=data.items.knowledge.shuffled(3))
    assert abs(learn(replace(data, items=placebo), knowledge_features(**BARE))[0] - 0.5) < 0.06
    assert abs(learn(data, FeatureConfig.model_validate({"dim": 4, **BARE}))[0] - 0.5) < 0.06


def test_hierarchical_tokens_tell_cold_users_and_items_and_their_placebo_does_not() -> None:
    data = cold()
    score, model = learn(data, hmi_features(**BARE), epochs=4)
    assert score > 0.88 and isinstance(model, HierarchicalRanker)
    assert data.items.user_codes is not None and data.items.semantic_ids is not None
    shuffled = replace(data.items.user_codes, table=data.items.user_codes.table.shuffled(1))
    placebo = with_tables(data.items, user_codes=shuffled, semantic_ids=data.items.semantic_ids.shuffled(2))
    assert abs(learn(replace(data, items=placebo), hmi_features(**BARE), epochs=4)[0] - 0.5) < 0.06

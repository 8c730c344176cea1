"""Knowledge, user tokens and hierarchical mixture inference in every neural ranker, against loops and placebos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.config import load_config
from common.errors import ConfigError, DataError
from tests.processes import one_thread as one_thread
from tests.track2.planted_rows import random_rows
from tests.track2.representation_tables import (
    hmi_features,
    knowledge_features,
    some_item_codes,
    some_knowledge,
    some_user_codes,
    with_tables,
)
from track2_mmctr.batches import make_batch
from track2_mmctr.config import (
    CONFIG_FOLDER,
    DinConfig,
    FeatureConfig,
    GbdtConfig,
    KnowledgeConfig,
    PopularityConfig,
    RunConfig,
    SimilarityConfig,
    UserSidConfig,
)
from track2_mmctr.datasets.knowledge import Knowledge
from track2_mmctr.datasets.tables import ItemTable
from track2_mmctr.rankers import build_fitted, build_ranker
from track2_mmctr.rankers.base import Ranker
from track2_mmctr.rankers.hierarchical import HierarchicalRanker, PairNorm
from track2_mmctr.rankers.knowledge import KnowledgeFeature, UserCodeEmbedding
from track2_mmctr.training.checkpoint import load_model, save_model

NEURAL = [
    name
    for name in sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))
    if load_config(RunConfig, name, CONFIG_FOLDER).ranker.neural and name not in ("task1", "baseline")
]
DIN = DinConfig(type="din", attention_units=[16], hidden_units=[32])


def randomised(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)


def features_of(name: str, wanted: FeatureConfig) -> FeatureConfig:
    """The features of a configuration, with those that are under test."""
    changed = {key: getattr(wanted, key) for key in wanted.model_fields_set}
    return load_config(RunConfig, name, CONFIG_FOLDER).features.model_copy(update=changed)


# ---- the features against loops


def test_side_holds_the_adapted_vectors_of_the_rows_user_and_target() -> None:
    table, split = random_rows()
    knowledge = some_knowledge(40, split.users)
    model = build_ranker(DIN, knowledge_features(target_levels=False), with_tables(table, knowledge=knowledge)).eval()
    randomised(model)
    feature = model.encoder.knowledge
    assert feature is not None and model.encoder.side_dim == 8 and model.encoder.side_fields == [4, 4]
    batch = make_batch(split, np.arange(len(split)), 64)
    side = model.encoder.side(batch).detach()
    assert knowledge.items is not None and knowledge.users is not None
    for row in range(len(batch)):
        original = int(batch.rows[row])
        user = knowledge.users.values[np.flatnonzero(knowledge.users.ids == split.users[original])]
        item = knowledge.items.values[split.target[original] - 1][None]
        views = {"user": torch.from_numpy(user), "item": torch.from_numpy(item)}
        torch.testing.assert_close(side[row], feature.adaptor(views)[0].detach(), rtol=1e-5, atol=1e-6)


def test_one_view_alone_and_what_is_unknown_shares_a_learnt_vector() -> None:
    _, split = random_rows()
    lengths = split.lengths
    knowledge = some_knowledge(40, split.users[:20], after=3)
    with pytest.raises(DataError, match="a user of a batch has no row"):
        KnowledgeFeature(KnowledgeConfig(), Knowledge(None, knowledge.users))(make_batch(split, np.arange(30), 64))
    feature = KnowledgeFeature(KnowledgeConfig(allow_missing=10), Knowledge(None, knowledge.users))
    assert feature.fields == [32]
    randomised(feature)
    batch = make_batch(split, np.arange(30), 64)
    made = feature(batch)
    known = (batch.rows.numpy() < 20) & (lengths[batch.rows.numpy()] >= 3)
    assert 3 < known.sum() < 17, "some rows of known users come before their knowledge"
    shared = (made == feature.missing["user"]).all(1).numpy()
    assert np.array_equal(shared, ~known)
    made.square().sum().backward()
    assert feature.missing["user"].grad is not None and feature.missing["user"].grad.abs().max() > 0


@pytest.mark.parametrize("center", [True, False])
def test_what_all_vectors_of_a_table_share_is_subtracted(center: bool) -> None:
    _, split = random_rows()
    users = some_knowledge(40, split.users).users
    assert users is not None
    moved = replace(users, values=users.values + 5)
    batch = make_batch(split, np.arange(30), 64)
    made = []
    for table in (users, moved):
        torch.manual_seed(0)
        made.append(KnowledgeFeature(KnowledgeConfig(center=center), Knowledge(None, table))(batch).detach())
    assert ((made[0] - made[1]).abs().max() < 1e-4) == center


def test_user_codes_are_summed_coarse_to_fine() -> None:
    _, split = random_rows()
    codes = some_user_codes(split.users[:20], after=3)
    module = UserCodeEmbedding(UserSidConfig(allow_missing=10), codes, 4)
    randomised(module)
    batch = make_batch(split, np.arange(30), 64)
    weight = module.table.weight.detach()
    for upto in (1, 2, None):
        module.upto = upto
        made = module(batch).detach()
        for row in range(30):
            original = int(batch.rows[row])
            if original >= 20 or split.lengths[original] < 3:
                expected = weight[1] + (upto != 1) * weight[0]
            else:
                own = codes.table.values[original]
                expected = weight[2 + own[0]] + (weight[2 + 3 + own[1]] if upto != 1 else 0)
            torch.testing.assert_close(made[row], expected)
    with pytest.raises(DataError, match="a user of a batch"):
        UserCodeEmbedding(UserSidConfig(), codes, 4)(batch)


def test_what_is_known_at_a_row_does_not_depend_on_how_much_of_its_history_is_read() -> None:
    _, split = random_rows()
    feature = KnowledgeFeature(KnowledgeConfig(), Knowledge(None, some_knowledge(40, split.users, after=4).users))
    randomised(feature)
    for max_len in (64, 4, 2):
        batch = make_batch(split, np.arange(30), max_len)
        unknown = (feature(batch) == feature.missing["user"]).all(1).numpy()
        assert np.array_equal(unknown, split.lengths[batch.rows.numpy()] < 4) and 0 < unknown.sum() < 30


# ---- in every ranker


def check_reads(model: Ranker, batch_of: Callable[[], torch.Tensor], change: Callable[[], object]) -> None:
    """Logits are finite, weights that belong to the feature are trained, and other tables give other logits."""
    logits = batch_of()
    logits.square().sum().backward()
    assert torch.isfinite(logits).all()
    with torch.no_grad():
        change()
        assert (batch_of() - logits).abs().max() > 1e-4


@pytest.mark.parametrize("name", NEURAL)
def test_every_neural_ranker_reads_and_trains_knowledge(name: str) -> None:
    config = load_config(RunConfig, name, CONFIG_FOLDER)
    table, split = random_rows()
    features = features_of(name, knowledge_features())
    items = with_tables(table, knowledge=some_knowledge(40, split.users))
    torch.manual_seed(0)
    model = build_ranker(config.ranker, features, items).eval()
    feature = model.encoder.knowledge
    assert feature is not None
    randomised(model)
    batch = make_batch(split, np.arange(len(split)), 64)
    for buffer in (feature.of_item, feature.of_user):
        model.zero_grad()
        check_reads(model, lambda: model(batch), lambda buffer=buffer: buffer.copy_(buffer.roll(1, 0)))
    for weight in (*feature.adaptor.shared.parameters(), *feature.adaptor.gate.parameters()):
        assert weight.grad is not None and weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", NEURAL)
def test_every_neural_ranker_runs_as_a_hierarchical_mixture(name: str) -> None:
    config = load_config(RunConfig, name, CONFIG_FOLDER)
    table, split = random_rows()
    items = with_tables(table, semantic_ids=some_item_codes(40), user_codes=some_user_codes(split.users))
    torch.manual_seed(0)
    model = build_ranker(config.ranker, features_of(name, hmi_features()), items).eval()
    assert isinstance(model, HierarchicalRanker)
    users, codes = model.encoder.user_codes, model.encoder.semantic
    assert users is not None and codes is not None
    randomised(model)
    batch = make_batch(split, np.arange(len(split)), 64)
    whole = model(batch)
    scores = torch.zeros(len(batch), 2, 2)
    for i in (1, 2):
        for j in (1, 2):
            users.upto, codes.upto = i, j
            for module in model.modules():
                if isinstance(module, PairNorm):
                    module.pair = 2 * (i - 1) + j - 1
            scores[:, i - 1, j - 1] = model.ranker(batch)
    users.upto = codes.upto = None
    torch.testing.assert_close(whole, model.mixture(scores))
    assert len({scores[0, i, j].item() for i in (0, 1) for j in (0, 1)}) == 4, "each pair has a score of its own"
    for buffer in (users.rows, codes.rows):
        model.zero_grad()
        check_reads(model, lambda: model(batch), lambda buffer=buffer: buffer.copy_(buffer.roll(1, 0)))
    for weight in (users.table.weight, codes.table.weight, model.mixture.linear.weight):
        assert weight.grad is not None and weight.grad.abs().max() > 0


def test_each_pair_keeps_statistics_of_its_own() -> None:
    table, split = random_rows()
    items = with_tables(table, semantic_ids=some_item_codes(40), user_codes=some_user_codes(split.users))
    model = build_ranker(DIN, hmi_features(), items).train()
    with torch.no_grad():
        for module in (model.encoder.user_codes, model.encoder.semantic):
            assert module is not None
            module.table.weight.normal_()
    norms = [module for module in model.modules() if isinstance(module, PairNorm)]
    assert norms and all(len(norm.norms) == 4 for norm in norms)
    model(make_batch(split, np.arange(len(split)), 64))
    means = [norm.running_mean for norm in norms[0].norms]
    assert all(isinstance(a, torch.Tensor) for a in means)
    assert len({tuple(a.tolist()) for a in means}) == 4  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]


def test_a_mixture_needs_both_tables_and_sums() -> None:
    table, split = random_rows()
    both = {"semantic_ids": some_item_codes(40), "user_codes": some_user_codes(split.users)}
    for values in ({"sid": {"combine": "mean"}}, {"semantic_ids": "none"}, {"user_semantic_ids": "none"}):
        with pytest.raises(ConfigError, match="level by level"):
            build_ranker(DIN, hmi_features(**values), with_tables(table, **both))
    with pytest.raises(ConfigError, match="no user codes"):
        build_ranker(DIN, hmi_features(), with_tables(table, semantic_ids=both["semantic_ids"]))
    with pytest.raises(ConfigError, match="no knowledge"):
        build_ranker(DIN, knowledge_features(), table)


@pytest.mark.parametrize("features", [knowledge_features(), hmi_features(hmi=False), FeatureConfig(hmi=True)])
def test_rankers_that_are_not_trained_by_gradient_refuse(features: FeatureConfig) -> None:
    for config in (GbdtConfig(type="gbdt"), PopularityConfig(type="popularity"), SimilarityConfig(type="similarity")):
        with pytest.raises(ConfigError, match=f"{config.type} is not trained by gradient"):
            build_fitted(config, features)


@pytest.mark.parametrize("kind", ["knowledge", "hmi"])
def test_a_saved_model_is_tied_to_its_tables(kind: str, tmp_path: Path) -> None:
    table, split = random_rows()

    def tables(seed: int) -> ItemTable:
        if kind == "knowledge":
            return with_tables(table, knowledge=some_knowledge(40, split.users, seed))
        return with_tables(table, semantic_ids=some_item_codes(40), user_codes=some_user_codes(split.users, seed))

    features = knowledge_features() if kind == "knowledge" else hmi_features()
    config = RunConfig(name="x", features=features, ranker=DIN)
    model = build_ranker(DIN, features, tables(0)).eval()
    randomised(model)
    save_model(tmp_path / "m", model, config, tables(0))
    loaded, _ = load_model(tmp_path / "m", tables(0))
    batch = make_batch(split, np.arange(len(split)), 9)
    assert torch.equal(model(batch), loaded(batch))
    own = tables(0)
    others = [tables(1), table]
    if own.knowledge is not None:
        others.append(with_tables(table, knowledge=own.knowledge.shuffled(1)))
    if own.user_codes is not None:
        renamed = replace(own.user_codes, version="other")
        others.append(with_tables(table, semantic_ids=own.semantic_ids, user_codes=renamed))
    for other in others:
        with pytest.raises(DataError, match=r"another item table[\s\S]*knowledge"):
            load_model(tmp_path / "m", other)

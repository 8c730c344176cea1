"""Semantic IDs in rankers: against loops, and items that training never saw, which only their codes can tell."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from common.config import load_config
from common.errors import ConfigError, DataError
from tests.processes import one_thread as one_thread
from tests.track2.planted_rows import make_split, random_rows, rank_auc
from track2_mmctr.batches import batches, epoch_order, make_batch
from track2_mmctr.config import (
    CONFIG_FOLDER,
    DcnV2Config,
    DinConfig,
    DinSenetConfig,
    FeatureConfig,
    GbdtConfig,
    RunConfig,
    SidConfig,
    TransformerDcnQuantConfig,
)
from track2_mmctr.datasets.items import ItemFeatures, ItemInfo, item_table
from track2_mmctr.datasets.semantic_ids import SemanticIds
from track2_mmctr.datasets.tables import CtrData, ItemTable
from track2_mmctr.rankers import build_ranker
from track2_mmctr.rankers.din_senet import DinSenet, item_fields
from track2_mmctr.rankers.features import ItemEncoder
from track2_mmctr.rankers.gbdt import Gbdt
from track2_mmctr.rankers.gbdt_codes import code_columns, prefix_numbers
from track2_mmctr.rankers.gbdt_features import Counts, Folds
from track2_mmctr.rankers.segments import segments
from track2_mmctr.rankers.semantic_ids import SemanticIdEmbedding, hashed, table_rows
from track2_mmctr.training.checkpoint import load_model, save_model

SIZES = (3, 4, 5)
NEURAL = [
    name
    for name in sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))
    if load_config(RunConfig, name, CONFIG_FOLDER).ranker.neural and name not in ("task1", "baseline")
]


def some_ids(items: int = 40, seed: int = 0) -> SemanticIds:
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, items) for size in SIZES], axis=1).astype(np.int32)
    codes[0] = 0
    return SemanticIds(codes, SIZES, f"v{seed}")


def with_ids(table: ItemTable, ids: SemanticIds | None) -> ItemTable:
    info = ItemInfo(table.tags, None)
    return item_table(info, ItemFeatures(np.stack([table.likes, table.views], 1), None), table.embedding, ids)


def sid_features(**values: object) -> FeatureConfig:
    """Features with semantic IDs; the file itself is read by `load_data`."""
    sid = SidConfig.model_validate({k: values.pop(k) for k in ("by", "combine", "buckets") if k in values})
    return FeatureConfig.model_validate({"dim": 4, "semantic_ids": "read.parquet", "sid": sid, **values})


# ---- the embedding against loops


@pytest.mark.parametrize("combine", ["mean", "concat"])
@pytest.mark.parametrize(("by", "buckets"), [("level", 0), ("prefix", 0), ("prefix", 7)])
def test_the_vector_of_an_item_is_that_of_its_codes(by: str, buckets: int, combine: str) -> None:
    ids = some_ids()
    config = SidConfig.model_validate({"by": by, "buckets": buckets, "combine": combine})
    module = SemanticIdEmbedding(config, ids, 6)
    with torch.no_grad():
        module.table.weight[1:].normal_()
    made = module(torch.arange(40)).detach()
    assert made.shape == (40, module.dim) == (40, 6 if combine == "mean" else 18)
    assert not made[0].any(), "the padding item has no codes"
    known: dict[tuple[int, ...], np.ndarray] = {}
    for item in range(1, 40):
        rows = []
        for level in range(3):
            prefix = ids.codes[item, : level + 1]
            key = (level, *prefix.tolist()) if by == "prefix" else (level, int(prefix[-1]))
            if buckets:
                key = (level, int(hashed(prefix[None])[0] % np.uint64(buckets)))
            row = module.table.weight[module.rows[item, level]].detach().numpy()
            assert np.array_equal(known.setdefault(key, row), row), "equal codes have one vector"
            rows.append(row)
        expected = np.mean(rows, axis=0) if combine == "mean" else np.concatenate(rows)
        np.testing.assert_allclose(made[item].numpy(), expected, atol=1e-6)
    different = {row.tobytes() for row in known.values()}
    assert len(different) == len(known), "different codes have different vectors"


def test_tables_are_as_large_as_codes_prefixes_or_buckets() -> None:
    ids = some_ids()
    assert table_rows(ids.codes, SIZES, SidConfig())[1] == 1 + 3 + 4 + 5
    prefixes = sum(len(np.unique(ids.codes[1:, : level + 1], axis=0)) for level in range(3))
    assert table_rows(ids.codes, SIZES, SidConfig(by="prefix"))[1] == 1 + prefixes
    rows, count = table_rows(ids.codes, SIZES, SidConfig(by="prefix", buckets=7))
    assert count == 1 + 3 * 7
    assert all((rows[1:, level] > 7 * level).all() and (rows[1:, level] <= 7 * level + 7).all() for level in range(3))
    with pytest.raises(ConfigError, match="buckets"):
        table_rows(ids.codes, SIZES, SidConfig(buckets=7))


def test_hashes_spread_and_know_the_order() -> None:
    grid = np.stack(np.unravel_index(np.arange(4096), (16, 16, 16)), axis=1)
    assert len(np.unique(hashed(grid))) == 4096
    loads = np.bincount((hashed(grid) % np.uint64(64)).astype(int), minlength=64)
    assert loads.min() > 25 and loads.max() < 120  # 64 on average
    state = 3
    for code in (1, 2, 3):
        state = (state ^ code) * 0x9E3779B97F4A7C15 % 2**64
        state ^= state >> 32
    assert hashed(np.array([[1, 2, 3]])).tolist() == [state] != hashed(np.array([[3, 2, 1]])).tolist()


# ---- in every ranker


@pytest.mark.parametrize("by", ["level", "prefix"])
@pytest.mark.parametrize("name", NEURAL)
def test_every_neural_ranker_reads_and_trains_them(name: str, by: str) -> None:
    config = load_config(RunConfig, name, CONFIG_FOLDER)
    table, split = random_rows()
    sid = SidConfig.model_validate({"by": by, "combine": "concat"})
    features = config.features.model_copy(update={"dim": 4, "semantic_ids": "read.parquet", "sid": sid})
    torch.manual_seed(0)
    model = build_ranker(config.ranker, features, with_ids(table, some_ids())).eval()
    assert isinstance(model.encoder, ItemEncoder) and model.encoder.semantic is not None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    batch = make_batch(split, np.arange(len(split)), 64)
    logits = model(batch)
    logits.square().sum().backward()
    weight = model.encoder.semantic.table.weight
    assert torch.isfinite(logits).all() and weight.grad is not None and weight.grad.abs().max() > 0
    with torch.no_grad():
        model.encoder.semantic.rows.copy_(model.encoder.semantic.rows.roll(1, 0))
        assert (model(batch) - logits).abs().max() > 1e-4, "other codes, other logits"


@pytest.mark.parametrize("combine", ["mean", "concat"])
def test_the_fields_of_din_senet_cover_the_item_vector(combine: str) -> None:
    table, _ = random_rows()
    config = DinSenetConfig(type="din_senet", attention_units=[8], heads=1, attention_dim=8, hidden_units=[8])
    model = build_ranker(config, sid_features(combine=combine, item_levels=True), with_ids(table, some_ids()))
    assert isinstance(model, DinSenet) and sum(item_fields(model.encoder)) == model.encoder.dim


def test_an_item_table_without_them_is_an_error() -> None:
    table, split = random_rows()
    with pytest.raises(ConfigError, match="no semantic IDs"):
        ItemEncoder(sid_features(), table)
    data = CtrData(Path("x"), {"train": split}, table)
    with pytest.raises(ConfigError, match="no semantic IDs"):
        Gbdt(GbdtConfig(type="gbdt"), sid_features()).fit(data, max_len=9, seed=0, threads=1, say=print)


def test_codes_alone_are_a_feature() -> None:
    table, _ = random_rows()
    features = sid_features(ids=False, tags=False, embedding="none", target_levels=False)
    encoder = ItemEncoder(features, with_ids(table, some_ids()))
    assert encoder.dim == 4 and encoder(torch.arange(5)).shape == (5, 4)


QUANT = {"type": "transformer_dcn_quant", "feed_forward": 8, "hidden_units": [8], "head_units": [8], "last": 2}


def test_transformer_dcn_quant_takes_the_codes_of_the_file() -> None:
    table, split = random_rows()
    items = with_ids(table, some_ids())
    config = TransformerDcnQuantConfig.model_validate(QUANT | {"neighbours": 3})
    own = build_ranker(config, FeatureConfig(dim=4), items).encoder
    read = build_ranker(config, sid_features(), items)
    encoder: Any = read.encoder
    assert own.centres is not None and own.codes.shape == (40, 5 + 3)  # pyright: ignore[reportAttributeAccessIssue]
    assert encoder.centres is None and encoder.codes.shape == (40, 3)
    assert encoder.dim == 4 + 4 + 4 + 3 * 4 == encoder(torch.arange(40)).shape[1]
    assert torch.isfinite(read.eval()(make_batch(split, np.arange(len(split)), 9))).all()
    alone = config.model_copy(update={"neighbours": 0})
    bare = build_ranker(alone, sid_features(embedding="none"), items).encoder
    assert bare.dim == 12, "no embedding is needed where codes are read and neighbours are off"
    with pytest.raises(ConfigError, match="not both"):
        build_ranker(config.model_copy(update={"code_items": True}), sid_features(), items)


def test_a_model_refuses_ids_of_another_version(tmp_path: Path) -> None:
    table, split = random_rows()
    items = with_ids(table, some_ids())
    config = RunConfig(
        name="x", features=sid_features(), ranker=DinConfig(type="din", attention_units=[4], hidden_units=[4])
    )
    model = build_ranker(config.ranker, config.features, items).eval()
    save_model(tmp_path / "m", model, config, items)
    loaded, _ = load_model(tmp_path / "m", with_ids(table, some_ids()))
    batch = make_batch(split, np.arange(len(split)), 9)
    assert torch.equal(model(batch), loaded(batch))
    renamed = replace(some_ids(), version="v9")
    for other in (some_ids(seed=1), renamed, None):
        with pytest.raises(DataError, match=r"another item table[\s\S]*features\.semantic_ids"):
            load_model(tmp_path / "m", with_ids(table, other))


# ---- what they are for: items that training never saw


def cold(seed: int = 0, train: int = 1500, valid: int = 500) -> CtrData:
    """A click = the target's code is the history's. Valid has items of its own: ids and tags tell nothing of them."""
    rng = np.random.default_rng(seed)
    items = 400
    codes = rng.integers(0, 6, (items, 2)).astype(np.int32)
    codes[0] = 0
    table = replace(
        with_ids(random_rows(items=items)[0], SemanticIds(codes, (6, 6), "planted")),
        tags=np.zeros((items, 5), np.int32),
    )
    splits = {}
    for name, rows, first, last in (("train", train, 1, 300), ("valid", valid, 300, items)):
        taste = rng.integers(0, 6, rows)
        pools = [first + np.flatnonzero(codes[first:last, 0] == c) for c in range(6)]
        histories = [rng.choice(pools[c], rng.integers(2, 6)) for c in taste]
        wanted = rng.random(rows) < 0.5
        target = np.where(wanted, [rng.choice(pools[c]) for c in taste], rng.integers(first, last, rows))
        label = (codes[target, 0] == taste) ^ (rng.random(rows) < 0.03)
        splits[name] = make_split(rng, name, histories, target, label)
    return CtrData(Path("planted"), splits, table)


def learn(data: CtrData, features: FeatureConfig, config: DinConfig | DcnV2Config, epochs: int = 8) -> float:
    torch.manual_seed(0)
    model = build_ranker(config, features, data.items)
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
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
    return rank_auc(valid.label, logits.numpy())


DIN = DinConfig(type="din", attention_units=[16], hidden_units=[32])
BARE: dict[str, object] = {"embedding": "none", "tags": False, "target_levels": False}


@pytest.mark.parametrize("by", ["level", "prefix"])
def test_codes_tell_items_that_training_never_saw(by: str) -> None:
    data = cold()
    assert learn(data, sid_features(by=by, combine="concat", **BARE), DIN) > 0.88
    shuffled = replace(data, items=replace(data.items, semantic_ids=some_shuffled(data)))
    assert learn(shuffled, sid_features(by=by, combine="concat", **BARE), DIN) < 0.62
    assert learn(data, FeatureConfig.model_validate({"dim": 4, **BARE}), DIN) < 0.62


def some_shuffled(data: CtrData) -> SemanticIds:
    assert data.items.semantic_ids is not None
    return data.items.semantic_ids.shuffled(3)


def test_shuffled_codes_are_the_same_codes_at_other_items() -> None:
    ids = some_ids()
    other = ids.shuffled(0)
    assert not np.array_equal(ids.codes, other.codes) and not other.codes[0].any()
    assert sorted(map(tuple, ids.codes[1:].tolist())) == sorted(map(tuple, other.codes[1:].tolist()))
    assert other.version != ids.version


# ---- gbdt


def test_gbdt_tells_items_that_training_never_saw() -> None:
    config = GbdtConfig(type="gbdt", rounds=60, leaves=8, min_rows=20)

    def auc_of(data: CtrData, features: FeatureConfig) -> tuple[float, list[str]]:
        ranker = Gbdt(config, features)
        ranker.fit(data, max_len=64, seed=0, threads=1, say=lambda _: None)
        valid = data.splits["valid"]
        return rank_auc(valid.label, ranker.predict(valid, data.items, max_len=64)), ranker.names

    data = cold()
    auc, names = auc_of(data, sid_features(**BARE))
    assert auc > 0.9 and {"sid1_share", "sid1_rate", "sid2_share", "sid2_rate"} <= set(names)
    assert auc_of(data, sid_features(ids=False, **BARE))[0] > 0.9
    shuffled = replace(data, items=replace(data.items, semantic_ids=some_shuffled(data)))
    assert auc_of(shuffled, sid_features(**BARE))[0] < 0.62


def test_code_columns_against_loops_and_without_the_rows_own_fold() -> None:
    table, split = random_rows(rows=60)
    split = replace(split, users=np.arange(60) // 3)
    ids = some_ids()
    prefixes = prefix_numbers(ids.codes)
    assert not prefixes[0].any()
    counts = Counts.of(split, np.arange(60), len(table), 0)
    folds = Folds.of(split, len(table), 0, seed=0)
    (part,) = segments(split, 64)
    for fold in (None, folds):
        made = code_columns(part, prefixes, counts, fold)
        assert list(made) == [f"sid{level}_{kind}" for level in (1, 2, 3) for kind in ("share", "rate")]
        for row in range(60):
            history = split.history[split.offsets[row] : split.offsets[row + 1]]
            for level in (1, 2, 3):
                own = ids.codes[split.target[row], :level]
                same = [(ids.codes[item, :level] == own).all() for item in history]
                share = made[f"sid{level}_share"][row]
                assert share == pytest.approx(np.mean(same)) if same else np.isnan(share)
                others = (ids.codes[split.target, :level] == own).all(1)
                if fold is not None:
                    others &= fold.fold != fold.fold[row]
                assert split.label is not None
                rate = (split.label[others].sum() + 10 * counts.rate) / (others.sum() + 10)
                assert made[f"sid{level}_rate"][row] == pytest.approx(rate)

"""dcnv2, qin, transformer_dcn and transformer_dcn_quant against naive padded versions with the same weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import ConfigError
from tests.processes import one_thread as one_thread
from track2_mmctr.batches import Batch, make_batch
from track2_mmctr.config import (
    DcnV2Config,
    FeatureConfig,
    QinConfig,
    TransformerDcnConfig,
    TransformerDcnQuantConfig,
)
from track2_mmctr.datasets.tables import ItemTable, Split
from track2_mmctr.rankers import build_ranker
from track2_mmctr.rankers.base import Ranker
from track2_mmctr.rankers.transformer_dcn_quant import quantize, top_products

ITEMS, WIDTH = 60, 9
LENGTHS = [3, 0, 9, 1, 5, 2, 0, 9, 4, 7, 1, 3]
FEATURES = FeatureConfig(dim=4, item_levels=True, similarity=True)
PLAIN = FeatureConfig(dim=4)
TRANSFORMER = TransformerDcnConfig(
    type="transformer_dcn", feed_forward=16, last=4, width=WIDTH, hidden_units=[12, 8], head_units=[16], cross_layers=2
)
QUANT = TransformerDcnQuantConfig(**{**TRANSFORMER.model_dump(), "type": "transformer_dcn_quant", "neighbours": 3})
CONFIGS = {
    "dcnv2": DcnV2Config(type="dcnv2", cross_layers=2, hidden_units=[12, 8]),
    "dcnv2_mix": DcnV2Config(type="dcnv2", cross_layers=2, rank=3, experts=2, hidden_units=[12, 8]),
    "qin": QinConfig(type="qin", layers=2, rows=3),
    "transformer_dcn": TRANSFORMER,
    "transformer_dcn_heads": TRANSFORMER.model_copy(update={"heads": 2, "cross_rank": 3}),
    "transformer_dcn_inverted": TRANSFORMER.model_copy(update={"mask": "inverted"}),
    "transformer_dcn_quant": QUANT,
    "transformer_dcn_quant_items": QUANT.model_copy(update={"code_items": True, "combine": "mean"}),
}


def item_table(count: int = ITEMS) -> ItemTable:
    rng = np.random.default_rng(1)
    embedding = rng.normal(size=(count, 8)).astype(np.float32)
    tags = rng.integers(0, 7, (count, 3)).astype(np.int32)
    likes, views = rng.integers(1, 11, (2, count)).astype(np.int32)
    for column in (embedding, tags, likes, views):
        column[0] = 0
    return ItemTable(tags, likes, views, embedding, None, 7, "items")


def split(lengths: list[int], seed: int = 2) -> Split:
    rng = np.random.default_rng(seed)
    rows, offsets = len(lengths), np.concatenate([[0], np.cumsum(lengths)])
    return Split(
        name="train",
        users=np.arange(rows),
        history=rng.integers(1, ITEMS, offsets[-1]).astype(np.int32),
        offsets=offsets,
        target=rng.integers(1, ITEMS, rows).astype(np.int32),
        levels=rng.integers(1, 11, (rows, 2)).astype(np.int32),
        label=rng.integers(0, 2, rows).astype(np.float32),
        ids=None,
        digest="rows",
    )


def batch_of(data: Split, rows: list[int] | None = None) -> Batch:
    return make_batch(data, np.arange(len(data)) if rows is None else np.array(rows), WIDTH)


def ranker(name: str, training: bool = False, features: FeatureConfig = FEATURES) -> Ranker:
    """The ranker with all weights large enough to matter, and batch norms that have seen other data."""
    model = build_ranker(CONFIGS[name], features, item_table())
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.weight[1:].normal_(std=0.5)
            elif isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2.0)
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.add_(0.2 * torch.randn_like(weight))
    return model.train(training)


def padded(model: Ranker, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """History [B, WIDTH, D] padded on the left with item 0, its mask (True = real), targets, and all side inputs."""
    ids = torch.zeros(len(batch), WIDTH, dtype=torch.int64)
    for row in range(len(batch)):
        history = batch.items[batch.history[batch.offsets[row] : batch.offsets[row + 1]]]
        if len(history):
            ids[row, -len(history) :] = history
    history = model.encoder(ids.flatten()).view(len(batch), WIDTH, -1)
    target = model.encoder(batch.items[batch.target])
    side = torch.cat([model.encoder.side(batch), model.encoder.dense(batch)], dim=1)
    return history, ids > 0, target, side


def naive_dcnv2(model, batch):
    history, mask, target, side = padded(model, batch)
    mean = (history * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    x0 = x = torch.cat([side, target, mean], dim=1)
    for layer in model.cross.layers:
        x = x + x0 * layer(x)
    return model.head(torch.cat([x, model.deep(x0)], dim=1))[:, 0]


def naive_qin(model, batch):
    history, mask, target, side = padded(model, batch)
    a = model.attention
    scores = (a.query(target)[:, None] * a.key(history)).sum(2) / a.query.out_features**0.5 * mask
    interest = a.output((scores.relu()[:, :, None] * a.value(history)).sum(1)) + target
    x = torch.cat([side, target, interest], dim=1)
    for layer in model.layers:
        maps = layer.linear(x).view(len(x), layer.rows, layer.dim)
        x = x + layer.activation(layer.norm(torch.einsum("bd,brd->bd", x, maps)))
    return model.head(x)[:, 0]


def naive_transformer(model, batch):
    """torch's own encoder over the whole rectangle; in `inverted`, the mask bug of the published code, as it stands."""
    config = model.config
    history, mask, target, side = padded(model, batch)
    tokens = torch.cat([history, target[:, None].expand_as(history)], dim=2)
    layer = nn.TransformerEncoderLayer(
        tokens.shape[2], config.heads, config.feed_forward, config.transformer_dropout, batch_first=True
    )
    encoder = nn.TransformerEncoder(layer, config.transformer_layers, enable_nested_tensor=False).eval()
    encoder.layers.load_state_dict(model.transformer.layers.state_dict())
    if config.mask == "right":
        ignored, empty = ~mask, ~mask.any(1)
        ignored[empty] = False  # torch gives NaN where nothing is left to attend to; such rows are blanked below
    else:
        ignored, empty = mask.clone(), torch.zeros(len(mask), dtype=torch.bool)
        ignored[mask.all(1), -1] = False
    out = encoder(tokens, src_key_padding_mask=ignored)
    window = out.masked_fill(ignored[:, :, None], 0.0)
    top = out.masked_fill(ignored[:, :, None], -1e9).max(1).values
    window, top = window.masked_fill(empty[:, None, None], 0.0), top.masked_fill(empty[:, None], 0.0)
    parts = [side, target, window[:, -config.last :].flatten(1), model.pooled(top)]
    z = x = torch.cat(parts, dim=1)
    for number, outward in enumerate(model.cross.layers):
        x = x + z * outward(model.cross.inward[number](x) if config.cross_rank else x)
    return model.head(torch.cat([x, model.deep(z)], dim=1))[:, 0]


@pytest.mark.parametrize(
    ("name", "naive"),
    [
        ("dcnv2", naive_dcnv2),
        ("qin", naive_qin),
        ("transformer_dcn", naive_transformer),
        ("transformer_dcn_heads", naive_transformer),
        ("transformer_dcn_inverted", naive_transformer),
        ("transformer_dcn_quant", naive_transformer),
        ("transformer_dcn_quant_items", naive_transformer),
    ],
)
def test_equals_the_padded_model(name, naive):
    model, batch = ranker(name), batch_of(split(LENGTHS))
    with torch.no_grad():
        ours, theirs = model(batch), naive(model, batch)
    assert theirs.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_window_wider_than_the_stored_history():
    for mask in ("right", "inverted"):
        config = TRANSFORMER.model_copy(update={"last": WIDTH + 3, "mask": mask})
        model = build_ranker(config, FEATURES, item_table()).eval()
        narrow = copy.deepcopy(model)
        batch = batch_of(split(LENGTHS))
        with torch.no_grad():
            vectors = model.encoder(batch.items)
            one = (model._right if mask == "right" else model._inverted)(vectors, vectors[batch.target], batch)[0]
            narrow.config = config.model_copy(update={"last": WIDTH})
            two = (narrow._right if mask == "right" else narrow._inverted)(vectors, vectors[batch.target], batch)[0]
        extra = 3 * 2 * model.encoder.dim
        assert torch.equal(one[:, extra:], two) and not one[:, :extra].any() and two.any()


@pytest.mark.parametrize(("name", "reads_history"), [("transformer_dcn", True), ("transformer_dcn_inverted", False)])
def test_inverted_mask_does_not_see_the_history(name, reads_history):
    lengths = [n for n in LENGTHS if 0 < n < WIDTH]  # padding in every row
    data, model = split(lengths), ranker(name, features=PLAIN)
    before = batch_of(data)
    order = np.random.default_rng(4).permutation(len(before.history))
    after = Batch(**{**{f: getattr(before, f) for f in Batch.__dataclass_fields__}, "history": before.history[order]})
    with torch.no_grad():
        change = (model(before) - model(after)).abs().max()
    assert (change > 1e-3) if reads_history else (change == 0)


def test_inverted_mask_sees_one_item_when_the_history_is_full():
    model, before = ranker("transformer_dcn_inverted", features=PLAIN), batch_of(split([WIDTH] * 4))
    fields = {f: getattr(before, f) for f in Batch.__dataclass_fields__}
    kept, moved = before.history.clone().view(4, WIDTH), before.history.clone().view(4, WIDTH)
    kept[:, :-1] = kept[:, :-1].flip(0, 1)
    moved[:, -1] = moved[:, -1].roll(1)
    with torch.no_grad():
        same, other = (model(Batch(**{**fields, "history": x.flatten()})) for x in (kept, moved))
        assert torch.equal(model(before), same) and (model(before) - other).abs().max() > 1e-3


@pytest.mark.parametrize("name", CONFIGS)
def test_a_row_does_not_hang_on_its_batch(name):
    model, data = ranker(name), split(LENGTHS)
    whole = batch_of(data)
    with torch.no_grad():
        together = torch.empty(len(data)).index_copy(0, whole.rows, model(whole))
        alone = torch.cat([model(batch_of(data, [row])) for row in range(len(data))])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_empty_histories_give_finite_logits(name):
    batch = batch_of(split([0, 0, 0]))
    assert ranker(name)(batch).isfinite().all() and ranker(name, training=True)(batch).isfinite().all()


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_reach_every_weight(name):
    model = ranker(name, training=True)
    model(batch_of(split(LENGTHS))).square().sum().backward()
    idle = [n for n, w in model.named_parameters() if w.grad is None or not w.grad.abs().sum() > 0]
    assert idle == []


@pytest.mark.parametrize("name", ["qin", "transformer_dcn", "transformer_dcn_heads"])
def test_gradients_equal_those_of_the_padded_model(name):
    """Dropout off: the packed kernels' own backward passes against autograd over the rectangle."""
    model, batch = ranker(name), batch_of(split(LENGTHS))
    other, naive = copy.deepcopy(model), naive_qin if name == "qin" else naive_transformer
    model(batch).square().sum().backward()
    naive(other, batch).square().sum().backward()
    theirs = dict(other.named_parameters())
    for key, weight in model.named_parameters():
        if not key.startswith("transformer."):  # the naive encoder is a copy with weights of its own
            torch.testing.assert_close(weight.grad, theirs[key].grad, rtol=1e-3, atol=1e-4, msg=key)


def planted(rows: int, shuffled: bool, seed: int) -> Split:
    """Label 1 where the target's embedding points to the history's; `shuffled` gives each row another's history."""
    rng = np.random.default_rng(seed)
    data = split([int(n) for n in rng.integers(3, WIDTH + 1, rows)], seed)
    embedding, groups = item_table().embedding, np.repeat(np.arange(rows), data.lengths)
    side = np.where(rng.random(rows) < 0.5, 1, -1)
    up, down = (np.flatnonzero(sign * embedding[:, 0] > 0.2) for sign in (1, -1))
    history = np.where(side[groups] > 0, rng.choice(up, len(groups)), rng.choice(down, len(groups))).astype(np.int32)
    label = (side * embedding[data.target, 0] > 0).astype(np.float32)
    if shuffled:
        history = rng.permutation(history)
    return Split(**{**data.__dict__, "history": history, "label": label})


def auc(model: Ranker, data: Split) -> float:
    batch = batch_of(data)
    with torch.no_grad():
        logit = model.eval()(batch)
    positive, negative = logit[batch.label > 0], logit[batch.label == 0]
    order = (positive[:, None] - negative).sign()
    return float((order.mean() + 1) / 2)


SMALL = {"head_units": [32], "hidden_units": [32, 16], "cross_layers": 1, "transformer_layers": 1}
STILL = {"transformer_dropout": 0.0, "net_dropout": 0.0}


@pytest.mark.parametrize(
    ("name", "rate", "epochs"),
    [
        ("dcnv2", 5e-3, 4),
        ("dcnv2_mix", 5e-3, 4),
        ("qin", 5e-3, 4),
        ("transformer_dcn", 1e-3, 2),
        ("transformer_dcn_quant", 1e-3, 2),
        ("transformer_dcn_inverted", 1e-3, 2),
    ],
)
def test_learns_a_planted_rule_and_not_from_a_shuffled_history(name, rate, epochs):
    config = CONFIGS[name].model_copy(update=SMALL | STILL if name.startswith("transformer") else {})
    result = {}
    for arm in ("planted", "placebo"):
        torch.manual_seed(3)
        model = build_ranker(config, PLAIN, item_table())
        train, valid = (planted(n, arm == "placebo", seed) for n, seed in ((1500, 5), (600, 6)))
        optimiser = torch.optim.Adam(model.parameters(), rate)
        for epoch in range(epochs):
            order = np.random.default_rng(epoch).permutation(len(train))
            for start in range(0, len(order), 50):
                batch = make_batch(train, order[start : start + 50], WIDTH)
                optimiser.zero_grad()
                nn.functional.binary_cross_entropy_with_logits(model(batch), batch.label).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 10.0)
                optimiser.step()
        result[arm] = auc(model, valid)
    if name == "transformer_dcn_inverted":
        assert result["planted"] < 0.75, result  # it cannot: only rows that fill the rectangle show an item
    else:
        assert result["planted"] > 0.9, result
    assert 0.3 < result["placebo"] < 0.65, result


def test_published_sizes():
    table = item_table()
    table = ItemTable(
        np.zeros((91718, 5), np.int32),
        np.zeros(91718, np.int32),
        np.zeros(91718, np.int32),
        np.zeros((91718, 128), np.float32),
        None,
        11740,
        table.digest,
    )
    count = {}
    with torch.device("meta"):
        transformer = TransformerDcnConfig(type="transformer_dcn")
        for config, dim in ((QinConfig(type="qin"), 128), (transformer, 64)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(torch, "from_numpy", lambda a: torch.empty(a.shape, device="meta"))
                model = build_ranker(config, FeatureConfig(dim=dim), table)
            count[config.type] = sum(weight.numel() for weight in model.parameters())
    assert count == {"qin": 31_244_293, "transformer_dcn": 267_898_881}


def test_residual_quantization_against_loops():
    x = item_table(40).embedding
    table = quantize(x, 3, 4, 5, seed=0)
    assert table.shape == (40, 8) and not table[0].any()
    residual = x[1:].copy()
    for level in range(3):
        codes = table[1:, level]
        centres = np.stack([residual[codes == c].mean(0) for c in range(4)])  # k-means ends on the means
        nearest = ((residual[:, None] - centres) ** 2).sum(2).argmin(1)
        assert (nearest == codes).mean() > 0.97
        residual -= centres[codes]
    assert (residual**2).sum() < 0.6 * (x**2).sum()
    for row in range(1, 40):
        expected = 1 + np.argsort(-(x[1:] @ x[row]))[:5]
        assert list(table[row, 3:]) == list(expected)


def test_codes_as_published_against_loops():
    from sklearn.cluster import KMeans

    x = item_table(40).embedding
    table = quantize(x, 3, 4, 0, seed=5, nearest=True)
    unit = x[1:] / np.linalg.norm(x[1:], axis=1, keepdims=True)
    catalogue = x[1:].copy()
    for level in range(3):
        model = KMeans(4, n_init="auto", random_state=5).fit(catalogue)
        for row in range(39):
            distance = ((catalogue - unit[row]) ** 2).sum(1)
            assert distance[table[row + 1, level] - 1] == pytest.approx(distance.min(), abs=1e-5)
        unit = unit - model.cluster_centers_[model.labels_[table[1:, level] - 1]]
        catalogue = catalogue - model.cluster_centers_[model.labels_]


def test_top_products_over_several_tiles(monkeypatch):
    monkeypatch.setattr("track2_mmctr.rankers.transformer_dcn_quant.TILE", 7)
    x = torch.randn(30, 5)
    assert torch.equal(top_products(x, 9), (x @ x.T).topk(9, dim=1).indices)


def test_codes_hang_on_the_seed_and_travel_with_the_checkpoint():
    def build(seed):
        torch.manual_seed(seed)
        return build_ranker(QUANT, FEATURES, item_table())

    one, again, other = build(1), build(1), build(2)
    assert torch.equal(one.encoder.codes, again.encoder.codes)
    assert not torch.equal(one.encoder.codes, other.encoder.codes)
    other.load_state_dict(one.state_dict())
    batch = batch_of(split(LENGTHS))
    assert torch.equal(one.eval()(batch), other.eval()(batch))


@pytest.mark.parametrize(
    ("combine", "keep", "items", "dim"),
    [
        ("concat", False, False, 4 * 4 + 8 * 4),
        ("mean", False, True, 4 * 4 + 2 * 4),
        ("concat", True, True, 4 * 4 + 8 + 8 * 4),
    ],
)
def test_quant_encoder_sizes(combine, keep, items, dim):
    config = QUANT.model_copy(update={"combine": combine, "keep_embedding": keep, "code_items": items})
    encoder = build_ranker(config, FEATURES, item_table()).encoder
    assert encoder.dim == dim and encoder(torch.tensor([3, 1])).shape == (2, dim)
    assert not encoder(torch.tensor([0])).any()  # the padding item stays zeros


@pytest.mark.parametrize(
    ("config", "features", "words"),
    [
        (DcnV2Config(type="dcnv2", experts=2), FEATURES, "ranker.rank"),
        (TRANSFORMER.model_copy(update={"heads": 5}), FEATURES, "ranker.heads"),
        (QUANT, FeatureConfig(dim=4, embedding="none"), "features.embedding"),
        (QUANT.model_copy(update={"codes": 99}), FEATURES, "ranker.codes"),
    ],
)
def test_impossible_settings_are_named(config, features, words):
    with pytest.raises(ConfigError, match=words):
        build_ranker(config, features, item_table())

"""din_dcn, din_senet, cross_attention: against padded references, and what each of them learns."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.processes import one_thread as one_thread
from tests.track2.planted_rows import planted, random_rows, rank_auc, shuffled_histories
from track2_mmctr.batches import Batch, batches, epoch_order, make_batch
from track2_mmctr.config import (
    BaseRankerConfig,
    CrossAttentionConfig,
    DinDcnConfig,
    DinSenetConfig,
    FeatureConfig,
    MyRankerConfig,
)
from track2_mmctr.datasets.tables import CtrData, Split
from track2_mmctr.rankers import build_ranker
from track2_mmctr.rankers.base import Ranker
from track2_mmctr.rankers.cross_attention import CrossAttention, CrossAttentionLayer
from track2_mmctr.rankers.din_dcn import DinDcn
from track2_mmctr.rankers.din_senet import DinSenet, Senet, item_fields
from track2_mmctr.rankers.layers import TargetAttention

CONFIGS: list[BaseRankerConfig] = [
    DinDcnConfig(type="din_dcn", heads=2, attention_dim=8, cross_layers=2, rank=4, experts=2, hidden_units=[32, 16]),
    DinSenetConfig(
        type="din_senet", attention_units=[16, 8], heads=2, attention_dim=8, reduction=2, hidden_units=[32, 16]
    ),
    CrossAttentionConfig(type="cross_attention", feed_forward=16, din_units=[16, 8], hidden_units=[32, 16]),
    MyRankerConfig(type="my_ranker", params={"hidden": 32}),
]
FEATURES = FeatureConfig(dim=4, item_levels=True, similarity=True)
each_ranker = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.type)


def randomised(config: BaseRankerConfig, features: FeatureConfig = FEATURES, seed: int = 0) -> tuple[Ranker, Split]:
    """A ranker with weights far from zero, so that every path counts."""
    items, split = random_rows(seed)
    torch.manual_seed(seed)
    model = build_ranker(config, features, items)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.eval(), split


def whole(split: Split, max_len: int = 64) -> Batch:
    return make_batch(split, np.arange(len(split)), max_len)


def in_file_order(batch: Batch, logits: Tensor) -> Tensor:
    return logits[batch.rows.argsort()]


@each_ranker
def test_logits_are_finite_for_rows_without_history(config: BaseRankerConfig) -> None:
    model, split = randomised(config)
    empty = replace(split, history=split.history[:0], offsets=np.zeros(len(split) + 1, dtype=np.int64))
    for rows in (split, empty):
        logits = model(whole(rows))
        assert logits.shape == (len(split),)
        assert torch.isfinite(logits).all()


@each_ranker
def test_a_row_does_not_depend_on_its_batch(config: BaseRankerConfig) -> None:
    model, split = randomised(config)
    batch = whole(split)
    together = in_file_order(batch, model(batch))
    alone = torch.cat([model(make_batch(split, np.array([row]), 64)) for row in range(len(split))])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert together.std() > 0.01  # not a constant


@each_ranker
def test_history_and_target_matter_and_only_the_newest_items(config: BaseRankerConfig) -> None:
    model, split = randomised(config)
    batch = whole(split, max_len=3)
    base = in_file_order(batch, model(batch))
    old, new = split.history.copy(), split.history.copy()
    ends = split.offsets[1:]
    long = split.lengths > 3
    old[ends[long] - 4] = 1  # out of reach of max_len 3
    new[ends[long] - 1] = new[ends[long] - 1] % 38 + 1
    for history, same in ((old, True), (new, False)):
        changed = whole(replace(split, history=history), max_len=3)
        difference = (in_file_order(changed, model(changed)) - base).abs()
        assert (difference.max() < 1e-5) if same else (difference[torch.from_numpy(long)] > 1e-4).all()


@each_ranker
def test_gradients_reach_every_weight(config: BaseRankerConfig) -> None:
    model, split = randomised(config)  # eval mode: a batch norm of training would cancel the biases before it
    model(whole(split)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def learn(config: BaseRankerConfig, data: CtrData, epochs: int = 6) -> float:
    torch.manual_seed(0)
    features = FeatureConfig(dim=4, ids=False)
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
    batch = whole(valid)
    with torch.no_grad():
        return rank_auc(valid.label, in_file_order(batch, model.eval()(batch)).numpy())


@each_ranker
def test_it_learns_what_only_the_history_tells(config: BaseRankerConfig) -> None:
    data = planted(train=1000, valid=400)
    assert learn(config, data) > 0.9
    assert learn(config, shuffled_histories(data)) < 0.6


@each_ranker
@pytest.mark.parametrize(
    "off", [{"ids": False}, {"tags": False}, {"embedding": "none", "similarity": False}, {"target_levels": False}]
)
def test_each_part_of_the_features_can_be_switched_off(config: BaseRankerConfig, off: dict[str, object]) -> None:
    model, split = randomised(config, FEATURES.model_copy(update=off))
    assert torch.isfinite(model(whole(split))).all()


# ---- against other implementations


def padded(vectors: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    ids, mask = batch.padded
    return vectors[torch.searchsorted(batch.items, ids.clamp(min=int(batch.items[0])))], mask


def test_target_attention_is_fuxictrs() -> None:
    from fuxictr.pytorch.layers import MultiHeadTargetAttention

    _, split = random_rows(3)
    batch = whole(split)
    torch.manual_seed(0)
    ours = TargetAttention(12, 8, 2)
    theirs = MultiHeadTargetAttention(input_dim=12, attention_dim=8, num_heads=2)
    pairs = [(ours.query, theirs.W_q), (ours.key, theirs.W_k), (ours.value, theirs.W_v), (ours.output, theirs.W_o)]
    for mine, other in pairs:
        other.load_state_dict(mine.state_dict())
    vectors, target = torch.randn(len(batch.items), 12), torch.randn(len(batch), 12)
    history, mask = padded(vectors, batch)
    expected = theirs(target, history, mask)
    some = batch.lengths > 0  # theirs averages the padding of a row without history; ours says zero
    got = ours(target, vectors, batch)
    torch.testing.assert_close(got[some], expected[some], atol=1e-5, rtol=1e-5)
    assert (got[~some] == 0).all() and (~some).any()


def naive_attention(layer: TargetAttention, query: Tensor, history: Tensor, mask: Tensor) -> Tensor:
    split = (layer.heads, layer.head_dim)
    q = layer.query(query).unflatten(-1, split)
    k, v = layer.key(history).unflatten(-1, split), layer.value(history).unflatten(-1, split)
    scores = torch.einsum("bhd,blhd->bhl", q, k) / math.sqrt(layer.head_dim)
    weights = scores.masked_fill(~mask[:, None], -1e9).softmax(-1) * mask[:, None]
    return layer.output(torch.einsum("bhl,blhd->bhd", weights, v).flatten(1))


def naive_pooling(model: CrossAttention | DinSenet, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
    assert model.pooling is not None
    wide = target[:, None].expand_as(history)
    hidden = model.pooling.first(torch.cat([wide, history, wide - history, wide * history], -1)).relu()
    return ((model.pooling.rest(hidden) * mask[..., None]) * history).sum(1)


def rms(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight


@pytest.mark.parametrize("means", [False, True])
def test_cross_attention_is_a_padded_transformer_with_the_mask_right(means: bool) -> None:
    model, split = randomised(CONFIGS[2].model_copy(update={"pooled": means}))
    assert isinstance(model, CrossAttention)
    batch = whole(split)
    vectors = model.encoder(batch.items)
    target, (history, mask) = vectors[batch.target], padded(vectors, batch)
    state = target
    for layer in model.layers:
        assert isinstance(layer, CrossAttentionLayer)
        state = rms(state + naive_attention(layer.attention, state, history, mask), layer.norm)
        state = rms(state + layer.feed_forward(state), layer.norm)
    side, similarity = model.encoder.side(batch), model.encoder.dense(batch)
    pooled = naive_pooling(model, target, history, mask)
    mean = (history * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    extra = [mean, mean * target] if means else []
    expected = model.head(torch.cat([side, similarity, target, state, pooled, *extra], 1)).squeeze(1)
    torch.testing.assert_close(model(batch), expected, atol=1e-5, rtol=1e-5)
    first = model.layers[0]
    assert isinstance(first, CrossAttentionLayer)
    flipped = naive_attention(first.attention, target, history, ~mask)
    right = naive_attention(first.attention, target, history, mask)
    assert (flipped - right).abs().max() > 0.1  # the comparison would see an inverted mask


def test_cross_attention_takes_heads_that_do_not_divide_the_item_vector() -> None:
    config = CrossAttentionConfig(type="cross_attention", heads=3, din_units=[], hidden_units=[8])
    model, split = randomised(config, FeatureConfig(dim=4))
    assert model.encoder.dim % 3
    assert torch.isfinite(model(whole(split))).all()


def test_din_dcn_is_attention_then_cross_then_mlp() -> None:
    model, split = randomised(CONFIGS[0])
    assert isinstance(model, DinDcn)
    batch = whole(split)
    vectors = model.encoder(batch.items)
    target, (history, mask) = vectors[batch.target], padded(vectors, batch)
    interest = naive_attention(model.attention, target, history, mask)
    x0 = torch.cat([model.encoder.side(batch), model.encoder.dense(batch), target, interest], 1)
    torch.testing.assert_close(model(batch), model.head(model.cross(x0)).squeeze(1), atol=1e-5, rtol=1e-5)


def test_din_senet_weighs_the_parts_of_item_vectors() -> None:
    model, split = randomised(CONFIGS[1])
    assert isinstance(model, DinSenet)
    assert item_fields(model.encoder) == [4, 4, 8, 4, 4]
    batch = whole(split)
    vectors = model.encoder(batch.items)
    target, (history, mask) = vectors[batch.target], padded(vectors, batch)
    pooled = naive_pooling(model, target, history, mask)
    attended = naive_attention(model.attention, target, history, mask)
    parts = list(model.encoder.side(batch).split(4, 1))
    for vector in (target, pooled, attended):
        parts += vector.split([4, 4, 8, 4, 4], 1)
    weights = 2 * model.senet.excitation(torch.stack([part.mean(1) for part in parts], 1))
    fields = [part * weights[:, i, None] for i, part in enumerate(parts)]
    expected = model.head(torch.cat([*fields, model.encoder.dense(batch)], 1)).squeeze(1)
    torch.testing.assert_close(model(batch), expected, atol=1e-4, rtol=1e-4)


def test_senet_by_hand() -> None:
    senet = Senet([1, 2], reduction=2)
    with torch.no_grad():
        for parameter in senet.parameters():
            parameter.zero_()
    x = torch.tensor([[3.0, 1.0, 5.0]])
    assert torch.equal(senet(x), x)  # 2 * sigmoid(0) = 1
    first, last = senet.excitation[0], senet.excitation[2]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[0.0, 1.0]]))  # the mean of the second field: 3
        last.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    up = 2 / (1 + math.exp(-3))
    torch.testing.assert_close(senet(x), torch.tensor([[3 * up, 2 - up, 5 * (2 - up)]]))

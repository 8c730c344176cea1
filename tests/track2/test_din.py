"""DIN against FuxiCTR's own layers, and its packed kernels against plain autograd."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.fuxictr_din import FuxiDin, padded_inputs
from track2_mmctr.batches import Batch, make_batch
from track2_mmctr.config import DinConfig, FeatureConfig
from track2_mmctr.datasets.tables import ItemTable, Split
from track2_mmctr.rankers import build_ranker
from track2_mmctr.rankers.din import Din, DinPooling
from track2_mmctr.rankers.din_unit import attention_weights
from track2_mmctr.rankers.packed import look_up, mean_pool, pool, spread, sum_rows

CONFIG = DinConfig(type="din", attention_units=[24, 12], hidden_units=[32, 16])


def tables(seed: int = 0, items: int = 40, rows: int = 30, longest: int = 9) -> tuple[ItemTable, Split]:
    rng = np.random.default_rng(seed)
    tags = rng.integers(0, 7, (items, 5)).astype(np.int32)
    tags[0] = 0
    embedding = rng.normal(size=(items, 8)).astype(np.float32)
    embedding[0] = 0
    levels = rng.integers(1, 11, (2, items)).astype(np.int32)
    lengths = rng.integers(0, longest + 1, rows)
    lengths[:2] = (0, longest)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    table = ItemTable(tags, levels[0], levels[1], embedding, None, 7, "x")
    split = Split(
        "train",
        users=np.arange(rows),
        history=rng.integers(1, items, offsets[-1]).astype(np.int32),
        offsets=offsets,
        target=rng.integers(1, items, rows).astype(np.int32),
        levels=rng.integers(1, 11, (rows, 2)).astype(np.int32),
        label=rng.integers(0, 2, rows).astype(np.float32),
        ids=None,
        digest="x",
    )
    return table, split


def batch_of(split: Split, max_len: int = 64) -> Batch:
    return make_batch(split, np.arange(len(split)), max_len)


def pair(items: ItemTable, config: DinConfig = CONFIG) -> tuple[FuxiDin, Din]:
    """FuxiCTR's model with random weights everywhere, and ours with the same."""
    torch.manual_seed(1)
    peer = FuxiDin(items, config, dim=6)
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.normal_(std=0.3)
        for table in peer.embedding_layer.embedding_layer.embedding_layers.values():
            if isinstance(table, torch.nn.Embedding):
                table.weight[0] = 0
        for layer in peer.dnn.mlp:
            if isinstance(layer, torch.nn.BatchNorm1d):
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2)
    ours = build_ranker(config, FeatureConfig(dim=6), items)
    assert isinstance(ours, Din)
    peer.copy_weights_to(ours)
    return peer, ours


@pytest.mark.parametrize("width", [9, 20])
def test_the_logits_are_those_of_fuxictr(width: int) -> None:
    items, split = tables()
    peer, ours = pair(items)
    batch = batch_of(split)
    with torch.no_grad():
        theirs = torch.logit(peer.eval()(padded_inputs(batch, items, width))["y_pred"].squeeze(1).double())
        mine = ours.eval()(batch).double()
    assert mine.std() > 0.1
    assert (theirs - mine).abs().max() < 1e-5


def test_parameters_are_as_many_as_in_the_organisers_model() -> None:
    """8,611,842, as their log states for the full tables; here 40 items and 7 tags instead."""
    items, _ = tables()
    full = DinConfig(type="din")
    ours = build_ranker(full, FeatureConfig(), items.with_embedding(np.zeros((40, 128), np.float32)))
    count = sum(parameter.numel() for parameter in ours.parameters())
    assert count + 64 * (91718 - 40 + 11740 - 7) == 8_611_842


def test_one_training_step_is_that_of_fuxictr() -> None:
    """Same weights after a step of SGD, that is the same gradient; without dropout, whose random numbers differ."""
    items, split = tables()
    config = CONFIG.model_copy(update={"attention_dropout": 0.0, "net_dropout": 0.0})
    peer, ours = pair(items, config)
    batch = batch_of(split)
    peer._embedding_regularizer = None
    peer.optimizer = torch.optim.SGD(peer.parameters(), 1.0)
    peer.train().train_step(padded_inputs(batch, items, 9))
    optimiser = torch.optim.SGD(ours.parameters(), 1.0)
    assert batch.label is not None
    functional.binary_cross_entropy_with_logits(ours.train()(batch), batch.label).backward()
    torch.nn.utils.clip_grad_norm_(ours.parameters(), 10)
    optimiser.step()
    expected = build_ranker(config, FeatureConfig(dim=6), items)
    peer.copy_weights_to(expected)  # pyright: ignore[reportArgumentType]
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], atol=2e-5, rtol=0, msg=name)


def naive_weights(pooling: DinPooling, target: Tensor, vectors: Tensor, batch: Batch) -> Tensor:
    t, h = target[batch.row_of], vectors[batch.history]
    hidden = pooling.first(torch.cat([t, h, t - h, t * h], dim=1)).relu()
    return pooling.rest(hidden).squeeze(1)


def test_the_attention_unit_and_its_gradients_are_those_of_plain_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("track2_mmctr.rankers.din_unit.CHUNK", 7)  # several chunks, the last one short
    _, split = tables()
    batch = batch_of(split)
    torch.manual_seed(0)
    pooling = DinPooling(8, [12, 10, 6], 0.0).double()
    vectors = torch.randn(len(batch.items), 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(len(batch.history), dtype=torch.float64)
    inputs = [vectors, *pooling.parameters()]
    results = []
    for run in (pooling.weights, lambda *a: naive_weights(pooling, *a)):
        out = run(vectors[batch.target], vectors, batch)
        results.append((out, torch.autograd.grad((out * weight).sum(), inputs)))
    torch.testing.assert_close(results[0], results[1])


def test_dropout_of_the_attention_unit_drops_its_share_and_keeps_the_mean() -> None:
    _, split = tables(rows=4000)
    batch = batch_of(split)
    rows, items = len(batch), len(batch.items)
    layers = [torch.zeros(1, 3), torch.ones(1, 1), torch.zeros(1)]

    def run(p: float) -> Tensor:  # one hidden unit of value 1 a token, passed on as it is
        zeros = torch.zeros(rows, 3), torch.zeros(items, 3)
        return attention_weights(*zeros, torch.ones(rows, 1), torch.zeros(items, 1), layers, batch, p)

    torch.manual_seed(3)
    first, second = run(0.25), run(0.25)
    torch.manual_seed(3)
    assert torch.equal(first, run(0.25)), "the bits follow torch's seed"
    assert not torch.equal(first, second)
    assert first.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (first == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(run(0.0), torch.ones(len(batch.history)))


@pytest.mark.parametrize("name", ["look_up", "spread", "sum_rows", "pool", "mean_pool"])
def test_gathers_and_sums_and_their_gradients(name: str) -> None:
    _, split = tables(rows=12, longest=4)
    batch = batch_of(split)
    torch.manual_seed(0)
    tokens, rows, items = len(batch.history), len(batch), len(batch.items)
    weights = torch.randn(tokens, dtype=torch.float64, requires_grad=True)
    one_hot = torch.zeros(rows, tokens, dtype=torch.float64)
    one_hot[batch.row_of, torch.arange(tokens)] = 1
    lengths = one_hot.sum(1, keepdim=True).clamp(min=1)
    ours, plain, size = {
        "look_up": (lambda x: look_up(x, batch), lambda x: x[batch.history], items),
        "spread": (lambda x: spread(x, batch), lambda x: x[batch.row_of], rows),
        "sum_rows": (lambda x: sum_rows(x, batch), lambda x: one_hot @ x, tokens),
        "pool": (
            lambda x: pool(x, batch, weights),
            lambda x: one_hot @ (x[batch.history] * weights[:, None]),
            items,
        ),
        "mean_pool": (lambda x: mean_pool(x, batch), lambda x: one_hot @ x[batch.history] / lengths, items),
    }[name]
    value = torch.randn(size, 3, dtype=torch.float64, requires_grad=True)
    inputs = [value, weights] if name == "pool" else [value]
    got, want = ours(value), plain(value)
    torch.testing.assert_close(got, want)
    grad = torch.randn_like(got)
    torch.testing.assert_close(torch.autograd.grad(got, inputs, grad), torch.autograd.grad(want, inputs, grad))


def test_a_row_does_not_depend_on_its_batch() -> None:
    items, split = tables()
    _, ours = pair(items)
    ours.eval()
    with torch.no_grad():
        whole = batch_of(split)
        together = ours(whole)
        for place in (0, 7, 29):
            row = int(whole.rows[place])
            alone = ours(make_batch(split, np.asarray([row]), 64))
            torch.testing.assert_close(alone[0], together[place], atol=1e-5, rtol=1e-5)


def test_bfloat16_products_stay_close_and_train() -> None:
    items, split = tables(rows=200)
    _, ours = pair(items)
    batch = batch_of(split)
    assert batch.label is not None
    plain = ours.eval()(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = ours(batch).float()
    error = (plain - rounded).abs()
    assert 0 < error.max() < 0.05 * plain.std()
    grads = []
    for enabled in (False, True):
        ours.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            logits = ours(batch).float()
        functional.binary_cross_entropy_with_logits(logits, batch.label).backward()
        grads.append({name: parameter.grad.flatten() for name, parameter in ours.named_parameters()})  # pyright: ignore[reportOptionalMemberAccess]
    for name, grad in grads[0].items():
        assert functional.cosine_similarity(grad, grads[1][name], dim=0) > 0.95, name

"""Attention within rows and dropout: values and gradients against plain torch."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.track2.test_din import batch_of, tables
from track2_mmctr.batches import Batch
from track2_mmctr.rankers.attend import attend, attend_rows
from track2_mmctr.rankers.dropout import Dropout
from track2_mmctr.rankers.layers import TargetAttention
from track2_mmctr.training.setup import large


@pytest.fixture(scope="module")
def batch() -> Batch:
    return batch_of(tables(rows=9, longest=4)[1])


def doubles(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def by_row(batch: Batch) -> list[slice]:
    bounds = batch.offsets.tolist()
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def test_tokens_attend_to_their_own_row(batch: Batch) -> None:
    torch.manual_seed(0)
    tokens = len(batch.history)
    inputs = doubles(tokens, 2, 3), doubles(tokens, 2, 3), doubles(tokens, 2, 5)
    made = attend(*inputs, batch.blocks, 0.7, 0.0)
    for part in by_row(batch):
        q, k, v = (x[part].transpose(0, 1) for x in inputs)
        want = functional.scaled_dot_product_attention(q[None], k[None], v[None], scale=0.7)[0].transpose(0, 1)
        torch.testing.assert_close(made[part], want)


def test_rows_attend_to_their_own_tokens_and_an_empty_row_gets_zeros(batch: Batch) -> None:
    torch.manual_seed(0)
    query, tokens = doubles(len(batch), 2, 3), doubles(len(batch.history), 3)
    made = attend_rows(query, tokens, batch.blocks, 0.7, 0.0)
    empty = 0
    for row, part in enumerate(by_row(batch)):
        weights = (query[row] @ tokens[part].T * 0.7).softmax(1)
        torch.testing.assert_close(made[row], weights @ tokens[part])
        empty += part.start == part.stop
    assert empty and not made[0].any()


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradients_are_those_of_finite_differences(batch: Batch, dropout: float) -> None:
    torch.manual_seed(0)
    tokens, rows = len(batch.history), len(batch)

    def seeded(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:  # the same units are dropped each time
        torch.manual_seed(5)
        return function(*inputs, batch.blocks, 0.7, dropout)

    three = doubles(tokens, 1, 3), doubles(tokens, 1, 3), doubles(tokens, 1, 2)
    assert torch.autograd.gradcheck(lambda *x: seeded(attend, *x), three, fast_mode=True)
    two = doubles(rows, 2, 3), doubles(tokens, 3)
    assert torch.autograd.gradcheck(lambda *x: seeded(attend_rows, *x), two, fast_mode=True)


def test_maps_moved_to_the_rows_are_those_of_the_items(batch: Batch) -> None:
    torch.manual_seed(0)
    attention = TargetAttention(6, 8, 2).double()
    target, vectors = doubles(len(batch), 6), doubles(len(batch.items), 6)
    inputs = [target, vectors, *attention.parameters()]
    results = []
    for moved in (True, False):
        attention.moved = moved
        out = attention(target, vectors, batch)
        results.append((out, torch.autograd.grad(out.square().sum(), inputs)))
    torch.testing.assert_close(results[0], results[1])


def test_attention_in_bfloat16_stays_close(batch: Batch) -> None:
    torch.manual_seed(0)
    query, tokens = (x.detach().float() for x in (doubles(len(batch), 2, 3), doubles(len(batch.history), 3)))
    plain = attend_rows(query, tokens, batch.blocks, 0.7, 0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = attend_rows(query, tokens, batch.blocks, 0.7, 0.0)
    assert rounded.dtype == torch.bfloat16
    assert 0 < (plain - rounded.float()).abs().max() < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dropout_drops_its_share_scales_the_rest_and_passes_the_gradient_of_what_it_kept(dtype: torch.dtype) -> None:
    layer, x = Dropout(0.25), torch.ones(200, 301, dtype=dtype, requires_grad=True)
    torch.manual_seed(1)
    out = layer(x)
    assert sorted(out.detach().double().unique().tolist()) == pytest.approx([0, 4 / 3], rel=0.01)
    assert (out == 0).double().mean().item() == pytest.approx(0.25, abs=0.01)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(grad, out)
    again = layer(x)
    assert not torch.equal(out, again)
    torch.manual_seed(1)
    assert torch.equal(out, layer(x)), "the bits follow torch's seed"
    assert layer.eval()(x) is x


def test_dropout_drops_each_column_and_row_alike() -> None:
    torch.manual_seed(2)
    kept = (Dropout(0.5)(torch.ones(400, 400)) > 0).double().numpy()
    for axis in (0, 1):
        assert np.abs(kept.mean(axis) - 0.5).max() < 5 * 0.5 / 20
    assert abs(np.corrcoef(kept[:, :-1].ravel(), kept[:, 1:].ravel())[0, 1]) < 0.02


def test_steps_are_large_by_their_weights_and_rows_and_tables_do_not_count() -> None:
    layer, table = torch.nn.Linear(512, 512), torch.nn.Embedding(100_000, 64)
    assert large(layer, 2048) and not large(layer, 64)
    assert not large(torch.nn.Sequential(table, torch.nn.Linear(8, 8)), 2048)

"""DIN's attention unit over packed tokens, as one differentiable function.

Each token's hidden layer is computed in chunks that stay in the processor's cache, in place; the backward pass
reads ReLU and dropout off the kept activations (a unit that is not positive passes no gradient either way).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from track2_mmctr.batches import Batch
from track2_mmctr.rankers.dropout import Dropper
from track2_mmctr.rankers.packed import row_sums, token_sums

CHUNK = 4096
"""Tokens at a time: 4096 x 512 float32 are 8 MB. One size for nearly all, because oneDNN makes a kernel for each."""


def attention_weights(
    target: Tensor, vectors: Tensor, by_row: Tensor, by_item: Tensor, layers: Sequence[Tensor], batch: Batch, p: float
) -> Tensor:
    """Return one weight a token, [T]: MLP(by_row + by_item + W (t ⊙ h)), with ReLU and dropout `p` between layers.

    Parameters
    ----------
    target, by_row
        [B, D] and [B, H]: the target's vector, and its part of the first layer (bias included).
    vectors, by_item
        [U, D] and [U, H]: the items' vectors, and their part of the first layer.
    layers
        W [H, D], then weight and bias of each further layer; the last has one unit.
    """
    device = vectors.device.type
    if not torch.is_autocast_enabled(device):
        return _Unit.apply(target, vectors, by_row, by_item, batch, p, *layers)
    inputs = [value.to(torch.get_autocast_dtype(device)) for value in (target, vectors, by_row, by_item, *layers)]
    with torch.autocast(device, enabled=False):  # in one type throughout: the operations in place need that
        return _Unit.apply(*inputs[:4], batch, p, *inputs[4:]).to(vectors.dtype)


def _chunks(tokens: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, tokens)) for start in range(0, tokens, CHUNK)]


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        target: Tensor,
        vectors: Tensor,
        by_row: Tensor,
        by_item: Tensor,
        batch: Batch,
        p: float,
        *layers: Tensor,
    ) -> Tensor:
        keep, drop = any(ctx.needs_input_grad), Dropper(p)
        first, *scaled = (layers[0], *(weight * drop.scale for weight in layers[1::2]))  # scaled where it is read
        tokens = len(batch.history)
        size = tokens if keep else min(CHUNK, tokens)
        kept = [by_row.new_empty(size, width) for width in (len(first), *map(len, layers[2:-1:2]))]
        weights = by_row.new_empty(tokens)
        for part in _chunks(tokens):
            rows, items = batch.row_of[part], batch.history[part]
            space = part if keep else slice(0, len(rows))
            product = vectors.index_select(0, items).mul_(target.index_select(0, rows))
            hidden = torch.index_select(by_row, 0, rows, out=kept[0][space]).add_(by_item.index_select(0, items))
            drop(hidden.addmm_(product, first.t()).relu_())
            for weight, bias, above in zip(scaled[:-1], layers[2:-1:2], kept[1:], strict=True):
                hidden = torch.addmm(bias, hidden, weight.t(), out=above[space]).relu_()
                drop(hidden)
            torch.addmv(layers[-1], hidden, scaled[-1].squeeze(0), out=weights[part])
        ctx.batch, ctx.scale = batch, drop.scale
        ctx.save_for_backward(target, vectors, first, *scaled, *kept)
        return weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        batch: Batch = ctx.batch
        target, vectors, first, *rest = ctx.saved_tensors
        depth = len(rest) // 2  # a weight and an activation for each layer but the first
        scaled, kept = rest[:depth], rest[depth:]
        grad = grads[0].contiguous()
        of_first, of_product = torch.empty_like(kept[0]), first.new_empty(len(grad), first.shape[1])
        of_history = torch.empty_like(of_product)
        of_weights = [_zeros(weight, *weight.shape) for weight in (first, *scaled)]
        of_biases = [_zeros(weight, len(weight)) for weight in scaled]
        for part in _chunks(len(grad)):
            up = grad[part].unsqueeze(1)
            for level in reversed(range(depth)):
                below = kept[level][part]
                _add_product(of_weights[1 + level], up.t(), below)
                of_biases[level].add_(up.sum(0))
                down = torch.mm(up, scaled[level], out=None if level else of_first[part])
                up = torch.ops.aten.threshold_backward.grad_input(down, below, 0, grad_input=down)
            history = vectors.index_select(0, batch.history[part])
            targets = target.index_select(0, batch.row_of[part])
            _add_product(of_weights[0], up.t(), history * targets)
            product = torch.mm(up, first, out=of_product[part])
            torch.mul(product, history, out=of_history[part])
            product.mul_(targets)
        of_weights[1:] = [weight.mul_(ctx.scale) for weight in of_weights[1:]]
        of_layers = [of_weights[0]]
        for weight, bias in zip(of_weights[1:], of_biases, strict=True):
            of_layers += [weight, bias]
        of_target, of_vectors = row_sums(of_history, batch), token_sums(of_product, batch)
        return of_target, of_vectors, row_sums(of_first, batch), token_sums(of_first, batch), None, None, *of_layers


def _zeros(like: Tensor, *shape: int) -> Tensor:
    """Return zeros to sum in, in float32 at least."""
    return like.new_zeros(shape, dtype=torch.promote_types(like.dtype, torch.float32))


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to `total`, whose type may be wider."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total.add_(a @ b)

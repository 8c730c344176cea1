"""DIN's attention unit over packed tokens, as one differentiable function.

Each token's hidden layer is computed in chunks that stay in the processor's cache, in place; the backward pass
reads ReLU and dropout off the kept activations (a unit that is not positive passes no gradient either way).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from track2_mmctr.batches import Batch
from track2_mmctr.rankers.packed import row_sums, token_sums

CHUNK = 4096
"""Tokens at a time: 4096 x 512 float32 are 8 MB."""


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


def _chunks(tokens: int) -> Iterator[slice]:
    return (slice(start, min(start + CHUNK, tokens)) for start in range(0, tokens, CHUNK))


class _Dropout:
    """Dropout in place; its bits come from a generator that one draw of torch's seeds, so that resuming works."""

    def __init__(self, p: float) -> None:
        self.scale = 1 / (1 - p)
        self._limit = round(p * 65536)
        if p:
            seed = int(torch.randint(2**62, ()))
            self._bits = np.random.Generator(np.random.SFC64(seed))

    def __call__(self, values: Tensor) -> Tensor:
        """Set a share `p` of positive values to zero and scale the rest."""
        if not self._limit:
            return values
        if values.device.type == "cpu":
            bits = self._bits.integers(0, 65536, size=tuple(values.shape), dtype=np.uint16)
            drop = torch.from_numpy(bits < self._limit)
        else:
            drop = torch.rand(values.shape, device=values.device) < self._limit / 65536
        return values.masked_fill_(drop, 0).mul_(self.scale)


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
        tokens = len(batch.history)
        keep = any(ctx.needs_input_grad)
        dropout = _Dropout(p)
        widths = [layers[0].shape[0], *(bias.shape[0] for bias in layers[2:-1:2])]
        kept = [by_row.new_empty(tokens if keep else 0, width) for width in widths]
        weights = by_row.new_empty(tokens)
        for part in _chunks(tokens):
            rows, items = batch.row_of[part], batch.history[part]
            product = vectors.index_select(0, items).mul_(target.index_select(0, rows))
            hidden = by_row.index_select(0, rows).add_(by_item.index_select(0, items))
            hidden = dropout(hidden.addmm_(product, layers[0].t()).relu_())
            for depth, (weight, bias) in enumerate(zip(layers[1:-2:2], layers[2:-1:2], strict=True)):
                if keep:
                    kept[depth][part] = hidden
                hidden = dropout(torch.addmm(bias, hidden, weight.t()).relu_())
            if keep:
                kept[-1][part] = hidden
            weights[part] = torch.addmv(layers[-1], hidden, layers[-2].squeeze(0))
        ctx.batch, ctx.scale = batch, dropout.scale
        ctx.save_for_backward(target, vectors, *layers, *kept)
        return weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        batch: Batch = ctx.batch
        depth = (len(ctx.saved_tensors) - 1) // 3  # target, vectors, W, (weight, bias) and activations of each layer
        target, vectors, *rest = ctx.saved_tensors
        layers, kept = rest[: 1 + 2 * depth], rest[1 + 2 * depth :]
        grad = grads[0].contiguous()
        of_layers = [torch.zeros_like(layer, dtype=torch.promote_types(layer.dtype, torch.float32)) for layer in layers]
        of_first = torch.empty_like(kept[0])
        of_product = kept[0].new_empty(len(grad), layers[0].shape[1])
        for part in _chunks(len(grad)):
            up = grad[part].unsqueeze(1)
            for level in reversed(range(depth)):
                weight, below = layers[1 + 2 * level], kept[level][part]
                of_layers[1 + 2 * level].add_(up.t() @ below)
                of_layers[2 + 2 * level].add_(up.sum(0))
                up = _through_relu(up @ weight, below, ctx.scale)
            of_first[part] = up
            product = vectors.index_select(0, batch.history[part]).mul_(target.index_select(0, batch.row_of[part]))
            of_layers[0].add_(up.t() @ product)
            torch.mm(up, layers[0], out=of_product[part])
        of_target, of_vectors = _product_grads(of_product, target, vectors, batch)
        return of_target, of_vectors, row_sums(of_first, batch), token_sums(of_first, batch), None, None, *of_layers


def _through_relu(grad: Tensor, value: Tensor, scale: float) -> Tensor:
    """Return the gradient below ReLU and dropout, of which `value` is the outcome."""
    grad = torch.ops.aten.threshold_backward(grad, value, 0)
    return grad.mul_(scale) if scale != 1 else grad


def _product_grads(grad: Tensor, target: Tensor, vectors: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the gradients of targets [B, D] and item vectors [U, D] from that of t ⊙ h, [T, D] (overwritten)."""
    by_target = torch.empty_like(grad)
    for part in _chunks(len(grad)):
        torch.mul(grad[part], vectors.index_select(0, batch.history[part]), out=by_target[part])
        grad[part].mul_(target.index_select(0, batch.row_of[part]))
    return row_sums(by_target, batch), token_sums(grad, batch)

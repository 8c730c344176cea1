"""Gathers and sums over packed histories whose backward passes are as cheap as their forward ones.

torch's own backward of an index sorts, or adds row by row; here a gradient is summed with `embedding_bag`, along
an order of the tokens that the batch holds ready.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from track2_mmctr.batches import Batch


def look_up(vectors: Tensor, batch: Batch) -> Tensor:
    """Return the item vectors [U, ...] of the history tokens, [T, ...]."""
    flat = _LookUp.apply(vectors.flatten(1), batch)
    return flat.view(-1, *vectors.shape[1:])


def spread(rows: Tensor, batch: Batch) -> Tensor:
    """Return row vectors [B, ...] repeated for each of the row's tokens, [T, ...]."""
    flat = _Spread.apply(rows.flatten(1), batch)
    return flat.view(-1, *rows.shape[1:])


def sum_rows(tokens: Tensor, batch: Batch) -> Tensor:
    """Return the sum of each row's tokens [T, D], float [B, D]; zeros for an empty history."""
    return _SumRows.apply(tokens, batch)


def pool(vectors: Tensor, batch: Batch, weights: Tensor | None = None) -> Tensor:
    """Return each row's sum of history vectors, times `weights` [T] where they are given: [B, D].

    Takes item vectors [U, D]: the history is looked up while it is summed, and never laid out. An empty history
    gives zeros.
    """
    if weights is None:
        weights = torch.ones(len(batch.history), dtype=vectors.dtype, device=vectors.device)
    return _Pool.apply(vectors, weights, batch)


def mean_pool(vectors: Tensor, batch: Batch) -> Tensor:
    """Return each row's mean of history vectors [U, D]: [B, D], zeros for an empty history."""
    return pool(vectors, batch) / batch.lengths.clamp(min=1).unsqueeze(1)


def token_sums(tokens: Tensor, batch: Batch) -> Tensor:
    """Return the sum of tokens [T, D] for each different item, [U, D] (no gradient)."""
    order, offsets = batch.by_item
    return functional.embedding_bag(order, tokens, offsets, mode="sum")


def row_sums(tokens: Tensor, batch: Batch) -> Tensor:
    """Return the sum of tokens [T, D] for each row, [B, D] (no gradient)."""
    places = torch.arange(len(tokens), device=tokens.device)
    return functional.embedding_bag(places, tokens, batch.offsets[:-1], mode="sum")


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, batch: Batch) -> Tensor:
        ctx.batch = batch
        return vectors.index_select(0, batch.history)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return token_sums(grads[0].contiguous(), ctx.batch), None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, batch: Batch) -> Tensor:
        ctx.batch = batch
        return rows.index_select(0, batch.row_of)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return row_sums(grads[0].contiguous(), ctx.batch), None


class _SumRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, batch: Batch) -> Tensor:
        ctx.batch = batch
        return row_sums(tokens.contiguous(), batch)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].index_select(0, ctx.batch.row_of), None


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        ctx.batch = batch
        ctx.save_for_backward(vectors, weights)
        weights = weights.to(vectors.dtype).contiguous()
        return functional.embedding_bag(
            batch.history, vectors, batch.offsets[:-1], mode="sum", per_sample_weights=weights
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        vectors, weights = ctx.saved_tensors
        batch, grad = ctx.batch, grads[0].contiguous()
        of_vectors = of_weights = None
        if ctx.needs_input_grad[0]:
            order, offsets = batch.by_item
            scale = weights.to(grad.dtype)[order]
            of_vectors = functional.embedding_bag(
                batch.row_of[order], grad, offsets, mode="sum", per_sample_weights=scale
            ).to(vectors.dtype)
        if ctx.needs_input_grad[1]:
            of_weights = _dots(vectors, grad, batch).to(weights.dtype)
        return of_vectors, of_weights, None


def _dots(vectors: Tensor, rows: Tensor, batch: Batch, chunk: int = 4096) -> Tensor:
    """Return the product of each token's item vector with its row's vector, [T]."""
    made = torch.empty(len(batch.history), dtype=rows.dtype, device=rows.device)
    for start in range(0, len(made), chunk):
        part = slice(start, start + chunk)
        product = vectors.index_select(0, batch.history[part]).to(rows.dtype)
        made[part] = product.mul_(rows.index_select(0, batch.row_of[part])).sum(1)
    return made

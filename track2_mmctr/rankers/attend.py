"""Softmax attention within the rows of a packed batch, as differentiable functions: no padding, no mask.

Every block of rows is one exact rectangle. A block has a shape of its own, for which oneDNN would make a kernel: the
products are those of torch's BLAS.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common.products import plain_products
from track2_mmctr.batches import Block
from track2_mmctr.rankers.dropout import Dropper


def attend(query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Block], scale: float, dropout: float) -> Tensor:
    """Softmax attention of every token over the tokens of its own row, [T, heads, V].

    Query and key [T, heads, K], value [T, heads, V]. Dropout is that of the softmax weights.
    """
    return _apply(_Tokens, (query, key, value), blocks, scale, dropout)


def attend_rows(query: Tensor, tokens: Tensor, blocks: Sequence[Block], scale: float, dropout: float) -> Tensor:
    """Softmax attention of every row over its own tokens, which are keys and values at once: [B, heads, D].

    Query [B, heads, D], tokens [T, D]; zeros for a row without tokens.
    """
    return _apply(_Rows, (query, tokens), blocks, scale, dropout)


def _apply(function: Any, inputs: tuple[Tensor, ...], blocks: Sequence[Block], scale: float, dropout: float) -> Tensor:
    """Apply a function in one type throughout."""
    blocks, device = [block for block in blocks if block.length], inputs[0].device.type
    if not torch.is_autocast_enabled(device):
        return function.apply(*inputs, blocks, scale, dropout)
    lower = (x.to(torch.get_autocast_dtype(device)) for x in inputs)
    with torch.autocast(device, enabled=False):
        return function.apply(*lower, blocks, scale, dropout)


def _grid(tokens: Tensor, block: Block) -> Tensor:
    """Return a block's tokens [T, ...] as [rows, length, ...]."""
    part = tokens[block.first_token : block.first_token + block.rows * block.length]
    return part.view(block.rows, block.length, *part.shape[1:])


def _heads(tokens: Tensor, block: Block) -> Tensor:
    """Return a block's tokens [T, heads, size] as [rows, heads, length, size]."""
    return _grid(tokens, block).transpose(1, 2)


def _softmax(scores: Tensor, scale: float, drop: Dropper) -> tuple[Tensor, Tensor]:
    """Return softmax weights, and what dropout leaves of them."""
    weights = scores.mul_(scale).softmax(-1)
    return weights, drop(weights.clone()).mul_(drop.scale) if drop.p else weights


def _of_scores(grad: Tensor, weights: Tensor, dropped: Tensor, scale: float) -> Tensor:
    """Return the gradient of scores, from that of the dropped weights (overwritten)."""
    grad.mul_(dropped)
    return grad.sub_(weights * grad.sum(-1, keepdim=True)).mul_(scale)


class _Tokens(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Block], scale: float, dropout: float
    ) -> Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        made, drop = torch.empty_like(value), Dropper(dropout)
        kept: list[Tensor] = []
        with plain_products():
            for block in blocks:
                q, k, v = (_heads(x, block) for x in (query, key, value))
                weights, dropped = _softmax(q @ k.transpose(2, 3), scale, drop)
                _heads(made, block).copy_(dropped @ v)
                kept += [weights, dropped]
        ctx.blocks, ctx.scale = blocks, scale
        ctx.save_for_backward(query, key, value, *kept)
        return made

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        grad = grads[0].contiguous()
        of_query, of_key, of_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        with plain_products():
            for block, weights, dropped in zip(ctx.blocks, kept[::2], kept[1::2], strict=True):
                q, k, v, up = (_heads(x, block) for x in (query, key, value, grad))
                _heads(of_value, block).copy_(dropped.transpose(2, 3) @ up)
                scores = _of_scores(up @ v.transpose(2, 3), weights, dropped, ctx.scale)
                _heads(of_query, block).copy_(scores @ k)
                _heads(of_key, block).copy_(scores.transpose(2, 3) @ q)
        return of_query, of_key, of_value, None, None, None


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, query: Tensor, tokens: Tensor, blocks: Sequence[Block], scale: float, dropout: float
    ) -> Tensor:
        query, tokens = query.contiguous(), tokens.contiguous()
        made, drop = torch.zeros_like(query), Dropper(dropout)
        kept: list[Tensor] = []
        with plain_products():
            for block in blocks:
                rows, grid = slice(block.first_row, block.first_row + block.rows), _grid(tokens, block)
                weights, dropped = _softmax(query[rows] @ grid.transpose(1, 2), scale, drop)
                torch.matmul(dropped, grid, out=made[rows])
                kept += [weights, dropped]
        ctx.blocks, ctx.scale = blocks, scale
        ctx.save_for_backward(query, tokens, *kept)
        return made

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, tokens, *kept = ctx.saved_tensors
        grad = grads[0].contiguous()
        of_query, of_tokens = torch.zeros_like(query), torch.empty_like(tokens)
        with plain_products():
            for block, weights, dropped in zip(ctx.blocks, kept[::2], kept[1::2], strict=True):
                rows, grid = slice(block.first_row, block.first_row + block.rows), _grid(tokens, block)
                scores = _of_scores(grad[rows] @ grid.transpose(1, 2), weights, dropped, ctx.scale)
                torch.matmul(scores, grid, out=of_query[rows])
                both = torch.cat([dropped, scores], dim=1), torch.cat([grad[rows], query[rows]], dim=1)
                torch.matmul(both[0].transpose(1, 2), both[1], out=_grid(of_tokens, block))
        return of_query, of_tokens, None, None, None

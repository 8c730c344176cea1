"""Softmax attention within the rows of a packed batch, as one differentiable function: no padding, no mask."""

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

    Query and key [T, heads, K], value [T, heads, V]; one exact rectangle for each block, so no mask. Dropout is that
    of the softmax weights.
    """
    return _Attend.apply(query, key, value, blocks, scale, dropout)  # pyright: ignore[reportReturnType]


def _grid(tokens: Tensor, block: Block) -> Tensor:
    """Return a block's tokens as [rows, heads, length, size]."""
    part = tokens[block.first_token : block.first_token + block.rows * block.length]
    return part.view(block.rows, block.length, *part.shape[1:]).transpose(1, 2)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Block], scale: float, dropout: float
    ) -> Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        made, drop = torch.empty_like(value), Dropper(dropout)
        kept: list[Tensor] = []
        with plain_products():  # each block has a shape of its own, and oneDNN would make a kernel for each
            for block in blocks:
                q, k, v = (_grid(x, block) for x in (query, key, value))
                weights = (q @ k.transpose(2, 3)).mul_(scale).softmax(3)
                dropped = weights
                if dropout:
                    dropped = drop(weights.clone()).mul_(drop.scale)
                _grid(made, block).copy_(dropped @ v)
                kept += [weights, dropped]
        ctx.blocks, ctx.scale, ctx.drop = blocks, scale, drop.scale
        ctx.save_for_backward(query, key, value, *kept)
        return made

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        grad = grads[0].contiguous()
        of_query, of_key, of_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        with plain_products():
            for block, weights, dropped in zip(ctx.blocks, kept[::2], kept[1::2], strict=True):
                q, k, v, up = (_grid(x, block) for x in (query, key, value, grad))
                _grid(of_value, block).copy_(dropped.transpose(2, 3) @ up)
                # below dropout: what was kept passes its gradient scaled, and weights * that = dropped * gradient
                below = up @ v.transpose(2, 3)
                shared = (dropped * below).sum(3, keepdim=True)
                scores = (dropped * below).sub_(weights * shared).mul_(ctx.scale)
                _grid(of_query, block).copy_(scores @ k)
                _grid(of_key, block).copy_(scores.transpose(2, 3) @ q)
        return of_query, of_key, of_value, None, None, None

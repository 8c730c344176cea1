"""Losses: binary cross-entropy, and a pairwise loss over every (positive, negative) pair of a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from track2_mmctr.config import LossConfig

PAIRS = 1 << 22
"""Pairs that are laid out at a time (16 MiB in float32)."""


def ctr_loss(logits: Tensor, label: Tensor, config: LossConfig) -> Tensor:
    """Return (1 - w) · cross-entropy + w · pairwise, a scalar; w is `config.pairwise`.

    Parameters
    ----------
    logits, label
        Float32 [B]; labels are 0 and 1. The cross-entropy is the mean over rows, positives times
        `config.positive_weight`.
    """
    w, loss = config.pairwise, logits.new_zeros(())
    if w < 1:
        weight = logits.new_tensor(config.positive_weight)
        loss = loss + (1 - w) * functional.binary_cross_entropy_with_logits(logits, label, pos_weight=weight)
    if w > 0:
        loss = loss + w * pairwise_loss(logits, label)
    return loss


def pairwise_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Return the mean of softplus(s_negative - s_positive) over all pairs of a batch, exactly; 0 without a pair.

    A smooth upper bound of (1 - AUC) · log 2 (Rendle et al., BPR, UAI 2009, over all pairs instead of samples).
    """
    positive = label > 0.5
    return _Pairwise.apply(logits[positive], logits[~positive], PAIRS)  # pyright: ignore[reportReturnType]


class _Pairwise(torch.autograd.Function):
    """Value and gradient in one pass over chunks of pairs: the matrix [P, N] is never held as a whole."""

    @staticmethod
    def forward(ctx: Any, positive: Tensor, negative: Tensor, pairs: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        count = max(1, len(positive) * len(negative))
        total = positive.new_zeros(())
        of_positive, of_negative = torch.zeros_like(positive), torch.zeros_like(negative)
        rows = max(1, pairs // max(1, len(negative)))
        for start in range(0, len(positive) if len(negative) else 0, rows):
            part = slice(start, start + rows)
            margin = negative[None, :] - positive[part, None]
            total += functional.softplus(margin).sum() / count
            slope = margin.sigmoid()
            of_positive[part] = slope.sum(1) / -count
            of_negative += slope.sum(0) / count
        ctx.save_for_backward(of_positive, of_negative)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        of_positive, of_negative = ctx.saved_tensors
        return grad * of_positive, grad * of_negative, None

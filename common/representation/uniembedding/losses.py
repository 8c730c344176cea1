"""InfoNCE over in-batch candidates, and cosines of items seen through a user's view."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from common.representation.uniembedding.adapter import EPS


def see(items: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return a user's view LN(e * scale + shift), float [..., d], of items [..., d]."""
    return F.layer_norm(items * scale + shift, items.shape[-1:], eps=EPS)


def view_cosines(anchors: Tensor, candidates: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return float [B, C]: the cosine of each anchor and each candidate, both seen by the anchor's user.

    Candidates must be seen by the same user as the anchor: a view of their own users would give those away, and
    telling users apart is not what is to be learnt. The C views of B users are never made: their dot products and
    variances are sums of products, so four matrix products of [B, d] and [d, C] do.

    Parameters
    ----------
    anchors
        float [B, d].
    candidates
        float [C, d].
    scale, shift
        float [B, d], the view of each anchor's user.
    """
    dim, other = anchors.shape[1], candidates.T
    seen = see(anchors, scale, shift)  # its rows have mean 0: the candidates' means drop out of the dot products
    dots = (seen * scale) @ other + (seen * shift).sum(1, keepdim=True)
    means = (scale @ other + shift.sum(1, keepdim=True)) / dim
    squares = (scale**2 @ other**2 + 2 * (scale * shift) @ other + (shift**2).sum(1, keepdim=True)) / dim
    return dots / dim * (squares - means**2).clamp_min(0).add(EPS).rsqrt()


def cosines(anchors: Tensor, candidates: Tensor) -> Tensor:
    """Return float [B, C], the cosines of anchors [B, d] and candidates [C, d]."""
    return F.normalize(anchors, dim=1) @ F.normalize(candidates, dim=1).T


def info_nce(similar: Tensor, counted: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """Return the mean over valid rows r of -log softmax_c(similar[r] / temperature)[r] over the counted columns.

    Parameters
    ----------
    similar
        float [B, B]; the positive of row r is column r.
    counted
        bool [B, B]; the diagonal is True where `valid`, other columns are True where they are negatives.
    valid
        bool [B]: which rows have a positive. None: the loss is 0.
    """
    own = torch.eye(len(valid), dtype=torch.bool, device=valid.device)
    logits = (similar / temperature).masked_fill(~(counted | own), float("-inf"))
    each = logits.logsumexp(1) - logits.diagonal()
    return (each * valid).sum() / valid.sum().clamp_min(1)

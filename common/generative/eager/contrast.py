"""EAGER's global contrastive task: a decoder's [SUM] against the item's pre-trained vector, among items drawn.

InfoNCE (van den Oord et al. 2018) of cosines over a temperature; the vectors are not trained.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class GlobalContrast(nn.Module):
    """The projection of a stream's summary states to the space of its items' pre-trained vectors.

    Parameters
    ----------
    dim, width
        D of states and of vectors.
    temperature
        What cosines are divided by.
    negatives
        Items drawn for a batch.
    """

    def __init__(self, dim: int, width: int, temperature: float, negatives: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, width, bias=False)
        self.temperature, self.negatives = temperature, negatives

    def loss(self, states: Tensor, items: Tensor, vectors: Tensor) -> Tensor:
        """Return the mean InfoNCE of summary states [n, D] of items [n], over pre-trained unit vectors [N, width].

        The items drawn are the same for the whole batch; an item that is drawn is no negative of itself.
        """
        drawn = torch.randperm(len(vectors))[: self.negatives].to(states.device)
        # cos(W g, e) |W g| = g . (W^T e): the vectors are brought to the states' few dimensions, not the other way.
        weight = self.project.weight
        own = (states * (vectors[items] @ weight)).sum(1)
        others = states @ (vectors[drawn] @ weight).T
        norms = functional.linear(states, weight).norm(dim=1).clamp(min=1e-6)
        scale = (norms * self.temperature).reciprocal()
        others = (others * scale[:, None]).masked_fill(drawn[None, :] == items[:, None], float("-inf"))
        both = torch.cat([(own * scale)[:, None], others], dim=1).float()
        return functional.cross_entropy(both, torch.zeros_like(items))

    def cosines(self, states: Tensor, vectors: Tensor) -> Tensor:
        """Return the cosine [n, N] of each summary state [n, D] with each vector [N, width]."""
        return functional.normalize(self.project(states), dim=1) @ functional.normalize(vectors, dim=1).T

"""CLUB, an upper bound on mutual information, with networks that learn in inner steps of their own.

Cheng et al., "CLUB: A Contrastive Log-ratio Upper Bound of Mutual Information", ICML 2020: with q(s|z) near p(s|z),
I(z; s) <= E_p(z,s) log q(s|z) - E_p(z) E_p(s) log q(s|z).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Club(nn.Module):
    """One Gaussian q(s|z) a modality, of mean and log-variance networks with one hidden layer each.

    The log-variance passes a tanh, as in CLUB's code. The weights, Adam's moments and the count of inner steps are
    buffers: the main optimiser does not see them, and whatever keeps the model's state keeps the whole of this
    training with it. So a resumed run ends with the bytes of one that was never interrupted.

    Parameters
    ----------
    modalities, dim, specific_dim, hidden
        M, width D of z, width S of s, and of the hidden layers.
    learning_rate
        Of Adam (Kingma & Ba, ICLR 2015; beta 0.9 and 0.999).
    """

    flat: Tensor
    first: Tensor
    second: Tensor
    steps: Tensor

    def __init__(self, modalities: int, dim: int, specific_dim: int, hidden: int, learning_rate: float) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        # Both networks of all modalities in one: hidden units of mean and log-variance side by side.
        self.shapes = (
            (modalities, dim, 2 * hidden),
            (modalities, 1, 2 * hidden),
            (2, modalities, hidden, specific_dim),
            (2, modalities, 1, specific_dim),
        )
        start = [
            (torch.rand(shape) * 2 - 1) / math.sqrt(fan)
            for shape, fan in zip(self.shapes, (dim, dim, hidden, hidden), strict=True)
        ]
        self.register_buffer("flat", torch.cat([part.flatten() for part in start]))
        self.register_buffer("first", torch.zeros_like(self.flat))
        self.register_buffer("second", torch.zeros_like(self.flat))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def log_density(self, weights: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance [M, B, S] of q(s|z) for z [M, B, D], by the flat `weights`."""
        sizes = [math.prod(shape) for shape in self.shapes]
        w1, b1, w2, b2 = (part.view(shape) for part, shape in zip(weights.split(sizes), self.shapes, strict=True))
        mean, spread = torch.relu(torch.baddbmm(b1, z, w1)).chunk(2, dim=2)
        return torch.baddbmm(b2[0], mean, w2[0]), torch.tanh(torch.baddbmm(b2[1], spread, w2[1]))

    def learn(self, z: Tensor, specific: Tensor, steps: int) -> None:
        """Take `steps` inner steps of maximum likelihood on detached z [M, B, D] and s [M, B, S]."""
        z, specific = z.detach(), specific.detach()
        for _ in range(steps):
            with torch.enable_grad():
                weights = self.flat.detach().requires_grad_()
                mean, log_variance = self.log_density(weights, z)
                loss = ((specific - mean).square() * torch.exp(-log_variance) + log_variance).sum(2).mean(1).sum()
                (gradient,) = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                self._adam(gradient)

    def bound(self, z: Tensor, specific: Tensor) -> Tensor:
        """Return the bound summed over modalities, with gradients to z [M, B, D] and s [M, B, S] only.

        Of all pairs of the batch: E_j (s_j - mu)^2 is (E s - mu)^2 + var s, so that B^2 pairs cost B.
        """
        mean, log_variance = self.log_density(self.flat.detach(), z)
        own = (specific - mean).square()
        centre = specific.mean(1, keepdim=True)
        others = (centre - mean).square() + (specific - centre).square().mean(1, keepdim=True)
        return (0.5 * (others - own) * torch.exp(-log_variance)).sum(2).mean(1).sum()

    def _adam(self, gradient: Tensor) -> None:
        self.steps += 1
        count = int(self.steps)
        self.first.mul_(0.9).add_(gradient, alpha=0.1)
        self.second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        scale = (self.second / (1 - 0.999**count)).sqrt_().add_(1e-8)
        self.flat.addcdiv_(self.first, scale, value=-self.learning_rate / (1 - 0.9**count))

"""The shared codebook: moving averages over paired modalities, and the reset of codes that nobody uses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.tokenizers.uni_code.config import Ema, Reset

_LEAST = 1e-5
"""A code whose running count is below this keeps its vector: the ratio of two vanishing numbers says nothing."""


class SharedCodebook(nn.Module):
    """K codes of width D for M modalities, moved by MM-EMA and not by gradients; everything is a buffer.

    MM-EMA [P]: with n^m_i vectors of modality m at code i and r^n what m attends to in n,

        N_i <- g N_i + (1 - g) sum_m n^m_i
        o_i <- g o_i + (1 - g) sum_m sum_{z^m at i} (z^m + sum_{n != m} r^n) / M,      e_i = o_i / N_i.

    For two modalities that is (z^a + r^b) / 2; the even mean over three is ours [I]. r^n = softmax(z^m z^n' / sqrt(D))
    z^n over the T steps of one sample: attention without weights, since no gradient would train any [I]. With T = 1
    it is z^n itself, and the paper's variant is the released one, which takes the vector of the same step [C].

    Parameters
    ----------
    codes, dim, modalities
        K, D, M.
    decay
        g.
    ema, reset
        See `UniCodeConfig`.
    reset_after, active_within
        Steps without use that make a code a case for reset; steps within which a used code is a source.
    """

    table: Tensor
    counts: Tensor
    sums: Tensor
    unused: Tensor
    ready: Tensor

    def __init__(
        self,
        codes: int,
        dim: int,
        modalities: int,
        *,
        decay: float,
        ema: Ema,
        reset: Reset,
        reset_after: int,
        active_within: int,
    ) -> None:
        super().__init__()
        self.decay, self.ema, self.reset = decay, ema, reset
        self.reset_after, self.active_within = reset_after, active_within
        self.register_buffer("table", torch.zeros(codes, dim))
        self.register_buffer("counts", torch.ones(codes))
        self.register_buffer("sums", torch.zeros(codes, dim))
        self.register_buffer("unused", torch.zeros(modalities, codes, dtype=torch.int64))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def distances(self, z: Tensor) -> Tensor:
        """Return squared distances [..., K] of z [..., D]."""
        return z.square().sum(-1, keepdim=True) - 2 * z @ self.table.T + self.table.square().sum(1)

    @torch.no_grad()
    def choose(self, z: Tensor) -> Tensor:
        """Return the nearest codes int64 [...] of z [..., D]."""
        return self.distances(z).argmin(-1)

    @torch.no_grad()
    def start(self, z: Tensor) -> None:
        """Set the codes to vectors drawn from the first batch z [M, B, T, D] of all modalities.

        With a little noise [I]. The paper starts from small random numbers, of which the reset then makes such vectors.
        """
        rows = z.flatten(0, 2)
        chosen = torch.randint(len(rows), (len(self.table),), device=z.device)
        self.table.copy_(rows[chosen] + 0.01 * torch.randn_like(self.table))
        self.sums.copy_(self.table)
        self.ready.fill_(True)

    @torch.no_grad()
    def after_step(self, z: Tensor, codes: Tensor) -> None:
        """Move the codes by a batch's z [M, B, T, D] and codes [M, B, T], then reset those long unused."""
        size, width = self.table.shape
        one_hot = nn.functional.one_hot(codes.flatten(), size).to(z.dtype)
        self.counts.mul_(self.decay).add_(one_hot.sum(0), alpha=1 - self.decay)
        self.sums.mul_(self.decay).add_(one_hot.T @ self.targets(z).reshape(-1, width), alpha=1 - self.decay)
        known = self.counts > _LEAST
        self.table[known] = self.sums[known] / self.counts[known, None]
        used = one_hot.view(len(z), -1, size).sum(1) > 0
        self.unused.add_(1).masked_fill_(used, 0)
        if self.reset != "none":
            self._reset()

    def targets(self, z: Tensor) -> Tensor:
        """Return what each vector of z [M, B, T, D] adds to its code's sum, of the same shape."""
        if self.ema == "none":
            return z
        if self.ema == "paired":
            return z.mean(0, keepdim=True).expand_as(z)
        weights = torch.einsum("mbtd,nbsd->mnbts", z, z).div_(z.shape[3] ** 0.5).softmax(-1)
        found = torch.einsum("mnbts,nbsd->mnbtd", weights, z)
        others = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
        return (z + (found * others[:, :, None, None, None]).sum(1)) / len(z)

    def _reset(self) -> None:
        """Move codes unused for `reset_after` steps onto a random code used of late, with noise of +-1/1024."""
        idle = self.unused.amin(0) if self.reset == "unused_by_all" else self.unused.amax(0)
        dead = (idle >= self.reset_after).nonzero().flatten()
        active = (idle < self.active_within).nonzero().flatten()
        if not len(dead) or not len(active):
            return
        source = active[torch.randint(len(active), (len(dead),), device=active.device)]
        noise = (torch.rand(len(dead), self.table.shape[1], device=active.device) * 2 - 1) / 1024
        self.table[dead] = self.table[source] + noise
        self.counts[dead] = 1.0
        self.sums[dead] = self.table[dead]
        self.unused[:, dead] = 0

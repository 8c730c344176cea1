"""The networks of UniEmbedding: a domain-aware adapter over modalities, and the user's view.

The paper's full text was not at hand: the equations are those of our own specification, after the abstract.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DOMAIN_DIM = 16
"""Width of a domain's embedding, which the gate reads."""
EPS = 1e-5


class ModalityAdapter(nn.Module):
    """A_{m,dom}(x) = LN(MLP(x) + up_dom(gelu(down_dom(x)))): a network for all domains, a low-rank part for each.

    The layer norm has no weights of its own: every modality comes out equally large, so that the gate alone says how
    much of it counts. `up` starts at 0: at first all domains share one adapter.

    Parameters
    ----------
    width, hidden, dim, rank
        Of the input, of the shared network, of the output, and of each domain's own part.
    domains
        Their number; 0 leaves out the domains' parts.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, hidden: int, dim: int, rank: int, domains: int) -> None:
        super().__init__()
        self.rank, self.domains = rank, domains
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(1))
        self.shared = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, dim))
        if domains:
            self.down = nn.Linear(width, domains * rank)
            self.up = nn.Linear(domains * rank, dim, bias=False)
            nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor, domain: Tensor) -> Tensor:
        """Return float [B, dim] of x [B, width] and domain int64 [B]."""
        x = (x - self.mean) / self.scale
        out = self.shared(x)
        if self.domains:  # all domains' parts side by side; those of other domains are set to 0
            parts = F.gelu(self.down(x)).unflatten(1, (self.domains, self.rank))
            own = F.one_hot(domain, self.domains).to(parts.dtype)
            out = out + self.up((parts * own[:, :, None]).flatten(1))
        return F.layer_norm(out, out.shape[1:], eps=EPS)


class DomainAdapter(nn.Module):
    """e = LN(sum_m alpha_m(dom) A_{m,dom}(x^m)), alpha a softmax over the modalities that the item has.

    Parameters
    ----------
    dims
        Width of each modality.
    domains
        Number of domains.
    domain_aware
        False: one adapter and one gate, whatever the domain.
    gate
        False: alpha is 1 / the number of modalities that the item has.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        domains: int,
        *,
        dim: int = 64,
        hidden: int = 128,
        rank: int = 8,
        domain_aware: bool = True,
        gate: bool = True,
    ) -> None:
        super().__init__()
        self.names, self.domain_aware = tuple(dims), domain_aware
        own = domains if domain_aware else 0
        self.adapters = nn.ModuleList(ModalityAdapter(width, hidden, dim, rank, own) for width in dims.values())
        self.domain = nn.Embedding(domains if domain_aware else 1, DOMAIN_DIM) if gate else None
        self.gate = nn.Linear(DOMAIN_DIM, len(dims)) if gate else None
        if self.gate is not None:  # all modalities count alike at first
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    def weights(self, present: Tensor, domain: Tensor) -> Tensor:
        """Return alpha float [B, M] of present bool [B, M] and domain int64 [B]: 0 where missing, rows sum to 1."""
        if self.gate is None or self.domain is None:
            logits = torch.zeros(present.shape, device=present.device)
        else:
            logits = self.gate(self.domain(domain if self.domain_aware else torch.zeros_like(domain)))
        return logits.masked_fill(~present, float("-inf")).softmax(1)

    def forward(self, vectors: Mapping[str, Tensor], present: Tensor, domain: Tensor) -> Tensor:
        """Return e float [B, dim]: mean 0 and variance 1 in each row, so that all have the norm sqrt(dim).

        Parameters
        ----------
        vectors
            Of each modality float [B, width]; any finite values where it is missing.
        present
            bool [B, M], modalities in the order of `dims`; at least one True in each row.
        domain
            int64 [B].
        """
        alpha = self.weights(present, domain)
        seen = [adapter(vectors[name], domain) for name, adapter in zip(self.names, self.adapters, strict=True)]
        mixed = (torch.stack(seen, 1) * alpha[:, :, None]).sum(1)
        return F.layer_norm(mixed, mixed.shape[1:], eps=EPS)


class UserView(nn.Module):
    """P_u: from the mean h of a user's item embeddings to a scale and a shift of each coordinate (FiLM).

    The view of an item is LN(e * scale + shift). The network reads h and h * h: a coordinate in which the items of a
    user agree has a large square, whatever its sign, and is one that a view can stress. The last layer starts at 0:
    at first every view is the item itself.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        last = nn.Linear(hidden, 2 * dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(2 * dim, hidden), nn.GELU(), last)

    def forward(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale (1 + g_u) and shift b_u, float [B, d] each, of the means of histories [B, d]."""
        gain, shift = self.layers(torch.cat([mean, mean * mean], 1)).chunk(2, 1)
        return 1 + gain, shift

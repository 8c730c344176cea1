"""Adapters of the language model: LoRA by modality in the bottom blocks, a mixture of adapters in the top blocks.

LoRA is written here and not taken from peft: peft switches adapters for a whole batch or for a row of it, and here
the tokens of one row differ: a patch of the image goes through the vision adapter, the word beside it through the
text adapter. The mixture of adapters with a router that knows the domain has no counterpart in peft.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

MODALITIES = ("text", "vision")


@dataclass
class Route:
    """What the adapters must know of the forward pass that is under way; one object, shared by all of them.

    Attributes
    ----------
    vision
        bool [B, S]: which tokens of the bottom blocks come from the image.
    domains
        int64 [B, S]: the domain of each item of the users in the top blocks.
    gates
        Where it is a list, each router appends its weights [B, S, E].
    """

    vision: Tensor | None = None
    domains: Tensor | None = None
    gates: list[Tensor] | None = field(default=None)


class ModalityLora(nn.Module):
    """A frozen linear map plus a low-rank one for each modality: y = W x + a/r B_m A_m x (Hu et al., ICLR 2022).

    m is the modality of the token. B is zero at first: then the output is that of W, bit for bit.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, route: Route) -> None:
        super().__init__()
        self.base, self.rank, self.scale, self.route = base, rank, alpha / rank, route
        count = len(MODALITIES)
        self.down = nn.Parameter(torch.randn(count * rank, base.in_features) * base.in_features**-0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, count * rank))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, S, D] to [B, S, D']."""
        assert self.route.vision is not None  # noqa: S101 - the model sets it before each pass
        own = torch.stack([~self.route.vision, self.route.vision], dim=-1)  # in the order of MODALITIES
        low = functional.linear(x, self.down) * own.repeat_interleave(self.rank, dim=-1)
        return self.base(x) + self.scale * functional.linear(low, self.up)


class Router(nn.Module):
    """pi = softmax(W_g [h ; emb(domain)]); without `domains` the state alone decides."""

    def __init__(self, dim: int, experts: int, domains: int, domain_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(domains, domain_dim) if domains else None
        self.gate = nn.Linear(dim + (domain_dim if domains else 0), experts, bias=False)

    def forward(self, h: Tensor, domains: Tensor | None) -> Tensor:
        """Return the weights of the experts, [B, S, E]: positive, and 1 in sum."""
        if self.embedding is not None:
            assert domains is not None  # noqa: S101 - the model sets it before each pass
            h = torch.cat([h, self.embedding(domains)], dim=-1)
        return self.gate(h).softmax(-1)


class MixtureOfAdapters(nn.Module):
    """sum_e pi_e A_e(h) with A_e = up_e gelu(down_e h): E bottleneck adapters, all computed at once.

    Without a router pi_e = 1, and the same weights are one adapter of E times the width: the ablation of equal size.
    `up` is zero at first, so that nothing is added.
    """

    def __init__(self, dim: int, experts: int, bottleneck: int, router: Router | None) -> None:
        super().__init__()
        self.bottleneck, self.router = bottleneck, router
        self.down = nn.Linear(dim, experts * bottleneck)
        self.up = nn.Linear(experts * bottleneck, dim, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, h: Tensor, route: Route) -> Tensor:
        """Map [B, S, D] to [B, S, D]."""
        inner = functional.gelu(self.down(h))
        if self.router is not None:
            gates = self.router(h, route.domains)
            if route.gates is not None:
                route.gates.append(gates.detach())
            inner = inner * gates.repeat_interleave(self.bottleneck, dim=-1)
        return self.up(inner)


class AdaptedOutput(nn.Module):
    """The end of a BERT block's feed-forward network, with a mixture of adapters beside it: LN(h + FFN(h) + MoA(h)).

    The block's own module computes LN(residual + dropout(W x)); the adapters' share goes in with the residual.
    """

    def __init__(self, base: nn.Module, adapters: MixtureOfAdapters, route: Route) -> None:
        super().__init__()
        self.base, self.adapters, self.route = base, adapters, route

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        """Map the inner state [B, S, F] and the residual [B, S, D] to [B, S, D]."""
        return self.base(hidden_states, input_tensor + self.adapters(input_tensor, self.route))

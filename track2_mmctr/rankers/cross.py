"""Cross networks of DCN-V2 (Wang et al., WWW 2021, arXiv 2008.13535): full matrix, low rank, mixture of experts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from track2_mmctr.rankers.layers import init_linear


class CrossNetV2(nn.Module):
    """x_{l+1} = x_l + x_0 ⊙ (W_l x_l + b_l), section 3.2 of the paper.

    Parameters
    ----------
    dim
        Size of x.
    layers
        Number of layers; 0 returns the input.
    rank
        W_l = U_l V_l with V_l [rank, dim] and U_l [dim, rank]; 0 = a full matrix.
    """

    def __init__(self, dim: int, layers: int, rank: int = 0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(rank or dim, dim) for _ in range(layers))
        self.inward = nn.ModuleList(nn.Linear(dim, rank, bias=False) for _ in range(layers if rank else 0))
        init_linear(self)

    def forward(self, x0: Tensor) -> Tensor:
        """Return [B, dim] of inputs [B, dim]."""
        x = x0
        for number, outward in enumerate(self.layers):
            low = self.inward[number](x) if self.inward else x
            x = torch.addcmul(x, x0, outward(low))
        return x


class CrossNetMix(nn.Module):
    """DCN-Mix, section 3.3 of the paper: a layer's low-rank map is a mixture of experts.

    x_{l+1} = x_l + Σ_e g_e(x_l) · x_0 ⊙ (U_e tanh(C_e tanh(V_e x_l)) + b_l), g = softmax of a linear gate that all
    layers share, as in FuxiCTR. The gates sum to one, so that the experts' U_e are applied in one product to
    the gated low-rank vectors, and nothing of size [B, experts, dim] is made.
    """

    def __init__(self, dim: int, layers: int, rank: int, experts: int) -> None:
        super().__init__()
        self.experts, self.rank = experts, rank
        self.gate = nn.Linear(dim, experts, bias=False)
        self.inward = nn.ParameterList(_matrices(experts, rank, dim) for _ in range(layers))
        self.middle = nn.ParameterList(_matrices(experts, rank, rank) for _ in range(layers))
        self.outward = nn.ParameterList(_matrices(experts, rank, dim) for _ in range(layers))
        self.bias = nn.ParameterList(torch.zeros(dim) for _ in range(layers))
        init_linear(self)

    def forward(self, x0: Tensor) -> Tensor:
        """Return [B, dim] of inputs [B, dim]."""
        x = x0
        for inward, middle, outward, bias in zip(self.inward, self.middle, self.outward, self.bias, strict=True):
            low = (x @ inward.flatten(0, 1).T).tanh().view(-1, self.experts, self.rank)
            low = torch.einsum("bes,ers->ber", low, middle).tanh()
            gated = low * self.gate(x).softmax(1)[:, :, None]
            x = torch.addcmul(x, x0, torch.addmm(bias, gated.flatten(1), outward.flatten(0, 1)))
        return x


def _matrices(count: int, rows: int, columns: int) -> nn.Parameter:
    """Return `count` matrices, each xavier-normal by its own size."""
    weights = torch.empty(count, rows, columns)
    for matrix in weights:
        nn.init.xavier_normal_(matrix)
    return nn.Parameter(weights)

"""Uni-Code's losses that tie modalities: Cross-CPC, commitment to each other's codes, code matching."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class CrossCpc(nn.Module):
    """Contrastive prediction of one modality's steps from another's past [P].

    c^a_t = LSTM(z^a_<=t), and for each pair (a, b) and k = 1..K

        L = -mean log exp(z^b_{t+k}' W^a_k c^a_t) / sum_{z in Z_b} exp(z' W^a_k c^a_t).

    Z_b are the vectors of modality b at step t + k of all samples of the batch, and the mean runs over every t that
    has a step t + k, where the released code draws one [I]. T = 1 has no future: then k = 0, and the contrast is
    between the one step of each modality in a sample and in the others.

    Parameters
    ----------
    modalities, dim, context_dim
        M, D, width of the LSTM's state.
    steps
        T; K is at most T - 1.
    horizon
        K.
    own
        Whether a modality also predicts its own future (never at T = 1, where it would predict what it sees).
    """

    def __init__(self, modalities: int, dim: int, context_dim: int, steps: int, horizon: int, *, own: bool) -> None:
        super().__init__()
        self.ahead = tuple(range(1, min(horizon, steps - 1) + 1)) or (0,)
        self.pairs = [
            (a, b) for a in range(modalities) for b in range(modalities) if a != b or (own and self.ahead != (0,))
        ]
        self.contexts = nn.ModuleList(nn.LSTM(dim, context_dim, batch_first=True) for _ in range(modalities))
        scale = context_dim**-0.5
        self.weights = nn.Parameter(torch.randn(modalities, len(self.ahead), dim, context_dim) * scale)

    def forward(self, z: Tensor) -> Tensor:
        """Return the mean over pairs and steps ahead, a scalar, of z [M, B, T, D]."""
        batch, steps = z.shape[1:3]
        own = torch.arange(batch, device=z.device)
        past = [context(part)[0] for context, part in zip(self.contexts, z, strict=True)]
        total = z.new_zeros(())
        for place, ahead in enumerate(self.ahead):
            guesses = [
                torch.einsum("btc,dc->tbd", context[:, : steps - ahead], weight)
                for context, weight in zip(past, self.weights[:, place], strict=True)
            ]
            for a, b in self.pairs:
                logits = guesses[a] @ z[b, :, ahead:].permute(1, 2, 0)  # [T - k, B contexts, B candidates]
                target = own.expand(len(logits), batch)
                total = total + cross_entropy(logits.reshape(-1, batch), target.reshape(-1))
        return total / (len(self.ahead) * len(self.pairs))


def commitment(z: Tensor, quantized: Tensor, beta: float, *, cross: bool) -> Tensor:
    """Return beta |z^m - sg e^m|^2, with `cross` plus beta / 2 |z^m - sg e^n|^2 for each other n; summed over m.

    Squares are means over samples, steps and width, as in the released code, which has twice both factors [C].
    z and quantized are [M, B, T, D]; no gradient passes to the latter.
    """
    gaps = (z[:, None] - quantized.detach()[None]).square().mean(dim=(2, 3, 4))
    weights = beta * torch.eye(len(z), device=z.device)
    if cross:
        weights = weights + beta / 2 * (1 - torch.eye(len(z), device=z.device))
    return (gaps * weights).sum()


def code_matching(z: Tensor, table: Tensor) -> Tensor:
    """Return the cross-modal code matching loss, the mean over pairs of modalities, of z [M, B, T, D], table [K, D].

    P^m = softmax(-|z^m - e|) averaged over the steps, [B, K]; S = P^a log P^b' + P^b log P^a'; cross entropy with the
    diagonal of S as the target [C]. Distances are not squared [2: copies of the released code].
    """
    squares = z.square().sum(-1, keepdim=True) - 2 * z @ table.T + table.square().sum(1)
    chances = torch.softmax(-squares.clamp_min(1e-6).sqrt(), dim=-1).mean(2)
    logs = chances.clamp_min(1e-10).log()
    target = torch.arange(z.shape[1], device=z.device)
    pairs = [(a, b) for a in range(len(z)) for b in range(a + 1, len(z))]
    total = z.new_zeros(())
    for a, b in pairs:
        total = total + cross_entropy(chances[a] @ logs[b].T + chances[b] @ logs[a].T, target)
    return total / len(pairs)

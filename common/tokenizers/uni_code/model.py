"""Uni-Code's network: semantic and specific encoders, the shared codebook, decoders, and one training loss.

Xia et al., "Achieving Cross Modal Generalization with Multimodal Unified Representation", NeurIPS 2023. Read: paper and
released code (facts 2.6). No figure of theirs is reproduced here: their audio-visual data are not at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.tokenizers.uni_code.club import Club
from common.tokenizers.uni_code.codebook import SharedCodebook
from common.tokenizers.uni_code.config import UniCodeConfig
from common.tokenizers.uni_code.losses import CrossCpc, code_matching, commitment


@dataclass(frozen=True)
class PairedBatch:
    """Scaled features of B samples by modality, float32 [B, T, D_m] each; row and step are the same thing in all."""

    features: dict[str, Tensor]

    def to(self, device: torch.device | str) -> PairedBatch:
        """Return the batch on a device."""
        return PairedBatch({name: value.to(device) for name, value in self.features.items()})


class UniCodeModel(nn.Module):
    """Semantic features z^m = Phi^m(x^m) share a codebook; specific ones Psi^m(x^m) help to reconstruct x^m.

    Loss = reconstruction + commitment + Cross-CPC + 0.5 code matching + CLUB's bound. Both encoders end in a layer norm
    without weights [I]: a bound on information that a mere change of scale would lower says nothing, and distances to
    codes keep one scale. In training, `loss` first takes CLUB's inner steps and last moves the codebook; both are
    states of the model, so that a loop which knows losses alone trains all of it.

    Parameters
    ----------
    widths
        D_m by modality, in order of name.
    steps
        T.
    config
        The rest.
    """

    def __init__(self, widths: Mapping[str, int], steps: int, config: UniCodeConfig) -> None:
        super().__init__()
        self.names = tuple(sorted(widths))
        self.config, count = config, len(widths)
        hidden = (config.hidden,) * config.depth
        self.semantic = nn.ModuleDict({n: encoder((widths[n], *hidden, config.dim)) for n in self.names})
        self.specific = nn.ModuleDict({n: encoder((widths[n], *hidden, config.specific_dim)) for n in self.names})
        inner = config.dim + config.specific_dim
        self.decoders = nn.ModuleDict({n: perceptron((inner, *hidden, widths[n])) for n in self.names})
        self.codebook = SharedCodebook(
            config.codes,
            config.dim,
            count,
            decay=config.decay,
            ema=config.ema,
            reset=config.reset,
            reset_after=config.reset_after,
            active_within=config.active_within,
        )
        self.club = (
            None
            if config.mi == "none"
            else Club(count, config.dim, config.specific_dim, config.mi_hidden, config.mi_learning_rate)
        )
        self.cpc = (
            None
            if config.cpc == "none"
            else CrossCpc(count, config.dim, config.context_dim, steps, config.horizon, own=config.cpc == "all")
        )

    def loss(self, batch: PairedBatch) -> dict[str, Tensor]:
        """Return the losses of a batch, scalars; "loss" is their sum. In training the codebook and CLUB learn too."""
        config = self.config
        x = [batch.features[name] for name in self.names]
        z = torch.stack([self.semantic[name](part) for name, part in zip(self.names, x, strict=True)])
        specific = torch.stack([self.specific[name](part) for name, part in zip(self.names, x, strict=True)])
        if self.training and not self.codebook.ready:
            self.codebook.start(z.detach())
        codes = self.codebook.choose(z)
        table = (
            self.codebook.table.clone()
        )  # as the graph knows it: `after_step` moves the table before the backward pass
        quantized = table[codes]
        through = z + (quantized - z).detach()
        rebuilt = [
            self.decoders[n](torch.cat([q, s], -1)) for n, q, s in zip(self.names, through, specific, strict=True)
        ]
        found = {
            "reconstruction": torch.stack([(a - b).square().mean() for a, b in zip(rebuilt, x, strict=True)]).sum(),
            "commitment": commitment(z, quantized, config.beta, cross=config.ema != "none"),
        }
        if self.cpc is not None:
            found["cpc"] = self.cpc(z)
        if config.cmcm:
            found["cmcm"] = config.cmcm_weight * code_matching(z, table)
        if self.club is not None:
            found["mi"] = self._information(self.club, z if config.mi == "semantic" else through, specific)
        if self.training:
            self.codebook.after_step(z.detach(), codes)
        found["loss"] = torch.stack(list(found.values())).sum()
        found["agreement"] = (codes[0] == codes[1:]).float().mean()
        return found

    def _information(self, club: Club, z: Tensor, specific: Tensor) -> Tensor:
        z, specific = z.flatten(1, 2), specific.flatten(1, 2)
        if self.training:
            club.learn(z, specific, self.config.mi_steps)
        return club.bound(z, specific)


def perceptron(widths: tuple[int, ...]) -> nn.Sequential:
    """Return linear layers of these widths with GELU between them."""
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layers += [nn.Linear(widths[i], widths[i + 1]), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def encoder(widths: tuple[int, ...]) -> nn.Sequential:
    """Return a `perceptron` and a layer norm without weights: a function of one step's features alone."""
    return nn.Sequential(perceptron(widths), nn.LayerNorm(widths[-1], elementwise_affine=False))

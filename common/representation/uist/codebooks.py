"""The residual codebooks of UIST: RQ-VAE's, with UIST's loss, started by RQ-KMeans."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import DataError
from common.representation.uist.config import UistConfig
from common.tokenizers.base import check_vectors
from common.tokenizers.rq_kmeans import RQKMeans
from common.tokenizers.rq_vae_model import ResidualVAE, Shape
from common.tokenizers.rq_vae_training import residual_codes


@dataclass(frozen=True)
class Quantized:
    """z^ [B, d] with a gradient to z; the mean over the batch of |z^ - sg z|^2 and of |z - sg z^|^2."""

    vectors: Tensor
    codebook: Tensor
    commitment: Tensor


class _StartOfCodebooks(RQKMeans):
    """RQ-KMeans whose codebooks are taken over by a network."""

    def tables(self) -> list[np.ndarray]:
        """Return the codebooks, float32 [K, d] a level."""
        return self._codebooks


class ResidualCodebooks(ResidualVAE):
    """L codebooks: c_l = argmin_k |r_(l-1) - E_l[k]|, r_l = r_(l-1) - E_l[c_l], z^ = sum_l E_l[c_l].

    Codebooks, running means and the reset of dead codes are `ResidualVAE`'s; its two perceptrons are not used. The
    loss differs: UIST compares z with the whole sum z^ [facts 2.5], RQ-VAE each level with what is left for it.
    """

    def __init__(self, sizes: tuple[int, ...], dim: int, config: UistConfig) -> None:
        shape = Shape(
            dim=dim,
            hidden=(),
            latent_dim=dim,
            codebook_sizes=sizes,
            commitment=config.commitment,
            gradient=config.gradient,
            update=config.update,
            decay=config.decay,
            dead_below=config.dead_codes * config.batch_size,
            revived_at=config.batch_size,
            sinkhorn=0.0,
        )
        super().__init__(shape)
        self.encoder, self.decoder = nn.Sequential(), nn.Sequential()  # what comes before and after is UIST's

    def forward(self, z: Tensor) -> Quantized:
        """Quantize latents [B, d]; in training, move running means and the codes that nobody uses."""
        left, total, used = z.detach(), torch.zeros_like(z), []
        for level, table in enumerate(self.tables()):
            codes = self.choose(left, table, level)
            used.append((left, codes))
            total = total + table[codes]
            left = left - table[codes].detach()
        if self.training:
            self.after_step(used)
        return Quantized(
            self._through(z, total.detach()),
            (total - z.detach()).square().sum(1).mean(),
            (z - total.detach()).square().sum(1).mean(),
        )

    def start(self, z: np.ndarray, seed: int, where: str, batch: int) -> None:
        """Set the codebooks to those of RQ-KMeans on latents float32 [N, d].

        Raises
        ------
        DataError
            Fewer rows, or fewer different rows or residuals, than a level has codes.
        """
        device = self.tables()[0].device
        try:
            found = _StartOfCodebooks(self.shape.codebook_sizes).fit(z, seed=seed)
        except DataError as error:
            place = where if error.where is None else f"{where}, {error.where}"
            raise DataError(error.what, where=place, expected=error.expected, got=error.got, todo=error.todo) from None
        codes = found.encode(z)
        for level, table in enumerate(found.tables()):
            share = np.bincount(codes[:, level], minlength=len(table)) / len(z) * batch
            self.set_table(level, torch.from_numpy(table).to(device), torch.from_numpy(share).float().to(device))

    def codes(self, z: np.ndarray) -> np.ndarray:
        """Return the greedy codes int32 [N, L] of latents [N, d]: a row's do not depend on the others."""
        check_vectors(z, least=0, what="latents")
        return residual_codes(z, [table.detach().cpu().numpy() for table in self.tables()])

    def sums(self, codes: Tensor) -> Tensor:
        """Return z^ [B, d] of codes int64 [B, L]."""
        return torch.stack([table[codes[:, level]] for level, table in enumerate(self.tables())]).sum(0)

"""The network of RQ-VAE: encoder, residual codebooks, decoder, and the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from vector_quantize_pytorch.vector_quantize_pytorch import Codebook

Gradient = Literal["straight_through", "rotation"]
Update = Literal["gradient", "ema"]


@dataclass(frozen=True)
class Shape:
    """What decides the network and its loss; see `RQVAE` for each."""

    dim: int
    hidden: tuple[int, ...]
    latent_dim: int
    codebook_sizes: tuple[int, ...]
    commitment: float
    gradient: Gradient
    update: Update
    decay: float
    dead_below: float
    revived_at: float
    sinkhorn: float


class ResidualVAE(nn.Module):
    """Encoder, L codebooks and decoder (TIGER, Rajput et al., NeurIPS 2023; LETTER, Wang et al., CIKM 2024).

    z = Enc(x), r_0 = z; c_l = argmin_k |r_(l-1) - E_l[k]|^2, q_l = E_l[c_l], r_l = r_(l-1) - q_l; z^ = sum_l q_l;
    x^ = Dec(z^), whose gradient passes to z. The loss is

        |x - x^|^2 + sum_l ( |sg[r_(l-1)] - q_l|^2 + commitment |r_(l-1) - sg[q_l]|^2 ),

    a mean over the batch; with `update="ema"` the codebooks move by their running means and the first term of the
    sum is left out. Codebooks, running means and the reset of dead codes are vector-quantize-pytorch's; the split
    of the loss, the codes by Sinkhorn and the k-means initialisation are not in it. No batch norm: an item's codes
    must not depend on the batch it comes in.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        from vector_quantize_pytorch.vector_quantize_pytorch import Codebook

        self.shape = shape
        widths = (shape.dim, *shape.hidden, shape.latent_dim)
        self.encoder = perceptron(widths)
        self.decoder = perceptron(widths[::-1])
        ema = shape.update == "ema"
        self.codebooks = nn.ModuleList(
            Codebook(
                shape.latent_dim,
                size,
                decay=shape.decay,
                threshold_ema_dead_code=shape.dead_below / size,  # pyright: ignore[reportArgumentType] - a rate
                reset_cluster_size=shape.revived_at / size,
                learnable_codebook=not ema,
                ema_update=ema,
            )
            for size in shape.codebook_sizes
        )

    def books(self) -> list[Codebook]:
        """Return the codebooks as what they are."""
        return list(self.codebooks)  # pyright: ignore[reportReturnType] - ModuleList forgets the type

    def tables(self) -> list[Tensor]:
        """Return the codebooks' vectors [K, e]."""
        return [book.embed[0] for book in self.books()]

    def set_table(self, level: int, table: Tensor, counts: Tensor) -> None:
        """Set one codebook's vectors [K, e] and its running counts [K]."""
        book = self.books()[level]
        with torch.no_grad():
            book.embed.copy_(table[None])
            book.get_buffer("cluster_size").copy_(counts[None])
            book.get_buffer("embed_avg").copy_((table * counts[:, None])[None])

    def loss(self, x: Tensor, *, quantize: bool = True) -> tuple[dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
        """Return the parts of the loss of x [B, D], "loss" their sum, and (residuals [B, e], codes [B]) by level.

        `quantize=False` is a plain autoencoder: what the codebooks start from.
        """
        z = self.encoder(x)
        if not quantize:
            error = _square(x - self.decoder(z))
            return {"loss": error, "reconstruction": error}, []
        left, total, used = z, torch.zeros_like(z), []
        codebook = commitment = torch.zeros((), device=x.device)
        for level, table in enumerate(self.tables()):
            codes = self.choose(left, table, level)
            chosen = table[codes]
            used.append((left.detach(), codes))
            codebook = codebook + _square(left.detach() - chosen)
            commitment = commitment + _square(left - chosen.detach())
            total, left = total + chosen.detach(), left - chosen.detach()
        error = _square(x - self.decoder(self._through(z, total)))
        loss = error + self.shape.commitment * commitment
        if self.shape.update == "gradient":
            loss = loss + codebook
        return {"loss": loss, "reconstruction": error, "commitment": commitment, "codebook": codebook}, used

    @torch.no_grad()
    def choose(self, left: Tensor, table: Tensor, level: int) -> Tensor:
        """Return the codes int64 [B] of residuals [B, e]; those of the last level are spread in training."""
        distances = torch.cdist(left, table) ** 2
        if self.training and self.shape.sinkhorn and level == len(self.codebooks) - 1:
            return balanced_codes(distances, self.shape.sinkhorn)
        return distances.argmin(dim=1)

    @torch.no_grad()
    def after_step(self, used: list[tuple[Tensor, Tensor]]) -> None:
        """Move the running means, and the codes that nobody uses onto residuals of this batch."""
        for book, (left, codes) in zip(self.books(), used, strict=True):
            book.update_indices(left, codes[:, None])

    def _through(self, z: Tensor, quantized: Tensor) -> Tensor:
        """Return the value of `quantized` with a gradient to `z`."""
        if self.shape.gradient == "straight_through":
            return z + (quantized - z).detach()
        from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

        return rotate_to(z, quantized)


def perceptron(widths: tuple[int, ...]) -> nn.Sequential:
    """Return linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layers += [nn.Linear(widths[i], widths[i + 1]), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def balanced_codes(distances: Tensor, epsilon: float, iterations: int = 50) -> Tensor:
    """Return codes int64 [B] from squared distances [B, K]: the largest entries of a transport plan even over codes.

    LETTER's assignment of the last level in training: distances scaled to -1..1, entropic transport with uniform
    marginals. Here with each row shifted to its best code, so that no row underflows in float64.
    """
    d = distances.double()
    half = (d.max() - d.min()) / 2 + 1e-5
    kernel = torch.exp((d.amin(dim=1, keepdim=True) - d) / (half * epsilon))
    rows, columns = kernel.new_ones(kernel.shape[0]), kernel.new_ones(kernel.shape[1])
    for _ in range(iterations):
        columns = 1 / (kernel.T @ rows).clamp_min(1e-300)
        rows = 1 / (kernel @ columns).clamp_min(1e-300)
    return (kernel * columns).argmax(dim=1)


def _square(difference: Tensor) -> Tensor:
    """Mean over the batch of squared lengths."""
    return difference.square().sum(dim=1).mean()

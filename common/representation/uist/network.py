"""The autoencoder of a tokenizer: Transformer encoder, pooling, residual codebooks, decoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.representation.uist.codebooks import ResidualCodebooks
from common.representation.uist.config import Side, UistConfig
from common.representation.uist.sources import Source, TokenBatch
from common.training.fit import evaluating

ROWS = 256
"""Rows encoded at once, the last batch filled up: the others in it change a row by its rounding at most."""


@dataclass(frozen=True)
class GroupShape:
    """Positions of one kind of tokens, and the width of a vector or, for `words`, the number of known words."""

    name: str
    width: int
    size: int
    words: bool = False


class AdditivePooling(nn.Module):
    """sum_t a_t h_t, a = softmax_t( q . tanh(W h_t + b) ) over real tokens (Bahdanau's additive attention)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, dim)
        self.query = nn.Linear(dim, 1, bias=False)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return [B, d] of hidden states [B, T, d] and mask [B, T], True = real; a row without any gives zeros."""
        scores = self.query(torch.tanh(self.project(hidden))).squeeze(2)
        lowest = torch.finfo(scores.dtype).min
        weights = torch.softmax(scores.masked_fill(~mask, lowest), dim=1) * mask
        return (weights[:, :, None] * hidden).sum(1)


class TokenGroup(nn.Module):
    """One kind of tokens: their way into the encoder, and back out of the decoder."""

    def __init__(self, shape: GroupShape, dim: int) -> None:
        super().__init__()
        self.shape = shape
        # One row more than there are words: what stands before the first word when the decoder begins.
        self.enter = nn.Embedding(shape.size + 1, dim) if shape.words else nn.Linear(shape.size, dim)
        self.position = nn.Parameter(0.02 * torch.randn(shape.width, dim))
        self.leave = nn.Linear(dim, shape.size)

    def embed(self, batch: TokenBatch) -> Tensor:
        """Return [B, T, d] of a batch's tokens."""
        name = self.shape.name
        tokens = batch.ids[name].clamp(min=0) if self.shape.words else batch.vectors[name]
        return self.enter(tokens) + self.position[: tokens.shape[1]]

    def queries(self, batch: TokenBatch) -> Tensor:
        """Return what the decoder starts from, [B, T, d]: the word before each word; of vectors the place alone."""
        ids = batch.ids[self.shape.name]
        place = self.position[: ids.shape[1]].expand(*ids.shape, -1)
        if not self.shape.words:
            return place
        start = torch.full_like(ids[:, :1], self.shape.size)
        return place + self.enter(torch.cat([start, ids[:, :-1].clamp(min=0)], dim=1))


class SequenceTokenizer(nn.Module):
    """One of UIST's two tokenizers: sequence -> hidden [B, T, d] -> pooled z [B, d] -> codes [B, L] -> z^ -> sequence.

    From the released code [facts 2.5]: the additive pooling, the codebooks, a decoder that attends only to z^ (one
    memory slot), and

        L = w_gen * CE + w_quant * ( |z^ - sg z|^2 + c |z - sg z^|^2 ).

    Our own [I]: a small Transformer in place of pretrained BART; a LayerNorm after the pooling, which gives z a
    known scale; and what stands for CE where tokens are vectors, of which the source has none. The decoder then gets
    no token of the sequence, only places and z^, so that nothing can be told past z^, and token x is rebuilt as g by

    - regression: |x - g|^2 / D; vectors come in at about unit variance;
    - contrastive: -log of exp(g.x / sqrt D) among the tokens of the batch, a cross-entropy over tokens as the words'
      is. Negatives come by their frequency, so that g.x learns how much likelier x is for this row than for any.

    Words are rebuilt from those before them and z^, teacher-forced, as BART's decoder does.
    """

    def __init__(self, side: Side, shapes: list[GroupShape], config: UistConfig) -> None:
        super().__init__()
        self.config, self.quantize = config, True
        self.contrastive = "contrastive" in (
            config.user_reconstruction if side == "users" else config.item_reconstruction
        )
        self.groups = nn.ModuleList(TokenGroup(shape, config.dim) for shape in shapes)
        size = (config.dim, config.heads, config.feedforward, config.dropout, "gelu")
        encoder = nn.TransformerEncoderLayer(*size, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(encoder, config.layers, enable_nested_tensor=False)
        self.pooling = AdditivePooling(config.dim)
        self.norm = nn.LayerNorm(config.dim)
        self.codebooks = ResidualCodebooks(config.sizes(side), config.dim, config)
        self.decoder: nn.TransformerDecoder | None = None
        if config.gen_weight:
            decoder = nn.TransformerDecoderLayer(*size, batch_first=True, norm_first=True)
            self.decoder = nn.TransformerDecoder(decoder, config.layers, nn.LayerNorm(config.dim))

    def latents(self, batch: TokenBatch) -> Tensor:
        """Return z [B, d]."""
        hidden = torch.cat([group.embed(batch) for group in self._groups()], dim=1)
        mask = torch.cat([batch.ids[group.shape.name] >= 0 for group in self._groups()], dim=1)
        # A row without any token may see its first place: attention over nothing is not a number.
        seen = torch.cat([mask[:, :1] | ~mask.any(1, keepdim=True), mask[:, 1:]], dim=1)
        return self.norm(self.pooling(self.encoder(hidden, src_key_padding_mask=~seen), mask))

    def loss(self, batch: TokenBatch) -> dict[str, Tensor]:
        """Return the losses of a batch; without `quantize` those of a plain autoencoder."""
        z = self.latents(batch)
        losses: dict[str, Tensor] = {}
        total = z.new_zeros(())
        if self.quantize:
            found = self.codebooks(z)
            losses = {"codebook": found.codebook, "commitment": found.commitment}
            quantized = self.config.commitment * found.commitment
            if self.config.update == "gradient":  # running means move the codebooks otherwise
                quantized = quantized + found.codebook
            total, z = total + self.config.quant_weight * quantized, found.vectors
        if self.decoder is not None:
            losses["generation"] = self.generation(batch, z)
            total = total + self.config.gen_weight * losses["generation"]
        return {**losses, "loss": total}

    def generation(self, batch: TokenBatch, z: Tensor) -> Tensor:
        """Return the mean loss of rebuilding a batch's tokens from z^ [B, d]; groups count by their tokens."""
        total, count = z.new_zeros(()), 0
        for group in self._groups():
            name = group.shape.name
            real = batch.ids[name] >= 0
            if not real.any():
                continue
            made = self.decode(batch, z, group)[real]
            if group.shape.words:
                losses = functional.cross_entropy(made, batch.ids[name][real], reduction="none")
            elif self.contrastive:
                losses = self._against_others(made, batch.vectors[name][real], batch.ids[name][real])
            else:
                losses = (made - batch.vectors[name][real]).square().mean(1)
            total, count = total + losses.sum(), count + len(losses)
        return total / max(count, 1)

    def decode(self, batch: TokenBatch, z: Tensor, group: TokenGroup) -> Tensor:
        """Return the rebuilt vectors, or the words' logits, [B, T, size] of one group from z^ [B, d] alone."""
        assert self.decoder is not None  # noqa: S101 - its callers asked
        queries = group.queries(batch)
        length = queries.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool, device=z.device).triu(1) if group.shape.words else None
        return group.leave(self.decoder(queries, z[:, None], tgt_mask=mask))

    def _against_others(self, made: Tensor, vectors: Tensor, ids: Tensor) -> Tensor:
        """Return the cross-entropy [n] of each token among itself and other tokens drawn from the batch."""
        scale = vectors.shape[1] ** -0.5
        count = min(self.config.negatives, len(ids))
        if self.training:
            drawn = torch.randperm(len(ids), device=ids.device)[:count]
        else:  # evenly spread, so that an evaluation has no luck in it
            drawn = torch.arange(count, device=ids.device) * len(ids) // count
        own = (made * vectors).sum(1, keepdim=True) * scale
        others = (made @ vectors[drawn].T * scale).masked_fill(ids[:, None] == ids[drawn], float("-inf"))
        return functional.cross_entropy(torch.cat([own, others], 1), ids.new_zeros(len(ids)), reduction="none")

    def _groups(self) -> list[TokenGroup]:
        return list(self.groups)  # pyright: ignore[reportReturnType] - ModuleList forgets the type


@torch.no_grad()
def encode(model: SequenceTokenizer, source: Source) -> np.ndarray:
    """Return the latents float32 [N, d] of a source's rows, dropout off."""
    device = next(model.parameters()).device
    found = np.empty((len(source), model.config.dim), np.float32)
    with evaluating(model):
        for start in range(0, len(source), ROWS):
            rows = np.arange(start, start + ROWS)
            rows[rows >= len(source)] = -1
            z = model.latents(source.take(rows).batch().to(device))
            found[start : start + ROWS] = z.cpu().numpy()[: len(source) - start]
    return found


@torch.no_grad()
def reconstruction(model: SequenceTokenizer, source: Source, codes: np.ndarray | None = None) -> dict[str, float]:
    """Return how well the decoder rebuilds a source: `score`, minus the loss; for words `accuracy` too.

    Parameters
    ----------
    codes
        int [N, L] of the rows; None: their own ones (or, with `quantize` off, their latents). Other rows' codes tell
        how much the decoder owes to z^.
    """
    device = next(model.parameters()).device
    losses, right, words = [], 0, 0
    with evaluating(model):
        z = encode(model, source)
        given = model.codebooks.codes(z) if codes is None and model.quantize else codes
        for start in range(0, len(source), ROWS):
            rows = np.arange(start, min(start + ROWS, len(source)))
            batch = source.take(rows).batch().to(device)
            if given is None:
                vectors = torch.from_numpy(z[rows]).to(device)
            else:
                vectors = model.codebooks.sums(torch.from_numpy(given[rows].astype(np.int64)).to(device))
            losses.append(float(model.generation(batch, vectors)) * len(rows))
            for group in model.groups:
                if isinstance(group, TokenGroup) and group.shape.words:
                    hit, count = _words_right(model, group, batch, vectors)
                    right, words = right + hit, words + count
    figures = {"score": -sum(losses) / len(source)}
    return figures | ({"accuracy": right / words} if words else {})


def _words_right(model: SequenceTokenizer, group: TokenGroup, batch: TokenBatch, z: Tensor) -> tuple[int, int]:
    ids = batch.ids[group.shape.name]
    right = model.decode(batch, z, group).argmax(2) == ids
    return int((right & (ids >= 0)).sum()), int((ids >= 0).sum())

"""One stream of EAGER: the codes of its IDs, its decoder, the loss over the children of a parent, and [SUM]."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.generative.beam import Rows, StepFn
from common.generative.distances import bucket, buckets, distance_bias
from common.generative.eager.codes import START, SUMMARY, CodeTables
from common.generative.eager.config import EagerConfig
from common.generative.eager.encoder import places
from common.generative.layers import Decoder, DecoderCache
from common.generative.tiger import sibling_codes
from common.generative.trie import PrefixTrie
from common.tokenizers.semantic_ids import SemanticIdMap


class Stream(nn.Module):
    """Codes and decoder of one stream.

    Parameters
    ----------
    config
        Size and variant.
    ids
        The stream's IDs; item row i is `ids.sids[i]`.
    """

    def __init__(self, config: EagerConfig, ids: SemanticIdMap) -> None:
        super().__init__()
        self.config, self.ids = config, ids
        self.tables = CodeTables(ids.sizes, config.dim, config.path_limit)
        self.decoder = Decoder(config)
        self.cross_bias = nn.Embedding(buckets(config.max_items), config.heads)
        self.dropout = nn.Dropout(config.dropout)
        codes = torch.from_numpy(ids.sids.astype(np.int64))
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("rows", self.tables.rows(codes), persistent=False)
        self.codes: Tensor
        self.rows: Tensor
        self._trie: PrefixTrie | None = None
        self._part: tuple[PrefixTrie, PrefixTrie] | None = None

    @property
    def levels(self) -> int:
        """Codes of an ID."""
        return self.tables.levels

    def trie(self) -> PrefixTrie:
        """Return the trie of all the stream's IDs."""
        if self._trie is None:
            self._trie = PrefixTrie.from_sids(self.ids.sids, self.ids.sizes)
        return self._trie

    def matching(self, other: PrefixTrie) -> PrefixTrie:
        """Return the trie of this stream over the items of `other`, a trie of another stream; the last is kept."""
        if len(other) == len(self.ids):
            return self.trie()
        if self._part is None or self._part[0] is not other:
            mask = np.zeros(len(self.ids), dtype=bool)
            mask[other.items] = True
            self._part = (other, self.trie().restrict(mask))
        return self._part[1]

    def item_vectors(self, items: Tensor) -> Tensor:
        """Return [..., D], the sum of the embeddings of items' codes."""
        rows = self.rows[items]
        return torch.stack([self.tables.embed_level(rows[..., at], at) for at in range(self.levels)]).sum(0)

    def teach(self, targets: Tensor, memory: Tensor, mask: Tensor | None, bias: Tensor) -> Tensor:
        """Return teacher-forced states of targets int64 [B, N]: [B, N, L, D], or [B, N, L + 2, D] with [SUM] last.

        State l says code l; that of [SUM], read behind all the codes, is what contrastive and transfer task use.
        """
        given = self.tables.embed(self.rows[targets])
        start = self.tables.token(START).expand_as(given[..., :1, :])
        if self.config.summarises:
            x = torch.cat([start, given, self.tables.token(SUMMARY).expand_as(start)], dim=-2)
        else:
            x = torch.cat([start, given[..., :-1, :]], dim=-2)
        return self.decoder(self.dropout(x), memory, mask, bias)

    def cross(self, mask: Tensor) -> Tensor:
        """Return the bias [B, heads, 1, T + 1] between the item after each history and the history, padded by mask."""
        of = places(mask.shape[1], mask.device)
        ahead = mask.sum(1)[:, None] - of[None, :]
        return self.cross_bias(bucket(ahead, of[None, :], self.config.max_items)).permute(0, 2, 1)[:, :, None]

    def cross_at(self, at: Tensor, width: int) -> Tensor:
        """Return the bias [heads, N * tokens, width + 1] of targets at places int64 [N]; none sees its own or later."""
        of = places(width, at.device)
        bias = distance_bias(self.cross_bias, at, of, self.config.max_items)
        bias = bias.masked_fill(of[None, :] >= at[:, None], float("-inf"))
        return bias.repeat_interleave(self.levels + 2 * self.config.summarises, 1)

    def code_losses(self, states: Tensor, items: Tensor) -> Tensor:
        """Return the mean cross-entropy [L] of each level's codes of items [n], over the codes that lead to an item."""
        losses = []
        for level in range(self.levels):
            logits = self.logits(states[:, level], level, items).float()
            known = sibling_codes(self.trie().to(states.device), items, level)
            smoothing = self.config.label_smoothing
            losses.append(cross_entropy(logits, self.codes[items, level], known, smoothing))
        return torch.stack(losses)

    def logits(self, states: Tensor, level: int, items: Tensor) -> Tensor:
        """Return the logits [n, sizes[level]] behind the first codes of items [n]."""
        return self.tables.logits(states, level, self.rows[items, max(0, level - 1)])

    def begin(self, memory: Tensor, mask: Tensor, bias: Tensor) -> StepFn:
        """Return the step function of a beam search for queries with this memory."""
        return self.steps(self.decoder.start(memory, mask, bias))

    def steps(self, start: DecoderCache) -> StepFn:
        """Return a step function that goes on from the memory of `start`, which is not changed."""
        cache = DecoderCache(start.memory, start.mask, start.bias)
        above = torch.zeros(0, dtype=torch.int64)

        def step(rows: Rows) -> Tensor:
            nonlocal above
            if rows.level:
                cache.reorder(rows.parent)
                above = self.tables.next_rows(above.index_select(0, rows.parent), rows.token, rows.level - 1)
                x = self.tables.embed_level(above, rows.level - 1)
            else:
                above = torch.zeros_like(rows.query)
                x = self.tables.token(START).expand(len(above), -1)
            cache.place(rows.query)
            return self.tables.logits(self.decoder.step(x, cache), rows.level, above)

        return step


def cross_entropy(logits: Tensor, codes: Tensor, known: Tensor, smoothing: float) -> Tensor:
    """Return the mean cross-entropy of codes [n] among the `known` ones of logits [n, K].

    Label smoothing is spread over the known codes of a row, as it must be where the others are impossible.
    """
    found = torch.log_softmax(logits.masked_fill(~known, float("-inf")), dim=1)
    loss = functional.nll_loss(found, codes)
    if not smoothing:
        return loss
    even = -(found.masked_fill(~known, 0.0).sum(1) / known.sum(1)).mean()
    return (1 - smoothing) * loss + smoothing * even

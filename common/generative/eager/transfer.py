"""EAGER's semantic-guided transfer task: behaviour codes are rebuilt and checked under the guidance of content.

The guide is the summary state of the semantic stream, without gradient. A small bidirectional decoder reads a start
token and the behaviour codes of an item and attends to the guide. Reconstruct: one code is hidden and told from the
other codes of its level. Estimate: are these the item's codes, or was one of them replaced?

Our own: the replaced code is another child of the same parent, and later codes go on to an item that exists, so that
the codes alone do not give the answer away; a code whose embedding names the hidden one (see `CodeTables`) is hidden
with it; each row of a batch is real or replaced with even chances.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.generative.eager.codes import HIDDEN, CodeTables
from common.generative.eager.config import EagerConfig
from common.generative.eager.stream import Stream, cross_entropy
from common.generative.layers import Attention, FeedForward
from common.generative.tiger import sibling_codes
from common.generative.trie_tensors import TensorTrie


class GuidedLayer(nn.Module):
    """Pre-norm self-attention in both directions, attention to the guide, feed-forward; residual connections."""

    def __init__(self, config: EagerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.dim)
        self.attention = Attention(config.dim, config.heads, config.dropout)
        self.cross_norm = nn.LayerNorm(config.dim)
        self.cross = Attention(config.dim, config.heads, config.dropout)
        self.feedforward_norm = nn.LayerNorm(config.dim)
        self.feedforward = FeedForward(config.dim, config.feedforward)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Map [n, T, D] to [n, T, D], guided by [n, 1, D]."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        x = x + self.dropout(self.cross(self.cross_norm(x), guide))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))


class SemanticTransfer(nn.Module):
    """The two tasks over the behaviour stream's code embeddings, which they train along."""

    def __init__(self, config: EagerConfig) -> None:
        super().__init__()
        self.guide = nn.Linear(config.dim, config.dim)
        self.start = nn.Embedding(1, config.dim)
        self.layers = nn.ModuleList(GuidedLayer(config) for _ in range(config.transfer_layers))
        self.norm = nn.LayerNorm(config.dim)
        self.real = nn.Linear(config.dim, 1)

    def states(self, x: Tensor, guide: Tensor) -> Tensor:
        """Return the states [n, 1 + L, D] of a start token and code vectors [n, L, D] under guides [n, D]."""
        x = torch.cat([self.start.weight[None].expand(len(x), 1, -1), x], dim=1)
        told = self.guide(guide)[:, None]
        for layer in self.layers:
            x = layer(x, told)
        return self.norm(x)

    def reconstruct(self, stream: Stream, items: Tensor, guide: Tensor) -> Tensor:
        """Return the mean cross-entropy of one hidden code of each of items [n]."""
        tables, total = stream.tables, guide.new_zeros(())
        rows, chosen = stream.rows[items], torch.randint(stream.levels, (len(items),)).to(items.device)
        hide = hidden_codes(tables, chosen)
        x = torch.where(hide[..., None], tables.token(HIDDEN), tables.embed(rows))
        states = self.states(x, guide)
        trie = stream.trie().to(items.device)
        for level in range(stream.levels):
            of = torch.nonzero(chosen == level).squeeze(1)
            if len(of):
                logits = stream.logits(states[of, level + 1], level, items[of]).float()
                known = sibling_codes(trie, items[of], level)
                loss = cross_entropy(logits, stream.codes[items[of], level], known, 0.0)
                total = total + loss * (len(of) / len(items))
        return total

    def estimate(self, stream: Stream, items: Tensor, guide: Tensor) -> Tensor:
        """Return the logits [n] that the codes of items [n] are those of the guides' items."""
        return self.real(self.states(stream.tables.embed(stream.rows[items]), guide)[:, 0]).squeeze(1)

    def estimate_loss(self, stream: Stream, items: Tensor, guide: Tensor) -> Tensor:
        """Return the mean binary cross-entropy; half of the items, by chance, have one code replaced."""
        others = replaced(stream.trie().to(items.device), items)
        real = torch.rand(len(items)).to(items.device) < 0.5
        real = real | (others == items)  # no code to replace
        found = self.estimate(stream, torch.where(real, items, others), guide)
        return functional.binary_cross_entropy_with_logits(found.float(), real.float())


def hidden_codes(tables: CodeTables, chosen: Tensor) -> Tensor:
    """Return bool [n, L]: the chosen level of each row, and the later ones whose embedding is that of a path."""
    levels = torch.arange(tables.levels, device=chosen.device)
    by_path = torch.tensor(tables.by_path, device=chosen.device)
    return (levels == chosen[:, None]) | ((levels > chosen[:, None]) & by_path)


def replaced(trie: TensorTrie, items: Tensor) -> Tensor:
    """Return for each of item rows [n] another one: one code, at random, is another child of its parent.

    The codes behind it stay where such an item exists, and else are the last below their parent. An item none of
    whose codes has a sibling stays itself.
    """
    path = [trie.leaves(items)]
    for level in range(trie.depth - 1, 0, -1):
        path.append(trie.parents(level, path[-1]))
    path = [torch.zeros_like(items), *reversed(path)]  # node of level 0, ..., L
    starts, counts = [], []
    for level in range(trie.depth):
        first, last = trie.indptr[level].take(torch.stack([path[level], path[level] + 1])).long()
        starts.append(first)
        counts.append(last - first)
    several = torch.stack(counts, dim=1) > 1
    draw = torch.rand(len(items), trie.depth).to(items.device).masked_fill(~several, -1.0)
    chosen, node = draw.argmax(1), torch.zeros_like(items)
    for level in range(trie.depth):
        first, last = trie.indptr[level].take(torch.stack([node, node + 1])).long()
        place = path[level + 1] - starts[level]
        step = 1 + (torch.rand(len(items)).to(items.device) * (counts[level] - 1)).long()
        other = (place + step) % counts[level]
        swap = (chosen == level) & several[:, level]
        node = first + torch.minimum(torch.where(swap, other, place), last - first - 1)
    return trie.items.take(node).long()

"""Answers of two streams: each searches its own trie, candidates are put together, and both say how sure they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import ConfigError
from common.generative.beam import BeamResult, StepFn, constrained_beam_search, score_items
from common.generative.eager.config import STREAMS, Fusion, StreamName
from common.generative.eager.stream import Stream
from common.generative.layers import DecoderCache
from common.generative.trie import PrefixTrie


@dataclass(frozen=True)
class Asked:
    """Encoded histories: what each stream's decoder attends to."""

    streams: Mapping[StreamName, Stream]
    starts: Mapping[StreamName, DecoderCache]
    queries: int
    device: torch.device

    def step(self, name: StreamName) -> StepFn:
        """Return a step function of a stream, at its beginning."""
        return self.streams[name].steps(self.starts[name])

    def search(self, name: StreamName, trie: PrefixTrie, beam: int, top_k: int) -> BeamResult:
        """Return a stream's own best items among those of `trie`, a behaviour trie."""
        return constrained_beam_search(
            self.step(name),
            self.trie(name, trie),
            queries=self.queries,
            beam=beam,
            top_k=top_k,
            device=str(self.device),
        )

    def scores(self, name: StreamName, trie: PrefixTrie, items: Tensor) -> Tensor:
        """Return a stream's log-probability [Q, K] of items among those of `trie`; -inf at -1."""
        return score_items(self.step(name), self.trie(name, trie).to(str(self.device)), items)

    def trie(self, name: StreamName, trie: PrefixTrie) -> PrefixTrie:
        """Return the trie of a stream over the items of a behaviour trie."""
        return trie if name == "behaviour" else self.streams[name].matching(trie)


def answer(asked: Asked, trie: PrefixTrie, fusion: Fusion, *, beam: int, top_k: int) -> BeamResult:
    """Return the `top_k` best items of each query; each stream's beam is `beam` wide.

    - confidence: all items that either beam found, by the sum of both streams' log-probabilities. A stream is asked
      only about what the other one found; of its own it knows the score.
    - concatenate: both beams' lists, each item with the log-probability of the stream that found it (the larger
      where both did).
    - behaviour, semantic: that stream alone.

    Equal scores go by item row.

    Raises
    ------
    ConfigError
        `top_k` below 1 or above `beam`.
    """
    if fusion == "behaviour" or fusion == "semantic":
        return asked.search(fusion, trie, beam, top_k)
    if not 1 <= top_k <= beam:
        raise ConfigError("no such search", where="beam, top_k", expected="1 <= top_k <= beam", got=(beam, top_k))
    # More than the items there are makes no column of results.
    width = max(top_k, min(beam, len(trie)))
    found = {name: asked.search(name, trie, max(beam, width), width) for name in STREAMS}
    items, own = together([found[name] for name in STREAMS])
    if fusion == "concatenate":
        return best(items, own.amax(0), top_k)
    total = torch.zeros_like(own[0])
    for number, name in enumerate(STREAMS):
        lacking = torch.isneginf(own[number]) & (items >= 0)
        asked_for = torch.where(lacking, items, -1)
        given = asked.scores(name, trie, asked_for) if bool(lacking.any()) else own[number]
        total = total + torch.where(lacking, given, own[number])
    return best(items, total, top_k)


def score(asked: Asked, trie: PrefixTrie, fusion: Fusion, items: Tensor) -> Tensor:
    """Return the score [Q, K] of item rows int64 [Q, K], -1 = padding."""
    if fusion == "behaviour" or fusion == "semantic":
        return asked.scores(fusion, trie, items)
    both = torch.stack([asked.scores(name, trie, items) for name in STREAMS])
    return both.sum(0) if fusion == "confidence" else both.amax(0)


def together(found: list[BeamResult]) -> tuple[Tensor, Tensor]:
    """Return the items [Q, W] of several lists, each once, -1 elsewhere, and each list's scores [lists, Q, W].

    A list has -inf where it lacks the item. Items stand in the order of their rows.
    """
    every = torch.cat([one.items for one in found], dim=1)
    items, order = every.sort(dim=1, stable=True)
    again = torch.zeros_like(items, dtype=torch.bool)
    again[:, 1:] = items[:, 1:] == items[:, :-1]
    # Copies of an item stand side by side: the first of them collects the others' scores.
    first = torch.where(again, 0, torch.arange(items.shape[1], device=items.device)).cummax(1).values
    scores, start = [], 0
    for one in found:
        of_list = (order >= start) & (order < start + one.items.shape[1])
        given = torch.cat([each.scores for each in found], dim=1).gather(1, order)
        given = given.masked_fill(~of_list, -torch.inf)
        scores.append(torch.full_like(given, -torch.inf).scatter_reduce(1, first, given, "amax"))
        start += one.items.shape[1]
    return items.masked_fill(again, -1), torch.stack(scores)


def best(items: Tensor, scores: Tensor, top_k: int) -> BeamResult:
    """Return the `top_k` best of items [Q, W] (rows of one query ascending, -1 = none), equal scores by row."""
    scores = scores.masked_fill(items < 0, -torch.inf)
    width = min(top_k, items.shape[1])
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :width]
    scores = scores.gather(1, order)
    items = items.gather(1, order).masked_fill(torch.isneginf(scores), -1)
    lack = top_k - width
    items = torch.nn.functional.pad(items, (0, lack), value=-1)
    return BeamResult(items, torch.nn.functional.pad(scores, (0, lack), value=-torch.inf))

"""Decoding with a language model's key/value cache: prompts of different length side by side, hypotheses re-ordered.

`Decoding` keeps the keys and values of a prompt for each of its hypotheses: copying them at each step is three quarters
of a beam search's time. `Branches` keeps them once a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from common.generative.beam import Rows, StepFn

if TYPE_CHECKING:
    from common.generative.lm.model import LanguageModel


class Decoding:
    """The state of decoding R hypotheses.

    Attributes
    ----------
    states
        [R, D], the last hidden state of each: what the next token's logits are made of.
    """

    def __init__(self, model: LanguageModel, cache: Any, mask: Tensor, states: Tensor) -> None:
        self.model, self.cache, self.mask, self.states = model, cache, mask, states

    @classmethod
    def start(cls, model: LanguageModel, prompts: Sequence[Sequence[int]]) -> Self:
        """Read the prompts (token ids, padded at their beginning); one hypothesis each."""
        width = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.int64)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.as_tensor(prompt)
            mask[row, width - len(prompt) :] = True
        ids, mask = ids.to(model.device), mask.to(model.device)
        out = cls._read(model, model.embed(ids), mask, mask, None)
        return cls(model, out.past_key_values, mask, out.last_hidden_state[:, -1])

    def advance(self, parents: Tensor, tokens: Tensor) -> None:
        """Let hypothesis r continue hypothesis `parents[r]` by token id `tokens[r]`, int64 [R]."""
        if len(parents) != len(self.mask) or not torch.equal(
            parents, torch.arange(len(parents), device=parents.device)
        ):
            self.cache.batch_select_indices(parents)
            self.mask = self.mask[parents]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        given = self.model.embed(tokens[:, None])
        out = self._read(self.model, given, self.mask, self.mask[:, -1:], self.cache)
        self.cache, self.states = out.past_key_values, out.last_hidden_state[:, -1]

    @staticmethod
    def _read(model: LanguageModel, given: Tensor, mask: Tensor, new: Tensor, cache: Any) -> Any:
        places = mask.long().cumsum(1).sub(1).clamp(min=0)[:, -new.shape[1] :]
        return model.body.base_model(
            inputs_embeds=given, attention_mask=mask.long(), position_ids=places, cache=cache, use_cache=True
        )


WIDEST = 32
"""Codes kept behind a prompt, in lengths of the longest prompt; beyond that to copy costs less than to attend."""


class Branches:
    """Hypotheses that stand side by side behind their prompt, in one row of the cache: a prompt's part is never copied.

    A hypothesis attends to its prompt and to its own codes among all that were written behind it, by a mask: so nothing
    is re-ordered. Codes of hypotheses that the beam left stay where they are, unseen.

    Attributes
    ----------
    states
        [R, D], the last hidden state of each hypothesis.
    """

    def __init__(self, model: LanguageModel, prompts: Sequence[Sequence[int]]) -> None:
        start = Decoding.start(model, prompts)
        self.model, self.cache, self.prompt, self.states = model, start.cache, start.mask, start.states
        self.lengths = start.mask.sum(1)
        self.query = torch.arange(len(start.mask), device=start.mask.device)
        self.paths = self.query[:, None][:, :0]  # [R, level], the place of each hypothesis's codes behind its prompt
        self.columns = 0
        self._alone = None if _grows_whole(start.cache) else start

    def advance(self, query: Tensor, parents: Tensor, tokens: Tensor) -> None:
        """Let hypothesis r, of prompt `query[r]` (ascending), continue `parents[r]` by token `tokens[r]`: int64 [R]."""
        counts = torch.bincount(query, minlength=len(self.prompt))
        width = int(counts.max())
        if self._alone is None and self.columns + width > WIDEST * self.prompt.shape[1]:
            self._alone = self._copied()
        if self._alone is not None:
            self._alone.advance(parents, tokens)
            self.states = self._alone.states
            return
        slot = torch.arange(len(query), device=query.device) - (counts.cumsum(0) - counts)[query]
        self.query = query
        self.paths = torch.cat([self.paths[parents], self.columns + slot[:, None]], dim=1)
        self.columns += width
        ids = query.new_zeros(len(counts), width)
        ids[query, slot] = tokens
        given = self.model.embed(ids)
        out = self.model.body.base_model(
            inputs_embeds=given,
            attention_mask=self._seen(slot, width, given.dtype),
            position_ids=(self.lengths + self.paths.shape[1] - 1)[:, None].expand(-1, width),
            cache=self.cache,
            use_cache=True,
        )
        self.cache, self.states = out.past_key_values, out.last_hidden_state[query, slot]

    def _seen(self, slot: Tensor, width: int, kind: torch.dtype) -> Tensor:
        """Return [Q, 1, width, T + columns]: 0 where the new codes attend, the least number elsewhere."""
        own = self.prompt.new_zeros(len(self.prompt), width, self.columns)
        own[self.query[:, None], slot[:, None], self.paths] = True
        seen = torch.cat([self.prompt[:, None].expand(-1, width, -1), own], dim=2)[:, None]
        return torch.zeros(seen.shape, dtype=kind, device=seen.device).masked_fill_(~seen, torch.finfo(kind).min)

    def _copied(self) -> Decoding:
        """Return the same hypotheses with a cache row each."""
        length, query = self.prompt.shape[1], self.query
        for layer in self.cache.layers:
            for name in ("keys", "values"):
                kept = getattr(layer, name)
                own = kept[query[:, None], :, length + self.paths].transpose(1, 2)
                setattr(layer, name, torch.cat([kept[query, :, :length], own], dim=2))
        mask = torch.cat([self.prompt[query], self.prompt.new_ones(self.paths.shape)], dim=1)
        return Decoding(self.model, self.cache, mask, self.states)


def _grows_whole(cache: Any) -> bool:
    """Whether the cache keeps every token of every layer: one with windows or running states is not shared."""
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in cache.layers)


def code_steps(
    model: LanguageModel, prompts: Sequence[Sequence[int]], token: Callable[[int, Tensor], Tensor], sizes: Sequence[int]
) -> StepFn:
    """Return the step function of a constrained beam search that writes the codes of an ID after each prompt.

    Parameters
    ----------
    token
        Of a level and codes int64 [R]: their numbers among the model's codes, int64 [R]. Codes of one level are
        consecutive.
    sizes
        Codes of each level.
    """
    decoding = Branches(model, prompts)

    def step(rows: Rows) -> Tensor:
        if rows.level:
            decoding.advance(rows.query, rows.parent, model.text_size + token(rows.level - 1, rows.token))
        start = int(token(rows.level, torch.zeros(1, dtype=torch.int64)))
        return model.code_logits(decoding.states, start, start + sizes[rows.level])

    return step

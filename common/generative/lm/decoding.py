"""Decoding with a language model's key/value cache: prompts of different length side by side, hypotheses re-ordered."""

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
    decoding = Decoding.start(model, prompts)

    def step(rows: Rows) -> Tensor:
        if rows.level:
            decoding.advance(rows.parent, model.text_size + token(rows.level - 1, rows.token))
        start = int(token(rows.level, torch.zeros(1, dtype=torch.int64)))
        return model.code_logits(decoding.states, start, start + sizes[rows.level])

    return step

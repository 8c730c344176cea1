"""What EAGER-LLM and STORE share: a generator that is a language model, of which it keeps what was learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common.generative.base import GenerativeRetriever
from common.generative.beam import StepFn
from common.generative.lm.decoding import code_steps
from common.generative.lm.model import LanguageModel
from common.tokenizers.semantic_ids import SemanticIdMap
from common.training.fit_state import learnt_state, restore


class LmGenerator(GenerativeRetriever):
    """A generator over the IDs of `id_map` whose codes are tokens of a language model.

    Code t of `vocabulary` is token V + t. A subclass gives `prompts` of a batch, `loss` and `settings`.

    Parameters
    ----------
    lm
        With `vocabulary.size` codes at least; what lies beyond them is the subclass's own (STORE's placeholders).
    """

    def __init__(self, lm: LanguageModel, id_map: SemanticIdMap) -> None:
        super().__init__(id_map)
        self.lm = lm

    def prompts(self, batch: Any) -> Sequence[Sequence[int]]:
        """Return the token ids that stand before an ID, a list a query."""
        raise NotImplementedError

    def id_tokens(self, item: int) -> list[int]:
        """Return the token ids of an item row's semantic ID."""
        return (self.item_tokens[item] + self.lm.text_size).tolist()

    def begin(self, batch: Any) -> tuple[StepFn, int]:
        """Read the prompts; return the step function of the beam search and their number."""
        prompts = self.prompts(batch)

        def token(level: int, codes: Tensor) -> Tensor:
            return codes + self.vocabulary.offset(level)

        return code_steps(self.lm, prompts, token, self.vocabulary.sizes), len(prompts)

    def kept(self) -> dict[str, Tensor]:
        """Return the weights that were learnt; frozen ones are those of the language model's own files."""
        return learnt_state(self)

    def take(self, weights: dict[str, Tensor]) -> None:
        """Put the weights of `kept` in place."""
        restore(self, weights)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.lm.device

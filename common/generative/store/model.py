"""STORE: one language model is dense tokenizer and recommender.

Liu et al., "STORE: Streamlining Semantic Tokenization and Generative Recommendation with A Single LLM", 2024, version
1. The paper's text was not at hand: the three stages, the four tasks and the masked code tree follow summaries of it
and the deck; sizes, wording of prompts, weights of tasks and the order of slots are our own. No figure of the paper
is claimed to be reproduced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import ConfigError, DataError
from common.generative.lm.examples import fit_history
from common.generative.lm.generator import LmGenerator
from common.generative.lm.model import LanguageModel, rebuild
from common.generative.sequences import Sequences
from common.generative.store.batches import StoreBatch, StoreBatches
from common.generative.store.config import StoreConfig
from common.generative.store.dense import DenseTokenizer
from common.generative.store.tokens import TASKS, StoreTokens, extra_codes
from common.generative.tiger_batches import TigerBatch
from common.generative.vocabulary import Vocabulary
from common.tokenizers.semantic_ids import SemanticIdMap
from common.training.fit import evaluating

KEPT = {"dense": {"slots"}, "tasks": True, "instructions": True, "max_items": True, "max_text": True}
"""What a saved model needs of its configuration."""
_ASKED = 64


class Store(LmGenerator):
    """Stage 3 of STORE over the IDs of `id_map`.

    Asked with a `TigerBatch` of histories it generates the next item's ID (token-to-token); asked with a list of texts,
    the ID of the item that each describes (text-to-token).

    Parameters
    ----------
    lm
        With `vocabulary.size` codes for the IDs, and `extra_codes` of its own after them.
    config
        Tasks and lengths.

    Raises
    ------
    ConfigError
        The language model has another number of codes, or reads too little for one item or one text.
    """

    kind: ClassVar[str] = "store"

    def __init__(self, lm: LanguageModel, id_map: SemanticIdMap, config: StoreConfig) -> None:
        super().__init__(lm, id_map)
        self.config = config
        wanted = self.vocabulary.size + extra_codes(config.dense.slots)
        if lm.codes.num_embeddings != wanted:
            raise ConfigError("the language model has other codes", expected=wanted, got=lm.codes.num_embeddings)
        self.tokens = StoreTokens(lm, config.dense.slots, worded=config.instructions)
        levels, lead = self.vocabulary.levels, max(len(self.tokens.lead(task)) for task in TASKS)
        needed = lead + max(2 * levels, config.max_text + levels + 2)
        if needed > lm.context:
            raise ConfigError(
                "an instruction with a text and an ID, or with two IDs, is longer than the model reads",
                where="store.max_text",
                expected=f"at most {lm.context} tokens in all",
                got=needed,
                todo="lower max_text, or take a model that reads more",
            )
        room = lm.context - lead
        self.most_items = min(config.max_items, (room - levels) // levels)

    @classmethod
    def of(cls, tokenizer: DenseTokenizer, id_map: SemanticIdMap, config: StoreConfig) -> Self:
        """Return the untrained recommender on the weights of stage 1; the tokenizer's language model becomes its own.

        The IDs' codes get new embeddings, drawn from torch's random state.
        """
        lm = tokenizer.lm
        own = lm.codes.weight.detach()
        count = Vocabulary(tuple(int(size) for size in id_map.sizes)).size
        codes = nn.Embedding(count + len(own), lm.dim, device=own.device)
        with torch.no_grad():
            scale = float(lm.body.get_input_embeddings().weight.detach().float().std())
            new = torch.empty(count, lm.dim).normal_(std=scale)
            codes.weight.copy_(torch.cat([new.to(own.device), own]))
        lm.codes = codes
        return cls(lm, id_map, config)

    def loss(self, batch: StoreBatch) -> dict[str, Tensor]:
        """Return each task's mean cross-entropy a token, and "loss": their sum, weighted by `tasks`."""
        losses: dict[str, Tensor] = {}
        for task, one in batch.tasks.items():
            losses[task] = self.lm.told_loss(self.lm.states(self.lm.embed(one.ids), one.mask), one)
        weighted = [getattr(self.config.tasks, task) * value for task, value in losses.items()]
        return {"loss": torch.stack(weighted).sum(), **losses}

    def batches(self, texts: Sequence[str], train: Sequences, *, seed: int, batch_size: int) -> StoreBatches:
        """Return the training batches of the items' texts and the users' sequences."""
        return StoreBatches(self, texts, train, seed=seed, batch_size=batch_size)

    def prompts(self, batch: TigerBatch | Sequence[str]) -> list[list[int]]:
        """Return what stands before the ID: of the next item of histories, or of the items that texts describe."""
        if not isinstance(batch, TigerBatch):
            return [self.text_prompt(self.text_tokens(text)) for text in batch]
        rows = zip(batch.items.cpu(), batch.mask.cpu(), strict=True)
        return [self.history_prompt(items[mask].numpy()) for items, mask in rows]

    def text_tokens(self, text: str) -> list[int]:
        """Return the token ids of an item's text, the first `max_text` of them; raise `DataError` on an empty one."""
        ids = self.lm.tokenize(text, self.config.max_text)
        if not ids:
            raise DataError("an item without text", got=repr(text))
        return ids

    def ended(self, text: list[int]) -> list[int]:
        """Return a text's tokens to be written, with the end."""
        return [*text, self.lm.end]

    def history_prompt(self, items: np.ndarray) -> list[int]:
        """Return instruction and IDs of a history, oldest first, of which the most recent `most_items` are read."""
        return [*self.tokens.lead("token_to_token"), *self._ids(items[-self.most_items :])]

    def text_prompt(self, text: Sequence[int]) -> list[int]:
        """Return what stands before the ID of the item that a text describes."""
        return [*self.tokens.lead("text_to_token"), *text, self.tokens.token("text_to_token")]

    def item_prompt(self, item: int) -> list[int]:
        """Return what stands before the text of an item row."""
        return [*self.tokens.lead("token_to_text"), *self.id_tokens(item), self.tokens.token("token_to_text")]

    def texts_prompt(self, history: Sequence[Sequence[int]]) -> list[int]:
        """Return what stands before the text of the next item: the last `text_items` texts that fit, a line each."""
        lines = [[*text, *self.tokens.newline] for text in history[-self.config.tasks.text_items :]]
        room = self.lm.context - self.config.max_text - 1
        return fit_history(self.tokens.lead("text_to_text"), lines, [self.tokens.token("text_to_text")], room)

    def texts_of(self, items: Sequence[int]) -> list[str]:
        """Return the texts that the model writes of item rows (token-to-text)."""
        return self._written([self.item_prompt(item) for item in items])

    def next_texts(self, histories: Sequence[Sequence[str]]) -> list[str]:
        """Return the text of the next item after each history of texts, oldest first (text-to-text)."""
        return self._written([self.texts_prompt([self.text_tokens(one) for one in texts]) for texts in histories])

    def _written(self, prompts: list[list[int]]) -> list[str]:
        found: list[str] = []
        with evaluating(self):
            for start in range(0, len(prompts), _ASKED):
                found += self.lm.write(prompts[start : start + _ASKED], self.config.max_text + 1)
        return found

    def _ids(self, items: np.ndarray) -> list[int]:
        rows = torch.as_tensor(items.astype(np.int64), device=self.item_tokens.device)
        return (self.item_tokens[rows] + self.lm.text_size).flatten().tolist()

    def settings(self) -> dict[str, Any]:
        """Return JSON values that `build` makes the untrained model of."""
        return {"lm": self.lm.settings(), "store": self.config.model_dump(mode="json", include=KEPT)}

    @classmethod
    def build(cls, settings: dict[str, Any], id_map: SemanticIdMap) -> Self:
        """Return an untrained model of `settings()`."""
        return cls(rebuild(settings["lm"]), id_map, StoreConfig.model_validate(settings["store"]))

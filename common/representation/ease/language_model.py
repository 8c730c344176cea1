"""The frozen language model that decodes: training only; no serving path imports this module.

Any causal language model of transformers: a hub name, a local folder, or a GGUF file in a folder (dequantised when
it is loaded; needs the package `gguf`). A hub name whose weights an installed package ships is
taken from there, as KAR does.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.encoders.causal_lm import load_causal_lm, weights_digest
from common.errors import ConfigError, DataError
from common.representation.ease.config import LanguageModelConfig


class FrozenLanguageModel:
    """A causal language model that gives gradients to its input and none to itself.

    It is no `nn.Module` on purpose: a module that holds it neither trains nor saves nor moves its weights.

    Parameters
    ----------
    model, tokenizer
        transformers' `AutoModelForCausalLM` and its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any, config: LanguageModelConfig) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.config = tokenizer, config
        self.embed = model.get_input_embeddings()
        self.width: int = self.embed.weight.shape[1]
        self.truncated = 0
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._prompt = tokenizer(config.prompt, add_special_tokens=False)["input_ids"] if config.prompt else []

    @classmethod
    def load(cls, config: LanguageModelConfig) -> FrozenLanguageModel:
        """Load the model and its tokenizer in float32.

        Raises
        ------
        DataError
            No such model, or a file that cannot be read.
        """
        try:
            model, tokenizer = load_causal_lm(config.name, gguf_file=config.gguf_file, revision=config.revision)
        except ConfigError as error:
            raise DataError(
                "the language model could not be loaded",
                where=f"{config.name} {config.gguf_file or ''}".strip(),
                expected="a causal language model of transformers: a hub name, a folder, or a GGUF file in a folder",
                got=f"{error.what}: {error.got}",
                todo="check the name; a GGUF file needs the package gguf; or set lm_weight: 0",
            ) from error
        return cls(model, tokenizer, config)

    def to(self, device: torch.device | str) -> FrozenLanguageModel:
        """Move the model to a device; return it."""
        self.model.to(device)
        return self

    def digest(self) -> str:
        """Return SHA-256 over the names and bytes of all weights."""
        return weights_digest(self.model)

    def tokenize(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return token ids int64 [N, L] and mask bool [N, L], True = to be told; the end token is one of them.

        A text beyond `max_tokens` is cut, and counted in `truncated`.
        """
        most, end = self.config.max_tokens, self.tokenizer.eos_token_id
        rows = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        self.truncated = sum(len(row) > most for row in rows)
        rows = [row[:most] if end is None or len(row) > most else [*row, end] for row in rows]
        ids = np.zeros((len(rows), max(map(len, rows), default=0)), np.int64)
        mask = np.zeros(ids.shape, bool)
        for number, row in enumerate(rows):
            ids[number, : len(row)], mask[number, : len(row)] = row, True
        return ids, mask

    def logits(self, soft: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the logits [B, L, vocabulary] of each token of ids [B, L], told the soft prompt and those before it.

        Parameters
        ----------
        soft
            [B, n, width], in the place of n token embeddings.
        """
        prompt = torch.tensor(self._prompt, dtype=torch.int64, device=ids.device).expand(len(ids), -1)
        words = self.embed(torch.cat([prompt, ids], 1))
        given = torch.cat([soft.to(words.dtype), words], 1)
        seen = torch.cat([mask.new_ones(len(ids), given.shape[1] - ids.shape[1]), mask], 1)
        options = {"logits_to_keep": ids.shape[1] + 1} if self._keeps else {}
        out = self.model(inputs_embeds=given, attention_mask=seen.long(), use_cache=False, **options).logits
        return out[:, -ids.shape[1] - 1 : -1]

    def loss(self, soft: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Return L_LM: the mean cross-entropy of the tokens where mask [B, L] is True, teacher-forced."""
        return F.cross_entropy(self.logits(soft, ids, mask)[mask].float(), ids[mask])

    @torch.no_grad()
    def predict(self, soft: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the most probable token at each place, int64 [B, L], teacher-forced."""
        return self.logits(soft, ids, mask).argmax(2)

    @torch.no_grad()
    def generate(self, soft: Tensor, tokens: int) -> list[str]:
        """Return what the model writes after each soft prompt [B, n, width], greedily, `tokens` tokens at most."""
        prompt = torch.tensor(self._prompt, dtype=torch.int64, device=soft.device).expand(len(soft), -1)
        given = torch.cat([soft, self.embed(prompt)], 1)
        seen = torch.ones(given.shape[:2], dtype=torch.int64, device=soft.device)
        out = self.model.generate(
            inputs_embeds=given, attention_mask=seen, max_new_tokens=tokens, do_sample=False, pad_token_id=0
        )
        return self.tokenizer.batch_decode(out, skip_special_tokens=True)

"""A `transformers` T5 or GPT-2 driven two ways: by our beam search, and by its own `generate` with a dict trie.

Codes are tokens `FIRST + sum(sizes[:level]) + code`; 0 is padding and the decoder's start, 1 ends a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.generative.beam import BeamResult, Rows

FIRST = 2


def starts(sizes: Sequence[int]) -> list[int]:
    """Return the token of code 0 of each level."""
    return [FIRST + sum(sizes[:level]) for level in range(len(sizes))]


def tiny_t5(sizes: Sequence[int], *, dim: int = 64, layers: int = 2, seed: int = 0) -> Any:
    """Return a T5 from a configuration, with random weights."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=FIRST + sum(sizes),
        d_model=dim,
        d_kv=dim // 4,
        d_ff=2 * dim,
        num_layers=layers,
        num_decoder_layers=layers,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=1,
    )
    config.decoder_start_token_id = 0
    return T5ForConditionalGeneration(config).eval()


def tiny_gpt2(sizes: Sequence[int], *, dim: int = 32, layers: int = 2, seed: int = 0) -> Any:
    """Return a GPT-2 from a configuration, with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=FIRST + sum(sizes),
        n_positions=64,
        n_embd=dim,
        n_layer=layers,
        n_head=4,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=1,
    )
    return GPT2LMHeadModel(config).eval()


@dataclass
class HuggingFaceSteps:
    """A `StepFn` over a `transformers` model and its key/value cache; `prompts` are tokens [Q, T] without padding."""

    model: Any
    prompts: Tensor
    sizes: tuple[int, ...]
    calls: list[int] = field(default_factory=list)
    """Rows of each call."""
    _cache: Any = None
    _memory: Tensor | None = None

    def __call__(self, rows: Rows) -> Tensor:
        """Return the logits of the level's codes."""
        first = starts(self.sizes)
        self.calls.append(len(rows.query))
        inputs: dict[str, Any] = {"cache": self._cache, "use_cache": True}
        if rows.level:
            self._cache.reorder_cache(rows.parent)
            tokens = (rows.token + first[rows.level - 1])[:, None]
        elif self.model.config.is_encoder_decoder:
            self._memory = self.model.get_encoder()(self.prompts).last_hidden_state
            tokens = torch.zeros(len(rows.query), 1, dtype=torch.long)
        else:
            tokens = self.prompts
        if self._memory is not None:
            inputs |= {"encoder_outputs": (self._memory[rows.query],), "decoder_input_ids": tokens}
        else:
            inputs |= {"input_ids": tokens}
        out = self.model(**inputs)
        self._cache = out.cache
        return out.logits[:, -1, first[rows.level] : first[rows.level] + self.sizes[rows.level]]


def dict_trie(sids: np.ndarray, sizes: Sequence[int]) -> dict[int, Any]:
    """Return nested dicts token -> dict, as GENRE's and LETTER's tries are built: a Python loop over the items."""
    root: dict[int, Any] = {}
    for tokens in (sids + np.asarray(starts(sizes))).tolist():
        node = root
        for token in tokens:
            node = node.setdefault(token, {})
    return root


def allowed_tokens(root: dict[int, Any], prompt: int) -> Callable[[int, Tensor], list[int]]:
    """Return the callback `prefix_allowed_tokens_fn` over a dict trie; the first `prompt` tokens are not codes."""

    def allowed(_: int, tokens: Tensor) -> list[int]:
        node = root
        for token in tokens[prompt:].tolist():
            node = node.get(token, {})
        return list(node)

    return allowed


def generate(
    model: Any,
    prompts: Tensor,
    sids: np.ndarray,
    sizes: Sequence[int],
    callback: Callable[[int, Tensor], list[int]] | None,
    *,
    beam: int,
    top_k: int,
    renormalize: bool = True,
) -> BeamResult:
    """Return what `transformers` generates: beams over the whole vocabulary, masked by the callback.

    It takes the log-softmax over the whole vocabulary and masks afterwards; `renormalize_logits` makes the scores
    those of a softmax over the allowed tokens. `length_penalty` 0 leaves sums of log-probabilities.
    """
    out = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        num_beams=beam,
        num_return_sequences=top_k,
        min_new_tokens=len(sizes),
        max_new_tokens=len(sizes),
        do_sample=False,
        length_penalty=0.0,
        prefix_allowed_tokens_fn=callback,
        renormalize_logits=renormalize,
        return_dict_in_generate=True,
        output_scores=True,
    )
    codes = out.sequences[:, -len(sizes) :].numpy() - np.asarray(starts(sizes))
    known = {tuple(row): item for item, row in enumerate(sids.tolist())} if callback else {}
    items = torch.tensor([known.get(tuple(row), -1) for row in codes.tolist()])
    return BeamResult(items.view(len(prompts), top_k), out.sequences_scores.view(len(prompts), top_k))

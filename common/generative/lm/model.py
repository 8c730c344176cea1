"""A causal language model whose vocabulary goes on with codes: V text tokens, then n codes with own weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import ConfigError, DataError
from common.generative.lm.config import SCRATCH, LmConfig
from common.generative.lm.examples import LmBatch, check_room
from common.generative.lm.loading import add_lora, build_scratch, from_json, load_pretrained, train_tokenizer

PROBE = (1, 2, 3)


class LanguageModel(nn.Module):
    """Any causal language model of transformers, with n more tokens.

    The text part of the vocabulary stays as it is; codes have one embedding each, which is their output weight too.
    So that adding codes changes nothing in the model itself, and code embeddings can be trained alone.

    Parameters
    ----------
    body
        transformers' `...ForCausalLM`.
    tokenizer
        Its tokenizer. No pad token is needed: padding is masked.
    codes
        n.
    config
        What of it is trained.
    digest
        SHA-256 of the pre-trained weights; empty for a model from scratch.
    """

    def __init__(self, body: Any, tokenizer: Any, codes: int, config: LmConfig, digest: str = "") -> None:
        super().__init__()
        self.config, self.tokenizer, self.digest = config, tokenizer, digest
        words = body.get_input_embeddings()
        self.text_size, self.dim = words.weight.shape
        self.context = int(getattr(body.config, "max_position_embeddings", None) or 1 << 30)
        self.end = int(tokenizer.eos_token_id)
        _check_head(body, config.name)
        self.codes = nn.Embedding(codes, self.dim)
        with torch.no_grad():  # as large as words are, or a softmax over both would begin with one kind alone
            nn.init.normal_(self.codes.weight, std=float(words.weight.detach().float().std()))
        if config.tune == "lora":
            add_lora(body, config)
        elif config.tune == "codes":
            body.requires_grad_(False)
        self.body = body

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.codes.weight.device

    def tokenize(self, text: str, most: int | None = None) -> list[int]:
        """Return the token ids of a text, the first `most` of them."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])[:most]

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, up to the first end; codes among them are written as <code_n>."""
        parts: list[str] = []
        words: list[int] = []
        for token in ids:
            if token == self.end:
                break
            if token < self.text_size:
                words.append(token)
                continue
            parts += [self.tokenizer.decode(words), f"<code_{token - self.text_size}>"]
            words = []
        return "".join([*parts, self.tokenizer.decode(words)])

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings [..., D] of token ids [...]; ids from V on are codes."""
        code = ids >= self.text_size
        words = self.body.get_input_embeddings()(ids.masked_fill(code, 0))
        codes = self.codes((ids - self.text_size).clamp(min=0))
        return torch.where(code[..., None], codes.to(words.dtype), words)

    def states(self, given: Tensor, mask: Tensor, attention: Tensor | None = None) -> Tensor:
        """Return the last hidden states [B, T, D] of embeddings [B, T, D].

        Parameters
        ----------
        mask
            bool [B, T], True = a token; padding may be on either side.
        attention
            bool [B, T, T], True = position t may see s, in place of the causal triangle (STORE's cascaded mask).
        """
        places = mask.long().cumsum(1).sub(1).clamp(min=0)
        seen: Tensor = mask.long()
        if attention is not None:
            allowed = attention & mask[:, None]
            allowed = allowed | torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)  # a row of none is NaN
            seen = torch.zeros(allowed.shape, dtype=given.dtype, device=given.device)
            seen = seen.masked_fill(~allowed, torch.finfo(given.dtype).min)[:, None]
        return self.body.base_model(
            inputs_embeds=given, attention_mask=seen, position_ids=places, use_cache=False
        ).last_hidden_state

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits [..., V + n] of states [..., D]: text tokens, then codes."""
        return torch.cat([self.text_logits(states), self.code_logits(states)], dim=-1)

    def text_logits(self, states: Tensor) -> Tensor:
        """Return the logits [..., V] of text tokens."""
        return self.body.get_output_embeddings()(states)[..., : self.text_size]

    def code_logits(self, states: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the logits [..., stop - start] of codes start..stop - 1."""
        return functional.linear(states, self.codes.weight[start:stop])

    def told_loss(self, states: Tensor, batch: LmBatch) -> Tensor:
        """Return the mean cross-entropy, over text tokens and codes, of what the batch tells; states [B, T, D]."""
        rows, places = torch.nonzero(batch.told, as_tuple=True)
        return functional.cross_entropy(self.logits(states[rows, places - 1]).float(), batch.ids[rows, places])

    @torch.no_grad()
    def write(self, prompts: Sequence[Sequence[int]], most: int) -> list[str]:
        """Return the text that follows each prompt, greedily, `most` tokens at most; codes are never written."""
        from common.generative.lm.decoding import Decoding

        for row, prompt in enumerate(prompts):
            check_room(len(prompt) + most, self.context, f"prompt {row}")
        if not prompts:
            return []
        decoding = Decoding.start(self, prompts)
        found: list[list[int]] = [[] for _ in prompts]
        open_rows = torch.ones(len(prompts), dtype=torch.bool, device=self.device)
        for place in range(most):
            tokens = self.text_logits(decoding.states).argmax(-1)
            open_rows &= tokens != self.end
            for row in torch.nonzero(open_rows)[:, 0].tolist():
                found[row].append(int(tokens[row]))
            if not open_rows.any() or place == most - 1:
                break
            decoding.advance(torch.arange(len(prompts), device=self.device), tokens)
        return [self.text(row) for row in found]

    def settings(self) -> dict[str, Any]:
        """Return JSON values that `rebuild` makes the untrained model of."""
        scratch = self.config.name == SCRATCH
        return {
            "config": self.config.model_dump(mode="json"),
            "codes": self.codes.num_embeddings,
            "digest": self.digest,
            "tokenizer": json.loads(self.tokenizer.backend_tokenizer.to_str()) if scratch else None,
        }


def load_language_model(config: LmConfig, codes: int, texts: Sequence[str]) -> LanguageModel:
    """Return a language model with `codes` codes; one from scratch makes its vocabulary of `texts`."""
    if config.name != SCRATCH:
        body, tokenizer, digest = load_pretrained(config)
        return LanguageModel(body, tokenizer, codes, config, digest)
    tokenizer = from_json(train_tokenizer(texts, config.scratch.vocabulary))
    return LanguageModel(build_scratch(config.scratch, len(tokenizer)), tokenizer, codes, config)


def rebuild(settings: dict[str, Any]) -> LanguageModel:
    """Return the untrained model of `LanguageModel.settings()`.

    Raises
    ------
    DataError
        The pre-trained weights that it stood on are others now.
    """
    config = LmConfig.model_validate(settings["config"])
    if config.name == SCRATCH:
        tokenizer = from_json(json.dumps(settings["tokenizer"]))
        return LanguageModel(build_scratch(config.scratch, len(tokenizer)), tokenizer, settings["codes"], config)
    body, tokenizer, digest = load_pretrained(config)
    if digest != settings["digest"]:
        raise DataError(
            "the language model that this one was trained on has other weights now",
            where=f"model {config.name}",
            expected=f"weights of SHA-256 {settings['digest'][:16]}",
            got=digest[:16],
            todo="give it the revision that it was trained on, or train it again",
        )
    return LanguageModel(body, tokenizer, settings["codes"], config, digest)


@torch.no_grad()
def _check_head(body: Any, name: str) -> None:
    """Raise unless logits are the output map of the last states: some models scale or cap them in between."""
    ids = torch.tensor([PROBE])
    was = body.training
    body.eval()
    wanted = body(input_ids=ids).logits
    got = body.get_output_embeddings()(body.base_model(input_ids=ids).last_hidden_state)
    body.train(was)
    if wanted.shape != got.shape or not torch.allclose(wanted, got, rtol=1e-3, atol=1e-3):
        raise ConfigError(
            "this language model does more than one linear map between its last states and its logits",
            where=f"model {name} ({type(body).__name__})",
            todo="take a model of another family: Llama, Qwen, SmolLM, GPT-2",
        )

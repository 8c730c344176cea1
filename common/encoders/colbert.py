"""Late-interaction text encoders: one vector a token.

Two backends behind `TokenEncoder`:

* torch: sentence-transformers' `MultiVectorEncoder`, which reads its own format, PyLate's and the original
  ColBERT checkpoints, with their projection head, [Q]/[D] markers, query expansion and punctuation list.
* onnx: an ONNX graph with token states. The packaged graph of answerai-colbert-small-v1 ends before the
  model's 96-d projection; its 384-d states are compared as they are, without markers and expansion.
  Passage tokens that are punctuation are left out, as in ColBERT.
"""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from common.encoders.base import Backend, Role, TokenEncoder
from common.encoders.loading import quiet_unless_terminal
from common.encoders.onnx_text import OnnxTextModel
from common.encoders.packaged import Source, resolve, unavailable
from common.encoders.text import normalised

_VERSION = 1


def build_token_encoder(
    model: str,
    *,
    backend: Backend = "auto",
    query_prompt: str = "",
    passage_prompt: str = "",
    max_tokens: int = 256,
    device: str = "cpu",
    threads: int = 2,
) -> TokenEncoder:
    """Return the late-interaction encoder of a hub name or local folder.

    Raises
    ------
    ConfigError
        The model is not to be had, or lacks what its backend needs.
    """
    source = resolve(model, backend)
    prompts: dict[Role, str] = {"query": query_prompt, "passage": passage_prompt}
    if source.backend == "onnx":
        return OnnxTokenEncoder(source, prompts, max_tokens, threads)
    return TorchTokenEncoder(source, prompts, max_tokens, device)


class OnnxTokenEncoder:
    """Token states of an ONNX graph. A text's vectors have the same bytes in any batch."""

    modality: Literal["text"] = "text"

    def __init__(self, source: Source, prompts: dict[Role, str], max_tokens: int, threads: int) -> None:
        self._model = OnnxTextModel(source, max_tokens, threads, "states")
        self._prompts = prompts
        self._skipped = np.asarray([i for c in string.punctuation if (i := self._model.token_id(c)) is not None])
        self.name = source.model
        self.revision = source.revision()
        self.dim = self._model.dim
        self.preprocessing = json.dumps(["onnx tokens", _VERSION, prompts, max_tokens, self._model.engine])

    def encode(self, texts: Sequence[str], *, role: Role, batch_size: int = 1) -> list[np.ndarray]:
        """Return float32 [T_i, D] a text; `batch_size` is not used: texts run alone (see `onnx_text`)."""
        result: list[np.ndarray] = []
        for encoding, states in self._model.run([self._prompts[role] + text for text in texts]):
            kept = ~np.isin(encoding.ids, self._skipped) if role == "passage" else slice(None)
            result.append(normalised(states[kept]))
        return result

    def token_texts(self, text: str) -> list[str]:
        """Return the query's tokens, special ones as "" (they are no words)."""
        encoding = self._model.tokenize(self._prompts["query"] + text)
        pairs = zip(encoding.tokens, encoding.special_tokens_mask, strict=True)
        return ["" if special else token for token, special in pairs]

    def vocabulary_of(self, text: str) -> set[str]:
        """Return the tokens of a passage's text."""
        return set(self._model.tokenize(text).tokens)


class TorchTokenEncoder:
    """A `MultiVectorEncoder` of sentence-transformers, by hub name or folder."""

    modality: Literal["text"] = "text"

    def __init__(self, source: Source, prompts: dict[Role, str], max_tokens: int, device: str) -> None:
        from sentence_transformers import MultiVectorEncoder

        try:
            with quiet_unless_terminal():
                self.model: Any = MultiVectorEncoder(source.target, device=device)
        except (OSError, ValueError) as error:
            raise unavailable(source.model, error) from None
        self._prompts = prompts
        own_limit = self.model.max_seq_length
        self.model.max_seq_length = min(max_tokens, own_limit) if own_limit else max_tokens
        self.name = source.model
        self.revision = source.revision()
        self.dim = int(self.model.get_embedding_dimension())
        self.preprocessing = json.dumps(["torch tokens", _VERSION, prompts, self.model.max_seq_length])

    def encode(self, texts: Sequence[str], *, role: Role, batch_size: int) -> list[np.ndarray]:
        """Return float32 [T_i, D] a text."""
        call = self.model.encode_query if role == "query" else self.model.encode_document
        found = call(list(texts), prompt=self._prompts[role] or None, batch_size=batch_size, show_progress_bar=False)
        return [normalised(vectors.float().cpu().numpy()) for vectors in found]

    def token_texts(self, text: str) -> list[str]:
        """Return the query's tokens as scored, special, marker and expansion ones as ""."""
        tokenizer = self.model.tokenizer
        raw = self.model.encode_query(
            [text], prompt=self._prompts["query"] or None, output_value=None, show_progress_bar=False
        )[0]
        ids = raw["input_ids"][raw["attention_mask"].bool()].tolist()
        special = set(tokenizer.all_special_ids)
        return ["" if i in special else tokenizer.convert_ids_to_tokens(i) for i in ids]

    def vocabulary_of(self, text: str) -> set[str]:
        """Return the tokens of a passage's text."""
        return set(self.model.tokenizer.tokenize(text))

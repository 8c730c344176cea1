"""Single-vector text encoders: sentence-transformers (torch) and ONNX graphs, behind `TextEncoder`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from common.encoders.base import Backend, Role, TextEncoder
from common.encoders.onnx_text import OnnxTextModel
from common.encoders.packaged import Pooling, Source, resolve, unavailable
from common.errors import ConfigError

_VERSION = 1  # of this module's preprocessing: raise it when vectors change


def build_text_encoder(
    model: str,
    *,
    backend: Backend = "auto",
    query_prompt: str = "",
    passage_prompt: str = "",
    max_tokens: int = 256,
    device: str = "cpu",
    threads: int = 2,
) -> TextEncoder:
    """Return the encoder of a hub name or local folder; `packaged.resolve` says where it is looked for.

    Raises
    ------
    ConfigError
        The model is not to be had, or lacks what its backend needs.
    """
    source = resolve(model, backend)
    prompts: dict[Role, str] = {"query": query_prompt, "passage": passage_prompt}
    if source.backend == "onnx":
        return OnnxTextEncoder(source, prompts, max_tokens, threads)
    return TorchTextEncoder(source, prompts, max_tokens, device)


class OnnxTextEncoder:
    """Pooled, L2-normalised states of an ONNX graph. A text's vector has the same bytes in any batch."""

    modality: Literal["text"] = "text"

    def __init__(self, source: Source, prompts: dict[Role, str], max_tokens: int, threads: int) -> None:
        self._model = OnnxTextModel(source, max_tokens, threads, "states")
        self._prompts = prompts
        self._pooling = _pooling(source)
        self.name = source.model
        self.revision = source.revision()
        self.dim = self._model.dim
        self.preprocessing = json.dumps(["onnx", _VERSION, prompts, max_tokens, self._pooling])

    def encode(self, texts: Sequence[str], *, role: Role, batch_size: int = 1) -> np.ndarray:
        """Return float32 [N, D]; `batch_size` is not used: texts run alone (see `onnx_text`)."""
        prompt = self._prompts[role]
        pooled = np.empty((len(texts), self.dim), np.float32)
        for i, (_, states) in enumerate(self._model.run([prompt + text for text in texts])):
            pooled[i] = states[0] if self._pooling == "cls" else states.mean(axis=0)
        return normalised(pooled)


class TorchTextEncoder:
    """A sentence-transformers model, by hub name or folder.

    Batches hold texts of similar length; padding is masked. Results differ with the batch by rounding only
    (fp32: below 1e-6 on a unit vector, tested): equal for retrieval, not byte for byte.
    A model's own query and document prompts are used where the configuration gives none.
    """

    modality: Literal["text"] = "text"

    def __init__(self, source: Source, prompts: dict[Role, str], max_tokens: int, device: str) -> None:
        from sentence_transformers import SentenceTransformer

        try:
            self.model: Any = SentenceTransformer(source.target, device=device)
        except (OSError, ValueError) as error:
            raise unavailable(source.model, error) from None
        own_limit = self.model.max_seq_length
        self.model.max_seq_length = min(max_tokens, own_limit) if own_limit else max_tokens
        self._prompts = prompts
        self.name = source.model
        self.revision = source.revision()
        self.dim = int(self.model.get_embedding_dimension())
        own = {k: v for k, v in sorted(self.model.prompts.items()) if v}
        self.preprocessing = json.dumps(["torch", _VERSION, prompts, own, self.model.max_seq_length])

    def encode(self, texts: Sequence[str], *, role: Role, batch_size: int) -> np.ndarray:
        """Return float32 [N, D], L2-normalised."""
        call = self.model.encode_query if role == "query" else self.model.encode_document
        vectors = call(
            list(texts),
            prompt=self._prompts[role] or None,
            batch_size=batch_size,
            show_progress_bar=False,
            convert_to_tensor=True,
        )
        return normalised(vectors.float().cpu().numpy())


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Return float32 rows of length 1; a zero row stays zero (it is no direction at all)."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _pooling(source: Source) -> Pooling:
    """Return the pooling that sentence-transformers' `1_Pooling/config.json` states, or the package table."""
    file = source.folder / "1_Pooling" / "config.json" if source.folder else None
    if file is not None and file.is_file():
        stated = json.loads(file.read_text(encoding="utf-8"))
        mode = stated.get("pooling_mode")
        if mode == "cls" or stated.get("pooling_mode_cls_token"):
            return "cls"
        if mode == "mean" or stated.get("pooling_mode_mean_tokens"):
            return "mean"
        raise ConfigError("this pooling is not known to the ONNX backend", where=file, expected="cls or mean")
    if source.pooling is not None:
        return source.pooling
    raise ConfigError(
        f"how to pool the token states of {source.model!r} is not stated",
        where=source.folder,
        expected="1_Pooling/config.json as sentence-transformers writes it",
    )

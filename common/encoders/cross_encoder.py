"""Cross-encoders: sentence-transformers' `CrossEncoder` (torch) and ONNX graphs, behind `PairScorer`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from common.encoders.base import Backend, PairScorer
from common.encoders.loading import quiet_unless_terminal
from common.encoders.onnx_text import OnnxTextModel
from common.encoders.packaged import Source, resolve, unavailable
from common.errors import ConfigError

_VERSION = 1


def build_pair_scorer(
    model: str, *, backend: Backend = "auto", max_tokens: int = 400, device: str = "cpu", threads: int = 2
) -> PairScorer:
    """Return the cross-encoder of a hub name or local folder.

    Raises
    ------
    ConfigError
        The model is not to be had, or gives several logits a pair (a classifier, not a reranker).
    """
    source = resolve(model, backend)
    if source.backend == "onnx":
        return OnnxPairScorer(source, max_tokens, threads)
    return TorchPairScorer(source, max_tokens, device)


class OnnxPairScorer:
    """The logit of an ONNX graph. A pair's logit has the same bytes in any batch."""

    def __init__(self, source: Source, max_tokens: int, threads: int) -> None:
        self._model = OnnxTextModel(source, max_tokens, threads, "logits")
        _one_logit(source, self._model.dim)
        self.name = source.model
        self.revision = source.revision()
        self.preprocessing = json.dumps(["onnx pairs", _VERSION, max_tokens, self._model.engine])

    def score(self, pairs: Sequence[tuple[str, str]], *, batch_size: int = 1) -> np.ndarray:
        """Return float32 [N] logits; `batch_size` is not used: pairs run alone (see `onnx_text`)."""
        return np.asarray([logits[0] for _, logits in self._model.run(list(pairs))], dtype=np.float32)


class TorchPairScorer:
    """A `CrossEncoder` of sentence-transformers, by hub name or folder."""

    def __init__(self, source: Source, max_tokens: int, device: str) -> None:
        from sentence_transformers import CrossEncoder

        try:
            with quiet_unless_terminal():
                self.model: Any = CrossEncoder(source.target, device=device)
        except (OSError, ValueError) as error:
            raise unavailable(source.model, error) from None
        _one_logit(source, int(self.model.num_labels))
        own_limit = self.model.max_seq_length
        self.model.max_seq_length = min(max_tokens, own_limit) if own_limit else max_tokens
        self.name = source.model
        self.revision = source.revision()
        self.preprocessing = json.dumps(["torch pairs", _VERSION, self.model.max_seq_length])

    def score(self, pairs: Sequence[tuple[str, str]], *, batch_size: int) -> np.ndarray:
        """Return float32 [N] logits."""
        import torch

        if not pairs:
            return np.empty(0, np.float32)
        logits = self.model.predict(
            [list(pair) for pair in pairs],
            batch_size=batch_size,
            activation_fn=torch.nn.Identity(),
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        return logits.float().cpu().numpy().reshape(len(pairs))


def _one_logit(source: Source, labels: int) -> None:
    if labels != 1:
        raise ConfigError(
            f"{source.model!r} is not a reranker",
            expected="a cross-encoder with one logit a pair",
            got=f"{labels} labels",
            todo="use a model of the kind cross-encoder/ms-marco-MiniLM-L12-v2",
        )

"""Single-vector text encoders: sentence-transformers (torch) and ONNX graphs, behind `TextEncoder`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.encoders.base import Backend, Role, TextEncoder
from common.encoders.loading import quiet_unless_terminal
from common.encoders.onnx_export import export_once, own_prompts
from common.encoders.onnx_text import OnnxTextModel
from common.encoders.packaged import Pooling, Source, resolve, unavailable
from common.errors import ConfigError

Precision = Literal["float32", "bfloat16", "int8"]

_VERSION = 1  # of this module's preprocessing: raise it when vectors change
_WINDOW = 64  # texts tokenised and in flight at once: bounds the memory
_TASKS: dict[Role, str] = {"query": "query", "passage": "document"}
_PROMPT_NAMES: dict[Role, tuple[str, ...]] = {"query": ("query",), "passage": ("document", "passage", "corpus")}


def build_text_encoder(
    model: str,
    *,
    cache: Path | None = None,
    backend: Backend = "auto",
    query_prompt: str = "",
    passage_prompt: str = "",
    max_tokens: int = 256,
    device: str = "cpu",
    threads: int = 2,
    precision: Precision = "float32",
) -> TextEncoder:
    """Return the encoder of a hub name or local folder; `packaged.resolve` says where it is looked for.

    Parameters
    ----------
    cache
        Where ONNX exports are kept; needed for backend "onnx" with a model that has no graph of its own.
    backend
        "onnx" runs on the CPU. "auto" takes it for a folder that holds only a graph, and for "int8".
    precision
        "bfloat16" is for torch, "int8" for an exported graph. A graph that came with its model is run as it is.

    Raises
    ------
    ConfigError
        The model is not to be had, or lacks what its backend needs.
    """
    source = resolve(model, "onnx" if backend == "auto" and precision == "int8" else backend)
    prompts: dict[Role, str] = {"query": query_prompt, "passage": passage_prompt}
    if source.backend == "torch":
        if precision == "int8":
            raise ConfigError("precision int8 is not for torch", where=model, todo="set backend: onnx, or auto")
        return TorchTextEncoder(source, prompts, max_tokens, device, threads, precision)
    if source.has_graph() or cache is None:
        return OnnxTextEncoder(source, prompts, max_tokens, threads)
    if precision == "bfloat16":
        raise ConfigError("precision bfloat16 is not for ONNX", where=model, todo="set precision: int8 or float32")
    source, stated = export_once(source, cache, precision)
    limit = min(max_tokens, stated.max_tokens or max_tokens)
    return OnnxTextEncoder(source, _with_own(prompts, stated.prompts), limit, threads)


class OnnxTextEncoder:
    """Pooled, L2-normalised states of an ONNX graph. A text's vector has the same bytes in any batch."""

    modality: Literal["text"] = "text"

    def __init__(self, source: Source, prompts: dict[Role, str], max_tokens: int, threads: int) -> None:
        self._pooling = _pooling(source)
        self._model = OnnxTextModel(source, max_tokens, threads, "first" if self._pooling == "cls" else "states")
        self._prompts = prompts
        self.name = source.model
        self.revision = source.revision()
        self.dim = self._model.dim
        self.preprocessing = json.dumps(["onnx", _VERSION, prompts, max_tokens, self._pooling, self._model.engine])

    def encode(self, texts: Sequence[str], *, role: Role, batch_size: int = 1) -> np.ndarray:
        """Return float32 [N, D]; `batch_size` is not used: texts run alone (see `onnx_text`)."""
        prompt = self._prompts[role]
        pooled = np.empty((len(texts), self.dim), np.float32)
        for i, (_, states) in enumerate(self._model.run([prompt + text for text in texts])):
            pooled[i] = states[0] if self._pooling == "cls" else states.mean(axis=0)
        return normalised(pooled)


class TorchTextEncoder:
    """A sentence-transformers model, by hub name or folder.

    On a CPU every text is run alone, one thread each, `threads` at once: pure by construction, and faster
    than padded batches (`benchmarks/encode.py`). On other devices batches hold texts of similar length, and
    a vector differs with its batch by rounding. A model's own query and document prompts are used where the
    configuration gives none.

    With precision "bfloat16" the products of matrices run in bfloat16, all else in float32 (torch autocast): about
    twice as fast on CPUs with avx512_bf16, at a cosine above 0.9999 to float32 (tested).
    """

    modality: Literal["text"] = "text"

    def __init__(
        self, source: Source, prompts: dict[Role, str], max_tokens: int, device: str, threads: int, precision: Precision
    ) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        try:
            with quiet_unless_terminal():
                self.model: Any = SentenceTransformer(source.target, device=device).eval()
        except (OSError, ValueError) as error:
            raise unavailable(source.model, error) from None
        own_limit = self.model.max_seq_length
        self.model.max_seq_length = min(max_tokens, own_limit) if own_limit else max_tokens
        self._prompts = _with_own(prompts, own_prompts(self.model))
        self._device = torch.device(device)
        self._threads = max(threads, 1)
        self._precision = precision
        self.name = source.model
        self.revision = source.revision()
        self.dim = int(self.model.get_embedding_dimension())
        self.preprocessing = json.dumps(["torch", _VERSION, self._prompts, self.model.max_seq_length, precision])

    def encode(self, texts: Sequence[str], *, role: Role, batch_size: int) -> np.ndarray:
        """Return float32 [N, D], L2-normalised; `batch_size` is not used on a CPU."""
        if not texts:
            return np.empty((0, self.dim), np.float32)
        if self._device.type == "cpu":
            return normalised(np.concatenate(list(self._alone(texts, role))))
        with self._autocast():
            vectors = self.model.encode(
                list(texts),
                prompt=self._prompts[role],
                task=_TASKS[role],
                batch_size=batch_size,
                show_progress_bar=False,
                convert_to_tensor=True,
            )
        return normalised(vectors.float().cpu().numpy())

    def _alone(self, texts: Sequence[str], role: Role) -> Iterator[np.ndarray]:
        """Yield float32 [1, D] a text. Tokenising stays on this thread: the tokenizer is not thread-safe."""
        import torch

        task = _TASKS[role]

        def run(features: dict[str, Any]) -> np.ndarray:
            with torch.inference_mode(), self._autocast():
                return self.model(features, task=task)["sentence_embedding"].float().numpy()

        before = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(self._threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                for start in range(0, len(texts), _WINDOW):
                    window = texts[start : start + _WINDOW]
                    ready = [self.model.preprocess([t], prompt=self._prompts[role], task=task) for t in window]
                    yield from pool.map(run, ready)
        finally:
            torch.set_num_threads(before)  # a worker's setting becomes the default of later threads

    def _autocast(self) -> Any:
        import torch

        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._precision == "bfloat16")


def _with_own(given: dict[Role, str], own: Mapping[str, str]) -> dict[Role, str]:
    """Return the prompts, the model's own ones where the configuration gives none."""
    return {
        role: given[role] or next((own[name] for name in names if own.get(name)), "")
        for role, names in _PROMPT_NAMES.items()
    }


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

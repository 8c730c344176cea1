"""Text models as ONNX graphs: ONNX Runtime and the `tokenizers` library, no torch.

Every text is run alone, without padding. An int8 graph with dynamic quantisation scales its activations by
the range over the whole input tensor, so that neighbours in a batch, and padding, would change a text's
vector (measured on bge-small int8: cosine 0.997 between alone and in a batch of 32; 0.991 in a batch of 16 of
exactly its length). Alone it is pure by construction, and on CPU also the fastest: see
`benchmarks/encode.py`. Cores are used by running several texts at once, one thread each, which leaves the
arithmetic of each text, hence its bytes, the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.encoders.packaged import Source
from common.errors import ConfigError

_WINDOW = 64  # texts tokenised and in flight at once: bounds the memory


class OnnxTextModel:
    """One ONNX graph of a BERT-like model with its tokenizer.

    Parameters
    ----------
    source
        Where the graph is; `tokenizer.json` is read from the same folder (or the one above `onnx/`).
    max_tokens
        Longer inputs are cut; of a pair, the longer side first.
    threads
        Texts run at once.
    output
        "states": a [1, T, D] output; "logits": a [1, L] one.
    """

    def __init__(self, source: Source, max_tokens: int, threads: int, output: Literal["states", "logits"]) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        path = source.onnx_file()
        self.threads = max(threads, 1)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # lengths vary: plans for each would only pile up
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exception classes are not public
            raise ConfigError("the ONNX graph cannot be read", where=path, got=str(error).splitlines()[0]) from None
        self._tokenizer = Tokenizer.from_file(str(_tokenizer_file(source, path)))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._inputs = {i.name for i in self._session.get_inputs()}
        rank = 3 if output == "states" else 2
        outputs = [o for o in self._session.get_outputs() if len(o.shape) == rank]
        known = {"input_ids", "attention_mask", "token_type_ids"}
        if not outputs or not self._inputs <= known:
            raise ConfigError(
                f"the ONNX graph has no {output}",
                where=path,
                expected=f"inputs among {sorted(known)}, an output with {rank} dimensions",
                got=f"inputs {sorted(self._inputs)}, outputs {[o.shape for o in self._session.get_outputs()]}",
            )
        self._output = outputs[0].name
        last = outputs[0].shape[-1]
        self.dim = last if isinstance(last, int) else self._run(self.tokenize("a")).shape[-1]

    def tokenize(self, text: str | tuple[str, str]) -> Any:
        """Return the `tokenizers.Encoding` of a text or a pair, cut to the token limit."""
        return self._tokenizer.encode(*text) if isinstance(text, tuple) else self._tokenizer.encode(text)

    def token_id(self, token: str) -> int | None:
        """Return the id of a token of the vocabulary."""
        return self._tokenizer.token_to_id(token)

    def run(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> Iterator[tuple[Any, np.ndarray]]:
        """Yield (encoding, output without the batch axis) of each text, in order."""
        yield from self.run_encodings(map(self.tokenize, texts))

    def run_encodings(self, encodings: Iterator[Any]) -> Iterator[tuple[Any, np.ndarray]]:
        """Like `run`, for encodings that the caller has prepared."""
        with ThreadPoolExecutor(self.threads) as pool:
            while window := [e for _, e in zip(range(_WINDOW), encodings, strict=False)]:
                yield from zip(window, pool.map(self._run, window), strict=True)

    def _run(self, encoding: Any) -> np.ndarray:
        feeds = {
            "input_ids": np.asarray([encoding.ids], np.int64),
            "attention_mask": np.asarray([encoding.attention_mask], np.int64),
            "token_type_ids": np.asarray([encoding.type_ids], np.int64),
        }
        result = self._session.run([self._output], {k: v for k, v in feeds.items() if k in self._inputs})
        return np.asarray(result[0], dtype=np.float32)[0]


def _tokenizer_file(source: Source, graph: Path) -> Path:
    for folder in (graph.parent, source.folder or graph.parent):
        if (folder / "tokenizer.json").is_file():
            return folder / "tokenizer.json"
    raise ConfigError("no tokenizer.json beside the ONNX graph", where=graph.parent)

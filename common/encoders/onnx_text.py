"""Text models as ONNX graphs: ONNX Runtime and the `tokenizers` library, no torch.

Every text is run alone, without padding. An int8 graph with dynamic quantisation scales its activations by
the range over the whole input tensor, so that neighbours in a batch, and padding, would change a text's
vector (measured on bge-small int8: cosine 0.997 between alone and in a batch of 32; 0.991 in a batch of 16 of
exactly its length). Alone it is pure by construction, and on CPU also the fastest: see
`benchmarks/encode.py`. Cores are used by running several texts at once, one thread each, which leaves the
arithmetic of each text, hence its bytes, the same.

A graph that is a BERT encoder is run in the operators of `bert_graph`, others as they are.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from common.encoders.bert_graph import VERSION, Output, bert_graph
from common.encoders.bert_weights import read_bert
from common.encoders.packaged import Source
from common.errors import ConfigError

_WINDOW = 64  # texts tokenised and in flight at once: bounds the memory
_SESSION_BYTES = 2**30  # of all sessions' graphs together


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
        "states": the tokens' [T, D]; "first": at least the first one's, [1 or T, D]; "logits": [L].

    Attributes
    ----------
    engine
        What runs the graph, for keys of vectors.
    dim
        D or L.
    """

    def __init__(self, source: Source, max_tokens: int, threads: int, output: Output) -> None:
        from tokenizers import Tokenizer

        path = source.onnx_file()
        self.threads = max(threads, 1)
        weights = read_bert(path)
        if weights is None or (output == "logits" and weights.classifier is None):
            self.engine, graph, size = "graph as it is", str(path), path.stat().st_size
        else:
            graph = bert_graph(weights, output)
            self.engine, size = f"bert graph {VERSION}", len(graph)
        del weights  # before the sessions take as much memory again
        # A session for each thread: in a shared one each works in memory that the other core had last (a tenth slower).
        count = max(1, min(self.threads, _SESSION_BYTES // max(size, 1)))
        self._sessions = [_session(graph, path) for _ in range(count)]
        self._tokenizer = Tokenizer.from_file(str(_tokenizer_file(source, path)))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        session = self._sessions[0]
        self._inputs = {i.name for i in session.get_inputs()}
        rank = 2 if output == "logits" else 3
        outputs = [o for o in session.get_outputs() if len(o.shape) == rank]
        known = {"input_ids", "attention_mask", "token_type_ids"}
        if not outputs or not self._inputs <= known:
            raise ConfigError(
                f"the ONNX graph has no {output}",
                where=path,
                expected=f"inputs among {sorted(known)}, an output with {rank} dimensions",
                got=f"inputs {sorted(self._inputs)}, outputs {[o.shape for o in session.get_outputs()]}",
            )
        self._output = outputs[0].name
        last = outputs[0].shape[-1]
        self.dim = last if isinstance(last, int) else self._run(session, self.tokenize("a")).shape[-1]

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
        own = threading.local()
        turns = itertools.count()

        def start() -> None:
            own.session = self._sessions[next(turns) % len(self._sessions)]

        def run(encoding: Any) -> np.ndarray:
            return self._run(own.session, encoding)

        pending: deque[tuple[Any, Future[np.ndarray]]] = deque()
        with ThreadPoolExecutor(self.threads, initializer=start) as pool:
            for encoding in encodings:
                pending.append((encoding, pool.submit(run, encoding)))
                if len(pending) == _WINDOW:
                    done, result = pending.popleft()
                    yield done, result.result()
            for done, result in pending:
                yield done, result.result()

    def _run(self, session: Any, encoding: Any) -> np.ndarray:
        feeds = {
            "input_ids": np.asarray([encoding.ids], np.int64),
            "attention_mask": np.asarray([encoding.attention_mask], np.int64),
            "token_type_ids": np.asarray([encoding.type_ids], np.int64),
        }
        result = session.run([self._output], {k: v for k, v in feeds.items() if k in self._inputs})
        return np.asarray(result[0], dtype=np.float32)[0]


def _session(graph: str | bytes, path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # lengths vary: plans for each would only pile up
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exception classes are not public
        raise ConfigError("the ONNX graph cannot be read", where=path, got=str(error).splitlines()[0]) from None


def _tokenizer_file(source: Source, graph: Path) -> Path:
    for folder in (graph.parent, source.folder or graph.parent):
        if (folder / "tokenizer.json").is_file():
            return folder / "tokenizer.json"
    raise ConfigError("no tokenizer.json beside the ONNX graph", where=graph.parent)

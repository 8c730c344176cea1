"""Text encoders and the cross-encoder side by side: rate, CPU time, memory, recall, and how far the vectors moved.

    python -m benchmarks.encode --data DIR --cache DIR

Every system encodes the same chunks of the same pages in a process of its own. "plain" is sentence-transformers
as its README calls it: fp32, batches of 32. "as exported" is this kit without `common.encoders.bert_graph`: each
text alone, through the operators that the exporter wrote. With the cache of an earlier run the pages are those of
the baseline, OCR included (read now where the cache lacks it); without it, only their text layer is used, and
`--pages 300` is enough to compare the rates.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import typer

from benchmarks.suite.meter import peak
from common.encoders.maxsim import maxsim
from common.faults import FaultLog
from track1_mdr.chunks import Chunks, chunk_passages
from track1_mdr.config import DataConfig
from track1_mdr.datasets.tables import Candidates, TaskTables, top_k
from track1_mdr.routes.text_vectors import score_groups

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
BGE = "BAAI/bge-small-en-v1.5"
BGE_PROMPT = "Represent this sentence for searching relevant passages: "
COLBERT = "answerdotai/answerai-colbert-small-v1"
RERANKER = "cross-encoder/ms-marco-MiniLM-L12-v2"
WORDS, STRIDE, MAX_TOKENS = 150, 110, 256

Encode = Callable[[Sequence[str], str], Any]
Build = Callable[[int, Path], Encode]  # (threads, cache)


def plain(threads: int, cache: Path) -> Encode:
    del cache
    import torch
    from sentence_transformers import SentenceTransformer

    from common.encoders.packaged import resolve

    torch.set_num_threads(threads)
    model = SentenceTransformer(resolve(MINILM).target, device="cpu")
    return lambda texts, role: model.encode(list(texts), batch_size=32, normalize_embeddings=True)


def kit(model: str, **options: Any) -> Build:
    def build(threads: int, cache: Path) -> Encode:
        from common.encoders.text import build_text_encoder

        encoder = build_text_encoder(model, cache=cache, max_tokens=MAX_TOKENS, threads=threads, **options)
        return lambda texts, role: encoder.encode(texts, role=role, batch_size=32)  # type: ignore[arg-type]

    return build


def kit_colbert(threads: int, cache: Path) -> Encode:
    del cache
    from common.encoders.colbert import build_token_encoder

    encoder = build_token_encoder(COLBERT, max_tokens=MAX_TOKENS, threads=threads)
    return lambda texts, role: encoder.encode(texts, role=role, batch_size=32)  # type: ignore[arg-type]


def kit_pairs(threads: int, cache: Path) -> Encode:
    del cache
    from common.encoders.cross_encoder import build_pair_scorer

    scorer = build_pair_scorer(RERANKER, threads=threads)
    return lambda pairs, role: scorer.score(pairs)  # type: ignore[call-arg]


def as_exported(build: Build) -> Build:
    """Return the same encoder on the graph as its exporter wrote it."""

    def unfused(threads: int, cache: Path) -> Encode:
        with patch("common.encoders.onnx_text.read_bert", return_value=None):
            return build(threads, cache)

    return unfused


def bge_padded(threads: int, cache: Path) -> Encode:
    """Return the usual way to run the graph: length-sorted, padded batches of 32, threads inside an operator."""
    del cache
    import onnxruntime
    from tokenizers import Tokenizer

    from common.encoders.packaged import resolve

    path = resolve(BGE).onnx_file()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(path.with_name("tokenizer.json")))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding()

    def encode(texts: Sequence[str], role: str) -> np.ndarray:
        asked = [BGE_PROMPT + text if role == "query" else text for text in texts]
        order = np.argsort([len(text) for text in asked])
        vectors = np.empty((len(asked), 384), np.float32)
        for start in range(0, len(order), 32):
            some = order[start : start + 32]
            encodings = tokenizer.encode_batch([asked[i] for i in some])
            ids = np.asarray([e.ids for e in encodings], np.int64)
            mask = np.asarray([e.attention_mask for e in encodings], np.int64)
            feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            vectors[some] = np.asarray(session.run(None, feeds)[0])[:, 0]
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return encode


@dataclass(frozen=True)
class System:
    """One row of the table.

    `against` is the row with the same weights that its rate is divided by, `like` the one that its vectors are compared
    with. `pairs`: it reads a question together with a chunk, and gives one logit.
    """

    label: str
    build: Build
    against: str | None = None
    like: str | None = None
    pairs: bool = False


PLAIN, PADDED = "MiniLM-L6, plain sentence-transformers fp32", "bge-small int8 ONNX, padded batches of 32"
_BGE = kit(BGE, query_prompt=BGE_PROMPT)
_COLBERT, _PAIRS = "answerai-colbert-small int8 ONNX", "ms-marco-MiniLM-L12 int8 ONNX, pairs"
SYSTEMS: dict[str, System] = {
    "plain": System(PLAIN, plain),
    "torch": System("MiniLM-L6, this kit, torch fp32", kit(MINILM), "plain", "plain"),
    "bf16": System("MiniLM-L6, this kit, torch bf16", kit(MINILM, precision="bfloat16"), "plain", "plain"),
    "fp32": System("MiniLM-L6, this kit, ONNX fp32", kit(MINILM, backend="onnx"), "plain", "plain"),
    "int8_exported": System(
        "MiniLM-L6, ONNX int8 as exported", as_exported(kit(MINILM, precision="int8")), "plain", "plain"
    ),
    "int8": System("MiniLM-L6, this kit, ONNX int8", kit(MINILM, precision="int8"), "plain", "plain"),
    "padded": System(PADDED, bge_padded),
    "bge_exported": System("bge-small int8 ONNX as exported", as_exported(_BGE), "padded"),
    "bge": System("bge-small int8 ONNX, this kit", _BGE, "padded", "bge_exported"),
    "colbert_exported": System(f"{_COLBERT} as exported", as_exported(kit_colbert)),
    "colbert": System(f"{_COLBERT}, this kit", kit_colbert, "colbert_exported", "colbert_exported"),
    "pairs_exported": System(f"{_PAIRS}, as exported", as_exported(kit_pairs), pairs=True),
    "pairs": System(f"{_PAIRS}, this kit", kit_pairs, "pairs_exported", "pairs_exported", pairs=True),
}


@dataclass(frozen=True)
class Result:
    """What one system's process measured."""

    passages: Any
    queries: Any
    wall: float
    cpu: float
    memory_gb: float


def warm_up(name: str, threads: int, cache: Path) -> None:
    """Export the model where that is due, in a process of its own: its memory is not that of encoding."""
    SYSTEMS[name].build(threads, cache)


def measure(name: str, threads: int, cache: Path, chunks: list[Any], questions: list[str]) -> Result:
    encode = SYSTEMS[name].build(threads, cache)
    encode(chunks[:2], "passage")  # warm up: first calls allocate and choose kernels
    wall, cpu = time.perf_counter(), time.process_time()
    passages = encode(chunks, "passage")
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    memory = peak() / 2**30
    return Result(passages, None if SYSTEMS[name].pairs else encode(questions, "query"), wall, cpu, memory)


def recall(tables: TaskTables, owners: np.ndarray, result: Result) -> list[float]:
    """Return R@1, R@3 and R@5 in percent over the questions with gold."""

    def score(chunks: np.ndarray, members: list[int], rows: np.ndarray) -> np.ndarray:
        del rows
        if isinstance(result.passages, list):
            tokens, asked = [result.passages[c] for c in chunks], [result.queries[m] for m in members]
            return maxsim(np.concatenate(tokens), _offsets(tokens), np.concatenate(asked), _offsets(asked))
        return result.passages[chunks] @ result.queries[members].T

    found = score_groups(tables.queries, tables.candidates, owners, score, top=5)
    shares = [
        [len(np.intersect1d(top_k(scored, k).rows, gold)) / len(gold) for k in (1, 3, 5)]
        for scored, gold in zip(found, tables.gold_rows(), strict=True)
        if gold is not None
    ]
    return (100 * np.asarray(shares).mean(axis=0)).tolist()


def likeness(ours: Any, theirs: Any) -> str:
    """Return the mean cosine of two systems' vectors; of logits, the root mean square difference."""
    if isinstance(ours, list):
        ours, theirs = np.concatenate(ours), np.concatenate(theirs)
    if ours.ndim == 1:
        return f"rms {np.sqrt(np.mean((ours - theirs) ** 2)):.3f}"
    return f"{float((ours * theirs).sum(axis=1).mean()):.5f}"


def with_questions(tables: TaskTables, chunks: Chunks) -> list[tuple[str, str]]:
    """Return each chunk with a question about its document: as many of either's questions as chunks take in turn."""
    asked: dict[int, list[str]] = {}
    for text, rows in zip(tables.queries.texts, tables.candidates.rows, strict=True):
        for row in rows.tolist():
            asked.setdefault(row, []).append(text)
    pairs: list[tuple[str, str]] = []
    for place, (text, owner) in enumerate(zip(chunks.texts, chunks.owners.tolist(), strict=True)):
        questions = asked.get(owner) or tables.queries.texts
        pairs.append((questions[place % len(questions)], text))
    return pairs


def _offsets(items: Sequence[np.ndarray]) -> np.ndarray:
    return np.cumsum([0, *(len(item) for item in items)]).astype(np.int64)


def first_documents(tables: TaskTables, pages: int | None) -> tuple[list[str], TaskTables]:
    """Return the passages' texts, emptied outside the first whole documents with `pages` pages, and their task."""
    names = tables.passages.table["doc_name"].to_list()
    sizes = Counter(names)
    kept: set[str] = set()
    total = 0
    for name, size in sizes.items():
        if pages is None or total + size <= pages:
            kept.add(name)
            total += size
    asked = [i for i, name in enumerate(tables.queries.table["doc_name"]) if name in kept]
    queries = type(tables.queries)(tables.queries.table[asked], tables.queries.images)
    candidates = Candidates(tuple(tables.candidates.rows[i] for i in asked))
    texts = [text if name in kept else "" for text, name in zip(tables.passages.texts, names, strict=True)]
    return texts, TaskTables(tables.task, tables.passages, queries, candidates, tables.qrels)


def main(
    data: Annotated[Path, typer.Option(help="data root, with mmdocir/")],
    cache: Annotated[Path | None, typer.Option(help="a run's cache: its pages with their OCR; none = no OCR")] = None,
    pages: Annotated[int | None, typer.Option(help="at most so many pages, of whole documents")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads a system may use")] = 2,
    only: Annotated[list[str] | None, typer.Option(help="systems to run, by short name")] = None,
) -> None:
    """Print the table."""
    from track1_mdr.datasets.mmdocir import load_mmdocir

    with tempfile.TemporaryDirectory() as scratch:
        place = cache or Path(scratch)
        config = DataConfig.model_validate({"ocr": {"enabled": cache is not None}})
        everything = load_mmdocir(data / "mmdocir", config, place, FaultLog())
        texts, tables = first_documents(everything, pages)
        chunks = chunk_passages(texts, WORDS, STRIDE)
        print(f"{len(chunks)} chunks of {len(np.unique(chunks.owners))} pages, {len(tables.queries)} questions")
        print(f"{threads} threads, at most {MAX_TOKENS} tokens\n")
        print(f"{'system':<48}chunks/s    x  CPU ms/chunk    x  peak GB   R@1   R@3   R@5  mean  likeness", flush=True)
        pairs = with_questions(tables, chunks)
        done: dict[str, Result] = {}
        for name in only or list(SYSTEMS):
            _apart(warm_up, name, threads, place)
            items = pairs if SYSTEMS[name].pairs else chunks.texts
            done[name] = _apart(measure, name, threads, place, items, tables.queries.texts)
            shares = [] if SYSTEMS[name].pairs else recall(tables, chunks.owners, done[name])
            print(_row(name, done, len(chunks), shares), flush=True)


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _row(name: str, done: dict[str, Result], count: int, shares: list[float]) -> str:
    system, result = SYSTEMS[name], done[name]
    base = done.get(system.against or "")
    faster = f"{base.wall / result.wall:4.1f}" if base else "    "
    cheaper = f"{base.cpu / result.cpu:4.1f}" if base else "    "
    figures = "".join(f"{value:6.1f}" for value in [*shares, float(np.mean(shares))]) if shares else " " * 24
    like = likeness(result.passages, done[system.like].passages) if system.like in done else ""
    return (
        f"{system.label:<48}{count / result.wall:8.1f} {faster}{1000 * result.cpu / count:14.1f} {cheaper}"
        f"{result.memory_gb:9.2f}{figures}  {like}"
    )


if __name__ == "__main__":
    typer.run(main)

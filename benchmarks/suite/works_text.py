"""Track 1's texts: encoders beside sentence-transformers, BM25 beside rank-bm25 and plain bm25s."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.suite.meter import clock, peak
from benchmarks.suite.work import Context, Figure, Measured, System, Work

HERE = "benchmarks.suite.works_text"
SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"


# --- encoders ---


def tables_of(root: str, folder: str, pages: int | None) -> tuple[list[str], Any]:
    """Return texts and tables of the first whole documents with `pages` pages; text layers only, no OCR."""
    from benchmarks.encode import first_documents
    from common.faults import FaultLog
    from track1_mdr.config import DataConfig
    from track1_mdr.datasets.mmdocir import load_mmdocir

    config = DataConfig.model_validate({"ocr": {"enabled": False}})
    return first_documents(load_mmdocir(Path(root) / "mmdocir", config, Path(folder), FaultLog()), pages)


def cut(root: str, folder: str, pages: int | None, most: int | None = None) -> None:
    """Write the chunks and questions that every encoder gets, and export the models that need it."""
    from benchmarks.encode import STRIDE, WORDS
    from track1_mdr.chunks import chunk_passages

    texts, tables = tables_of(root, folder, pages)
    chunks = chunk_passages(texts, WORDS, STRIDE)
    body = {"chunks": chunks.texts[:most], "questions": tables.queries.texts[:most]}
    (Path(folder) / "texts.json").write_text(json.dumps(body), encoding="utf-8")


def encode(name: str, folder: str, threads: int, recall_of: list[Any] | None) -> Measured:
    """Measure one system of `benchmarks.encode`; its recall as well where `recall_of` = [root, pages] has gold."""
    from benchmarks import encode as encoders

    body = json.loads((Path(folder) / "texts.json").read_text(encoding="utf-8"))
    run = encoders.SYSTEMS[name].build(threads, Path(folder))
    run(body["chunks"][:2], "passage")  # first calls allocate and choose kernels
    with clock() as took:
        passages = run(body["chunks"], "passage")
    largest = peak()
    facts: dict[str, float] = {}
    if recall_of is not None:
        from track1_mdr.chunks import chunk_passages

        texts, tables = tables_of(recall_of[0], folder, recall_of[1])
        owners = chunk_passages(texts, encoders.WORDS, encoders.STRIDE).owners
        result = encoders.Result(passages, run(body["questions"], "query"), took.seconds, took.cpu, 0.0)
        shares = encoders.recall(tables, owners, result)
        facts["recall"] = sum(shares) / len(shares)
    return Measured({"encode": took.sample(len(body["chunks"]))}, facts, largest)


def export(name: str, folder: str, threads: int) -> None:
    """Build an encoder once, so that its exported graph is there."""
    from benchmarks import encode as encoders

    encoders.warm_up(name, threads, Path(folder))


def prepare_encoders(root: str, folder: str, pages: int | None, names: list[str], most: int | None = None) -> None:
    """Write the texts and export the graphs, each in a process of its own: exporters keep memory."""
    from benchmarks.suite.alone import run_alone

    Path(folder).mkdir(parents=True, exist_ok=True)
    cut(root, folder, pages, most)
    for name in names:
        run_alone(f"{HERE}:export", {"name": name, "folder": folder, "threads": 2}, timeout=600)


def text(context: Context) -> Work:
    """Return the encoders of passages: MiniLM in this kit and in sentence-transformers, and the baseline's two."""
    from common.experiment import cores

    root = str(context.data if context.data and (context.data / "mmdocir").is_dir() else SAMPLE)
    pages, most = context.pick((200, None), (None, 60), (None, 4))
    names = context.pick(
        ("plain", "int8", "fp32", "torch", "padded", "bge", "colbert"), ("plain", "int8", "bge", "colbert"), ("bge",)
    )
    against = {"int8": ("plain",), "fp32": ("plain",), "torch": ("plain",), "bge": ("padded",)}
    labels = {
        "plain": "sentence-transformers fp32, MiniLM-L6",
        "torch": "MiniLM-L6, torch fp32",
        "fp32": "MiniLM-L6, ONNX fp32",
        "int8": "MiniLM-L6, ONNX int8",
        "padded": "bge-small int8, padded batches of 32",
        "bge": "bge-small int8",
        "colbert": "answerai-colbert-small int8",
    }
    folder = str(context.folder / "text")
    recall_of = [root, pages] if most is None else None
    systems = tuple(
        System(
            name,
            labels[name],
            f"{HERE}:encode",
            {"name": name, "folder": folder, "threads": cores(), "recall_of": recall_of},
            against=tuple(peer for peer in against.get(name, ()) if peer in names),
            peer=name in ("plain", "padded"),
        )
        for name in names
    )
    arguments = {"root": root, "folder": folder, "pages": pages, "names": list(names), "most": most}
    prepare = System("cut", "chunks", f"{HERE}:prepare_encoders", arguments)
    figures = (Figure("encode", "text encoding", "chunks/s"),)
    about = "chunks of 150 words to vectors, beside sentence-transformers fp32"
    return Work("text", about, figures, systems, prepare, context.pick(2, 1, 1), 900)


# --- BM25 ---


def ask(root: str | None, out: str, pages: int, questions: int) -> None:
    """Write passages, questions and the page with the answer: of real documents, else planted ones."""
    import numpy as np

    from benchmarks.synthetic_pages import QUANTILES, VOCABULARY, WORDS, word

    if root is not None:
        texts, tables = tables_of(root, str(Path(out).parent), pages)
        gold = [int(rows[0]) if rows is not None and len(rows) else -1 for rows in tables.gold_rows()]
        body = {"passages": texts, "questions": tables.queries.texts, "gold": gold}
    else:
        rng = np.random.default_rng(7)
        body = {"passages": [], "questions": [], "gold": []}
        for _ in range(pages):
            ranks = np.exp(rng.random(int(np.interp(rng.random(), QUANTILES, WORDS))) * np.log(VOCABULARY))
            body["passages"].append(" ".join(word(int(rank)) for rank in ranks))
        for _ in range(questions):
            page = int(rng.integers(pages))
            words = body["passages"][page].split() or ["nothing"]
            picked = [words[int(i)] for i in rng.integers(len(words), size=8)]
            body["questions"].append("what is the " + " ".join(picked) + "?")
            body["gold"].append(page)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps(body), encoding="utf-8")


def bm25(system: str, path: str) -> Measured:
    """Index all passages, then give the ten best of every question, all passages competing."""
    body = json.loads(Path(path).read_text(encoding="utf-8"))
    run = {"kit": kit_bm25, "bm25s": _plain_bm25s, "rank_bm25": _rank_bm25}[system]
    run(body["passages"][:20], body["questions"][:2])  # imports
    with clock() as took:
        best = run(body["passages"], body["questions"])
    hits = [gold in rows[:5] for rows, gold in zip(best, body["gold"], strict=True) if gold >= 0]
    facts = {"recall@5": 100 * sum(hits) / len(hits)} if hits else {}
    return Measured({"search": took.sample(len(body["passages"]))}, facts)


def bm25_tables(passages: list[str], questions: list[str]) -> tuple[Any, Any]:
    """Return texts as the typed tables of Track 1, all in one collection."""
    import polars as pl

    from track1_mdr.datasets.tables import PASSAGE_SCHEMA, QUERY_SCHEMA, NoImages, Passages, Queries

    count = len(passages)
    columns = {
        "passage_id": [str(i) for i in range(count)],
        "doc_name": [""] * count,
        "text": passages,
        "image_name": [None] * count,
    }
    asked = {
        "question_id": [str(i) for i in range(len(questions))],
        "question": questions,
        "instruction": [""] * len(questions),
        "doc_name": [""] * len(questions),
        "domain": [""] * len(questions),
        "num_of_pages": [0] * len(questions),
        "image_name": [None] * len(questions),
    }
    return (
        Passages(pl.DataFrame(columns, schema=PASSAGE_SCHEMA), NoImages(count)),
        Queries(pl.DataFrame(asked, schema=QUERY_SCHEMA), NoImages(len(questions))),
    )


def kit_bm25(passages: list[str], questions: list[str]) -> list[list[int]]:
    """Return the ten best passages of each question by the kit's BM25 route."""
    from track1_mdr.config import Bm25Config
    from track1_mdr.datasets.tables import Candidates, top_k
    from track1_mdr.routes.base import Environment
    from track1_mdr.routes.bm25 import Bm25Route

    held, asked = bm25_tables(passages, questions)
    route = Bm25Route(Bm25Config.model_validate({"type": "bm25", "top": 10}), Environment(Path()))
    route.fit(held)
    found = route.score(asked, Candidates.everything(len(questions), len(passages)))
    return [top_k(one, 10).rows.tolist() for one in found]


def _plain_bm25s(passages: list[str], questions: list[str]) -> list[list[int]]:
    """bm25s as its README shows it: its tokenizer, English stop words, a stemmer, `retrieve`."""
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")
    index = bm25s.BM25(k1=1.2, b=0.75)
    index.index(bm25s.tokenize(passages, stopwords="en", stemmer=stemmer, show_progress=False), show_progress=False)
    asked = bm25s.tokenize(questions, stopwords="en", stemmer=stemmer, show_progress=False)
    return index.retrieve(asked, k=10, show_progress=False)[0].tolist()


def _rank_bm25(passages: list[str], questions: list[str]) -> list[list[int]]:
    """rank-bm25's BM25Okapi on the kit's own tokens (it has no tokenizer)."""
    import numpy as np
    from rank_bm25 import BM25Okapi

    from track1_mdr.routes.bm25_tokens import tokenize

    index = BM25Okapi([tokenize(text) or [""] for text in passages], k1=1.2, b=0.75)
    return [np.argsort(-index.get_scores(tokenize(text)), kind="stable")[:10].tolist() for text in questions]


def lexical(context: Context) -> Work:
    """Return BM25 over one collection."""
    pages, questions = context.pick((8_000, 300), (1_500, 100), (60, 5))
    real = context.size == "full" and context.data is not None and (context.data / "mmdocir").is_dir()
    path = str(context.folder / "bm25" / "texts.json")
    arguments = {"root": str(context.data) if real else None, "out": path, "pages": pages, "questions": questions}

    def system(name: str, label: str, **more: Any) -> System:
        return System(name, label, f"{HERE}:bm25", {"system": name, "path": path}, **more)

    systems = (
        system("rank_bm25", "rank-bm25, the kit's tokens", peer=True, needs=("rank_bm25",)),
        system("bm25s", "bm25s with its own tokenizer", peer=True),
        system("kit", "BM25 route", against=("rank_bm25", "bm25s")),
    )
    figures = (Figure("search", "index, then all questions", "passages/s"),)
    about = "BM25 over whole passages: index, then the ten best of each question"
    return Work(
        "bm25", about, figures, systems, System("ask", "texts", f"{HERE}:ask", arguments), context.pick(3, 2, 1)
    )

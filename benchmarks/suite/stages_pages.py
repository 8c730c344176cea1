"""Growth of Track 1's stages: each function does `n` things and returns the seconds and the memory they took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.suite.meter import Stage
from benchmarks.suite.work import Measured

HERE = "benchmarks.suite.stages_pages"
DIM = 384


def pdf_text(folder: str, n: int) -> Measured:
    """Read text, lines and figures of `n` pages and keep them, as `prepare` does before it writes."""
    from benchmarks.suite.works_text import SAMPLE
    from track1_mdr.datasets.pdf import open_pdf, read_page

    del folder
    files = sorted((SAMPLE / "mmdocir" / "pdfs").glob("*.pdf"))
    kept: list[object] = []
    with open_pdf(files[0]) as document:
        read_page(document, 0, 0.05)
    stage = Stage()
    with stage:
        while len(kept) < n:
            for path in files:
                with open_pdf(path) as document:
                    for index in range(min(len(document), n - len(kept))):
                        kept.append(read_page(document, index, 0.05))
    return stage.result()


def bm25(folder: str, n: int) -> Measured:
    """Index `n` planted passages and ask 50 questions of all of them."""
    import json

    from benchmarks.suite.works_text import ask, kit_bm25

    path = Path(folder) / f"bm25-{n}.json"
    kit_bm25(["some words", "other words"], ["words"])
    stage = Stage()
    if not path.is_file():
        ask(None, str(path), n, 50)
    body = json.loads(path.read_text(encoding="utf-8"))
    with stage:
        kit_bm25(body["passages"], body["questions"])
    return stage.result()


def _encoding(system: str, folder: str, n: int) -> Measured:
    import numpy as np

    from benchmarks.encode import SYSTEMS, WORDS
    from benchmarks.suite.works_text import SAMPLE, tables_of

    Path(folder).mkdir(parents=True, exist_ok=True)
    run = SYSTEMS[system].build(2, Path(folder))
    run(["some words", "other words"], "passage")
    words = " ".join(tables_of(str(SAMPLE), folder, None)[0]).split()
    stage = Stage()
    rng = np.random.default_rng(7)
    chunks = [" ".join(words[int(i)] for i in rng.integers(0, len(words), WORDS)) for _ in range(n)]
    with stage:
        run(chunks, "passage")
    return stage.result()


def text_encoding(folder: str, n: int) -> Measured:
    """Encode `n` chunks of 150 English words to a vector each (bge-small, int8)."""
    return _encoding("bge", folder, n)


def token_encoding(folder: str, n: int) -> Measured:
    """Encode `n` chunks of 150 English words to a vector a token (answerai-colbert-small, int8)."""
    return _encoding("colbert", folder, n)


def _store(folder: str, n: int, dim: int, shard_items: int) -> tuple[Any, list[str], Any]:
    import numpy as np

    from common.encoders.store import EmbeddingStore

    pool = np.random.default_rng(7).normal(size=(1024, dim)).astype(np.float32)
    store = EmbeddingStore(Path(folder) / f"store-{n}-{dim}", "random", "1", "passage", "none", shard_items=shard_items)

    def encode(rows: list[int]) -> np.ndarray:
        return pool[np.asarray(rows) % len(pool)]

    return store, [str(row) for row in range(n)], encode


def fill_store(folder: str, n: int) -> None:
    """Write a store of `n` vectors."""
    from common.faults import FaultLog

    store, keys, encode = _store(folder, n, DIM, 1024)
    store.encode_all(keys, lambda row: row, encode, batch_size=256, faults=FaultLog())


def store_read(folder: str, n: int) -> Measured:
    """Open a store of `n` finished vectors of 384 numbers and read them all."""
    import numpy as np

    from benchmarks.suite.alone import run_alone
    from common.faults import FaultLog

    run_alone(f"{HERE}:fill_store", {"folder": folder, "n": n}, timeout=600)
    stage = Stage()
    store, keys, encode = _store(folder, n, DIM, 1024)
    with stage:
        found = store.encode_all(keys, lambda row: row, encode, batch_size=256, faults=FaultLog())
        np.asarray(found.vectors)
    return stage.result(bytes_a_vector=_bytes(store.folder) / n)


def store_write(folder: str, n: int) -> Measured:
    """Write `n` shards of 16 short vectors: what a shard costs beyond its vectors."""
    import shutil

    from common.faults import FaultLog

    store, keys, encode = _store(folder, 16 * n, 4, 16)
    shutil.rmtree(store.folder, ignore_errors=True)
    stage = Stage()
    with stage:
        store.encode_all(keys, lambda row: row, encode, batch_size=256, faults=FaultLog())
    manifest = (store.folder / "manifest.json").stat().st_size
    return stage.result(manifest_bytes_a_shard=manifest / n)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _vectors(n: int, dim: int) -> Any:
    import numpy as np

    found = np.random.default_rng(7).normal(size=(n, dim)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _faiss(kind: str, n: int, dim: int, queries: int) -> Measured:
    import numpy as np

    from common.index.faiss_index import FaissIndex

    FaissIndex(dim, "flat").add(_vectors(8, dim), np.arange(8))
    stage = Stage()
    vectors, asked = _vectors(n, dim), _vectors(queries, dim)
    index = FaissIndex(dim, kind, threads=1)  # pyright: ignore[reportArgumentType]
    if kind == "flat":
        index.add(vectors, np.arange(n))
    with stage:
        if kind != "flat":
            index.add(vectors, np.arange(n))
        index.search(asked, 100)
    return stage.result(queries=queries)


def faiss_flat(folder: str, n: int) -> Measured:
    """Search the 100 best of `n` vectors for 256 queries."""
    del folder
    return _faiss("flat", n, DIM, 256)


def faiss_hnsw(folder: str, n: int) -> Measured:
    """Build HNSW over `n` vectors of 64 numbers, and search 256 times."""
    del folder
    return _faiss("hnsw", n, 64, 256)


def fusion(folder: str, n: int) -> Measured:
    """Fuse nine routes' 100 candidates of `n` questions."""
    import numpy as np

    from track1_mdr.config import ZScoreConfig
    from track1_mdr.datasets.tables import Scored
    from track1_mdr.fusion.simple import zscore_fusion

    del folder
    rng = np.random.default_rng(7)
    config = ZScoreConfig.model_validate({"type": "zscore"})
    zscore_fusion({"a": [Scored(np.arange(3), np.arange(3, dtype=np.float32))]}, config)
    stage = Stage()

    def scored() -> Scored:
        rows = np.sort(rng.choice(400, 100, replace=False)).astype(np.int64)
        return Scored(rows, rng.normal(size=100).astype(np.float32))

    scores = {f"route{route}": [scored() for _ in range(n)] for route in range(9)}
    with stage:
        zscore_fusion(scores, config)
    return stage.result()


def report(folder: str, n: int) -> Measured:
    """Make the report of a run with `n` questions on 12 n pages."""
    from benchmarks.suite.alone import run_alone
    from track1_mdr.report.page import Places, write_report

    place = Path(folder) / f"report-{n}"
    size = {"folder": str(place), "documents": max(1, n // 5), "pages": 12 * n, "questions": n}
    run_alone("benchmarks.suite.works_jobs:make_pages", size, timeout=900)
    (run,) = (place / "runs").glob("*-track1-*")
    stage = Stage()
    with stage:
        write_report(run, Places(place, lambda: place, place / "cache"), place / "report.html", print)
    return stage.result(bytes_of_page=(place / "report.html").stat().st_size)

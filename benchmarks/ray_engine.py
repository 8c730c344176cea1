"""Local processes beside Ray with as many workers: start-up, rate and memory of the same jobs.

    python -m benchmarks.ray_engine --workers 2

Each job runs in a process of its own, with an empty cache; memory is the peak of that process and all below it
(pages that they share count in each). What Ray costs on one machine is what several must earn back.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.suite.alone import run_alone
from benchmarks.suite.meter import clock
from benchmarks.suite.work import Measured
from common.engine.base import End
from common.engine.choose import open_engine
from common.experiment import cores, cpu_name

HERE = "benchmarks.ray_engine"
PDFS = Path(__file__).resolve().parents[1] / "data" / "sample" / "mmdocir" / "pdfs"
MODEL = "BAAI/bge-small-en-v1.5"
JOBS = {
    "start": "from nothing to the first answers",
    "tasks": "1,000 tasks of 5 ms",
    "pdfs": "the sample's PDFs with OCR, pages",
    "texts": "chunks by bge-small; local: threads of one process",
}


def nothing() -> None:
    """Make no state."""


def spin(_: None, seconds: float) -> Iterator[int]:
    """Keep a core busy."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    yield 0


def start(engine: Any, workers: int, folder: str) -> Measured:
    """Start, run as many tasks as there are workers, and end."""
    del folder
    return _spins(engine, workers, workers, 0.0)


def tasks(engine: Any, workers: int, folder: str) -> Measured:
    """Run short tasks."""
    del folder
    return _spins(engine, workers, 1_000, 0.005)


def _spins(name: Any, workers: int, count: int, seconds: float) -> Measured:
    with (
        clock() as took,
        open_engine(name, None, workers) as engine,
        engine.pool(spin, nothing, timeout=60.0) as pool,
    ):
        done = sum(isinstance(event, End) for event in pool.run([seconds] * count))
    assert done == count
    return Measured({"it": took.sample(count)})


def pdfs(engine: Any, workers: int, folder: str) -> Measured:
    """Prepare the sample's PDFs with OCR."""
    from common.faults import FaultLog
    from track1_mdr.config import OcrConfig
    from track1_mdr.datasets.documents import prepare_documents
    from track1_mdr.datasets.prepare import find_pdfs

    with clock() as took, open_engine(engine, None, workers) as chosen:
        made = list(prepare_documents(find_pdfs(PDFS), OcrConfig(), Path(folder), FaultLog(), chosen))
    return Measured({"it": took.sample(sum(len(document.pages) for document in made))})


def texts(engine: Any, workers: int, folder: str) -> Measured:
    """Encode the chunks of the sample's PDFs into the embedding store."""
    from common.encoders.base import text_key
    from common.encoders.spread import TextCoder, spread_texts
    from common.encoders.store import EmbeddingStore
    from common.encoders.text import build_text_encoder
    from common.faults import FaultLog
    from track1_mdr.chunks import chunk_passages
    from track1_mdr.config import OcrConfig
    from track1_mdr.datasets.documents import prepare_documents
    from track1_mdr.datasets.prepare import find_pdfs

    place = Path(folder)
    documents = prepare_documents(find_pdfs(PDFS), OcrConfig(enabled=False), place, FaultLog())
    pages = [page.text for document in documents for page in document.pages]
    chunks = [text for text in chunk_passages(pages, 40, 5).texts if text.strip()]
    recipe = partial(build_text_encoder, MODEL, threads=workers)
    with clock() as took, open_engine(engine, None, workers) as chosen:
        encoder = recipe()
        coder = TextCoder(encoder, "passage", 64)
        store = EmbeddingStore(place, encoder.name, encoder.revision, "passage", encoder.preprocessing, shard_items=32)
        found = store.encode_all(
            [text_key(text) for text in chunks],
            lambda row: chunks[row],
            coder.encode,
            batch_size=32,
            faults=FaultLog(),
            spread=spread_texts(chosen, recipe, coder, chunks),
        )
    assert found.present.all()
    return Measured({"it": took.sample(len(chunks))})


def main(
    workers: Annotated[int, typer.Option(min=1)] = 2,
    job: Annotated[list[str] | None, typer.Option(help=f"{', '.join(JOBS)} [default: all]")] = None,
) -> None:
    """Print the table."""
    typer.echo(f"{cpu_name()}, {cores()} cores, {workers} workers")
    typer.echo(f"{'job':<52} {'engine':<7} {'items':>6} {'s':>7} {'items/s':>8} {'memory':>8}")
    for name in job or JOBS:
        for engine in ("local", "ray"):
            with tempfile.TemporaryDirectory(prefix="mirc-ray-") as folder:
                arguments = {"engine": engine, "workers": workers, "folder": folder}
                found = run_alone(f"{HERE}:{name}", arguments, timeout=900, tree=True)
            (sample,) = found["figures"].values()
            amount, seconds = sample["amount"], sample["seconds"]
            typer.echo(
                f"{JOBS[name]:<52} {engine:<7} {amount:>6.0f} {seconds:>7.1f} {amount / seconds:>8.1f} "
                f"{found['peak'] / 1e6:>5.0f} MB"
            )


if __name__ == "__main__":
    typer.run(main)

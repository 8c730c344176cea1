"""What takes over when one process ends: kinds of index and Milvus beside flat FAISS, Ray beside local processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.suite.work import Context, Figure, Measured, Sample, System, Work

HERE = "benchmarks.suite.works_engines"


def plant(path: str, rows: int, dim: int, queries: int) -> None:
    """Write the vectors, queries and true neighbours of `benchmarks.index_engines`."""
    import numpy as np

    from benchmarks.index_engines import clustered, exact

    held, asked = clustered(rows, queries, dim, 7)
    place = Path(path)
    place.mkdir(parents=True, exist_ok=True)
    for name, array in (("vectors", held), ("queries", asked), ("truth", exact(held, asked))):
        np.save(place / f"{name}.npy", array)


def search(name: str, path: str, rows: int) -> Measured:
    """Measure one engine of `benchmarks.index_engines`; its memory is what it held beyond the vectors."""
    from benchmarks import index_engines

    found = index_engines.measure(index_engines.Task(name, Path(path), None, ""))
    figures = {"add": Sample(rows, found["build"], found["build_cpu"])}
    for figure in ("one", "many"):
        figures[figure] = Sample(1, found[figure]["median"] / 1000, found[figure]["cpu"] / 1000)
    facts = {"recall@10": 100 * found["recall"], "memory MB": found["memory"] / 1e6, "disk MB": found["disk"] / 1e6}
    return Measured(figures, facts)


def indexes(context: Context) -> Work:
    """Return the kinds of index."""
    rows, dim, queries = context.pick((100_000, 384, 640), (10_000, 64, 128), (1_000, 16, 64))
    path = str(context.folder / "index")

    def system(engine: str, kind: str, label: str, **more: Any) -> System:
        arguments = {"name": f"{engine}:{kind}", "path": path, "rows": rows}
        return System(f"{engine}_{kind}", label, f"{HERE}:search", arguments, **more)

    flat, lite = ("faiss_flat",), ("pymilvus", "milvus_lite")
    systems = [
        system("faiss", "flat", "FAISS flat", peer=True),
        system("faiss", "hnsw", "FAISS HNSW", against=flat),
        system("faiss", "ivfpq", "FAISS IVF-PQ", against=flat),
        system("milvus", "flat", "milvus-lite flat", against=flat, needs=lite),
    ]
    if context.size != "tiny":
        systems += [
            system("milvus", "hnsw", "milvus-lite HNSW", against=flat, needs=lite),
            system("milvus", "ivfsq8", "milvus-lite IVF-SQ8", against=flat, needs=lite),
        ]
    figures = (
        Figure("add", "add and build", "vectors/s"),
        Figure("one", "search, one question at a time", "ms", per="time", scale=1000),
        Figure("many", "search, 64 questions at once", "ms a question", per="time", scale=1000),
    )
    prepare = System("plant", "vectors", f"{HERE}:plant", {"path": path, "rows": rows, "dim": dim, "queries": queries})
    about = f"ten best of {rows:,} vectors of {dim} numbers, beside flat FAISS"
    return Work("index", about, figures, tuple(systems), prepare, 1, 900)


def job(name: str, engine: str, folder: str) -> Measured:
    """Run one job of `benchmarks.ray_engine` by two workers, its cache empty."""
    import importlib
    import shutil

    place = Path(folder) / f"{name}-{engine}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    run = getattr(importlib.import_module("benchmarks.ray_engine"), name)
    found: Measured = run(engine, 2, str(place))
    (sample,) = found.figures.values()
    return Measured({name: sample}, found.facts, found.peak, found.base)


def ray(context: Context) -> Work:
    """Return Ray's engine beside the local one; starting and ending the cluster counts."""
    jobs = context.pick(("start", "tasks", "pdfs", "texts"), ("start", "pdfs"), ("start",))
    folder = str(context.folder / "ray")
    systems: list[System] = []
    for name in jobs:
        call, arguments = f"{HERE}:job", {"name": name, "folder": folder}
        peer = f"local_{name}"
        systems.append(System(peer, "2 local processes", call, arguments | {"engine": "local"}, peer=True))
        mine = arguments | {"engine": "ray"}
        systems.append(System(f"ray_{name}", "2 Ray workers", call, mine, against=(peer,), needs=("ray",)))
    figures = (
        Figure("start", "from nothing to the first answers", "s", per="time"),
        Figure("tasks", "tasks of 5 ms", "tasks/s"),
        Figure("pdfs", "PDFs with OCR", "pages/s"),
        Figure("texts", "bge-small to the embedding store", "chunks/s"),
    )
    about = "Ray Data beside local processes on one machine, cluster start included"
    return Work("ray", about, figures, tuple(systems), None, context.pick(2, 1, 1), 600, tree=True)

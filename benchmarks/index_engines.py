"""Engines behind the Index contract, side by side: build time, memory, disk, recall@10 and latency.

    python -m benchmarks.index_engines [--vectors 100000 --dim 384] [--only faiss:flat,milvus:flat]
    python -m benchmarks.index_engines --store CACHE/ENCODER-IDENTITY [--queries CACHE/ENCODER-IDENTITY]
    python -m benchmarks.index_engines --uri http://HOST:19530 --only milvus:flat,milvus:ivfpq

Vectors are drawn in clusters, or read from the embedding store of a run (`--store`, the folder with shard-*.npy). Each
engine has a process of its own and one thread, so that CPU time is comparable; wall time is what a quiet machine shows.
Memory is what the process holds more than before the index, the client's code included; the vectors themselves are not.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.suite.meter import cpu_seconds, forget_peak, peak, resident
from common.cli import main as cli_main
from common.errors import ConfigError, DataError
from common.index.base import Kind
from common.index.build import IndexSettings, make_index

ALL = ("faiss:flat", "faiss:hnsw", "faiss:ivfpq", "milvus:flat", "milvus:hnsw", "milvus:ivf", "milvus:ivfsq8")
K = 10
CANDIDATES = 1_000
ONE, MANY = 100, 64
SPREAD = 32  # directions


@dataclass(frozen=True)
class Task:
    """One engine and kind over the vectors in a folder."""

    name: str
    folder: Path
    uri: str | None
    token: str

    def settings(self) -> tuple[IndexSettings, Kind]:
        """Return the engine, and the kind that it makes."""
        engine, _, kind = self.name.partition(":")
        uri = self.uri if engine == "milvus" else None
        return IndexSettings.of(engine, uri, self.token if uri else ""), cast("Kind", kind)


def clustered(count: int, queries: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors float32 [N, D] and queries [Q, D] of the same kind.

    They lie around sqrt(N) centres, and spread as texts' vectors do: in few directions, with some noise in all, so that
    the nearest ones are often of another cluster.
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(int(count**0.5), dim)).astype(np.float32)
    rows, spread = rng.integers(len(centres), size=count + queries), min(SPREAD, dim)
    vectors = rng.normal(size=(len(rows), spread)).astype(np.float32) @ rng.normal(size=(spread, dim)).astype(
        np.float32
    )
    vectors = centres[rows] + vectors * np.float32(1.5 * spread**-0.5)
    vectors += np.float32(0.3) * rng.normal(size=vectors.shape).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[:count], vectors[count:]


def stored(folder: Path) -> np.ndarray:
    """Return the vectors float32 [N, D] of an embedding store's shards.

    Raises
    ------
    DataError
        There are none, or they are not single vectors.
    """
    shards = [np.load(path, allow_pickle=False) for path in sorted(folder.glob("shard-*.npy"))]
    if not shards or any(one.ndim != 2 for one in shards):
        raise DataError("no vectors here", where=folder, expected="shard-*.npy of an embedding store")
    return np.concatenate(shards).astype(np.float32)


def exact(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the places of the best `K` vectors of each query, int64 [Q, K], by numpy."""
    best = [np.argsort(-(vectors @ query), kind="stable")[:K] for query in queries]
    return np.asarray(best, dtype=np.int64)


def measure(task: Task) -> dict[str, Any]:
    """Build, save and search one index; return its figures: seconds, bytes, recall, and milliseconds a query."""
    vectors, queries = (np.load(task.folder / f"{name}.npy") for name in ("vectors", "queries"))
    truth = np.load(task.folder / "truth.npy")
    settings, kind = task.settings()
    with tempfile.TemporaryDirectory() as work:
        forget_peak()
        before = resident()
        wall, cpu = time.perf_counter(), cpu_seconds()
        index = make_index(settings, vectors.shape[1], kind, work=Path(work), seed=7, threads=1)
        index.add(vectors, np.arange(len(vectors)))
        found = index.search(queries[:1], K)[1]  # Milvus loads what it has built when it is first asked
        row: dict[str, Any] = {"build": time.perf_counter() - wall, "build_cpu": cpu_seconds() - cpu}
        row |= {"memory": resident() - before, "peak": peak() - before}
        found = np.concatenate([index.search(queries[i : i + MANY], K)[1] for i in range(0, len(queries), MANY)])
        row["recall"] = float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found, truth, strict=True)]))
        row["one"] = timed(lambda i: index.search(queries[i : i + 1], K), min(ONE, len(queries)), 1)
        blocks = max(1, min(10, len(queries) // MANY))
        row["many"] = timed(lambda i: index.search(queries[i * MANY : (i + 1) * MANY], K), blocks, MANY)
        allowed = np.random.default_rng(0).permutation(len(vectors))[:CANDIDATES]
        row["allowed"] = timed(lambda i: index.search(queries[i * MANY : (i + 1) * MANY], K, allowed), blocks, MANY)
        index.save(Path(work) / "saved")
        row["disk"] = sum(path.stat().st_size for path in (Path(work) / "saved").rglob("*") if path.is_file())
        index.close()
    return row


def timed(call: Callable[[int], object], times: int, each: int) -> dict[str, float]:
    """Return the median and 95th percentile of wall milliseconds a query, and the mean of CPU milliseconds."""
    taken: list[float] = []
    call(0)
    cpu = cpu_seconds()
    for number in range(times):
        start = time.perf_counter()
        call(number)
        taken.append(1e3 * (time.perf_counter() - start) / each)
    middle, high = np.percentile(taken, [50, 95])
    return {"median": float(middle), "p95": float(high), "cpu": 1e3 * (cpu_seconds() - cpu) / times / each}


def alone(task: Task) -> dict[str, Any]:
    """Measure in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, task).result()


def rendered(rows: dict[str, dict[str, Any]], title: str) -> Table:
    """Return the table of all engines."""
    table = Table(title=title, title_justify="left")
    latency = ("median ms", "p95 ms", "CPU ms")
    heads = ["index", "build s", "CPU s", "memory MB", "peak MB", "disk MB", "recall@10"]
    heads += [f"batch 1\n{name}" for name in latency] + [f"batch {MANY}\n{name}" for name in latency]
    heads += [f"{CANDIDATES:,} candidates\nCPU ms"]
    for head in heads:
        table.add_column(head, justify="left" if head == "index" else "right")
    for name, row in rows.items():
        cells = [f"{row['build']:.1f}", f"{row['build_cpu']:.1f}"]
        cells += [f"{row[key] / 1e6:,.0f}" for key in ("memory", "peak", "disk")] + [f"{row['recall']:.3f}"]
        cells += [f"{row[batch][key]:.2f}" for batch in ("one", "many") for key in ("median", "p95", "cpu")]
        table.add_row(name, *cells, f"{row['allowed']['cpu']:.2f}")
    return table


def main(
    vectors: Annotated[int, typer.Option(min=1_000, help="Drawn vectors")] = 100_000,
    dim: Annotated[int, typer.Option(min=2, help="Their width")] = 384,
    asked: Annotated[int, typer.Option(min=1, help="Queries")] = 640,
    store: Annotated[Path | None, typer.Option(help="Folder of an embedding store, instead of drawn vectors")] = None,
    queries: Annotated[Path | None, typer.Option(help="Of queries [default: some of --store, left out]")] = None,
    only: Annotated[str, typer.Option(help="ENGINE:KIND, by commas")] = ",".join(ALL),
    uri: Annotated[str | None, typer.Option(help="Address of a Milvus server [default: milvus-lite]")] = None,
    seed: int = 7,
    out: Annotated[Path | None, typer.Option("--out", help="Also write the figures as JSON")] = None,
) -> None:
    """Print a line an engine and kind."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # of the processes that are started
    names = only.split(",")
    for name in names:
        engine, _, kind = name.partition(":")
        if engine not in ("faiss", "milvus") or not kind:
            raise ConfigError("no such index", where="--only", expected=", ".join(ALL), got=name)
    if store is None:
        held, wanted = clustered(vectors, asked, dim, seed)
    else:
        held = stored(store)
        if queries is not None:
            wanted = stored(queries)[:asked]
        else:
            order = np.random.default_rng(seed).permutation(len(held))
            wanted, held = held[order[:asked]], held[order[asked:]]
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, array in (("vectors", held), ("queries", wanted), ("truth", exact(held, wanted))):
            np.save(Path(folder) / f"{name}.npy", array)
        for name in names:
            rows[name] = alone(Task(name, Path(folder), uri, os.environ.get("MIRC_MILVUS_TOKEN", "")))
            typer.echo(f"{name}: {json.dumps(rows[name])}")
    title = f"{len(held):,} vectors x {held.shape[1]}, {len(wanted)} queries, one thread"
    Console(width=200).print(rendered(rows, title))
    if out is not None:
        out.write_text(json.dumps({"title": title, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    cli_main(lambda: typer.run(main), os.environ)

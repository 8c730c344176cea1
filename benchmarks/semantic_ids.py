"""Semantic IDs: the time that millions of items take, and collisions by quantizer and dedup on planted vectors.

    python -m benchmarks.semantic_ids

Times are of random codes in 256^4, memory of the IDs and of the look-up's index. The second table fits each quantizer
on the additive plant and shows what is distinct before dedup, against hashing, and after it; the error is relative to
the variance and is that of the codes after dedup.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from common.experiment import cores, cpu_name
from common.planted import additive_vectors
from common.tokenizers.base import Quantizer
from common.tokenizers.collisions import collision_report
from common.tokenizers.rq_kmeans import RQKMeans
from common.tokenizers.rq_vae import RQVAE
from common.tokenizers.semantic_ids import SemanticIdMap

WIDE = (256,) * 4
PLANT = (16,) * 3


def timed(table: Table, n: int, what: str, run: Callable[[], Any]) -> Any:
    """Run, and add a row with the seconds that it took."""
    started, used = time.perf_counter(), time.process_time()
    result = run()
    seconds, used = time.perf_counter() - started, time.process_time() - used
    table.add_row(f"{n:,}", what, f"{seconds:.2f}", f"{used:.2f}", f"{n / seconds / 1e6:.1f}")
    return result


def speed(sizes: list[int]) -> Table:
    """Time the operations of `SemanticIdMap` at each number of items."""
    table = Table(
        "items", "operation", "seconds", "CPU seconds", "M items/s", title="256^4, random codes", title_justify="left"
    )
    for n in sizes:
        rng = np.random.default_rng(0)
        codes = rng.integers(256, size=(n, 4), dtype=np.int32)
        ids = timed(table, n, "from_codes, append", lambda c=codes: SemanticIdMap.from_codes(c, WIDE, rank_codes=32))
        asked = ids.sids[rng.permutation(n)]
        timed(table, n, "sid_to_item, with the index", lambda i=ids, a=asked: i.sid_to_item(a))
        timed(table, n, "sid_to_item again", lambda i=ids, a=asked: i.sid_to_item(a))
        more = rng.integers(256, size=(n // 100, 4), dtype=np.int32)
        timed(table, n, f"extend by {n // 100:,}", lambda i=ids, m=more: i.extend(m, ""))
        timed(table, n, "collision_report", lambda c=codes: collision_report(c, WIDE))
    return table


def quantizers(n: int, steps: int) -> dict[str, tuple[Quantizer, np.ndarray]]:
    """Return fitted quantizers and the plant's vectors."""
    x, _ = additive_vectors(n, 32, 3, 16, 0.05, 0)
    small = {"codebook_sizes": PLANT, "hidden": (128,), "learning_rate": 3e-3, "batch_size": 256}
    made = {
        "rq_kmeans": RQKMeans(PLANT),
        "rq_vae": RQVAE(**small, steps=steps),
        "rq_vae + sinkhorn": RQVAE(**small, steps=steps, sinkhorn=0.003),
    }
    return {name: (quantizer.fit(x, seed=0), x) for name, quantizer in made.items()}


def collisions(n: int, steps: int) -> Table:
    """Compare quantizers and dedups on the additive plant."""
    table = Table(title=f"{n:,} planted vectors, {PLANT}", title_justify="left")
    for name in ("quantizer", "dedup", "unique before", "expected", "ratio", "IDs", "distinct", "moved", "error"):
        table.add_column(name, justify="left" if name in ("quantizer", "dedup") else "right")
    for name, (quantizer, x) in quantizers(n, steps).items():
        codes = quantizer.encode(x)
        report = collision_report(codes, PLANT)
        variation = float(np.square(x - x.mean(axis=0)).sum())
        for dedup in ("append", "sinkhorn"):
            ids = SemanticIdMap.from_codes(codes, PLANT, dedup=dedup, quantizer=quantizer, x=x, fallback="append")
            made, levels = ids.sids, "x".join(map(str, ids.sizes))
            kept = made[:, : len(PLANT)]
            table.add_row(
                name,
                dedup,
                f"{report.unique_fraction:.3f}",
                f"{report.expected_fraction:.3f}",
                f"{report.unique_fraction / report.expected_fraction:.2f}",
                levels,
                f"{len(np.unique(made, axis=0)) / n:.3f}",
                f"{float((kept != codes).any(axis=1).mean()):.1%}",
                f"{float(np.square(x - quantizer.decode(kept)).sum()) / variation:.4f}",
            )
    return table


def main(
    items: Annotated[list[int] | None, typer.Option(help="Numbers of items to time.")] = None,
    planted: Annotated[int, typer.Option(help="Vectors of the plant.")] = 2000,
    steps: Annotated[int, typer.Option(help="Training steps of RQ-VAE.")] = 1000,
) -> None:
    """Print both tables."""
    console = Console(width=120)
    console.print(f"{cpu_name()}, {cores()} cores")
    console.print(speed(items or [1_000_000, 10_000_000]))
    console.print(collisions(planted, steps))


if __name__ == "__main__":
    typer.run(main)

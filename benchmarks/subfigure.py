"""Sub-figure route on planted pages: recall, rates, and what the official M2KR set would take.

python -m benchmarks.subfigure --pages 300
python -m benchmarks.subfigure --pages 550 --pictures ../shared/data/ml-100k-posters
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.planted_pages import PlantedSizes, write_m2kr
from common.faults import FaultLog
from track1_mdr.config import DataConfig, SubfigureConfig
from track1_mdr.datasets.m2kr import load_m2kr
from track1_mdr.routes.base import Environment
from track1_mdr.routes.subfigure import SubfigureRoute, shortlist

OFFICIAL_SCREENSHOTS, OFFICIAL_QUERIES = 50_000, 6_247


def cpu_seconds() -> float:
    """CPU time of this process and its finished children: what other work on the machine does not change."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(root: Path, kinds: list[str], workers: int) -> None:
    faults = FaultLog()
    tables = load_m2kr(root, DataConfig.model_validate({}), faults)
    gold = [int(rows[0]) for rows in tables.gold_rows() if rows is not None]
    route = SubfigureRoute(
        SubfigureConfig.model_validate({"type": "subfigure"}),
        Environment(root / "cache", threads=workers, faults=faults),
    )
    start = cpu_seconds()
    route.fit(tables.passages)
    fitted = cpu_seconds()
    scored = route.score(tables.queries, tables.candidates)
    done = cpu_seconds()
    first = [len(s.rows) > 0 and s.rows[0] == g for s, g in zip(scored, gold, strict=True)]
    wrong = [len(s.rows) > 0 and s.rows[0] != g for s, g in zip(scored, gold, strict=True)]
    for kind in sorted(set(kinds)):
        chosen = [hit for hit, k in zip(first, kinds, strict=True) if k == kind]
        print(f"  {kind:<14} recall@1 {100 * np.mean(chosen):5.1f}  ({len(chosen)} queries)")
    print(f"  {'all':<14} recall@1 {100 * np.mean(first):5.1f}, wrong first {100 * np.mean(wrong):.1f} %")
    print(f"  {len(faults)} faults")
    pages, queries = len(tables.passages), len(tables.queries)
    per_page, per_query = (fitted - start) / pages, (done - fitted) / queries
    size = sum(p.stat().st_size for p in (root / "cache").rglob("*.safetensors")) / pages
    print(f"  {1 / per_page:.1f} screenshots and {1 / per_query:.1f} queries a CPU-second")
    print(f"  {size / 1000:.0f} kB on disk a screenshot")
    print(
        f"  official set: {OFFICIAL_SCREENSHOTS * per_page / 3600:.2f} CPU-hours for {OFFICIAL_SCREENSHOTS:,} pages, "
        f"{OFFICIAL_QUERIES * per_query / 3600:.2f} for {OFFICIAL_QUERIES:,} queries (without the shortlist, below), "
        f"{OFFICIAL_SCREENSHOTS * size / 1e9:.1f} GB"
    )


def measure_shortlist(screenshots: int = OFFICIAL_SCREENSHOTS, figures: int = 6, queries: int = 64) -> None:
    """Time the shortlist at the official size, on random vectors."""
    from track1_mdr.figure_store import FigureTable
    from track1_mdr.keypoints import VECTOR, WINDOWS

    rng = np.random.default_rng(7)
    rows = np.repeat(np.arange(screenshots), figures)
    vectors = rng.standard_normal((len(rows), len(WINDOWS), VECTOR), dtype=np.float32).astype(np.float16)
    table = FigureTable(rows, vectors, np.ones((len(rows), 2), np.int64), (), np.zeros((len(rows), 3), np.int64))
    start = cpu_seconds()
    for _ in shortlist(vectors[:queries, :1], table, np.arange(screenshots), 50):
        pass
    each = (cpu_seconds() - start) / queries
    print(f"shortlist over {screenshots:,} screenshots of {figures} figures: {1 / each:.1f} queries a CPU-second, "
          f"{OFFICIAL_QUERIES * each / 3600:.2f} CPU-hours for {OFFICIAL_QUERIES:,} queries")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=300)
    parser.add_argument("--figures", type=int, default=3)
    parser.add_argument("--pictures", type=Path, help="folder of pictures to plant, instead of drawn ones")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    pictures = None
    if arguments.pictures:
        files = sorted(arguments.pictures.glob("*.jpg"))[: arguments.pages * arguments.figures]
        if len(files) < arguments.pages * arguments.figures:
            parser.error(
                f"{arguments.pictures} has {len(files)} pictures, {arguments.pages * arguments.figures} needed"
            )
        pictures = [Image.open(file).convert("RGB") for file in files]
    sizes = PlantedSizes(arguments.pages, arguments.figures)
    with tempfile.TemporaryDirectory() as folder:
        kinds = write_m2kr(Path(folder), arguments.seed, sizes, pictures)
        what = "pictures given" if pictures else "drawn pictures"
        print(f"{arguments.pages} pages of {arguments.figures} figures, {what}")
        measure(Path(folder), kinds, arguments.workers)
    measure_shortlist()


if __name__ == "__main__":
    main()

"""Pages of a run at the official size: seconds, peak memory and bytes of `report` and `compare --page`.

python -m benchmarks.report_ctr
python -m benchmarks.report_ctr --rows 20000 --items 5000 --test-rows 20000     # a quick look
python -m benchmarks.report_ctr --folder DIR --map tsne                          # keep the data, the runs and the pages

The data are those of `full_size_ctr` (91,717 items, 10,000 valid rows, 379,142 test rows without labels) with fewer
training rows, and a cover of 256 x 256 pixels an item. The runs are two floors, similarity and popularity, which
train in seconds: a page costs the same whatever made the predictions. Each page is made in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.full_size_ctr import GIB, INNER, ROOT, peak_memory, write

LIMIT_SECONDS, LIMIT_BYTES = 60, 15_000_000
PICTURES = 64
"""Different covers: items share them by hard links, so that a hundred thousand files take no space."""
PAGES = ("report", "compare")


def write_covers(folder: Path, items: int, seed: int) -> None:
    """Write a JPEG for each item: noise over coarse blocks, about as large as a small photo."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    images = folder / "item_images"
    images.mkdir()
    for item in range(1, items + 1):
        path = images / f"{item}.jpg"
        if item <= PICTURES:
            coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((256, 256))
            noise = rng.integers(-12, 13, (256, 256, 3))
            Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)).save(path, quality=85)
        else:
            os.link(images / f"{1 + (item - 1) % PICTURES}.jpg", path)


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """Write data and covers, and run two floors on them."""
    from track2_mmctr.app import load, run_config

    data = folder / "data" / "microlens"
    write(data, options)
    write_covers(data, options.items, options.seed)
    for name in ("similarity", "popularity"):
        run_config(
            load(name, ["device=cpu"]), folder / "data", folder / f"{name}.zip", folder / "cache", folder, {}, print
        )


def one_page(kind: str, folder: Path, options: argparse.Namespace) -> None:
    """Make a page in this process and print what it took as JSON; reading packed data is part of it."""
    from track2_mmctr.app import compare_to, report_to

    start = time.perf_counter()
    out = folder / f"{kind}.html"
    runs = sorted((folder / "runs").glob("*-track2-*"))
    if kind == "report":
        report_to(runs[0], folder / "data", out, folder / "cache", print, method=options.map)
    else:
        compare_to(runs, folder / "data", out, None, folder / "cache", print)
    taken = {"seconds": time.perf_counter() - start, "cpu": time.process_time(), "peak": peak_memory()}
    print(json.dumps(taken | {"bytes": out.stat().st_size}))


def run(folder: Path, options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Prepare what is not there, make both pages, print a table; return 1 where one is too slow or too large."""
    if not (folder / "data" / "microlens" / INNER).is_dir():
        start = time.perf_counter()
        prepare(folder, options)
        print(f"data and runs: {time.perf_counter() - start:.0f} s")
    code = 0
    for kind in PAGES:
        command = [sys.executable, "-m", "benchmarks.report_ctr", *arguments, "--folder", str(folder), "--page", kind]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        took = json.loads(done.stdout.splitlines()[-1])
        good = took["seconds"] < LIMIT_SECONDS and took["bytes"] < LIMIT_BYTES
        code |= not good
        verdict = f"{'within' if good else 'NOT WITHIN'} {LIMIT_SECONDS} s and {LIMIT_BYTES / 1e6:.0f} MB"
        print(
            f"{kind:<8} {took['seconds']:6.1f} s ({took['cpu']:.1f} s of processor)   "
            f"peak {took['peak'] / GIB:5.2f} GiB   {took['bytes'] / 1e6:5.1f} MB   {verdict}",
            flush=True,
        )
    return code


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--folder", type=Path, help="keep everything here (default: a temporary folder)")
    made.add_argument("--rows", type=int, default=100_000)
    made.add_argument("--valid-rows", type=int, default=10_000)
    made.add_argument("--test-rows", type=int, default=379_142)
    made.add_argument("--items", type=int, default=91_717)
    made.add_argument("--width", type=int, default=100, help="columns of item_seq")
    made.add_argument("--group", type=int, default=1_048_576, help="rows of a row group (pandas' default)")
    made.add_argument("--map", choices=("pca", "tsne"), default="pca")
    made.add_argument("--seed", type=int, default=7)
    made.add_argument("--page", choices=PAGES, help=argparse.SUPPRESS)
    return made


def main() -> None:
    options = parser().parse_args()
    if options.page:
        one_page(options.page, options.folder, options)
        return
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="mirc-report-ctr-"))).resolve()
    try:
        code = run(folder, options, sys.argv[1:])
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(code)


if __name__ == "__main__":
    main()

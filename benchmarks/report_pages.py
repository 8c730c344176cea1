"""How long `report` takes on a run of the official size, and how large its page is.

python -m benchmarks.report_pages
python -m benchmarks.report_pages --documents 20 --pages 800 --questions 60 --folder DIR      # a quick look, kept

Data and run are made up: 1,658 questions on 20,395 pages whose images look like pages of text and have the size of
real ones, nine routes with 20 passages a question each, of which the gold page is anywhere. The report is made by
the command line in a child process. Printed: seconds, peak memory, bytes, cards and pictures.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image, ImageDraw

from benchmarks.full_size import run_watched
from benchmarks.synthetic_pages import VOCABULARY, Size, word, write_dataset
from common.config import load_config
from common.experiment import Experiment
from common.submission.mdr import write_submission
from track1_mdr.config import CONFIG_FOLDER, RunConfig
from track1_mdr.evaluate import score_files
from track1_mdr.gold import read_ground

LIMIT_SECONDS, LIMIT_BYTES = 60, 15_000_000
PICTURES = 48
"""Different page images: as many as matter for the size of thumbnails."""


def page_picture(number: int, width: int, height: int) -> bytes:
    """Return a JPEG of a page: lines of words, and on every third page a figure."""
    rng = np.random.default_rng(number)
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    top = height // 12
    if number % 3 == 0:
        colours = rng.integers(40, 230, (6, 3))
        for place, colour in enumerate(colours.tolist()):
            left = width // 8 + place * width // 9
            draw.rectangle(
                (left, height // 3 - int(rng.integers(height // 5)), left + width // 14, height // 3), tuple(colour)
            )
        top = height * 2 // 5
    for line in range(top, height - height // 14, 14):
        ranks = np.exp(rng.random(width // 45) * np.log(VOCABULARY)).astype(int).tolist()
        draw.text((width // 10, line), " ".join(map(word, ranks))[: width // 8], fill="black")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def planted_scores(gold: Mapping[str, Sequence[str]], pages: Mapping[str, int], sources: Sequence[str]) -> pl.DataFrame:
    """Return a scores.parquet: every source ranks 20 pages of each question's document, gold more often early."""
    rng = np.random.default_rng(7)
    parts: list[pl.DataFrame] = []
    for source in sources:
        for question, answers in gold.items():
            count = min(20, pages[question])
            order = rng.permutation(pages[question])
            place = int(rng.geometric(0.35)) - 1
            order = order[order != int(answers[0])]
            ranked = np.insert(order, min(place, len(order)), int(answers[0]))[:count]
            parts.append(
                pl.DataFrame(
                    {
                        "task": ["mmdocir"] * count,
                        "question_id": [question] * count,
                        "source": [source] * count,
                        "rank": np.arange(1, count + 1, dtype=np.int32),
                        "passage_id": [str(page) for page in ranked],
                        "score": np.sort(rng.gamma(2, 5, count).astype(np.float32))[::-1],
                    }
                )
            )
    return pl.concat(parts)


def write_run(folder: Path, root: Path) -> Path:
    """Write a run of the configuration `baseline` with planted scores, and return its folder."""
    config = load_config(RunConfig, "baseline", CONFIG_FOLDER)
    task = config.tasks.mmdocir
    assert task is not None
    routes = [name for name, route in task.routes.items() if route is not None]
    rerankers = [name for name, one in task.rerank.items() if one is not None]
    rankings = ["fusion", *(f"fusion + {name}" for name in rerankers), "final"]
    ground = read_ground(root)
    assert ground.expected.pages is not None
    scores = planted_scores(ground.gold, ground.expected.pages, [*routes, *rerankers, *rankings])
    with Experiment(folder / "runs", "track1", config, config.seed, data=root) as record:
        final = (
            scores.filter(pl.col("source") == "final").group_by("question_id", maintain_order=True).agg("passage_id")
        )
        write_submission(folder / "planted.csv", dict(final.iter_rows()), ground.expected)
        record.add_submission(folder / "planted.csv")
        scores.write_parquet(record.folder / "scores.parquet")
        record.add_metrics(score_files(folder / "planted.csv", root).to_dict())
    return record.folder


def measure(folder: Path, size: Size, width: int) -> None:
    """Make data and run, time the report, and print what it took."""
    pictures = [page_picture(number, width, round(width * 1.414)) for number in range(PICTURES)]
    write_dataset(folder, size, pictures)
    run = write_run(folder, folder)
    page = folder / "report.html"
    command = [sys.executable, "-m", "track1_mdr", "report", str(run), "--out", str(page)]
    watched = run_watched(command, folder / "report.log")
    if watched.code:
        sys.exit((folder / "report.log").read_text(encoding="utf-8"))
    data = page.read_text(encoding="utf-8")
    parts = dict(re.findall(r'<script type="application/json" id="(\w+)">(.*?)</script>', data, re.DOTALL))
    cards = sum(len(gallery["cards"]) for gallery in json.loads(parts["data"])["galleries"])
    kept = json.loads(parts["images"])
    print(
        f"{size.questions:,} questions, {size.pages:,} pages of {len(pictures[0]) / 1000:.0f} KB ({width} pixels wide)"
    )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = used.ru_utime + used.ru_stime
    print(f"report: {watched.seconds:.1f} s (of {LIMIT_SECONDS}), {processor:.1f} s of processors, ", end="")
    print(f"peak {watched.peak / 1e9:.2f} GB")
    whole = page.stat().st_size
    print(f"page: {whole / 1e6:.2f} MB (of {LIMIT_BYTES / 1e6:.0f}), {cards:,} cards, {len(kept):,} pictures")
    print(f"of it: cards {len(parts['data'].encode()) / 1e6:.2f} MB, pictures {len(parts['images']) / 1e6:.2f} MB")
    if watched.seconds > LIMIT_SECONDS or whole > LIMIT_BYTES:
        sys.exit("over the limit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=Size.documents)
    parser.add_argument("--pages", type=int, default=Size.pages)
    parser.add_argument("--questions", type=int, default=Size.questions)
    parser.add_argument("--width", type=int, default=620, help="of page images, in pixels")
    parser.add_argument("--folder", type=Path, help="keep data, run and page here")
    given = parser.parse_args()
    size = Size(given.documents, given.pages, given.questions)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="report_pages-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        measure(folder.resolve(), size, given.width)
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

"""The full-size benchmark's own parts: the made-up data has the official shape, and memory is really measured."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.full_size import run_watched
from benchmarks.full_size_vectors import main as vectors
from benchmarks.synthetic_pages import Size, page_counts, write_dataset
from common.faults import FaultLog
from track1_mdr.config import DataConfig
from track1_mdr.datasets.mmdocir import load_mmdocir


def test_page_counts_are_like_the_official_ones():
    counts = page_counts(Size())
    assert (len(counts), counts.sum(), counts.min(), counts.max()) == (313, 20_395, 3, 844)
    assert np.median(counts) == 27
    assert page_counts(Size(documents=10, pages=120)).sum() == 120
    with pytest.raises(ValueError, match="do not fit"):
        page_counts(Size(documents=10, pages=20))


def test_the_made_up_set_passes_the_loader_and_its_gold_can_be_found(tmp_path):
    write_dataset(tmp_path, Size(documents=6, pages=90, questions=24, image_bytes=2_000))
    faults = FaultLog()
    tables = load_mmdocir(tmp_path / "mmdocir", DataConfig(), tmp_path / "cache", faults)
    assert len(tables.passages) == 90 and len(tables.queries) == 24 and not len(faults)
    assert tables.passages.images.load(89).size == (60, 80)
    found, chance = [], []
    for query, gold, rows in zip(tables.queries.texts, tables.gold_rows(), tables.candidates.rows, strict=True):
        asked = set(query.rstrip("?").split())
        pages = [set(tables.passages.texts[row].split()) for row in rows]
        rare = [sum(1 / sum(word in page for page in pages) for word in asked & page) for page in pages]
        found.append(rows[int(np.argmax(rare))] in gold)
        chance.append(1 / len(rows))
    assert np.mean(found) > 4 * np.mean(chance)


def test_made_up_vectors_go_through_both_routes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_dataset(tmp_path, Size(documents=4, pages=24, questions=9, image_bytes=2_000))
    vectors(tmp_path)
    said = capsys.readouterr().out
    assert said.count("scores for 9 questions") == 2 and " 0 scores" not in said
    assert "GB of vectors on disk, 0 faults" in said
    stored = {path.parent.name for path in (tmp_path / "vector_cache").rglob("*.npy")}
    assert len(stored) == 4 and all(name.startswith("random-") for name in stored)  # passages and questions


def test_memory_of_a_child_and_of_its_child_is_measured(tmp_path: Path):
    hold = "x = bytearray(150_000_000); import time; time.sleep(0.6)"
    nested = f"import subprocess, sys; y = bytearray(100_000_000); subprocess.run([sys.executable, '-c', {hold!r}])"
    watched = run_watched([sys.executable, "-c", nested], tmp_path / "log")
    assert watched.code == 0
    assert 100e6 < watched.peak < 150e6
    assert 250e6 < watched.peak_all < 330e6
    failed = run_watched([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log")
    assert failed.code == 3

"""The sub-figure route on planted pages, against shuffled gold; its geometry on known transformations."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import track1_mdr.figure_store as figure_store
from benchmarks.planted_pages import PlantedSizes, draw_picture, write_m2kr
from common.faults import FaultLog
from track1_mdr.config import DataConfig, SubfigureConfig
from track1_mdr.datasets.m2kr import load_m2kr
from track1_mdr.datasets.tables import Candidates, Scored, TaskTables
from track1_mdr.figure_store import FigureStore, FigureTable, Recipe
from track1_mdr.figures import FigureLimits
from track1_mdr.keypoints import (
    VECTOR,
    WINDOWS,
    Verified,
    detect,
    plausible,
    shrink,
    tentative_matches,
    thumbnail_vectors,
    verify,
)
from track1_mdr.routes.base import Environment
from track1_mdr.routes.subfigure import SubfigureRoute, shortlist

PAGES = 12
FEW = 6


def run(
    tables: TaskTables,
    cache: Path,
    candidates: Candidates | None = None,
    faults: FaultLog | None = None,
    **options: int,
) -> list[Scored]:
    config = SubfigureConfig.model_validate({"type": "subfigure", **options})
    route = SubfigureRoute(config, Environment(cache, threads=1, faults=FaultLog() if faults is None else faults))
    route.fit(tables.passages)
    return route.score(tables.queries, candidates or tables.candidates)


def load(root: Path, faults: FaultLog | None = None) -> TaskTables:
    return load_m2kr(root, DataConfig(), FaultLog() if faults is None else faults)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("planted")
    write_m2kr(root, 11, PlantedSizes(PAGES, figures=2, paragraphs=2))
    run(load(root), root / "cache")
    return root


def hits(tables: TaskTables, scored: list[Scored]) -> int:
    return sum(len(s.rows) > 0 and s.rows[0] == g[0] for s, g in zip(scored, tables.gold_rows(), strict=True))


def test_planted_figures_are_found_and_shuffled_gold_is_not(planted: Path, tmp_path: Path) -> None:
    tables = load(planted)
    scored = run(tables, planted / "cache")
    for one in scored:
        one.check("subfigure", "q")
        assert ((one.scores > 0) & (one.scores < 1)).all()
    assert hits(tables, scored) >= PAGES - 1
    placebo = tmp_path / "placebo"
    shutil.copytree(planted, placebo, ignore=shutil.ignore_patterns("cache"))
    ids = [f"P{(i + 1) % PAGES}" for i in range(PAGES)]
    rows = [f'{i},"[""{gold}""]"' for i, gold in enumerate(ids)]
    (placebo / "gold.csv").write_text("question_id,passage_id\n" + "\n".join(rows) + "\n")
    shuffled = load(placebo)
    assert hits(shuffled, run(shuffled, planted / "cache")) <= 1


def test_a_picture_that_is_on_no_page_says_nothing(planted: Path, tmp_path: Path) -> None:
    root = tmp_path / "strangers"
    shutil.copytree(planted, root, ignore=shutil.ignore_patterns("cache"))
    rng = np.random.default_rng(99)
    for file in (root / "query_images").iterdir():
        draw_picture(rng).save(file)
    assert [len(s.rows) for s in run(load(root), planted / "cache")] == [0] * PAGES


def test_only_candidates_and_top(planted: Path) -> None:
    tables = load(planted)
    odd = np.arange(1, PAGES, 2, dtype=np.int64)
    scored = run(tables, planted / "cache", Candidates((odd,) * PAGES))
    assert all(set(s.rows.tolist()) <= set(odd.tolist()) for s in scored)
    assert sum(len(scored[i].rows) > 0 for i in range(0, PAGES, 2)) == 0
    assert sum(scored[i].rows.tolist() == [i] for i in range(1, PAGES, 2)) >= PAGES // 2 - 1


def test_the_same_bytes_from_a_new_cache_an_old_one_and_worker_processes(
    monkeypatch: pytest.MonkeyPatch, planted: Path, tmp_path: Path
) -> None:
    tables = load(planted)
    before = run(tables, planted / "cache")
    monkeypatch.setattr(figure_store, "POOL_FROM", 1)
    monkeypatch.setattr(figure_store, "SHARD_IMAGES", 5)
    config = SubfigureConfig.model_validate({"type": "subfigure"})
    route = SubfigureRoute(config, Environment(tmp_path, threads=2))
    route.fit(tables.passages)
    for a, b in zip(before, route.score(tables.queries, tables.candidates), strict=True):
        assert a.rows.tobytes() == b.rows.tobytes() and a.scores.tobytes() == b.scores.tobytes()


def test_unusable_images_are_faults_and_the_run_goes_on(planted: Path, tmp_path: Path) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(planted, root, ignore=shutil.ignore_patterns("cache"))
    pages, images = root / "Challenge", root / "query_images"
    (pages / "page_0.png").write_bytes((pages / "page_0.png").read_bytes()[:5000])
    (pages / "page_1.png").unlink()
    (pages / "page_2.png").write_text("<html>busy</html>")
    Image.new("1", (25_000, 25_000)).save(pages / "page_3.png")
    (images / "query_4.jpg").write_bytes((images / "query_4.jpg").read_bytes()[:400])
    faults = FaultLog()
    tables = load(root, faults)
    scored = run(tables, planted / "cache", faults=faults)
    names = [f.item for f in faults.faults]
    assert sorted(names) == ["page_0.png", "page_1.png", "page_2.png", "page_3.png", "query_4.jpg"]
    assert not set(range(4)) & {int(row) for s in scored for row in s.rows}
    assert len(scored[4].rows) == 0 and hits(tables, scored) >= PAGES - 6


def store_of(folder: Path) -> FigureStore:
    return FigureStore(folder, Recipe("page", FigureLimits(), 200))


def describe(planted: Path, folder: Path, images: object = None, **options: tuple[int, int]) -> FigureTable:
    source = load(planted).passages.images
    keys = [source.key(row) for row in range(FEW)]
    return store_of(folder).describe(
        images or source, keys, [f"page {row}" for row in range(FEW)], workers=1, faults=FaultLog(), **options
    )


def test_an_interrupted_run_keeps_its_finished_shards(
    monkeypatch: pytest.MonkeyPatch, planted: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(figure_store, "SHARD_IMAGES", 2)
    source = load(planted).passages.images
    loaded: list[int] = []

    class Interrupted:
        def __len__(self) -> int:
            return PAGES

        def key(self, row: int) -> str | None:
            return source.key(row)

        def load(self, row: int) -> Image.Image:
            if len(loaded) == 5:
                raise KeyboardInterrupt
            loaded.append(row)
            return source.load(row)

    class Counting(Interrupted):
        def load(self, row: int) -> Image.Image:
            again.append(row)
            return source.load(row)

    with pytest.raises(KeyboardInterrupt):
        describe(planted, tmp_path, Interrupted())
    again: list[int] = []
    table = describe(planted, tmp_path, Counting())
    assert len(again) == FEW - 4 and not set(again) & set(loaded[:4])
    fresh = describe(planted, tmp_path / "fresh")
    assert table.rows.tobytes() == fresh.rows.tobytes() and table.vectors.tobytes() == fresh.vectors.tobytes()
    for figure in range(len(table)):
        a, b = table.keypoints(figure), fresh.keypoints(figure)
        assert a.points.tobytes() == b.points.tobytes() and a.descriptors.tobytes() == b.descriptors.tobytes()


def test_a_damaged_shard_is_made_again_and_shards_add_up(planted: Path, tmp_path: Path) -> None:
    parts = [describe(planted, tmp_path, shard=(i, 2)) for i in range(2)]
    assert 0 < len(parts[0]) < len(parts[1])
    whole = describe(planted, tmp_path / "whole")
    assert parts[1].rows.tobytes() == whole.rows.tobytes() and parts[1].vectors.tobytes() == whole.vectors.tobytes()
    for path in store_of(tmp_path).folder.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-100])
    assert describe(planted, tmp_path).vectors.tobytes() == whole.vectors.tobytes()


def test_two_passages_with_one_screenshot_both_count(planted: Path, tmp_path: Path) -> None:
    root = tmp_path / "twins"
    shutil.copytree(planted, root, ignore=shutil.ignore_patterns("cache"))
    file = root / "challenge_passage" / "train-00000-of-00001.parquet"
    table = pl.read_parquet(file)
    twin = table[:1].with_columns(passage_id=pl.lit("TWIN"))
    pl.concat([table, twin]).write_parquet(file)
    scored = run(load(root), planted / "cache")
    assert sorted(scored[0].rows.tolist()) == [0, PAGES] and scored[0].scores[0] == scored[0].scores[1]


def test_shortlist_is_exact_and_limited_to_candidates() -> None:
    rng = np.random.default_rng(3)
    rows = np.repeat(np.arange(30), 4)
    vectors = rng.standard_normal((120, len(WINDOWS), VECTOR)).astype(np.float16)
    table = FigureTable(rows, vectors, np.ones((120, 2), np.int64), (), np.zeros((120, 3), np.int64))
    queries = rng.standard_normal((7, 2, VECTOR)).astype(np.float16)
    allowed = np.asarray([2, 3, 5, 8, 13, 21], dtype=np.int64)
    found = list(shortlist(queries, table, allowed, 2, block=3))
    for query, figures in zip(queries, found, strict=True):
        similar = np.einsum("qd,fvd->fqv", query.astype(np.float64), vectors.astype(np.float64)).max(axis=(1, 2))
        best = sorted(allowed.tolist(), key=lambda row: -similar[rows == row].max())[:2]
        expected = [f for row in best for f in sorted(np.flatnonzero(rows == row), key=lambda f: -similar[f])[:3]]
        assert figures.tolist() == sorted(expected)
    assert [len(f) for f in shortlist(queries, table, np.empty(0, np.int64), 2)] == [0] * 7


def test_thumbnails_survive_scale_and_compression_and_tell_pictures_apart() -> None:
    rng = np.random.default_rng(8)
    pictures = [draw_picture(rng) for _ in range(12)]
    smaller = [p.resize((p.width * 2 // 3, p.height * 2 // 3)) for p in pictures]
    a, b = (
        np.stack([thumbnail_vectors(np.asarray(p), 1) for p in group]).astype(float) for group in (pictures, smaller)
    )
    similar = np.einsum("qd,fd->qf", a[:, 0], b[:, 0])
    assert similar.diagonal().min() > 0.97 and (similar.argmax(axis=1) == np.arange(12)).all()
    assert similar.max() <= 1.001
    cut = [p.crop((0, p.height // 5, p.width * 4 // 5, p.height)) for p in pictures]
    parts = np.stack([thumbnail_vectors(np.asarray(p), len(WINDOWS)) for p in pictures]).astype(float)
    corner = np.stack([thumbnail_vectors(np.asarray(p), 1) for p in cut]).astype(float)
    assert np.einsum("qd,fvd->qfv", corner[:, 0], parts).max(axis=2).diagonal().min() > 0.97
    flat = thumbnail_vectors(np.full((5, 3, 3), 7, np.uint8), len(WINDOWS))
    assert np.isfinite(flat).all()


def test_a_known_similarity_is_verified_and_another_picture_is_not() -> None:
    rng = np.random.default_rng(5)
    picture, stranger = draw_picture(rng, 300), draw_picture(rng, 300)
    turned = picture.rotate(20, expand=True, fillcolor="white").resize((280, 300))
    query = shrink(np.asarray(picture))
    left = detect(query, 500)
    others = [detect(shrink(np.asarray(p)), 500) for p in (turned, stranger, Image.new("RGB", (90, 90)))]
    pairs = tentative_matches(left, others, 12)
    size = (query.shape[1], query.shape[0])
    found = verify(left, others[0], pairs[0], size, seed=7)
    assert found is not None and found.inliers > 25 and found.ratio > 0.6
    assert found == verify(left, others[0], pairs[0], size, seed=7)
    wrong = verify(left, others[1], pairs[1], size, seed=7)
    assert wrong is None or wrong.inliers < 12
    assert len(pairs[2]) == 0
    assert len(np.unique(pairs[0][:, 0])) == len(np.unique(pairs[0][:, 1])) == len(pairs[0])


def test_mirrored_pictures_are_not_verified() -> None:
    picture = np.asarray(draw_picture(np.random.default_rng(6), 300))
    assert not plausible(np.diag([-1.0, 1, 1]), (100, 80))
    left, right = detect(picture, 500), detect(np.ascontiguousarray(picture[:, ::-1]), 500)
    pairs = tentative_matches(left, [right], 12)[0]
    assert verify(left, right, pairs, picture.shape[1::-1], seed=7) is None


@pytest.mark.parametrize(
    ("matrix", "good"),
    [
        (np.eye(3), True),
        (np.array([[0.5, -0.2, 30], [0.2, 0.5, -9], [0, 0, 1.0]]), True),
        (np.array([[1, 0, 0], [0, 1, 0], [1e-3, 0, 1.0]]), True),
        (np.diag([1.0, -1, 1]), False),
        (np.diag([20.0, 20, 1]), False),
        (np.diag([0.05, 0.05, 1]), False),
        (np.diag([1.0, 0.02, 1]), False),
        (np.array([[1, 0, 0], [0, 1, 0], [-0.02, 0, 1.0]]), False),
        (np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1.0]]), False),
        (np.full((3, 3), np.nan), False),
        (None, False),
    ],
)
def test_degenerate_homographies_are_refused(matrix: np.ndarray | None, good: bool) -> None:
    assert plausible(matrix, (100, 80)) is good


def test_the_score_grows_with_inliers_and_ratio() -> None:
    assert 0 < Verified(12, 0.5).score < Verified(30, 0.5).score < Verified(30, 0.8).score < 1

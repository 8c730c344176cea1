"""The image route's plumbing, with a tiny random model: what is compared with what, not how well."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import track1_mdr.routes.image as image_route
from benchmarks.planted_pages import draw_picture
from common.faults import FaultLog
from tests.common.test_image_encoder import write_tiny_clip
from track1_mdr.config import ImageConfig
from track1_mdr.datasets.image_folder import FolderImages
from track1_mdr.datasets.tables import PASSAGE_SCHEMA, QUERY_SCHEMA, Candidates, NoImages, Passages, Queries
from track1_mdr.routes import build_route
from track1_mdr.routes.base import Environment
from track1_mdr.routes.image import ImageRoute


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Eight pictures as files."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(4)
    paths = [folder / f"{i}.png" for i in range(8)]
    for path in paths:
        draw_picture(rng, 200).save(path)
    return paths


def source(paths: list[Path | None]) -> FolderImages:
    return FolderImages(tuple(p.name if p else None for p in paths), tuple(paths))


def passages_of(paths: list[Path | None]) -> Passages:
    images = source(paths)
    columns = {
        "passage_id": [f"P{i}" for i in range(len(paths))],
        "doc_name": [""] * len(paths),
        "text": [""] * len(paths),
        "image_name": list(images.names),
    }
    return Passages(pl.DataFrame(columns, schema=PASSAGE_SCHEMA), images)


def queries_of(paths: list[Path | None], questions: list[str] | None = None) -> Queries:
    images = source(paths)
    count = len(paths)
    columns = {name: [""] * count for name in ("question", "instruction", "doc_name", "domain")}
    table = {**columns, "question_id": [str(i) for i in range(count)], "num_of_pages": [0] * count}
    table |= {"question": questions or [""] * count, "image_name": list(images.names)}
    return Queries(pl.DataFrame({name: table[name] for name in QUERY_SCHEMA}, schema=QUERY_SCHEMA), images)


def route_of(model: str, cache: Path, faults: FaultLog | None = None, **options: object) -> ImageRoute:
    config = ImageConfig.model_validate({"type": "image", "model": model, "batch_size": 4, **options})
    route = build_route(config, Environment(cache, faults=FaultLog() if faults is None else faults))
    assert isinstance(route, ImageRoute)
    return route


def test_the_same_image_has_similarity_one_and_ranks_first(model: str, files: list[Path], tmp_path: Path) -> None:
    route = route_of(model, tmp_path)
    route.fit(passages_of([*files]))
    order = [5, 0, 7]
    scored = route.score(queries_of([files[i] for i in order]), Candidates.everything(3, 8))
    for one, expected in zip(scored, order, strict=True):
        one.check("image", "q")
        assert len(one.rows) == 8 and one.rows[0] == expected
        assert one.scores[0] == pytest.approx(1, abs=1e-5) and one.scores[1] < 0.9999


def test_a_figure_on_a_page_is_found_only_with_sub_figures(model: str, files: list[Path], tmp_path: Path) -> None:
    pages: list[Path | None] = []
    for i, file in enumerate(files):
        page = Image.new("RGB", (800, 1100), "white")
        page.paste(Image.open(file), (120 + 30 * i, 400))
        page.save(tmp_path / f"page{i}.png")
        pages.append(tmp_path / f"page{i}.png")
    queries, everything = queries_of([*files]), Candidates.everything(8, 8)
    with_figures = route_of(model, tmp_path / "cache")
    with_figures.fit(passages_of(pages))
    scored = with_figures.score(queries, everything)
    assert [int(s.rows[0]) for s in scored] == list(range(8))
    assert min(float(s.scores[0]) for s in scored) > 0.999
    without = route_of(model, tmp_path / "cache", sub_figures=False)
    without.fit(passages_of(pages))
    assert max(float(s.scores[0]) for s in without.score(queries, everything)) < 0.999


def test_a_tall_screenshot_is_represented_by_its_top(model: str, files: list[Path], tmp_path: Path) -> None:
    tall = Image.new("RGB", (400, 2000), "white")
    top = Image.open(files[0]).resize((400, 400))
    tall.paste(top, (0, 0))
    tall.save(tmp_path / "tall.png")
    top.save(tmp_path / "top.png")
    route = route_of(model, tmp_path / "cache", sub_figures=False)
    route.fit(passages_of([tmp_path / "tall.png"]))
    scored = route.score(queries_of([tmp_path / "top.png"]), Candidates.everything(1, 1))
    assert scored[0].scores[0] == pytest.approx(1, abs=1e-5)


def test_what_the_query_is(model: str, files: list[Path], tmp_path: Path) -> None:
    queries = queries_of([files[0], None, files[1], None], ["", "who?", "who?", ""])
    everything = Candidates.everything(4, 8)
    found: dict[str, list[np.ndarray]] = {}
    for mode in ("auto", "image", "text", "both"):
        route = route_of(model, tmp_path, query=mode, sub_figures=False)
        route.fit(passages_of([*files]))
        scored = route.score(queries, everything)
        found[mode] = [s.scores[np.argsort(s.rows)] for s in scored]
        present = {"auto": [0, 1, 2], "image": [0, 2], "text": [1, 2], "both": [2]}[mode]
        assert [i for i, s in enumerate(scored) if len(s.rows)] == present
    for one, other in ((("auto", 0), ("image", 0)), (("auto", 1), ("text", 1)), (("text", 1), ("text", 2))):
        np.testing.assert_allclose(found[one[0]][one[1]], found[other[0]][other[1]], atol=1e-6)
    # The mean of two unit vectors, scaled to length 1: proportional to the sum of the two similarities.
    image, text, both = found["image"][2], found["text"][2], found["auto"][2]
    assert np.ptp(both / (image + text)) < 1e-5
    np.testing.assert_allclose(found["both"][2], both, atol=1e-6)


def test_only_candidates_are_scored_and_top_limits(model: str, files: list[Path], tmp_path: Path) -> None:
    route = route_of(model, tmp_path, top=2)
    route.fit(passages_of([*files]))
    rows = np.asarray([1, 4, 6], dtype=np.int64)
    scored = route.score(queries_of([files[0], files[4]]), Candidates((rows, rows)))
    assert all(len(s.rows) == 2 and set(s.rows.tolist()) <= {1, 4, 6} for s in scored)
    assert scored[1].rows[0] == 4


@pytest.mark.parametrize("partial", [False, True])
def test_the_index_gives_what_brute_force_gives(
    monkeypatch: pytest.MonkeyPatch, model: str, files: list[Path], tmp_path: Path, partial: bool
) -> None:
    rows = np.asarray([0, 2, 3, 5, 6] if partial else range(8), dtype=np.int64)
    queries, candidates = queries_of([*files]), Candidates((rows,) * 8)
    route = route_of(model, tmp_path, top=3)
    route.fit(passages_of([*files]))
    exact = route.score(queries, candidates)
    monkeypatch.setattr(image_route, "INDEX_FROM", 0)
    for a, b in zip(exact, route.score(queries, candidates), strict=True):
        assert (a.rows == b.rows).all()
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-6)


def test_unusable_images_are_faults_and_the_rest_is_scored(model: str, files: list[Path], tmp_path: Path) -> None:
    cut, text, bomb = tmp_path / "cut.png", tmp_path / "text.png", tmp_path / "bomb.png"
    cut.write_bytes(files[0].read_bytes()[:3000])
    text.write_text("not an image")
    Image.new("1", (20_000, 20_000)).save(bomb)
    faults = FaultLog()
    route = route_of(model, tmp_path / "cache", faults)
    route.fit(passages_of([files[0], cut, files[1], text, bomb, None, tmp_path / "gone.png"]))
    scored = route.score(queries_of([files[1], text]), Candidates.everything(2, 7))
    assert sorted(scored[0].rows.tolist()) == [0, 2] and scored[0].rows[0] == 2
    assert len(scored[1].rows) == 0
    assert sorted(f.item for f in faults.faults) == ["bomb.png", "cut.png", "gone.png", "text.png", "text.png"]


def test_nothing_usable_says_nothing(model: str, files: list[Path], tmp_path: Path) -> None:
    route = route_of(model, tmp_path)
    route.fit(passages_of([None, None]))
    assert [len(s.rows) for s in route.score(queries_of([files[0]]), Candidates.everything(1, 2))] == [0]
    route.fit(passages_of([files[0]]))
    queries = Queries(queries_of([None, None]).table, NoImages(2))
    assert [len(s.rows) for s in route.score(queries, Candidates.everything(2, 1))] == [0, 0]


def test_a_second_run_encodes_nothing(
    monkeypatch: pytest.MonkeyPatch, model: str, files: list[Path], tmp_path: Path
) -> None:
    queries, everything = queries_of([files[2], None], ["", "what?"]), Candidates.everything(2, 8)
    first = route_of(model, tmp_path)
    first.fit(passages_of([*files]))
    before = first.score(queries, everything)
    second = route_of(model, tmp_path)

    def refuse(*_: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(second.encoder, "encode_prepared", refuse)
    monkeypatch.setattr(second.encoder, "encode_texts", refuse)
    second.fit(passages_of([*files]))
    for a, b in zip(before, second.score(queries, everything), strict=True):
        assert a.rows.tobytes() == b.rows.tobytes() and a.scores.tobytes() == b.scores.tobytes()


def test_shards_together_give_the_whole(model: str, files: list[Path], tmp_path: Path) -> None:
    config = ImageConfig.model_validate({"type": "image", "model": model, "batch_size": 4})
    queries, everything = queries_of([*files]), Candidates.everything(8, 8)
    counts = []
    for i in range(2):
        part = ImageRoute(config, Environment(tmp_path / "shared", shard=(i, 2)))
        part.fit(passages_of([*files]))
        counts.append(len(part.score(queries, everything)[0].rows))
    assert 0 < counts[0] < 8 and counts[1] == 8
    alone = ImageRoute(config, Environment(tmp_path / "alone"))
    alone.fit(passages_of([*files]))
    for a, b in zip(alone.score(queries, everything), part.score(queries, everything), strict=True):
        assert a.scores.tobytes() == b.scores.tobytes()

"""The page image route on tiny models: one encoding a page, MaxSim against an oracle, faults in their place."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from pydantic import ValidationError

from common.encoders.page_image import PageImageEncoder, Settings, VisualItem
from common.errors import DataError
from common.faults import FaultLog
from common.hashing import digest
from tests import tiny_vlm
from track1_mdr.config import PageImageConfig
from track1_mdr.datasets.tables import PASSAGE_SCHEMA, QUERY_SCHEMA, Candidates, NoImages, Passages, Queries
from track1_mdr.routes import build_route, page_image
from track1_mdr.routes.base import Environment
from track1_mdr.routes.page_image import PageImageRoute, max_sim


@dataclass
class Pictures:
    """Images in memory; a row in `broken` has a key but cannot be loaded."""

    images: list[Image.Image | None]
    broken: set[int] = field(default_factory=set)
    loads: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def key(self, row: int) -> str | None:
        image = self.images[row]
        return None if image is None else digest(image.tobytes(), image.width)

    def load(self, row: int) -> Image.Image:
        self.loads.append(row)
        image = self.images[row]
        if row in self.broken or image is None:
            raise DataError("the image is truncated", where=f"row {row}")
        return image


def picture(seed: int, width: int = 84, height: int = 84) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def passages(images: Pictures, docs: list[str], texts: list[str] | None = None) -> Passages:
    ids = [str(docs[:row].count(doc)) for row, doc in enumerate(docs)]
    table = pl.DataFrame(
        {
            "passage_id": ids,
            "doc_name": docs,
            "text": texts or ["words"] * len(docs),
            "image_name": [f"{doc}_{page}.jpg" for doc, page in zip(docs, ids, strict=True)],
        },
        schema=PASSAGE_SCHEMA,
    )
    return Passages(table, images)


def queries(questions: list[str], images: Pictures | None = None, instruction: str = "") -> Queries:
    count = len(questions)
    table = pl.DataFrame(
        {
            "question_id": [str(i) for i in range(count)],
            "question": questions,
            "instruction": [instruction] * count,
            "doc_name": [""] * count,
            "domain": [""] * count,
            "num_of_pages": [0] * count,
            "image_name": [f"q{i}.jpg" if images and images.images[i] else None for i in range(count)],
        },
        schema=QUERY_SCHEMA,
    )
    return Queries(table, images or NoImages(count))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {name: str(getattr(tiny_vlm, name)(root / name)) for name in ("colqwen2", "qwen2_vl")}


def config(model: str, **given: object) -> PageImageConfig:
    return PageImageConfig.model_validate(
        {"type": "page_image_late_interaction", "model": model, "dtype": "float32", **given}
    )


def brute_force(query: np.ndarray, page: np.ndarray) -> float:
    return float(sum(max(float(np.dot(q, p)) for p in page) for q in query))


def test_max_sim_equals_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    asked = [rng.normal(size=(n, 8)).astype(np.float32) for n in (3, 1, 7, 2)]
    pages = [rng.normal(size=(n, 8)).astype(np.float32) for n in (5, 1, 9)]
    offsets = np.cumsum([0, *(len(page) for page in pages)])
    expected = [[brute_force(q, p) for p in pages] for q in asked]
    got = max_sim(asked, np.concatenate(pages), offsets)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    monkeypatch.setattr(page_image, "_BLOCK_QUERY_VECTORS", 4)  # queries in several blocks
    np.testing.assert_allclose(max_sim(asked, np.concatenate(pages), offsets), expected, rtol=1e-5)


def test_scores_equal_brute_force_over_the_documents_pages(
    models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_image, "_BLOCK_VECTORS", 30)  # about two pages a block
    docs = ["a", "a", "a", "b", "b"]
    images = Pictures([picture(i) for i in range(5)])
    asked = queries(["Where is the chart?", "And the table of all the costs?", "Who?"])
    candidates = Candidates.by_document(["a", "b", "a"], docs)
    route = build_route(config(models["colqwen2"]), Environment(cache=tmp_path))
    route.fit(passages(images, docs))
    results = route.score(asked, candidates)
    encoder = PageImageEncoder(models["colqwen2"], Settings(dtype="float32"))
    page_vectors = [encoder.encode_pages([image])[0] for image in images.images if image]
    for q, scored in enumerate(results):
        scored.check("page_image", str(q))
        assert sorted(scored.rows) == candidates.rows[q].tolist()
        query = encoder.encode_queries([asked.texts[q]])[0]
        expected = [brute_force(query, page_vectors[row]) for row in scored.rows]
        np.testing.assert_allclose(scored.scores, expected, rtol=2e-3)  # pages are kept as float16


def test_each_page_is_encoded_once_and_kept(
    models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []
    original = PageImageEncoder.encode

    def counted(self: PageImageEncoder, items: list[VisualItem], role: str) -> list[np.ndarray]:
        seen.append((role, len(items)))
        return original(self, items, role)  # type: ignore[arg-type]

    monkeypatch.setattr(PageImageEncoder, "encode", counted)
    docs = ["a"] * 4
    images = Pictures([picture(0), picture(1), picture(0), picture(3)])  # pages 0 and 2 are the same
    asked = queries(["one?", "two?", "three?"])
    candidates = Candidates.by_document(["a"] * 3, docs)
    runs = []
    for _ in range(2):
        route = PageImageRoute(config(models["colqwen2"], batch_size=2), Environment(cache=tmp_path))
        route.fit(passages(images, docs))
        runs.append(route.score(asked, candidates))
    assert sum(n for role, n in seen if role == "passage") == 3
    assert sum(n for role, n in seen if role == "query") == 3
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(first.rows, second.rows)
        np.testing.assert_array_equal(first.scores, second.scores)
        by_page = dict(zip(first.rows.tolist(), first.scores.tolist(), strict=True))
        assert by_page[0] == pytest.approx(by_page[2], rel=1e-5) != by_page[1]


def test_a_page_that_fails_is_a_fault_and_shifts_nothing(models: dict[str, str], tmp_path: Path) -> None:
    docs = ["a"] * 4
    good = Pictures([picture(i) for i in range(4)])
    bad = Pictures([picture(0), picture(1), picture(2, 600, 2), picture(3)], broken={1})  # row 2 is a strip
    asked = queries(["what?"])
    candidates = Candidates.by_document(["a"], docs)
    results = []
    for name, images in (("good", good), ("bad", bad)):
        faults = FaultLog()
        route = PageImageRoute(config(models["colqwen2"]), Environment(cache=tmp_path / name, faults=faults))
        route.fit(passages(images, docs))
        scored = route.score(asked, candidates)[0]
        results.append(dict(zip(scored.rows.tolist(), scored.scores.tolist(), strict=True)))
        found = sorted(fault.item for fault in faults.faults)
        assert found == ([] if name == "good" else ["a page 1", "a page 2"])
    assert set(results[1]) == {0, 3}
    assert results[1] == pytest.approx({row: results[0][row] for row in (0, 3)}, rel=1e-4)


def test_a_page_without_an_image_has_no_score_and_is_no_fault(models: dict[str, str], tmp_path: Path) -> None:
    faults = FaultLog()
    route = PageImageRoute(config(models["colqwen2"]), Environment(cache=tmp_path, faults=faults))
    route.fit(passages(Pictures([picture(0), None, picture(2)]), ["a"] * 3))
    results = route.score(queries(["what?", ""]), Candidates.everything(2, 3))
    assert sorted(results[0].rows) == [0, 2]
    assert len(results[1].rows) == 0  # a query without words and image
    assert not faults.faults


def test_shards_together_are_the_whole(models: dict[str, str], tmp_path: Path) -> None:
    docs = ["a"] * 6
    images = Pictures([picture(i) for i in range(6)])
    asked, candidates = queries(["what?"]), Candidates.by_document(["a"], docs)
    for part in (0, 1):
        route = PageImageRoute(config(models["colqwen2"]), Environment(cache=tmp_path / "parts", shard=(part, 2)))
        route.fit(passages(images, docs))
        if part == 0:
            assert 0 < len(route.score(asked, candidates)[0].rows) < 6
    images.loads.clear()
    joined = PageImageRoute(config(models["colqwen2"]), Environment(cache=tmp_path / "parts"))
    joined.fit(passages(images, docs))
    assert not images.loads  # nothing left to encode
    whole = PageImageRoute(config(models["colqwen2"]), Environment(cache=tmp_path / "whole"))
    whole.fit(passages(images, docs))
    a, b = joined.score(asked, candidates)[0], whole.score(asked, candidates)[0]
    np.testing.assert_array_equal(a.rows, b.rows)
    np.testing.assert_allclose(a.scores, b.scores, rtol=1e-4)


def test_joined_text_takes_part(models: dict[str, str], tmp_path: Path) -> None:
    """Pages with one picture and different words: only the words can tell them apart."""
    docs = ["a"] * 2
    images = Pictures([picture(0), picture(0)])
    table = passages(images, docs, ["revenue grew in spring", "zebras eat grass"])
    asked, candidates = queries(["zebras?"]), Candidates.by_document(["a"], docs)
    spread = {}
    for join in (False, True):
        route = PageImageRoute(config(models["colqwen2"], join_text=join), Environment(cache=tmp_path / str(join)))
        route.fit(table)
        scored = route.score(asked, candidates)[0]
        spread[join] = float(np.ptp(scored.scores))
    assert spread[False] < 1e-4 < 0.1 < spread[True]


def test_the_query_image_finds_its_own_page_and_its_crop(models: dict[str, str], tmp_path: Path) -> None:
    figure = Image.fromarray(np.kron(np.random.default_rng(5).integers(0, 200, (12, 12, 3), np.uint8), np.ones((10, 10, 1), np.uint8)))  # fmt: skip  # noqa: E501
    page = Image.new("RGB", (400, 500), "white")
    page.paste(figure, (60, 80))
    images = Pictures([Image.new("RGB", (400, 500), "white"), page, picture(3, 400, 500)])
    asked = queries(["", ""], Pictures([figure, images.images[2]]))
    candidates = Candidates.everything(2, 3)
    best = {}
    for crops in (0, 5):
        route = PageImageRoute(
            config(models["qwen2_vl"], pooling="last", query="image", crops=crops),
            Environment(cache=tmp_path / str(crops)),
        )
        route.fit(passages(images, ["a", "b", "c"]))
        results = route.score(asked, candidates)
        assert int(results[1].rows[0]) == 2 and results[1].scores[0] == pytest.approx(1, abs=2e-3)
        best[crops] = dict(zip(results[0].rows.tolist(), results[0].scores.tolist(), strict=True))[1]
    assert best[5] > best[0] and best[5] == pytest.approx(1, abs=0.01)


def test_chunks_of_text_count_by_the_best(models: dict[str, str], tmp_path: Path) -> None:
    texts = ["alpha beta gamma delta epsilon", "zeta eta", ""]
    route = PageImageRoute(
        config(models["qwen2_vl"], pooling="last", passage="text", words=2, passage_prompt="About:"),
        Environment(cache=tmp_path),
    )
    route.fit(passages(Pictures([None] * 3), ["a"] * 3, texts))
    scored = route.score(queries(["gamma?"]), Candidates.everything(1, 3))[0]
    encoder = PageImageEncoder(models["qwen2_vl"], Settings(pooling="last", dtype="float32"))
    query = encoder.encode_queries(["gamma?"])[0][0]
    expected = {}
    for row, chunks in enumerate([["alpha beta", "gamma delta", "epsilon"], ["zeta eta"]]):
        vectors = encoder.encode([VisualItem(text=f"About: {chunk}") for chunk in chunks], "passage")
        expected[row] = max(float(vector[0] @ query) for vector in vectors)
    assert dict(zip(scored.rows.tolist(), scored.scores.tolist(), strict=True)) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    "wrong", [{"crops": 3}, {"words": 50}, {"passage": "text", "join_text": True}, {"pooling": "last", "stride": 9}]
)
def test_settings_that_do_not_fit_together_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        config("some/model", **wrong)

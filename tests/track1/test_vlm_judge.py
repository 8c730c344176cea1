"""The judge as a reranker: scores, order, kept answers, kills, and faults that are never a no."""

import json
from pathlib import Path

import numpy as np
import pytest

from common.encoders.vlm import JudgeItem, YesNoJudge
from common.faults import FaultLog
from tests import tiny_vlm
from tests.track1.test_page_image_route import Pictures, passages, picture, queries
from track1_mdr.config import VlmJudgeConfig
from track1_mdr.datasets.tables import Passages, Scored
from track1_mdr.rerank.vlm_judge import VlmJudgeReranker
from track1_mdr.routes.base import Environment


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_vlm.qwen2_vl(tmp_path_factory.mktemp("models") / "qwen2_vl"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[JudgeItem]:
    """Every item that reaches the model."""
    items: list[JudgeItem] = []
    original = YesNoJudge.probabilities

    def counted(self: YesNoJudge, batch: list[JudgeItem]) -> list[float]:
        result = original(self, batch)
        items.extend(batch)
        return result

    monkeypatch.setattr(YesNoJudge, "probabilities", counted)
    return items


def config(model: str, **given: object) -> VlmJudgeConfig:
    return VlmJudgeConfig.model_validate(
        {"type": "vlm_judge", "model": model, "dtype": "float32", "depth": 3, "batch_size": 2, **given}
    )


def pages(broken: set[int] | None = None) -> Passages:
    images = Pictures([picture(i) for i in range(5)], broken or set())
    return passages(images, ["a"] * 5, [f"text of page {i}" for i in range(5)])


def head() -> list[Scored]:
    first = Scored(np.array([4, 0, 2, 1, 3]), np.array([5, 4, 3, 2, 1], np.float32))
    second = Scored(np.array([1, 3]), np.array([0.5, 0.7], np.float32))
    return [first, second]


ASKED = queries(["Where is the chart?", "Who wrote it?"])


def by_row(scored: Scored) -> dict[int, float]:
    return dict(zip(scored.rows.tolist(), scored.scores.tolist(), strict=True))


def test_the_best_pages_get_the_models_probability(model: str, tmp_path: Path) -> None:
    table = pages()
    reranker = VlmJudgeReranker(config(model), Environment(cache=tmp_path))
    results = reranker.rerank(ASKED, table, head())
    assert reranker.depth == 3
    assert [set(by_row(r)) for r in results] == [{4, 0, 2}, {1, 3}]
    judge = YesNoJudge(model, device="cpu", dtype="float32", max_pixels=config(model).max_pixels)
    for query, scored in enumerate(results):
        scored.check("vlm_judge", str(query))
        for row, score in by_row(scored).items():
            item = JudgeItem(ASKED.texts[query], table.images.load(row), table.texts[row])
            assert score == pytest.approx(judge.probabilities([item])[0], abs=1e-5)


def test_yes_first_is_a_stable_partition(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yes = {"text of page 2": 0.6, "text of page 3": 0.99}
    monkeypatch.setattr(
        YesNoJudge, "probabilities", lambda self, items: [yes.get(item.page_text, 0.4) for item in items]
    )
    reranker = VlmJudgeReranker(config(model, mode="yes_first", depth=5), Environment(cache=tmp_path))
    first, second = reranker.rerank(ASKED, pages(), head())
    order = sorted(by_row(first), key=by_row(first).__getitem__, reverse=True)
    assert order == [2, 3, 4, 0, 1]  # yes in the order of the head, then no in the order of the head
    assert all(0 <= score <= 1 for score in (*first.scores, *second.scores))
    assert sorted(by_row(second), key=by_row(second).__getitem__, reverse=True) == [3, 1]


def test_kept_answers_are_not_asked_again(model: str, tmp_path: Path, asked: list[JudgeItem]) -> None:
    first = VlmJudgeReranker(config(model), Environment(cache=tmp_path)).rerank(ASKED, pages(), head())
    assert len(asked) == 5
    again = VlmJudgeReranker(config(model), Environment(cache=tmp_path)).rerank(ASKED, pages(), head())
    assert len(asked) == 5
    assert [by_row(r) for r in first] == [by_row(r) for r in again]
    deeper = config(model, depth=4, mode="yes_first")  # the depth and the use of an answer do not change it
    VlmJudgeReranker(deeper, Environment(cache=tmp_path)).rerank(ASKED, pages(), head())
    assert len(asked) == 6
    VlmJudgeReranker(config(model, use_text=False), Environment(cache=tmp_path)).rerank(ASKED, pages(), head())
    assert len(asked) == 11  # without the text it is another question
    VlmJudgeReranker(config(model, max_pixels=1000), Environment(cache=tmp_path)).rerank(ASKED, pages(), head())
    assert len(asked) == 16


@pytest.mark.parametrize("torn", [b"", b'{"key": "0123', b'{"key": "01", "yes": 7}\nnull\n\xff\xfe{'])
def test_a_run_that_was_killed_goes_on(
    model: str, tmp_path: Path, asked: list[JudgeItem], monkeypatch: pytest.MonkeyPatch, torn: bytes
) -> None:
    whole = VlmJudgeReranker(config(model), Environment(cache=tmp_path / "whole")).rerank(ASKED, pages(), head())
    asked.clear()
    counted = YesNoJudge.probabilities

    def killed(self: YesNoJudge, batch: list[JudgeItem]) -> list[float]:
        if len(asked) >= 2:
            raise KeyboardInterrupt
        return counted(self, batch)

    environment = Environment(cache=tmp_path / "killed")
    with monkeypatch.context() as patch:
        patch.setattr(YesNoJudge, "probabilities", killed)
        with pytest.raises(KeyboardInterrupt):
            VlmJudgeReranker(config(model), environment).rerank(ASKED, pages(), head())
    [kept] = (tmp_path / "killed" / "vlm_judge").glob("*.jsonl")
    assert len(kept.read_text().splitlines()) == 2
    kept.write_bytes(kept.read_bytes() + torn)
    for _ in range(2):  # the second time, what was appended after the torn line is read back whole
        results = VlmJudgeReranker(config(model), environment).rerank(ASKED, pages(), head())
        assert len(asked) == 5
        for a, b in zip(results, whole, strict=True):
            assert by_row(a) == pytest.approx(by_row(b), abs=1e-5)


def test_a_page_that_cannot_be_judged_is_a_fault_and_not_a_no(model: str, tmp_path: Path) -> None:
    faults = FaultLog()
    environment = Environment(cache=tmp_path, faults=faults)
    results = VlmJudgeReranker(config(model), environment).rerank(ASKED, pages(broken={0, 3}), head())
    assert [set(by_row(r)) for r in results] == [{4, 2}, {1}]
    assert [fault.item for fault in faults.faults] == ["question 0, a page 0", "question 1, a page 3"]
    kept = [json.loads(line) for path in tmp_path.rglob("*.jsonl") for line in path.read_text().splitlines()]
    assert len(kept) == 3
    mended = VlmJudgeReranker(config(model), Environment(cache=tmp_path)).rerank(ASKED, pages(), head())
    assert [set(by_row(r)) for r in mended] == [{4, 0, 2}, {1, 3}]


def test_a_model_failure_on_one_page_spares_its_batch(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = YesNoJudge.probabilities

    def fails(self: YesNoJudge, batch: list[JudgeItem]) -> list[float]:
        if any(item.page_text == "text of page 2" for item in batch):
            raise RuntimeError("CUDA out of memory")
        return original(self, batch)

    monkeypatch.setattr(YesNoJudge, "probabilities", fails)
    faults = FaultLog()
    results = VlmJudgeReranker(config(model, batch_size=5), Environment(cache=tmp_path, faults=faults)).rerank(
        ASKED, pages(), head()
    )
    assert [set(by_row(r)) for r in results] == [{4, 0}, {1, 3}]
    assert [(f.item, f.error) for f in faults.faults] == [("question 0, a page 2", "RuntimeError: CUDA out of memory")]


def test_a_page_with_nothing_to_judge_is_a_fault(model: str, tmp_path: Path) -> None:
    faults = FaultLog()
    empty = passages(Pictures([None, None]), ["a"] * 2, ["", "some words"])
    both = [Scored(np.array([0, 1]), np.array([2, 1], np.float32))]
    reranker = VlmJudgeReranker(config(model), Environment(cache=tmp_path, faults=faults))
    assert set(by_row(reranker.rerank(queries(["Who?"]), empty, both)[0])) == {1}  # words alone can be judged
    assert "neither" in faults.faults[0].error


def test_an_image_query_shows_its_image_and_uses_the_instruction(
    model: str, tmp_path: Path, asked: list[JudgeItem]
) -> None:
    image_query = queries([""], Pictures([picture(9)]), instruction="Identify the person.")
    VlmJudgeReranker(config(model, depth=1), Environment(cache=tmp_path)).rerank(image_query, pages(), head()[:1])
    assert asked[0].question == "Identify the person." and asked[0].query_image is not None


def test_an_empty_head_stays_empty(model: str, tmp_path: Path, asked: list[JudgeItem]) -> None:
    results = VlmJudgeReranker(config(model), Environment(cache=tmp_path)).rerank(
        ASKED, pages(), [Scored.empty(), Scored.empty()]
    )
    assert [len(r.rows) for r in results] == [0, 0] and not asked

"""The EASE route: one distilled vector a page, against placebo; cache, silent pages and questions, page images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import ConfigError
from tests.processes import one_thread as one_thread
from tests.track1.text_tables import make_passages, make_queries, planted
from track1_mdr.config import RunConfig
from track1_mdr.datasets.tables import Candidates, Queries, Scored, top_k
from track1_mdr.ease_config import EaseRouteConfig
from track1_mdr.routes import build_route
from track1_mdr.routes.base import Environment
from track1_mdr.routes.ease import EaseRoute, ease_config, padded

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
SMALL: dict[str, Any] = {
    "network": {"queries": 2, "width": 16, "layers": 1, "heads": 2},
    "training": {"epochs": 60, "batch_size": 8, "learning_rate": 0.01},
    "teacher": "pseudo",
    "pseudo": {"per_page": 3},
    "words": 8,
    "stride": 8,
}


def config(**more: object) -> EaseRouteConfig:
    return EaseRouteConfig.model_validate({"type": "ease", "model": MINILM, **SMALL, **more})


def first(results: list[Scored]) -> list[int]:
    return [int(top_k(one, 1).rows[0]) if len(one.rows) else -1 for one in results]


class Moved(EaseRoute):
    """The placebo: each page is drawn to the vector of another one."""

    def _targets(self, passages: Any, means: np.ndarray) -> np.ndarray:
        targets = super()._targets(passages, means)
        full = np.flatnonzero(targets.any(1))
        targets[full] = targets[np.roll(full, 2)]
        return targets


def test_pages_are_found_within_their_document_and_not_with_the_targets_moved(tmp_path: Path) -> None:
    passages, queries, _, gold = planted()
    everything = Candidates.everything(len(queries), len(passages))
    said: list[str] = []
    route = EaseRoute(config(), Environment(tmp_path / "a", say=said.append))
    route.fit(passages)
    results = route.score(queries, everything)
    assert first(results) == gold
    assert route.rows.tolist() == [0, 1, 3, 4, 5]  # page 2 is empty: it has no score
    assert all(sorted(one.check("ease", "q").rows.tolist()) == [0, 1, 3, 4, 5] for one in results)
    assert any("distillation alone" in line for line in said)
    placebo = Moved(config(), Environment(tmp_path / "a"))
    placebo.fit(passages)
    assert sum(a == b for a, b in zip(first(placebo.score(queries, everything)), gold, strict=True)) <= 1

    again = EaseRoute(config(), Environment(tmp_path / "a", say=said.append))
    said.clear()
    again.fit(passages)
    assert not any("epoch" in line for line in said)  # the trained adapter comes from the cache
    for one, two in zip(again.score(queries, everything), results, strict=True):
        assert one.rows.tolist() == two.rows.tolist() and one.scores.tobytes() == two.scores.tobytes()


def test_candidates_are_kept_to_and_a_question_without_text_says_nothing(tmp_path: Path) -> None:
    passages, _, _, _ = planted()
    route = build_route(config(training={"epochs": 1}, teacher="chunks"), Environment(tmp_path))
    route.fit(passages)
    queries: Queries = make_queries([("  ", "d"), ("cat", "d"), ("cat", "d")])
    rows = np.array([0, 1, 2, 3])
    silent, heard, none = route.score(queries, Candidates((rows, rows, np.array([2]))))
    assert len(silent.rows) == 0 and sorted(heard.rows.tolist()) == [0, 1, 3] and len(none.rows) == 0
    narrow = EaseRoute(config(training={"epochs": 1}, teacher="chunks", top=1), Environment(tmp_path))
    narrow.fit(passages)
    assert [len(one.rows) for one in narrow.score(queries, Candidates((rows, rows, rows)))] == [0, 1, 1]


@pytest.mark.parametrize("texts", [[], [("d", ""), ("d", " ")], [("d", "one page"), ("d", "")]])
def test_too_few_pages_with_text(tmp_path: Path, texts: list[tuple[str, str]]) -> None:
    passages, said = make_passages(texts), list[str]()
    route = EaseRoute(config(), Environment(tmp_path, say=said.append))
    with pytest.raises(RuntimeError, match="fit before score"):
        route.score(make_queries([]), Candidates(()))
    route.fit(passages)
    (answer,) = route.score(make_queries([("page", "d")]), Candidates.everything(1, len(passages)))
    assert len(answer.rows) == 0 and any("says nothing" in line for line in said)


def test_chunks_are_laid_out_by_page() -> None:
    vectors = np.arange(10, dtype=np.float32).reshape(5, 2)
    values, mask, cut = padded(vectors, np.array([1, 1, 1, 3, 3]), 4, 2)
    assert mask.tolist() == [[False, False], [True, True], [False, False], [True, True]] and cut == 1
    assert values[1].tolist() == [[0, 1], [2, 3]] and values[3].tolist() == [[6, 7], [8, 9]]
    values, mask, cut = padded(vectors[:0], np.empty(0, np.int64), 2, 3)
    assert values.shape == (2, 1, 2) and not mask.any() and cut == 0


def test_the_settings_reach_the_adapter() -> None:
    made = ease_config(config(language_model={"name": "any", "gguf_file": "x.gguf", "weight": 0.5}))
    assert made.language_model is not None and made.language_model.gguf_file == "x.gguf" and made.lm_weight == 0.5
    assert made.qformer.queries == 2 and made.adapter == "retrieval" and made.fit.epochs == 60
    with pytest.raises(ConfigError, match="multiple of the heads"):
        ease_config(config(network={"width": 10, "heads": 4}))
    routes = {"routes": {"ease": {"type": "ease", "model": MINILM}}, "fusion": {"type": "zscore"}}
    assert RunConfig.model_validate({"name": "x", "about": "x", "tasks": {"mmdocir": routes}})


def test_a_page_with_an_image_alone_gets_a_vector_and_teaches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Views:
        def __init__(self, settings: Any, environment: Environment) -> None:
            assert settings.model == "tiny" and settings.pretrained == "w" and not settings.sub_figures

        def fit(self, passages: Any) -> None:
            pass

        def vectors(self) -> tuple[np.ndarray, np.ndarray]:
            return np.eye(4, 7, dtype=np.float32), np.array([0, 2, 2, 4])

    monkeypatch.setattr("track1_mdr.routes.ease._Views", Views)
    passages, _, _, _ = planted()
    more = {"training": {"epochs": 2}, "teacher": "chunks", "image_model": "tiny", "image_pretrained": "w"}
    route = EaseRoute(config(**more), Environment(tmp_path))
    route.fit(passages)
    assert route.rows.tolist() == [0, 1, 2, 3, 4, 5] and route.model is not None
    assert route.model.state["items"] == 5 and route.model.state["dims"] == {"text": 384, "image": 7}

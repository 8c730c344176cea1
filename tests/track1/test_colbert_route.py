"""The ColBERT route."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import track1_mdr.routes.colbert as module
from common.encoders.colbert import build_token_encoder
from tests.common.tiny_models import write_colbert
from tests.track1.text_tables import make_passages, make_queries, planted
from track1_mdr.chunks import chunk_passages
from track1_mdr.config import ColbertConfig
from track1_mdr.datasets.tables import Candidates
from track1_mdr.routes import build_route
from track1_mdr.routes.base import Environment

MODEL = "answerdotai/answerai-colbert-small-v1"


def config(model: str = MODEL, **more) -> ColbertConfig:
    return ColbertConfig.model_validate({"type": "colbert", "model": model, **more})


@pytest.mark.parametrize("idf", [False, True])
def test_the_planted_pages_come_first(tmp_path: Path, idf: bool) -> None:
    passages, queries, candidates, gold = planted()
    route = build_route(config(idf=idf), Environment(tmp_path))
    route.fit(passages)
    found = [s.check("colbert", str(i)) for i, s in enumerate(route.score(queries, candidates))]
    assert [int(s.rows[0]) for s in found] == gold
    assert [sorted(s.rows.tolist()) for s in found] == [[0, 1, 3], [0, 1, 3], [4, 5], [4, 5]]


@pytest.mark.parametrize("block", [1, 256])
def test_scores_equal_brute_force_maxsim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(module, "_BLOCK_CHUNKS", block)
    passages, queries, candidates, _ = planted()
    route = build_route(config(words=8, stride=5), Environment(tmp_path))
    route.fit(passages)
    found = route.score(queries, candidates)
    encoder = build_token_encoder(MODEL)
    chunks = chunk_passages(passages.texts, 8, 5)
    half = [v.astype(np.float16).astype(np.float32) for v in encoder.encode(chunks.texts, role="passage", batch_size=1)]
    asked = [v.astype(np.float16).astype(np.float32) for v in encoder.encode(queries.texts, role="query", batch_size=1)]
    for query, scored in zip(asked, found, strict=True):
        for row, score in zip(scored.rows.tolist(), scored.scores.tolist(), strict=True):
            own = [half[i] for i in np.flatnonzero(chunks.owners == row)]
            expected = max(np.mean([max(float(t @ q) for t in tokens) for q in query]) for tokens in own)
            assert score == pytest.approx(expected, abs=1e-5)


def test_idf_weighs_by_the_share_of_pages_that_hold_a_token(tmp_path: Path) -> None:
    pages = [("d", f"revenue report part {word}") for word in ("cat", "dog", "loan", "bread")]
    passages, queries = make_passages(pages), make_queries([("revenue dog", "d")])
    scores = {}
    for idf in (False, True):
        route = build_route(config(idf=idf), Environment(tmp_path))
        route.fit(passages)
        scored = route.score(queries, Candidates.everything(1, 4))[0]
        assert scored.rows[0] == 1
        scores[idf] = scored.scores
    assert scores[True][0] - scores[True][1] > scores[False][0] - scores[False][1]
    weights = route._rarity(["revenue dog"], np.arange(4), 4)  # type: ignore[attr-defined]
    rare, common = np.log(1 + 3.5 / 1.5), np.log(1 + 0.5 / 4.5)
    mean = (rare + common) / 2
    np.testing.assert_allclose(weights, [mean, common, rare, mean], rtol=1e-5)  # start, revenue, dog, end


def test_token_vectors_are_kept_on_disk_in_half_precision(tmp_path: Path) -> None:
    passages, queries, candidates, _ = planted()
    first = build_route(config(), Environment(tmp_path))
    first.fit(passages)
    stored = [np.load(p, mmap_mode="r") for p in tmp_path.rglob("shard-*.npy")]
    assert {a.dtype for a in stored} == {np.dtype(np.float16)} and {a.shape[1] for a in stored} == {384}
    before = first.score(queries, candidates)
    again = build_route(config(), Environment(tmp_path))
    again.fit(passages)
    for a, b in zip(before, again.score(queries, candidates), strict=True):
        np.testing.assert_array_equal(a.scores, b.scores)


def test_shared_candidates_are_searched_exactly_and_cut_to_top(tmp_path: Path) -> None:
    passages, queries, candidates, gold = planted()
    route = build_route(config(top=2), Environment(tmp_path))
    route.fit(passages)
    own = route.score(queries, candidates)
    shared = route.score(queries, Candidates.everything(len(queries), len(passages)))
    assert [len(s.rows) for s in shared] == [2] * 4
    assert [int(s.rows[0]) for s in shared] == gold
    np.testing.assert_allclose([s.scores[0] for s in shared], [s.scores[0] for s in own], atol=1e-6)


def test_empty_queries_and_pages(tmp_path: Path) -> None:
    route = build_route(config(), Environment(tmp_path))
    route.fit(make_passages([("d", ""), ("d", "")]))
    assert len(route.score(make_queries([("cat", "d")]), Candidates.everything(1, 2))[0].rows) == 0
    route.fit(make_passages([("d", "cat"), ("d", "...")]))
    silent, heard = route.score(make_queries([("", "d"), ("cat", "d")]), Candidates.everything(2, 2))
    assert len(silent.rows) == 0 and heard.rows[0] == 0


def test_a_model_from_a_folder(tmp_path: Path) -> None:
    passages, queries, candidates, _ = planted()
    for idf in (False, True):
        model = config(str(write_colbert(tmp_path / f"m{idf}")), max_tokens=64, idf=idf)
        route = build_route(model, Environment(tmp_path))
        route.fit(passages)
        assert all(np.isfinite(s.scores).all() and len(s.rows) for s in route.score(queries, candidates))

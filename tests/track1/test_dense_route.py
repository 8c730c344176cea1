"""The dense text route."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.encoders.text import build_text_encoder
from tests.common.tiny_models import write_sentence_transformer
from tests.track1.text_tables import make_passages, make_queries, planted
from track1_mdr.config import DenseTextConfig
from track1_mdr.datasets.tables import Candidates
from track1_mdr.routes import build_route
from track1_mdr.routes.base import Environment
from track1_mdr.routes.text_vectors import best_by_owner, score_groups, take_rows

BGE, MINILM = "BAAI/bge-small-en-v1.5", "sentence-transformers/all-MiniLM-L6-v2"


def config(model: str = BGE, **more) -> DenseTextConfig:
    return DenseTextConfig.model_validate({"type": "dense_text", "model": model, **more})


@pytest.mark.parametrize(("model", "precision"), [(BGE, "float32"), (MINILM, "int8")])
def test_the_planted_pages_come_first(tmp_path: Path, model: str, precision: str) -> None:
    passages, queries, candidates, gold = planted()
    route = build_route(config(model, precision=precision), Environment(tmp_path))
    route.fit(passages)
    found = [s.check("dense", str(i)) for i, s in enumerate(route.score(queries, candidates))]
    assert [int(s.rows[0]) for s in found] == gold
    assert [sorted(s.rows.tolist()) for s in found] == [[0, 1, 3], [0, 1, 3], [4, 5], [4, 5]]  # 2 has no text


def test_scores_are_the_best_cosine_of_a_page_s_chunks(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(25)]
    passages = make_passages([("d", " ".join(words)), ("d", "one page")])
    queries = make_queries([("w3 w4", "d"), ("w22", "d")])
    route = build_route(config(words=10, stride=7), Environment(tmp_path))
    route.fit(passages)
    found = route.score(queries, Candidates.everything(2, 2))
    encoder = build_text_encoder(BGE)
    chunks = [" ".join(words[s : s + 10]) for s in (0, 7, 14, 21)]
    vectors = encoder.encode(chunks, role="passage", batch_size=1)
    for query, scored in zip(queries.texts, found, strict=True):
        expected = (vectors @ encoder.encode([query], role="query", batch_size=1)[0]).max()
        assert dict(zip(scored.rows.tolist(), scored.scores.tolist(), strict=True))[0] == pytest.approx(
            expected, abs=1e-6
        )


def test_a_second_run_encodes_nothing_and_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passages, queries, candidates, _ = planted()

    def run():
        route = build_route(config(), Environment(tmp_path))
        route.fit(passages)
        return route.score(queries, candidates)

    first = run()
    from common.encoders.text import OnnxTextEncoder

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(OnnxTextEncoder, "encode", refuse)
    for a, b in zip(first, run(), strict=True):
        np.testing.assert_array_equal(a.rows, b.rows)
        np.testing.assert_array_equal(a.scores, b.scores)


def test_shard_jobs_then_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passages, queries, candidates, gold = planted()
    for part in range(2):
        build_route(config(), Environment(tmp_path, shard=(part, 2))).fit(passages)
    from common.encoders.text import OnnxTextEncoder

    real = OnnxTextEncoder.encode

    def only_queries(self, texts, *, role, batch_size=1):
        assert role == "query"
        return real(self, texts, role=role, batch_size=batch_size)

    monkeypatch.setattr(OnnxTextEncoder, "encode", only_queries)
    route = build_route(config(), Environment(tmp_path))
    route.fit(passages)
    assert [int(s.rows[0]) for s in route.score(queries, candidates)] == gold


def test_a_query_without_text_says_nothing_and_top_cuts(tmp_path: Path) -> None:
    passages, _, _, _ = planted()
    route = build_route(config(top=2), Environment(tmp_path))
    route.fit(passages)
    silent, heard = route.score(make_queries([("  ", ""), ("bread", "")]), Candidates.everything(2, len(passages)))
    assert len(silent.rows) == 0
    assert len(heard.rows) == 2 and heard.rows[0] == 4 and heard.scores[0] >= heard.scores[1]


def test_no_page_has_text(tmp_path: Path) -> None:
    route = build_route(config(), Environment(tmp_path))
    route.fit(make_passages([("d", ""), ("d", "  ")]))
    assert [len(s.rows) for s in route.score(make_queries([("cat", "d")]), Candidates.everything(1, 2))] == [0]


def test_a_model_from_a_folder(tmp_path: Path) -> None:
    passages, queries, candidates, _ = planted()
    route = build_route(config(str(write_sentence_transformer(tmp_path / "m")), max_tokens=64), Environment(tmp_path))
    route.fit(passages)
    found = route.score(queries, candidates)
    assert all(np.isfinite(s.scores).all() and len(s.rows) for s in found)


def test_score_before_fit_is_refused(tmp_path: Path) -> None:
    _, queries, candidates, _ = planted()
    with pytest.raises(RuntimeError, match="fit"):
        build_route(config(), Environment(tmp_path)).score(queries, candidates)


@pytest.mark.parametrize("block", [7, 20_000_000])
def test_a_shared_pool_in_blocks_gives_the_top_of_all_scores(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Ties at the cut are ordered by row, missing scores left out, and no more than a block is scored at once."""
    import track1_mdr.routes.text_vectors as module

    monkeypatch.setattr(module, "_BLOCK_SCORES", block)
    rng = np.random.default_rng(5)
    owners = np.repeat(np.arange(40), rng.integers(0, 4, 40))
    table = rng.integers(0, 6, (len(owners), 9)).astype(np.float32)
    table[rng.random(table.shape) < 0.2] = np.nan
    asked: list[int] = []

    def score(chunks: np.ndarray, members: list[int], rows: np.ndarray) -> np.ndarray:
        asked.append(len(chunks) * len(members))
        return table[np.ix_(chunks, np.asarray(members))]

    found = score_groups(make_queries([("x", "")] * 9), Candidates.everything(9, 40), owners, score, 5)
    assert max(asked) <= max(block, len(owners)) and sum(asked) == table.size
    for query, scored in enumerate(found):
        best = {int(o): np.nanmax(table[owners == o, query]) for o in np.unique(owners[~np.isnan(table[:, query])])}
        expected = sorted(best, key=lambda o: (-best[o], o))[:5]
        assert scored.rows.tolist() == expected
        assert scored.scores.tolist() == [best[o] for o in expected]


def test_taking_neighbours_copies_nothing() -> None:
    vectors = np.arange(20.0).reshape(10, 2)
    assert np.shares_memory(take_rows(vectors, np.array([3, 4, 5])), vectors)
    for rows in ([3, 4, 5], [0, 9], [7]):
        np.testing.assert_array_equal(take_rows(vectors, np.array(rows)), vectors[rows])


def test_best_by_owner_skips_missing_chunks() -> None:
    scores = np.array([[1, np.nan], [3, np.nan], [2, 5]], np.float32)
    rows, best = best_by_owner(scores, np.array([4, 4, 9]))
    assert rows.tolist() == [4, 9]
    np.testing.assert_array_equal(best, np.array([[3, np.nan], [2, 5]], np.float32))

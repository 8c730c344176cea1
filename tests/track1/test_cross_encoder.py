"""The cross-encoder reranker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.encoders.cross_encoder import OnnxPairScorer, build_pair_scorer
from common.logits import sigmoid
from tests.common.tiny_models import write_bert
from tests.track1.text_tables import make_passages, make_queries, planted
from track1_mdr.config import CrossEncoderConfig
from track1_mdr.datasets.tables import Scored
from track1_mdr.rerank.cross_encoder import CrossEncoderReranker
from track1_mdr.routes.base import Environment

MODEL = "cross-encoder/ms-marco-MiniLM-L12-v2"


def reranker(cache: Path, model: str = MODEL, **more) -> CrossEncoderReranker:
    config = CrossEncoderConfig.model_validate({"type": "cross_encoder", "model": model, **more})
    return CrossEncoderReranker(config, Environment(cache))


def head(*rows: int) -> Scored:
    return Scored(np.asarray(rows, np.int64), np.linspace(1, 0, len(rows)).astype(np.float32))


def test_the_answer_rises_and_scores_are_probabilities(tmp_path: Path) -> None:
    passages, queries, _, gold = planted()
    found = reranker(tmp_path).rerank(queries, passages, [head(0, 3, 1), head(0, 1, 3), head(5, 4), head(4, 5)])
    assert [int(s.rows[s.scores.argmax()]) for s in found] == gold
    for scored in found:
        scored.check("cross_encoder", "q")
        assert ((scored.scores >= 0) & (scored.scores <= 1)).all()


def test_only_the_depth_best_are_read_and_pages_without_text_left_out(tmp_path: Path) -> None:
    passages, queries, _, _ = planted()
    found = reranker(tmp_path, depth=2).rerank(queries, passages, [head(2, 0, 1), head(3, 1, 0), head(), head(5)])
    assert [sorted(s.rows.tolist()) for s in found] == [[0], [1, 3], [], [5]]


def test_the_best_of_the_chosen_chunks_counts(tmp_path: Path) -> None:
    filler = "the weather was mild and the road was long and quiet that year "
    text = filler + "paris is the capital of france today and tomorrow and ever after " + filler
    passages = make_passages([("d", text), ("d", filler)])
    queries = make_queries([("What is the capital of France?", "d")])
    scorer = build_pair_scorer(MODEL)
    words = text.split()
    chunks = [" ".join(words[s : s + 13]) for s in range(0, len(words) - 1, 12)]
    logits = scorer.score([(queries.texts[0], c) for c in chunks], batch_size=1)
    one = reranker(tmp_path, words=13, stride=12, chunks=1).rerank(queries, passages, [head(0, 1)])[0]
    every = reranker(tmp_path, words=13, stride=12, chunks=9).rerank(queries, passages, [head(0, 1)])[0]
    assert one.rows.tolist() == every.rows.tolist() == [0, 1]
    assert every.scores[0] == pytest.approx(float(sigmoid(logits).max()), abs=1e-6)
    assert one.scores[0] == every.scores[0] > 0.5 > one.scores[1]  # word overlap picks the right chunk


def test_a_second_run_and_a_deeper_one_read_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passages, queries, _, _ = planted()
    heads = [head(0, 3, 1)] * 2 + [head(5, 4)] * 2
    first = reranker(tmp_path, depth=1).rerank(queries, passages, heads)
    asked: list[tuple[str, str]] = []
    real = OnnxPairScorer.score

    def counted(self, pairs, *, batch_size=1):
        asked.extend(pairs)
        return real(self, pairs, batch_size=batch_size)

    monkeypatch.setattr(OnnxPairScorer, "score", counted)
    again = reranker(tmp_path, depth=1).rerank(queries, passages, heads)
    assert not asked
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.scores, b.scores)
    reranker(tmp_path, depth=3).rerank(queries, passages, heads)
    assert len(asked) == 6


def test_an_empty_question_says_nothing(tmp_path: Path) -> None:
    passages, _, _, _ = planted()
    assert len(reranker(tmp_path).rerank(make_queries([("", "d")]), passages, [head(0, 1)])[0].rows) == 0


def test_a_model_from_a_folder(tmp_path: Path) -> None:
    passages, queries, _, _ = planted()
    mine = reranker(tmp_path, str(write_bert(tmp_path / "m", labels=1)), max_tokens=64)
    found = mine.rerank(queries, passages, [head(0, 1, 3)] * 4)
    assert all(sorted(s.rows.tolist()) == [0, 1, 3] and np.isfinite(s.scores).all() for s in found)

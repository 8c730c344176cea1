"""Passages by their best vector through an index, and routes that search with one engine or another."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from common.errors import ConfigError
from common.index.build import IndexSettings
from tests.track1.text_tables import planted
from track1_mdr.__main__ import app
from track1_mdr.config import DenseTextConfig
from track1_mdr.datasets.tables import Candidates, Scored, top_k
from track1_mdr.ease_config import EaseRouteConfig
from track1_mdr.routes import build_route
from track1_mdr.routes.base import Environment
from track1_mdr.routes.vector_search import OwnedVectors

ENGINES = ("faiss", "milvus")
NO_VECTORS = ["--set", "tasks.mmdocir.routes={bm25: {type: bm25}}", "--set", "tasks.m2kr=null"]


def environment(folder: Path, engine: str) -> Environment:
    if engine == "milvus":
        pytest.importorskip("milvus_lite", reason="Milvus is an extra: pip install -r requirements-cluster.txt")
    return Environment(folder, threads=1, index=IndexSettings.of(engine, None, ""))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("top", [1, 4, 50])
def test_passages_are_those_of_brute_force_ties_and_all(tmp_path: Path, engine: str, top: int) -> None:
    rng = np.random.default_rng(top)
    vectors = rng.integers(-1, 2, size=(200, 4)).astype(np.float32)  # most scores are shared by many
    owners = np.sort(rng.integers(0, 40, size=200))
    index, queries = OwnedVectors(vectors, owners, environment(tmp_path, engine)), vectors[:7]
    for places in (np.arange(200), np.flatnonzero(owners % 3 > 0)):
        found = index.best(queries, places, top)
        for query, one in zip(queries, found, strict=True):
            scores = vectors[places] @ query
            rows = np.unique(owners[places])
            best = np.asarray([scores[owners[places] == row].max() for row in rows])
            expected = top_k(Scored(rows, best), top)
            assert one.rows.tolist() == expected.rows.tolist() and one.scores.tolist() == expected.scores.tolist()


@pytest.mark.parametrize("kind", ["dense_text", pytest.param("ease", marks=pytest.mark.slow)])
def test_a_route_answers_alike_whatever_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("track1_mdr.routes.text_vectors.INDEX_FROM", 0)
    passages, queries, candidates, _ = planted()
    settings: dict[str, Any] = {"type": kind, "model": "BAAI/bge-small-en-v1.5"}
    if kind == "ease":
        config = EaseRouteConfig.model_validate(settings | {"network": {"reader": "mean"}, "training": {"epochs": 1}})
    else:
        config = DenseTextConfig.model_validate(settings)
    answers: list[list[Scored]] = []
    for engine in ENGINES:
        for asked in (candidates, Candidates.everything(len(queries), len(passages))):
            route = build_route(config, environment(tmp_path, engine))
            route.fit(passages)
            answers.append(route.score(queries, asked))
    for one, other in zip(answers[0] + answers[1], answers[2] + answers[3], strict=True):
        assert one.rows.tolist() == other.rows.tolist() and len(one.rows) > 1
        np.testing.assert_allclose(one.scores, other.scores, atol=2e-6)


def test_a_question_that_failed_says_nothing_through_an_index_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("track1_mdr.routes.text_vectors.INDEX_FROM", 0)
    passages, queries, _, _ = planted()
    route = build_route(
        DenseTextConfig.model_validate({"type": "dense_text", "model": "BAAI/bge-small-en-v1.5"}),
        environment(tmp_path, "milvus"),
    )
    route.fit(passages)
    import track1_mdr.routes.dense_text as module

    encode = module.encode_texts

    def one_fails(*arguments: Any, **options: Any) -> Any:
        found = encode(*arguments, **options)
        vectors, present = np.array(found.vectors), found.present.copy()
        vectors[1], present[1] = np.nan, False
        return replace(found, vectors=vectors, present=present)

    monkeypatch.setattr(module, "encode_texts", one_fails)
    found = route.score(queries, Candidates.everything(len(queries), len(passages)))
    assert [len(one.rows) > 0 for one in found] == [row != 1 for row in range(len(queries))]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--uri", "http://localhost:19530"], "add --index milvus"),
        (["--index", "qdrant"], "faiss or milvus"),
        (["--index", "milvus", *NO_VECTORS], "no route"),
        (["--index", "milvus", "--uri", "http://me:sesame@127.0.0.1:9"], "no Milvus server answers"),
    ],
)
def test_an_index_that_is_not_to_be_had_is_said_before_work(tmp_path: Path, options: list[str], said: str) -> None:
    if "milvus" in options:
        pytest.importorskip("pymilvus", reason="Milvus is an extra: pip install -r requirements-cluster.txt")
    result = CliRunner().invoke(
        app, ["run", "--data", "data/sample", "--out", str(tmp_path / "out.csv"), "--cache", str(tmp_path), *options]
    )
    assert result.exit_code == 2 and said in result.output and "sesame" not in result.output
    assert not (tmp_path / "out.csv").exists()
    assert ConfigError.__name__ not in result.output

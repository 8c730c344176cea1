"""EAGER in a run: where its codes and vectors come from, what is said, and that the folder is read again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.config import make_config
from common.errors import ConfigError
from common.generative.config import RunConfig
from common.generative.eager.config import EagerConfig
from common.generative.eager.model import Eager
from common.generative.eager.sources import code_vectors, distinct_rows, tree_branching
from common.generative.run import prepare, recommender, trained_model
from common.generative.sequences import Sequences, from_lists
from common.tokenizers.semantic_ids import SemanticIdMap

N = 20
SMALL = {"dim": 16, "heads": 2, "feedforward": 24, "decoder_layers": 1, "max_items": 6}


def data(**known: object) -> Sequences:
    rng = np.random.default_rng(0)
    return from_lists([rng.integers(0, N, 6) for _ in range(30)], N, **known)


def config(**values: Any) -> RunConfig:
    made = {"name": "eager", "model": "eager", "behaviour": {"source": "co_occurrence"}, "evaluate": {"beam": 20}}
    made["train"] = {"epochs": 1, "valid_users": 5}
    made["tokenizer"] = {"dim": 8}
    made["eager"] = SMALL | values
    return make_config(RunConfig, made, (), "test")


def test_a_run_trains_keeps_and_reads_again(tmp_path: Path) -> None:
    said: list[str] = []
    vectors = np.random.default_rng(1).standard_normal((N, 8)).astype(np.float32)
    vectors[3] = vectors[4]
    run = prepare(config(), data(embeddings=vectors), tmp_path, "cpu", said.append)
    asked = recommender(run)
    items, scores = asked.recommend(run.split.test.histories, 5)
    text = "\n".join(said)
    assert "behaviour IDs on co-occurrence in the training part: balanced tree 5 x 4" in text
    assert "semantic IDs on the data's vectors: balanced tree 5 x 4; 1 items whose vectors equal" in text
    assert "fall" not in text
    again = recommender(run).recommend(run.split.test.histories, 5)
    assert (items == again[0]).all()
    assert (scores == again[1]).all()
    allowed = np.arange(N) % 2 == 0
    assert set(asked.recommend(run.split.test.histories, 12, allowed=allowed)[0].flatten()) <= {-1, *range(0, N, 2)}
    model = trained_model(run)
    assert isinstance(model, Eager)
    assert model.semantic_map == SemanticIdMap.load(tmp_path / "semantic_ids")
    assert set(model.contrast) == {"behaviour", "semantic"}


def test_without_content_the_fallback_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    trained_model(prepare(config(), data(), tmp_path, "cpu", said.append))
    text = "\n".join(said)
    assert "neither item vectors nor texts" in text
    assert "both streams have the same codes" in text


def test_published_codes_are_a_semantic_source(tmp_path: Path) -> None:
    said: list[str] = []
    codes = np.random.default_rng(2).integers(0, 4, (N, 2)).astype(np.int32)
    run = prepare(config(semantic="published"), data(published=codes), tmp_path / "a", "cpu", said.append)
    model = trained_model(run)
    assert isinstance(model, Eager)
    assert (model.semantic_map.sids[:, :2] == codes).all()
    assert "vectors made of the codes" in "\n".join(said)
    folder = str(tmp_path / "a" / "semantic_ids")
    other = prepare(config(semantic=folder, streams="semantic"), data(), tmp_path / "b", "cpu", said.append)
    alone = trained_model(other)
    assert isinstance(alone, Eager)
    assert alone.semantic_map == model.semantic_map
    assert "semantic stream alone: no transfer task" in "\n".join(said)
    for source, data_ in (("publishd", data()), ("published", data())):
        with pytest.raises(ConfigError, match=r"no such semantic IDs|no published IDs"):
            trained_model(prepare(config(semantic=source), data_, tmp_path / source, "cpu", said.append))


def test_a_run_of_another_configuration_is_refused(tmp_path: Path) -> None:
    prepare(config(), data(), tmp_path, "cpu", print)
    with pytest.raises(ConfigError, match="gct"):
        prepare(config(gct=0.5), data(), tmp_path, "cpu", print)


def test_trees_fit_their_items() -> None:
    for n in (1, 2, 3, 10, 111, 12_101):
        first, second = tree_branching(EagerConfig(), n)
        assert first * second >= n
        assert first <= n
    assert tree_branching(EagerConfig(branching=(3, 4, 5)), 60) == (3, 4, 5)
    with pytest.raises(ConfigError, match="does not fit"):
        tree_branching(EagerConfig(branching=(3, 4, 5)), 61)


def test_equal_vectors_are_told_apart_and_others_stay() -> None:
    x = np.zeros((5, 3), np.float32)
    x[1] = 1
    moved, count = distinct_rows(x, 0)
    assert count == 3
    assert (moved[:2] == x[:2]).all()
    assert len(np.unique(moved, axis=0)) == 5
    assert distinct_rows(x[:2], 0)[1] == 0


def test_vectors_of_codes_are_alike_where_codes_are() -> None:
    sids = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    found = code_vectors(SemanticIdMap.from_sids(sids, (2, 2)), 0)
    near, far = np.linalg.norm(found[0] - found[1]), np.linalg.norm(found[0] - found[2])
    assert near < far < np.linalg.norm(found[0] - found[3])

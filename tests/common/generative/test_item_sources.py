"""What a run knows of its items: which source is taken, what is told, what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from common.errors import ConfigError, DataError
from common.generative import item_sources
from common.generative.config import TextsConfig
from common.generative.item_sources import behaviour_vectors, item_texts, semantic_vectors
from common.generative.item_vectors import co_occurrence_vectors
from common.generative.run import prepare, trained_model
from common.generative.sasrec import SasRec
from common.generative.sequences import Sequences
from common.generative.systems import Prepared
from tests.common.generative.test_systems import config, toy

TEXTS = [f"film number {n}" for n in range(24)]


def run_of(out: Path, data: Sequences, model: str = "eager", **more: object) -> tuple[Prepared, list[str]]:
    said: list[str] = []
    run = prepare(config(model, **more), data, out, "cpu", said.append)
    said.clear()
    return run, said


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A text encoder without a model: the lengths of a text and of its words; returns what it was asked."""
    asked: list[list[str]] = []

    def encode(texts: list[str], _: TextsConfig, folder: Path) -> np.ndarray:
        asked.append(list(texts))
        assert folder.name == "texts"
        return np.array([[len(one), len(one.split()[-1])] for one in texts], np.float32)

    monkeypatch.setattr(item_sources, "encode_texts", encode)
    return asked


def test_given_vectors_come_before_texts_and_texts_before_co_occurrence(
    tmp_path: Path, letters: list[list[str]]
) -> None:
    given = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
    run, said = run_of(tmp_path / "a", replace(toy(), texts=TEXTS, embeddings=given))
    vectors, source = semantic_vectors(run)
    assert vectors is given and source == "the data's vectors" and not said and not letters
    run, said = run_of(tmp_path / "b", replace(toy(), texts=TEXTS))
    vectors, source = semantic_vectors(run)
    assert letters == [TEXTS] and vectors.shape == (24, 2) and "MiniLM" in source and not said
    run, said = run_of(tmp_path / "c", toy())
    vectors, source = semantic_vectors(run)
    assert "neither item vectors nor texts" in said[0] and "co-occurrence" in source
    semantic_vectors(run)
    assert len(said) == 1  # a model asks for them more than once
    assert np.array_equal(vectors, co_occurrence_vectors(run.split.train, dim=8, window=5, seed=run.config.seed))


def test_an_item_without_text_gets_the_mean_vector_and_its_id_as_text(tmp_path: Path, letters: list[list[str]]) -> None:
    texts = [*TEXTS[:3], "  ", *TEXTS[4:]]
    run, said = run_of(tmp_path, replace(toy(), texts=texts))
    vectors, _ = semantic_vectors(run)
    assert len(letters[0]) == 23 and "1 of 24 items have no text" in said[0]
    others = np.delete(vectors, 3, axis=0)
    assert np.allclose(vectors[3], others.mean(axis=0)) and others.std() > 0
    said.clear()
    found, source = item_texts(run)
    assert source == "the data's texts" and found[3] == "item 3" and found[:3] == TEXTS[:3]
    assert said == ["1 of 24 items have no text: theirs is their ID, as 'item 3'"]


@pytest.mark.parametrize("texts", [None, [""] * 24])
def test_without_any_text_the_id_is_the_text(tmp_path: Path, texts: list[str] | None) -> None:
    run, said = run_of(tmp_path, replace(toy(), texts=texts))
    found, source = item_texts(run)
    assert found == [f"item {n}" for n in range(24)] and source == "item IDs"
    assert said == ["the data has no item texts: an item's text is its ID"]


def test_the_ranker_is_trained_once_on_the_training_part_and_leaves_the_random_state_alone(tmp_path: Path) -> None:
    run, said = run_of(tmp_path, toy(), behaviour={"train": {"epochs": 2, "valid_users": 5}})
    torch.manual_seed(1)
    vectors, source = behaviour_vectors(run)
    drawn = torch.rand(1)
    assert source == "item embeddings of SASRec" and vectors.shape == (24, 16)
    assert sum(line.startswith("epoch") for line in said) == 2  # behaviour.train, not train
    said.clear()
    torch.manual_seed(1)
    again, _ = behaviour_vectors(run)
    assert not any(line.startswith("epoch") for line in said) and np.array_equal(vectors, again)
    assert torch.equal(torch.rand(1), drawn)
    assert (tmp_path / "behaviour" / "model").is_dir() and not (tmp_path / "model").exists()
    # A training part without one user gives another ranker; test and valid items change nothing.
    flat = run.split.test.histories.items.copy()
    flat[run.data.offsets[1:] - 1] = 0
    same, _ = run_of(
        tmp_path / "b", replace(run.data, items=flat), behaviour={"train": {"epochs": 2, "valid_users": 5}}
    )
    same = replace(same, split=replace(same.split, valid=run.split.valid))
    assert np.array_equal(behaviour_vectors(same)[0], vectors)


def test_behaviour_from_co_occurrence_a_file_or_a_run_of_sasrec(tmp_path: Path) -> None:
    data = toy()
    run, _ = run_of(tmp_path / "a", data, behaviour={"source": "co_occurrence"})
    assert np.array_equal(behaviour_vectors(run)[0], co_occurrence_vectors(run.split.train, dim=8, seed=7))
    given = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
    order = np.random.default_rng(1).permutation(24)
    table = pa.table({"item_id": order, "emb": [given[row].tolist() for row in order]})
    pq.write_table(table, tmp_path / "v.parquet")
    run, _ = run_of(tmp_path / "b", data, behaviour={"source": str(tmp_path / "v.parquet")})
    assert np.array_equal(behaviour_vectors(run)[0], given)
    ranker, _ = run_of(tmp_path / "ranker", data, "sasrec")
    model = trained_model(ranker)
    assert isinstance(model, SasRec)
    run, _ = run_of(tmp_path / "c", data, behaviour={"source": str(tmp_path / "ranker")})
    assert np.array_equal(behaviour_vectors(run)[0], model.item_vectors())


def test_behaviour_of_other_data_or_of_nothing_is_refused(tmp_path: Path) -> None:
    ranker, _ = run_of(tmp_path / "ranker", toy(seed=3), "sasrec")
    trained_model(ranker)
    run, _ = run_of(tmp_path / "a", toy(), behaviour={"source": str(tmp_path / "ranker")})
    with pytest.raises(DataError, match="not a SASRec of this data"):
        behaviour_vectors(run)
    run, _ = run_of(tmp_path / "b", toy(), behaviour={"source": "nowhere"})
    with pytest.raises(ConfigError, match="no such behaviour vectors"):
        behaviour_vectors(run)
    pq.write_table(pa.table({"item_id": [1], "emb": [[0.5, 1.0]]}), tmp_path / "few.parquet")
    run, _ = run_of(tmp_path / "c", toy(), behaviour={"source": str(tmp_path / "few.parquet")})
    with pytest.raises(DataError, match="23 of 24 items have no vector"):
        behaviour_vectors(run)
    pq.write_table(pa.table({"item_id": [1], "name": ["a"]}), tmp_path / "none.parquet")
    run, _ = run_of(tmp_path / "d", toy(), behaviour={"source": str(tmp_path / "none.parquet")})
    with pytest.raises(DataError, match="no item vectors here"):
        behaviour_vectors(run)

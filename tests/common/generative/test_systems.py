"""How a run finds and makes its model: registry, missing libraries, keys, kinds of saved models."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.config import make_config
from common.errors import ConfigError, DataError
from common.generative import systems
from common.generative.base import KINDS, load_generator
from common.generative.config import SECTIONS, TRAINED, RunConfig
from common.generative.run import prepare, run_key, trained_model
from common.generative.sasrec import SasRec
from common.generative.sequences import Sequences, from_lists, leave_one_out
from common.generative.systems import MODULES, Prepared, System, needing, sample, system_of
from common.planted import ClusterChain
from common.tokenizers.semantic_ids import SemanticIdMap

SMALL = {"dim": 16, "heads": 2, "feedforward": 16, "encoder_layers": 1}


def toy(seed: int = 0) -> Sequences:
    lists = ClusterChain(np.arange(24) // 4, stay=0.9, seed=seed).sequences(40, 6, seed)
    return from_lists(lists, 24, name="toy")


def config(model: str, **more: object) -> RunConfig:
    values = {
        "name": model,
        "model": model,
        "tiger": {**SMALL, "decoder_layers": 1},
        "sasrec": SMALL,
        "tokenizer": {"codebook_sizes": [4, 4], "dim": 8},
        "train": {"epochs": 1, "valid_users": 10},
        **more,
    }
    return make_config(RunConfig, values, (), "test")


def test_every_trained_model_has_a_system_and_a_kind() -> None:
    assert set(MODULES) == set(TRAINED) and set(MODULES) < set(KINDS)
    assert set(SECTIONS) == {*TRAINED, "popularity", "nearest"}
    fields = set(RunConfig.model_fields)
    assert all(set(sections) <= fields for sections in SECTIONS.values())
    for name in TRAINED:
        assert isinstance(system_of(name), System)


def test_a_model_that_is_not_trained_has_no_system() -> None:
    with pytest.raises(ConfigError, match="not a model that is trained"):
        system_of("popularity")


def test_a_missing_library_is_one_clear_error_and_a_fault_of_ours_is_not_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lacking(name: str) -> object:
        raise ModuleNotFoundError(f"No module named {wanted!r}", name=wanted)

    monkeypatch.setattr(importlib, "import_module", lacking)
    wanted = "peft.tuners"
    with pytest.raises(ConfigError, match="eager_llm needs a library that is not installed") as caught:
        system_of("eager_llm")
    assert "the Python package peft" in str(caught.value)
    wanted = "common.generative.nothing"
    with pytest.raises(ModuleNotFoundError):
        system_of("eager_llm")
    with pytest.raises(ValueError, match="other"), needing("tiger"):
        raise ValueError("other")


def test_the_key_holds_the_models_own_sections_and_the_texts_where_they_are_read() -> None:
    data = toy()
    keys = {name: run_key(config(name), data) for name in TRAINED}
    assert "texts" not in keys["tiger"] and "eager" not in keys["tiger"]
    assert {"eager", "behaviour", "texts", "sasrec"} <= keys["eager"].keys()
    written = replace(data, texts=[f"text {n}" for n in range(24)])
    other = {name: run_key(config(name), written) for name in TRAINED}
    changed = {name for name in TRAINED if other[name] != keys[name]}
    assert changed == {"eager", "eager_llm", "store"}
    longer = config("eager", behaviour={"train": {"max_seconds": 5}}, texts={"threads": 1, "cache": "elsewhere"})
    assert run_key(longer, data) == keys["eager"]  # neither time nor place makes another model
    assert run_key(config("eager", texts={"max_tokens": 9}), data) != keys["eager"]
    assert run_key(config("store", store={"dense": {"train": {"max_seconds": 5}}}), data) == keys["store"]


@pytest.mark.parametrize("model", ["tiger", "sasrec"])
def test_a_run_makes_its_model_once_and_any_loader_finds_its_kind(tmp_path: Path, model: str) -> None:
    said: list[str] = []
    run = prepare(config(model), toy(), tmp_path / "out", "cpu", said.append)
    first = trained_model(run)
    ids = SemanticIdMap.load(tmp_path / "out" / "ids")
    said.clear()
    again = trained_model(run)
    assert said == [f"model: {tmp_path / 'out' / 'model'}"]
    loaded = load_generator(tmp_path / "out" / "model", ids)
    for one in (again, loaded):
        assert type(one) is type(first)
        assert all(bool((a == b).all()) for a, b in zip(one.parameters(), first.parameters(), strict=True))


def test_ids_of_another_catalogue_are_refused(tmp_path: Path) -> None:
    run = prepare(config("sasrec"), toy(), tmp_path / "out", "cpu", lambda _: None)
    SemanticIdMap.atomic(7).save(tmp_path / "out" / "ids")
    with pytest.raises(DataError, match="IDs of another catalogue"):
        trained_model(run)


def test_a_model_of_an_unknown_kind_names_the_known_ones(tmp_path: Path) -> None:
    ids = SemanticIdMap.atomic(24)
    run = prepare(config("sasrec"), toy(), tmp_path / "out", "cpu", lambda _: None)
    SasRec(run.config.sasrec, ids).save(tmp_path / "model")
    header = json.loads((tmp_path / "model" / "model.json").read_text())
    (tmp_path / "model" / "model.json").write_text(json.dumps({**header, "kind": "other"}))
    with pytest.raises(DataError, match="unknown kind") as caught:
        load_generator(tmp_path / "model", ids)
    assert all(kind in str(caught.value) for kind in KINDS)


def test_a_sample_keeps_the_order_and_draws_by_the_seed() -> None:
    valid = leave_one_out(toy()).valid
    assert sample(valid, 1000, 0) is valid
    one, same, other = (sample(valid, 9, seed).histories.users for seed in (1, 1, 2))
    assert len(one) == 9 and np.array_equal(one, same) and not np.array_equal(one, other)
    assert (np.diff(one) > 0).all()


def test_early_stopping_watches_the_models_own_recommender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = system_of("sasrec")

    def recommender(model: SasRec, settings: RunConfig, beam: int) -> object:
        asked.append(beam)
        return real.recommender(model, settings, beam)

    monkeypatch.setattr(systems, "system_of", lambda _: replace(real, recommender=recommender))
    run: Prepared = prepare(config("sasrec", train={"epochs": 2, "valid_beam": 3}), toy(), tmp_path, "cpu", print)
    model = real.build(run, real.ids(run))
    found = real.fit(model, run)
    assert asked == [3, 3] and [point.figures.keys() >= {"recall@10"} for point in found.curve] == [True, True]

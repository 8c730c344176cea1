"""STORE in stages: determinism, resumption of each stage, what another configuration or text does, a whole run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.config import make_config
from common.errors import ConfigError, DataError
from common.generative.config import RunConfig
from common.generative.run import prepare, recommender, run_ids, trained_model
from common.generative.sequences import Sequences
from common.generative.store import stages
from common.generative.store.batches import StoreBatches
from common.generative.store.config import CodesConfig
from common.generative.store.dense import DenseBatches, DenseTokenizer
from common.generative.store.items import StoreItems
from common.generative.store.model import Store
from common.generative.store.stages import dense_tokens, fit_quantizer, make_ids, train_tokenizer
from common.tokenizers.semantic_ids import SemanticIdMap
from tests.common.generative import store_helpers as small


class Pressed(Exception):
    """Stands for a kill."""


def trained(folder: Path, items: StoreItems | None = None, seed: int = 1, **changes: Any) -> DenseTokenizer:
    return train_tokenizer(small.config(**changes), items or small.items(), folder, seed=seed)


def bytes_of(model: torch.nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def kill_at(
    monkeypatch: pytest.MonkeyPatch, batch: int, kind: type[DenseBatches] | type[StoreBatches] = DenseBatches
) -> None:
    """Let a training end hard when its `batch`-th batch is made, once; the dense tokenizer's keeps each step."""
    made, left, fit = kind.make, [batch], stages.fit_model

    def make(self: Any, rows: np.ndarray) -> Any:
        left[0] -= 1
        if not left[0]:
            raise Pressed
        return made(self, rows)

    def often(*arguments: Any, **options: Any) -> Any:
        return fit(*arguments, checkpoint_seconds=0, **options)

    monkeypatch.setattr(kind, "make", make)
    monkeypatch.setattr(stages, "fit_model", often)


def test_same_seed_same_bytes_and_the_callers_randomness_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    first = trained(tmp_path / "a")
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(12)
    assert bytes_of(trained(tmp_path / "b")) == bytes_of(first)
    assert bytes_of(trained(tmp_path / "c", seed=2)) != bytes_of(first)
    paths = [tmp_path / name / "model.safetensors" for name in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert not (tmp_path / "a" / "training" / "last").exists()


def test_an_interrupted_tokenizer_ends_as_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(tmp_path / "whole")
    kill_at(monkeypatch, 5)  # of six
    with pytest.raises(Pressed):
        trained(tmp_path / "cut")
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    said: list[str] = []
    again = train_tokenizer(small.config(), small.items(), tmp_path / "cut", seed=1, say=said.append)
    assert any("goes on from step 4" in one for one in said)
    assert bytes_of(again) == bytes_of(whole)


def test_what_is_done_is_read_and_another_one_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = trained(tmp_path)
    dense = dense_tokens(first, small.items(), tmp_path)
    ids = make_ids(small.config().codes, dense, tmp_path, seed=1)
    monkeypatch.setattr(DenseBatches, "make", None)  # nothing is trained or encoded again
    monkeypatch.setattr(stages, "fit_quantizer", None)
    second = trained(tmp_path)
    assert bytes_of(second) == bytes_of(first)
    monkeypatch.setattr(DenseTokenizer, "encode", None)
    np.testing.assert_array_equal(dense_tokens(second, small.items(), tmp_path), dense)
    assert make_ids(small.config().codes, dense, tmp_path, seed=1) == ids
    with pytest.raises(ConfigError, match="texts"):
        trained(tmp_path, StoreItems(small.TEXTS, small.LONGER, small.CATEGORIES[::-1]))
    with pytest.raises(ConfigError, match=r"settings\.store\.dense\.auxiliary"):
        trained(tmp_path, dense__auxiliary=0.5)
    with pytest.raises(ConfigError, match="seed"):
        trained(tmp_path, seed=3)
    with pytest.raises(DataError, match="other dense tokens"):
        make_ids(small.config().codes, dense + 1, tmp_path, seed=1)
    with torch.no_grad():
        second.lm.codes.weight.add_(0.1)
    with pytest.raises(ConfigError, match="weights"):
        dense_tokens(second, small.items(), tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="damaged"):
        trained(tmp_path)


def test_codes_are_of_slots_in_parallel_or_of_their_mean() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 3, (40, 2))
    dense = rng.normal(size=(2, 3, 8))[np.arange(2), values] + 0.01 * rng.normal(size=(40, 2, 8))
    dense = dense.astype(np.float32)
    config = CodesConfig(size=3, components=2)
    ids = make_ids(config, dense, None, seed=0)
    assert ids.sizes[:2] == (3, 3) and ids.ranked
    for slot in (0, 1):  # each slot's codes are its own planted values, whatever the other slot holds
        pairs = set(zip(values[:, slot].tolist(), ids.sids[:, slot].tolist(), strict=True))
        assert len(pairs) == 3
    mean = fit_quantizer(config.model_copy(update={"kind": "rq"}), dense, seed=0)
    assert mean.kind == "rq_kmeans" and mean.dim == 8 and mean.levels == 2
    said: list[str] = []
    cut = fit_quantizer(CodesConfig(size=50, components=100), dense, seed=0, say=said.append)
    assert cut.codebook_sizes == (10, 10) and "10 rather than 50" in said[0]
    assert cut.settings()["components"] == 8
    with pytest.raises(DataError, match="fewer different"):  # one text for all
        fit_quantizer(config, np.repeat(dense[:1], 5, axis=0), seed=0)


# --- a whole run


def run_config(**changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "name": "store",
        "model": "store",
        "store": small.config().model_dump(),
        "train": {"epochs": 2, "valid_users": 5, "batch_size": 20},
        "evaluate": {"beam": 12, "ks": [3]},
    }
    return make_config(RunConfig, values | changes, (), "test")


def model_bytes(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def started(out: Path, said: list[str], data: Sequences | None = None, **changes: Any) -> Any:
    return prepare(run_config(**changes), data or small.sequences(), out, "cpu", said.append)


def test_a_run_keeps_each_stage_and_an_interrupted_one_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut, said = tmp_path / "whole", tmp_path / "cut", list[str]()
    run = started(whole, said)
    asked = recommender(run)
    found, scores = asked.recommend(run.split.test.histories, 5)
    assert found.shape == (10, 5) and found.min() >= 0 and np.isfinite(scores).all()
    assert {path.name for path in whole.iterdir()} >= {"key.json", "ids", "tokenizer", "model", "curve.json"}
    names = {path.name for path in (whole / "tokenizer").iterdir()}
    assert names >= {"model.safetensors", "dense.safetensors", "quantizer"}
    assert any(one.startswith("auxiliary tasks of the dense tokenizer: none") for one in said)
    assert any("mean |cosine| between slots" in one for one in said)
    assert json.loads((whole / "model" / "model.json").read_text())["kind"] == "store"
    with monkeypatch.context() as patch:
        kill_at(patch, 3)
        with pytest.raises(Pressed):
            trained_model(started(cut, []))
    with monkeypatch.context() as patch:  # stage 1 ends; stage 3 does not begin
        patch.setattr(Store, "batches", None)
        with pytest.raises(TypeError):
            trained_model(started(cut, []))
    assert (cut / "ids").is_dir() and not (cut / "model").exists()
    with monkeypatch.context() as patch:
        kill_at(patch, 4, StoreBatches)  # the last one of two epochs
        with pytest.raises(Pressed):
            trained_model(started(cut, []))
    said.clear()
    trained_model(started(cut, said))
    assert any("goes on from step 2" in one for one in said)
    assert model_bytes(cut) == model_bytes(whole)
    again = recommender(started(whole, [])).recommend(run.split.test.histories, 5)[0]
    np.testing.assert_array_equal(again, found)


def test_a_run_of_other_texts_or_another_configuration_is_refused(tmp_path: Path) -> None:
    run_ids(started(tmp_path, []))
    other = replace(small.sequences(), texts=small.TEXTS[::-1])
    with pytest.raises(ConfigError, match="another configuration"):
        started(tmp_path, [], other)
    with pytest.raises(ConfigError, match="max_items"):
        started(tmp_path, [], store=small.config(max_items=3).model_dump())


def test_ids_of_another_source_stand_on_the_same_first_stage(tmp_path: Path) -> None:
    said: list[str] = []
    model = trained_model(started(tmp_path, said, ids="random", tokenizer={"codebook_sizes": [4, 4]}))
    assert isinstance(model, Store) and model.id_map == SemanticIdMap.random(small.ITEMS, (3, 3, 3), 7)
    assert (tmp_path / "tokenizer" / "model.safetensors").is_file()
    assert not (tmp_path / "tokenizer" / "quantizer").exists()
    assert any(one.startswith("auxiliary tasks") for one in said)

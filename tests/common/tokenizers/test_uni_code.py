"""Uni-Code as a tokenizer: the same bytes each time, resumed, saved, and what it says about bad input."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import ConfigError, DataError, UserError
from common.tokenizers.uni_code import UniCode, UniCodeConfig
from common.tokenizers.uni_code import tokenizer as tokenizer_module
from common.tokenizers.uni_code.batches import PairedBatches
from common.tokenizers.uni_code.figures import shared_codes
from common.tokenizers.uni_code.inputs import check_paired
from common.tokenizers.uni_code.item_ids import common_rows, item_codes, make_ids, pooled
from common.tokenizers.uni_code.model import UniCodeModel
from common.training.fit import fit_model
from tests.processes import one_thread as one_thread

WIDTHS = {"text": 6, "image": 5}


def tiny(**changes: Any) -> UniCodeConfig:
    fit = {"epochs": 3, "learning_rate": 3e-3, "weight_decay": 0.0, "figure": "score", "patience": 9}
    base: dict[str, Any] = {"codes": 6, "dim": 8, "specific_dim": 4, "hidden": 8, "context_dim": 8, "mi_hidden": 8}
    base |= {"batch_size": 8, "reset_after": 4, "active_within": 3, "mi_steps": 2}
    return UniCodeConfig.model_validate(base | {"fit": fit | changes.pop("fit", {})} | changes)


def features(rows: int = 30, steps: int = 3, seed: int = 0, **widths: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(rows, steps, 4))
    made = {}
    for name, width in (widths or WIDTHS).items():
        made[name] = (shared @ rng.normal(size=(4, width)) + 0.1 * rng.normal(size=(rows, steps, width))).astype("f4")
    return made


@pytest.fixture(scope="module")
def fitted() -> UniCode:
    return UniCode(tiny()).fit(features(), seed=0, encoders={"text": "minilm@1"})


# -- fit and encode


def test_codes_have_the_shape_of_the_steps_and_stand_for_vectors_of_one_table(fitted: UniCode) -> None:
    x = features()
    for name in WIDTHS:
        codes = fitted.encode(name, x[name])
        assert codes.shape == (30, 3)
        assert codes.dtype == np.int32
        assert 0 <= codes.min() <= codes.max() < 6
        z, table = fitted.features(name, x[name]), fitted.embed(np.arange(6))
        expected = ((z[:, :, None] - table) ** 2).sum(3).argmin(2)
        np.testing.assert_array_equal(codes, expected)
        np.testing.assert_array_equal(fitted.embed(codes), table[codes])
    assert fitted.specific("text", x["text"]).shape == (30, 3, 4)


def test_a_steps_code_depends_on_the_step_alone(fitted: UniCode) -> None:
    x = features(rows=700)["text"]
    codes = fitted.encode("text", x)
    order = np.random.default_rng(1).permutation(700)
    np.testing.assert_array_equal(fitted.encode("text", x[order]), codes[order])
    np.testing.assert_array_equal(fitted.encode("text", x[5:6, 1]), codes[5:6, 1:2])
    np.testing.assert_array_equal(fitted.encode("text", x[:, ::-1]), codes[:, ::-1])


def test_the_same_seed_gives_the_same_bytes_and_leaves_the_callers_random_state(fitted: UniCode) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    again = UniCode(tiny()).fit(features(), seed=0, encoders={"text": "minilm@1"})
    assert torch.equal(before, torch.get_rng_state())
    assert again.version == fitted.version
    assert UniCode(tiny()).fit(features(), seed=1, encoders={"text": "minilm@1"}).version != fitted.version
    assert UniCode(tiny()).fit(features(), seed=0, encoders={"text": "minilm@2"}).version != fitted.version


@pytest.mark.parametrize("switch", [{}, {"mi": "quantized", "cpc": "all", "ema": "paired", "reset": "unused_by_any"}])
def test_three_modalities_and_one_step(switch: dict[str, Any]) -> None:
    x = features(steps=1, text=6, image=5, audio=4)
    tokenizer = UniCode(tiny(**switch)).fit({name: part[:, 0] for name, part in x.items()}, seed=0)
    assert tokenizer.names == ("audio", "image", "text")
    assert tokenizer.encode("audio", x["audio"][:, 0]).shape == (30, 1)


@pytest.mark.parametrize(
    ("switch", "gone"),
    [({"cpc": "none"}, "cpc"), ({"mi": "none"}, "mi"), ({"cmcm": False}, "cmcm")],
)
def test_a_switch_takes_its_loss_away(switch: dict[str, Any], gone: str) -> None:
    batch = PairedBatches(features(), "", 8, 0).make(np.arange(8))
    torch.manual_seed(0)
    whole = UniCodeModel(WIDTHS, 3, tiny()).loss(batch)
    cut = UniCodeModel(WIDTHS, 3, tiny(**switch)).loss(batch)
    assert set(whole) - set(cut) == {gone}
    total = sum(float(value.detach()) for name, value in whole.items() if name not in ("loss", "agreement"))
    assert float(whole["loss"].detach()) == pytest.approx(total, rel=1e-5)


def test_evaluation_changes_nothing_and_training_moves_codebook_and_club() -> None:
    torch.manual_seed(0)
    model, batch = UniCodeModel(WIDTHS, 3, tiny()), PairedBatches(features(), "", 8, 0).make(np.arange(8))
    model.train().loss(batch)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval().loss(batch)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.train().loss(batch)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {"codebook.table", "codebook.counts", "club.flat", "club.first", "club.steps"} <= moved


def test_no_gradient_passes_to_the_codebook_but_the_encoder_learns_through_it() -> None:
    torch.manual_seed(0)
    config = tiny(cpc="none", mi="none", cmcm=False, beta=0.0)
    model, batch = UniCodeModel(WIDTHS, 3, config), PairedBatches(features(), "", 8, 0).make(np.arange(8))
    model.loss(batch)["loss"].backward()
    weight = next(model.semantic["text"].parameters())
    assert weight.grad is not None and weight.grad.abs().max() > 0  # straight through
    assert not model.codebook.table.requires_grad


def test_early_stopping_keeps_the_best_codebook() -> None:
    config = tiny(fit={"epochs": 12, "patience": 2, "learning_rate": 0.3, "figure": "reconstruction"}, validation=0.3)
    said: list[str] = []
    tokenizer = UniCode(config).fit(features(), seed=0, say=said.append)
    result = tokenizer.result
    assert result is not None and result.stopped == "patience"
    best = max(point.figures["reconstruction"] for point in result.curve)
    assert result.best == pytest.approx(best)
    assert any("reconstruction" in line for line in said)


# -- resume, save, load


def test_an_interrupted_training_ends_with_the_bytes_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fitted: UniCode
) -> None:
    class Stop(Exception):
        pass

    steps = 0
    whole = UniCodeModel.loss

    def breaks(self: UniCodeModel, batch: Any) -> Any:
        nonlocal steps
        steps += self.training
        if steps == 6:
            raise Stop
        return whole(self, batch)

    # A checkpoint after each step.
    monkeypatch.setattr(tokenizer_module, "fit_model", functools.partial(fit_model, checkpoint_seconds=0.0))
    monkeypatch.setattr(UniCodeModel, "loss", breaks)
    call = {"seed": 0, "encoders": {"text": "minilm@1"}, "folder": tmp_path / "state"}
    with pytest.raises(Stop):
        UniCode(tiny()).fit(features(), **call)
    monkeypatch.setattr(UniCodeModel, "loss", whole)
    with pytest.raises(ConfigError, match="codes"):
        UniCode(tiny(codes=7)).fit(features(), **call)
    with pytest.raises(ConfigError, match="data"):
        UniCode(tiny()).fit(features(seed=3), **call)
    resumed = UniCode(tiny()).fit(features(), **call)
    assert resumed.result is not None and resumed.result.resumed_from == 5
    assert resumed.version == fitted.version
    assert not (tmp_path / "state" / "last").exists()


def test_saved_and_loaded_is_the_same(tmp_path: Path, fitted: UniCode) -> None:
    fitted.save(tmp_path / "one")
    loaded = UniCode.load(tmp_path / "one")
    loaded.save(tmp_path / "two")
    for name in ("uni_code.json", "uni_code.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert (loaded.version, loaded.metrics, loaded.encoders) == (fitted.version, fitted.metrics, fitted.encoders)
    x = features(seed=5)["image"]
    np.testing.assert_array_equal(loaded.encode("image", x), fitted.encode("image", x))


def test_damage_is_found(tmp_path: Path, fitted: UniCode) -> None:
    with pytest.raises(DataError, match="no saved"):
        UniCode.load(tmp_path)
    fitted.save(tmp_path / "one")
    header = tmp_path / "one" / "uni_code.json"
    text = header.read_text()
    changes = {
        '"decay": 0.99': ('"decay": 0.98', "changed after"),
        '"format": "mirc-uni-code-1"': ('"format": "other"', "not a Uni-Code"),
        '"dim": 8': ('"dim": 9', "damaged"),
    }
    for old, (new, message) in changes.items():
        assert old in text
        header.write_text(text.replace(old, new))
        with pytest.raises(DataError, match=message):
            UniCode.load(tmp_path / "one")
    header.write_text(text)
    tensors = tmp_path / "one" / "uni_code.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-8])
    with pytest.raises(DataError, match="not the one that was saved"):
        UniCode.load(tmp_path / "one")
    with pytest.raises(ConfigError, match="no codebook"):
        UniCode().encode("text", features()["text"])


# -- bad input


def test_bad_features_are_named() -> None:
    x = features()
    cases = {
        "two or three": {"text": x["text"]},
        "not paired": x | {"image": x["image"][:-1]},
        "numbers of rows or steps": x | {"image": x["image"][:, :2]},
        "another shape": x | {"image": x["image"].astype(np.int64)},
        "all vectors of a modality are the same": x | {"image": np.ones_like(x["image"])},
        "too few samples": {name: part[:3] for name, part in x.items()},
    }
    for message, given in cases.items():
        with pytest.raises(DataError, match=message):
            UniCode(tiny()).fit(given, seed=0)
    x["image"][4, 1, 2] = np.nan
    with pytest.raises(DataError, match="row 4"):
        check_paired(x)
    with pytest.raises(DataError, match="does not know"):
        UniCode(tiny()).fit(features(), seed=0, encoders={"sound": "x"})


def test_encode_refuses_what_the_fit_did_not_see(fitted: UniCode) -> None:
    x = features()
    with pytest.raises(DataError, match="does not know"):
        fitted.encode("sound", x["text"])
    with pytest.raises(DataError, match="another width"):
        fitted.encode("text", x["image"])
    with pytest.raises(DataError, match="another encoder"):
        fitted.encode("text", x["text"], encoder="minilm@2")
    fitted.encode("text", x["text"], encoder="minilm@1")
    bad = x["text"].copy()
    bad[7, 0, 0] = np.inf
    with pytest.raises(DataError, match="row 7"):
        fitted.encode("text", bad)
    with pytest.raises(DataError, match="outside"):
        fitted.embed(np.array([[6]]))


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    x = {name: part * np.float32(1e-30) for name, part in features().items()}
    UniCode(tiny(fit={"epochs": 1})).fit(x, seed=0)  # small numbers are only small
    with pytest.raises(UserError, match="not finite"):
        UniCode(tiny(fit={"learning_rate": 1e30})).fit(features(), seed=0)


# -- IDs


def test_items_get_a_code_a_modality_and_a_rank(fitted: UniCode) -> None:
    x = features()
    ids = np.arange(100, 130)
    found, codes, lacking = item_codes(fitted, {n: (ids, part) for n, part in x.items()}, ("text", "image"))
    np.testing.assert_array_equal(found, ids)
    expected = [pooled(fitted.encode(name, x[name]), 6, "most")[:, 0] for name in ("text", "image")]
    np.testing.assert_array_equal(codes, np.stack(expected, 1))
    assert lacking == {"text": 0, "image": 0}
    id_map = make_ids(fitted, codes)
    assert len(np.unique(id_map.sids, axis=0)) == 30
    assert id_map.sizes[:2] == (6, 6)
    assert id_map.source == fitted.version
    every, steps, _ = item_codes(fitted, {n: (ids, p) for n, p in x.items()}, ("image", "text"), pool="all")
    np.testing.assert_array_equal(steps, np.concatenate([fitted.encode(n, x[n]) for n in ("image", "text")], 1))
    np.testing.assert_array_equal(every, ids)


def test_the_code_of_an_item_is_its_most_frequent_one() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(4, size=(50, 5))
    expected = [np.bincount(row, minlength=4).argmax() for row in codes]
    np.testing.assert_array_equal(pooled(codes, 4, "most")[:, 0], expected)


def test_an_item_without_a_modality_is_refused_or_takes_the_others_codes(fitted: UniCode) -> None:
    x = features()
    given = {"text": (np.arange(30)[::-1], x["text"][::-1]), "image": (np.arange(2, 30), x["image"][2:])}
    with pytest.raises(DataError, match="2 of 30 items lack a modality"):
        item_codes(fitted, given, ("text", "image"))
    _, codes, lacking = item_codes(fitted, given, ("text", "image"), missing="other")
    assert lacking == {"text": 0, "image": 2}
    own = [pooled(fitted.encode(name, x[name]), 6, "most")[:, 0] for name in ("text", "image")]
    np.testing.assert_array_equal(codes[:, 0], own[0])
    np.testing.assert_array_equal(codes[2:, 1], own[1][2:])
    np.testing.assert_array_equal(codes[:2, 1], own[0][:2])
    with pytest.raises(ConfigError, match="order"):
        item_codes(fitted, given, ("text", "sound"))


def test_rows_are_joined_by_id_and_not_by_place() -> None:
    first, second = np.arange(6.0)[:, None], 10 + np.arange(5.0)[:, None]
    given = {"a": (np.array([5, 3, 9, 1, 7, 2]), first), "b": (np.array([7, 1, 8, 5, 3]), second)}
    ids, rows = common_rows(given)
    assert ids.tolist() == [1, 3, 5, 7]
    assert rows["a"][:, 0].tolist() == [3, 1, 0, 4]
    assert rows["b"][:, 0].tolist() == [11, 14, 13, 10]
    with pytest.raises(DataError, match="no item has all"):
        common_rows({"a": (np.array([1]), first[:1]), "b": (np.array([2]), second[:1])})


def test_the_share_of_shared_codes_counts_active_ones_only() -> None:
    assert shared_codes([np.array([8, 2, 0, 0]), np.array([2, 8, 0, 0])]) == 0.0  # 20 % is not more than 20 %
    assert shared_codes([np.array([7, 3, 0, 0]), np.array([3, 7, 0, 0])]) == 1.0
    assert shared_codes([np.array([4, 0]), np.array([0, 4])]) == 0.0


def test_the_header_is_json_for_people(tmp_path: Path, fitted: UniCode) -> None:
    fitted.save(tmp_path / "one")
    header = json.loads((tmp_path / "one" / "uni_code.json").read_text())
    assert header["encoders"] == {"text": "minilm@1"}
    assert header["metrics"]["samples"] == 30
    assert set(header["metrics"]["perplexity"]) == set(WIDTHS)

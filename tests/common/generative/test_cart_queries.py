"""CART's query encoders: words and their hashes, all layers of a loaded encoder, frozen or trained, bad input."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.encoders import packaged
from common.encoders.packaged import PackagedModel
from common.errors import ConfigError, DataError
from common.generative.cart import Cart, CartConfig, train_cart
from common.generative.cart_batches import CartBatches
from common.generative.cart_queries import (
    LoadedEncoder,
    QueryEncoderConfig,
    WordEncoder,
    build_words,
    check_texts,
)
from common.hashing import digest
from tests.common.generative.cart_helpers import IDS, SMALL, TEXTS, cart
from tests.common.tiny_models import write_bert

TARGETS = np.array([3, 7, 7, 20])


def word_encoder(**options: Any) -> WordEncoder:
    config = QueryEncoderConfig.model_validate(options)
    size = CartConfig.model_validate(SMALL | {"dropout": 0.0})
    torch.manual_seed(0)
    return WordEncoder(config, size, build_words(TEXTS, config), 2).eval()


def weights(model: torch.nn.Module) -> str:
    return digest(*(value.detach().numpy().tobytes() for value in model.state_dict().values()))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert") / "model")


def loaded(bert: Path, **options: Any) -> Cart:
    return cart(encoder={"model": str(bert)} | options)


def test_words_are_counted_sorted_and_hashed_when_unknown() -> None:
    assert build_words(TEXTS, QueryEncoderConfig())[:3] == ["a", "cat", "mat"]
    assert build_words(TEXTS, QueryEncoderConfig(min_count=2)) == ["a", "cat", "mat", "red", "the"]
    assert build_words(TEXTS, QueryEncoderConfig(max_words=2)) == ["a", "cat"]
    encoder = word_encoder(buckets=8)
    tokens = encoder.tokenize(["red RED!", "zebra", "zebra yak"])
    assert tokens.lengths.tolist() == [4, 2, 3]
    first, red, again, mark, _, zebra, _, zebra2, yak = tokens.ids.tolist()
    assert first == 1
    assert red == again >= 2 + 8
    assert {mark, zebra, yak} <= set(range(2, 10))
    assert zebra == zebra2
    assert int(tokens.ids.max()) < encoder.embedding.num_embeddings
    assert word_encoder(max_tokens=3).tokenize(["red cat mat dog"]).lengths.tolist() == [3]


def test_word_states_have_a_layer_each_and_do_not_depend_on_padding() -> None:
    encoder = word_encoder()
    tokens = encoder.tokenize(TEXTS)
    together = encoder.expose(encoder.hidden(tokens.pad(np.arange(4))))
    assert len(together) == encoder.layers == 2
    for row in range(4):
        alone = encoder.expose(encoder.hidden(tokens.pad(np.array([row]))))
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], other[row, : one.shape[1]], atol=1e-5, rtol=1e-5)


def test_a_loaded_encoder_gives_every_layer_of_transformers(bert: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    encoder = loaded(bert).encoder
    assert isinstance(encoder, LoadedEncoder)
    assert encoder.chosen == [1, 2]
    found = encoder.hidden(encoder.tokenize(TEXTS).pad(np.arange(4)))
    tokenizer, model = AutoTokenizer.from_pretrained(bert), AutoModel.from_pretrained(bert).eval()
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    real = inputs["attention_mask"].bool()
    for one, layer in zip(found, (1, 2), strict=True):
        torch.testing.assert_close(one[real], states[layer][real], atol=1e-5, rtol=1e-5)
    assert (found[0] - found[1]).abs().max() > 0.1
    only = loaded(bert, layers=1).encoder
    assert isinstance(only, LoadedEncoder)
    assert only.chosen == [2]


def test_a_frozen_encoder_has_no_gradient_and_is_not_saved(bert: Path, tmp_path: Path) -> None:
    model = loaded(bert)
    assert isinstance(model.encoder, LoadedEncoder)
    body = model.encoder._held[0]
    before = weights(body)
    batch = CartBatches(model, TEXTS, TARGETS, seed=0).make(np.arange(4))
    model.train()
    assert not body.training
    model.loss(batch)["loss"].backward()
    assert all(weight.grad is None for weight in body.parameters())
    assert all(weight.grad is not None for weight in model.encoder.parameters())
    assert not any("held" in name or "body" in name for name in model.state_dict())
    trained = train_cart(TEXTS, TARGETS, IDS, model.config.model_copy(update={"fit": quick()}))
    assert isinstance(trained.encoder, LoadedEncoder)
    assert weights(trained.encoder._held[0]) == before
    trained.save(tmp_path / "model")
    again = Cart.load(tmp_path / "model", IDS)
    assert torch.equal(again.rank(TEXTS, beam=30).scores, trained.rank(TEXTS, beam=30).scores)


def test_a_trained_encoder_changes_and_is_saved(bert: Path, tmp_path: Path) -> None:
    config = CartConfig.model_validate(SMALL | {"encoder": {"model": str(bert), "trainable": True}, "fit": quick()})
    start = Cart(config, IDS)
    assert isinstance(start.encoder, LoadedEncoder)
    trained = train_cart(TEXTS, TARGETS, IDS, config)
    assert isinstance(trained.encoder, LoadedEncoder)
    assert weights(start.encoder.body) != weights(trained.encoder.body)
    trained.save(tmp_path / "model")
    again = Cart.load(tmp_path / "model", IDS)
    assert torch.equal(again.rank(TEXTS, beam=30).scores, trained.rank(TEXTS, beam=30).scores)


def quick() -> Any:
    from common.generative.training import FitConfig

    return FitConfig(epochs=2)


def test_states_of_a_frozen_encoder_are_read_once_and_are_the_same(bert: Path) -> None:
    model = loaded(bert)
    kept, live = CartBatches(model, TEXTS, TARGETS, seed=0), None
    assert kept.cached
    model.encoder.config = model.encoder.config.model_copy(update={"cache_mb": 0})
    live = CartBatches(model, TEXTS, TARGETS, seed=0)
    assert not live.cached
    rows = np.array([2, 0, 1])
    one, other = kept.make(rows), live.make(rows)
    assert one.hidden is not None
    assert other.hidden is None
    assert torch.equal(one.tokens.ids, other.tokens.ids)
    torch.testing.assert_close(model.loss(one)["loss"], model.loss(other)["loss"], atol=2e-2, rtol=2e-3)
    assert not CartBatches(loaded(bert, trainable=True), TEXTS, TARGETS, seed=0).cached


def test_other_weights_under_the_same_name_are_refused(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "bert")
    loaded(folder).save(tmp_path / "model")
    write_bert(folder, seed=1)
    with pytest.raises(DataError, match="not the one that the model was trained with"):
        Cart.load(tmp_path / "model", IDS)


def test_a_package_can_ship_the_weights(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packaged.PACKAGED, "owner/tiny", PackagedModel("shipped", ".", "shipped", "MIT"))
    monkeypatch.setattr(packaged, "package_folder", lambda one: bert if one.package == "shipped" else None)
    named, plain = cart(encoder={"model": "owner/tiny"}), loaded(bert)
    assert torch.equal(named.rank(TEXTS, beam=30).scores, plain.rank(TEXTS, beam=30).scores)


def test_a_loaded_encoder_serves_the_decoder_only_arm(bert: Path) -> None:
    model = cart(encoder={"model": str(bert)}, architecture="decoder_only")
    assert model.rank(TEXTS, beam=30, top_k=30).scores.exp().sum(1).numpy() == pytest.approx(1, abs=1e-5)


def test_unknown_models_and_blank_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model folder"):
        cart(encoder={"model": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match="cannot be loaded"):
        cart(encoder={"model": "nobody/has-this-model"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="could not be loaded"):
        cart(encoder={"model": str(tmp_path / "empty")})
    for bad, message in (([], "no queries"), ("one text", "no queries"), (["a", " \n"], "blank")):
        with pytest.raises(DataError, match=message):
            check_texts(bad)

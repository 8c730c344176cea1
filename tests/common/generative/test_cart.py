"""CART: its losses, training on planted captions with control arms, files, bad input."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from common.errors import ConfigError, DataError
from common.generative.base import load_generator
from common.generative.cart import Cart, CartBatches, CartConfig, symmetric_kl, train_cart
from common.generative.cart_ids import CartIds, CartIdsConfig
from common.tokenizers.semantic_ids import SemanticIdMap
from tests.common.generative.cart_helpers import IDS, SMALL, TEXTS, captions, cart, recall
from tests.processes import one_thread as one_thread

TARGETS = np.array([3, 7, 7, 20])
ITEMS, VALUES = 125, 5
CHANCE = 1 / ITEMS
TINY: dict[str, Any] = {
    "dim": 32,
    "heads": 2,
    "feedforward": 64,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "omega": 0.0,
    "batch_size": 32,
    "fit": {"epochs": 15, "learning_rate": 3e-3, "schedule": {"type": "cosine", "warmup_steps": 20}},
}


def planted_ids(change: dict[str, Any] | None = None, seed: int = 1) -> CartIds:
    config = {"coarse": 2 * VALUES, "fine": (2 * VALUES, 2 * VALUES)} | (change or {})
    return CartIds.fit(captions(ITEMS, VALUES, seed).image, CartIdsConfig.model_validate(config), seed=seed)


def trained(id_map: SemanticIdMap, rows: np.ndarray, *, seed: int = 1, shuffle: bool = False) -> Cart:
    """Train on the three captions of each item; `shuffle`: of random items, so that nothing can be learnt."""
    planted = captions(ITEMS, VALUES, seed)
    texts = [text for own in planted.captions for text in own]
    targets = np.repeat(rows, 3)
    if shuffle:
        targets = np.random.default_rng(seed).permutation(targets)
    return train_cart(texts, targets, id_map, CartConfig.model_validate(TINY), seed=seed)


def asked(seed: int = 1) -> tuple[list[str], list[str]]:
    planted = captions(ITEMS, VALUES, seed)
    return [own[0] for own in planted.captions], [own[0] for own in planted.paraphrases]


@lru_cache(maxsize=1)
def full() -> Cart:
    ids = planted_ids()
    return trained(ids.id_map, ids.rows)


def reached(model: Cart) -> tuple[float, float]:
    train, held_out = asked()
    return tuple(recall(model.rank(texts, beam=20).items) for texts in (train, held_out))  # pyright: ignore[reportReturnType]


def test_items_are_found_by_their_captions_and_by_held_out_paraphrases() -> None:
    train, held_out = reached(full())
    assert train >= 0.6
    assert held_out >= 0.4


def test_every_answer_is_an_item_and_no_item_comes_twice() -> None:
    found = full().rank([*asked()[1], "zebra unknown words", "?!"], beam=20)
    assert ((found.items >= 0) & (found.items < ITEMS)).all()
    assert all(len(set(row)) == 10 for row in found.items.tolist())
    assert (found.scores.diff(dim=1) <= 0).all()


def test_random_ids_are_worse() -> None:
    ids = planted_ids()
    model = trained(SemanticIdMap.random(ITEMS, ids.id_map.sizes, 1), ids.rows)
    train, held_out = reached(model)
    ours = reached(full())
    assert ours[0] >= 2 * train
    assert ours[1] >= 2 * held_out


def test_shuffled_captions_fall_to_chance() -> None:
    ids = planted_ids()
    model = trained(ids.id_map, ids.rows, shuffle=True)
    limit = CHANCE + 4 * (CHANCE * (1 - CHANCE) / ITEMS) ** 0.5
    assert reached(model)[1] <= limit


def test_without_the_unique_token_ids_are_ambiguous() -> None:
    ids = planted_ids({"coarse": VALUES, "fine": (VALUES,), "unique": False})
    assert len(ids.id_map) < ITEMS
    assert ids.ambiguous
    model = trained(ids.id_map, ids.rows)
    texts = asked()[1]
    found = model.rank(texts, beam=len(ids.id_map))
    groups = recall_of_rows(found.items.numpy()[:, 0], ids.rows)
    items = recall(ids.expand(found, 10).items)
    best = float((1 / np.bincount(ids.rows)[ids.rows]).mean())  # what knowing the right ID is worth
    assert groups >= 0.6
    assert items <= best + 0.05 < groups
    unique = planted_ids({"coarse": VALUES, "fine": (VALUES,)})
    assert len(np.unique(unique.id_map.sids, axis=0)) == ITEMS


def recall_of_rows(found: np.ndarray, rows: np.ndarray) -> float:
    return float((found == rows).mean())


def test_restricted_search_stays_inside() -> None:
    mask = np.zeros(ITEMS, dtype=bool)
    mask[[3, 40, 41, 99]] = True
    found = full().rank(asked()[1], full().trie().restrict(mask), beam=10)
    assert set(found.items[:, :4].flatten().tolist()) == {3, 40, 41, 99}
    assert (found.items[:, 4:] == -1).all()
    assert torch.allclose(found.scores[:, :4].exp().sum(1), torch.ones(ITEMS), atol=1e-5)


def test_the_kl_is_symmetric_and_zero_for_equal_passes() -> None:
    one, other = torch.randn(5, 7), torch.randn(5, 7)
    p, q = torch.distributions.Categorical(logits=one), torch.distributions.Categorical(logits=other)
    both = torch.distributions.kl_divergence(p, q) + torch.distributions.kl_divergence(q, p)
    torch.testing.assert_close(symmetric_kl(one, other), 0.5 * both.mean())
    torch.testing.assert_close(symmetric_kl(other, one), symmetric_kl(one, other))
    assert symmetric_kl(one, one + 3).item() == pytest.approx(0, abs=1e-6)


def test_the_loss_is_cross_entropy_and_omega_times_the_kl_of_two_dropout_passes() -> None:
    quiet = cart(omega=2.0).train()
    batch = CartBatches(quiet, TEXTS, TARGETS, seed=0).make(np.arange(4))
    losses = quiet.loss(batch)
    assert losses["kl"].item() == pytest.approx(0, abs=1e-6)  # no dropout: the passes are one
    once = cart(omega=0.0).train().loss(batch)
    torch.testing.assert_close(once["loss"], losses["loss"], atol=1e-5, rtol=1e-5)
    states, mask = quiet._encode(batch)
    tokens = quiet.item_tokens[TARGETS]
    start = torch.full_like(tokens[:, :1], quiet.vocabulary.bos)
    decoded = quiet.decoder(quiet.embedding(torch.cat([start, tokens[:, :-1]], 1)), states, mask)
    parts = [
        functional.cross_entropy(quiet.heads[level](decoded[:, level]), torch.tensor(IDS.sids[TARGETS, level]).long())
        for level in range(3)
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), once["id"], atol=1e-5, rtol=1e-5)
    loud = cart(omega=2.0, dropout=0.3).train()
    losses = loud.loss(batch)
    assert losses["kl"].item() > 1e-3
    torch.testing.assert_close(losses["loss"], losses["id"] + 2.0 * losses["kl"])


def test_captions_are_used_unless_augmentation_is_off() -> None:
    extra = (["purple horse"], np.array([11]))
    config = CartConfig.model_validate(SMALL | {"fit": {"epochs": 1}})
    said: list[str] = []
    model = train_cart(TEXTS, TARGETS, IDS, config, captions=extra, say=said.append)
    assert "5 training queries of 4 items" in said[0]
    assert "purple" in model.encoder.settings()["words"]
    bare = train_cart(TEXTS, TARGETS, IDS, config.model_copy(update={"augment": False}), captions=extra)
    assert "purple" not in bare.encoder.settings()["words"]
    assert weights(bare) == weights(train_cart(TEXTS, TARGETS, IDS, config.model_copy(update={"augment": False})))


def weights(model: Cart) -> list[bytes]:
    return [value.numpy().tobytes() for value in model.state_dict().values()]


def test_batches_cover_every_query_once_an_epoch() -> None:
    texts = [" ".join(["word"] * (1 + row % 7)) for row in range(50)]
    batches = CartBatches(cart(batch_size=8), texts, np.arange(50) % 30, seed=4)
    one, again, two = batches.epoch(0), batches.epoch(0), batches.epoch(1)
    assert len(one) == len(batches) == 7
    assert sorted(np.concatenate(one).tolist()) == list(range(50))
    assert all((a == b).all() for a, b in zip(one, again, strict=True))
    assert np.concatenate(one).tolist() != np.concatenate(two).tolist()
    batch = batches.make(one[0])
    assert batch.target is not None
    assert batch.target.tolist() == (one[0] % 30).tolist()
    assert batch.tokens.mask.sum(1).tolist() == [2 + row % 7 for row in one[0].tolist()]


def test_same_seed_same_bytes_and_an_interrupted_run_ends_like_a_whole_one(tmp_path: Path) -> None:
    config = CartConfig.model_validate(SMALL | {"fit": {"epochs": 3}})
    whole = train_cart(TEXTS, TARGETS, IDS, config, seed=5)
    assert weights(whole) == weights(train_cart(TEXTS, TARGETS, IDS, config, seed=5))
    assert weights(whole) != weights(train_cart(TEXTS, TARGETS, IDS, config, seed=6))

    def stop(_: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {"recall@10": float(len(calls))}

    calls: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        train_cart(TEXTS, TARGETS, IDS, config, seed=5, folder=tmp_path / "m", evaluate=stop)
    assert (tmp_path / "m" / "last" / "state.safetensors").is_file()
    said: list[str] = []
    resumed = train_cart(TEXTS, TARGETS, IDS, config, seed=5, folder=tmp_path / "m", evaluate=stop, say=said.append)
    assert any("goes on from step" in line for line in said)
    assert weights(resumed) == weights(whole)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["model.json", "model.safetensors"]


@pytest.mark.parametrize("options", [{}, {"architecture": "decoder_only"}, {"fusion": "fine"}])
def test_a_saved_model_answers_alike(tmp_path: Path, options: dict[str, Any]) -> None:
    model = cart(**options)
    model.save(tmp_path / "model")
    again = Cart.load(tmp_path / "model", IDS)
    assert again.config == model.config
    one, other = model.rank([*TEXTS, "new words"], beam=30), again.rank([*TEXTS, "new words"], beam=30)
    assert torch.equal(one.items, other.items)
    assert torch.equal(one.scores, other.scores)
    assert isinstance(load_generator(tmp_path / "model", IDS), Cart)


def test_ids_of_another_version_and_damaged_files_are_refused(tmp_path: Path) -> None:
    cart().save(tmp_path / "model")
    with pytest.raises(DataError, match="another version"):
        Cart.load(tmp_path / "model", SemanticIdMap.random(30, (4, 4, 4), seed=4))
    header = json.loads((tmp_path / "model" / "model.json").read_text())
    header["settings"]["known"]["words"].pop()
    (tmp_path / "model" / "model.json").write_text(json.dumps(header))
    with pytest.raises(DataError, match="damaged"):
        Cart.load(tmp_path / "model", IDS)
    with pytest.raises(DataError, match="no saved model"):
        Cart.load(tmp_path / "none", IDS)


def test_bad_input_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    model, folder = cart(), tmp_path / "model"
    for texts, message in (([], "no queries"), (["red", "  "], "blank")):
        with pytest.raises(DataError, match=message):
            model.rank(texts)
    with pytest.raises(ConfigError, match="narrower"):
        model.rank(TEXTS, beam=5, top_k=10)
    bad: list[tuple[list[str], Any, str]] = [
        ([], [], "no training queries"),
        (["red", ""], [1, 2], "blank"),
        (["red"], [30], "no semantic ID"),
        (["red"], [-1], "no semantic ID"),
        (["red"], [1, 2], "another shape"),
        (["red"], [1.5], "another shape"),
    ]
    for texts, targets, message in bad:
        with pytest.raises(DataError, match=message):
            train_cart(texts, np.array(targets), IDS, folder=folder)
    with pytest.raises(DataError, match="no semantic ID"):
        train_cart(TEXTS, TARGETS, IDS, captions=(["red"], np.array([99])), folder=folder)
    for values in ({"fusion": "all"}, {"omega": -1}, {"encoder_layers": 0}, {"dim": 30, "heads": 4}, {"encodr": {}}):
        with pytest.raises(ValueError, match="validation error"):
            CartConfig.model_validate(values)
    assert not folder.exists()

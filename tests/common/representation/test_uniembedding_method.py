"""UniEmbedding's contract: the same bytes, save and load, resume, other encoders, bad input."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import ConfigError, DataError
from common.representation.inputs import Behaviour, Items, Tokens
from common.representation.table import read_features
from common.representation.uniembedding import UniEmbedding, UniEmbeddingConfig
from common.representation.uniembedding.batches import PairBatches
from common.representation.uniembedding.losses import see
from common.training.fit_state import learnt_state
from tests.processes import one_thread as one_thread

FIT = {"epochs": 3, "learning_rate": 5e-3, "figure": "score", "schedule": {"type": "constant"}}
TINY: dict[str, Any] = {"dim": 8, "hidden": 8, "rank": 2, "history": 4, "batch_size": 32, "fit": FIT}


def make_items(count: int = 40, seed: int = 0) -> Items:
    rng = np.random.default_rng(seed)
    present = np.arange(count) % 5 != 0
    modalities = {
        "text": Tokens.pooled(rng.normal(3, 2, (count, 6)), encoder="text-1"),
        "image": Tokens.pooled(rng.normal(size=(count, 5)), present, "image-1"),
    }
    return Items(np.arange(count) + 10, [""] * count, modalities, np.arange(count) % 2, ("films", "books"))


def make_behaviour(users: int = 30, items: int = 40, seed: int = 1) -> Behaviour:
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(items)[: rng.integers(4, 10)] for _ in range(users)]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in rows])]).astype(np.int64)
    return Behaviour(np.arange(users), np.concatenate(rows).astype(np.int64), offsets)


def fitted(seed: int = 0, items: Items | None = None, folder: Path | None = None, **changes: Any) -> UniEmbedding:
    config = UniEmbeddingConfig.model_validate(TINY | changes)
    data = make_items() if items is None else items
    return UniEmbedding(config).fit(data, make_behaviour(), seed=seed, folder=folder, say=lambda _: None)


@pytest.fixture(scope="module")
def model() -> UniEmbedding:
    return fitted()


def weights(model: UniEmbedding) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in learnt_state(model).items()}


def test_a_seed_decides_every_byte(model, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    again, other = fitted(), fitted(seed=1)
    assert torch.equal(state, torch.get_rng_state())  # the caller's random state is left alone
    assert weights(model) == weights(again) != weights(other)
    for name, one in (("a", model), ("b", again), ("c", other)):
        one.transform(make_items()).write(tmp_path / name)
    first, second, third = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == second != third


def test_the_table_of_features(model, tmp_path: Path) -> None:
    items = make_items()
    model.transform(items).write(tmp_path / "f.parquet")
    table = read_features(tmp_path / "f.parquet")
    assert table.columns["embedding"].shape == (40, 8) and table.columns["embedding"].dtype == np.float32
    assert (table.ids == items.ids).all() and table.id_name == "item_id"
    assert table.about == {
        "method": "uniembedding",
        "encoders": {"image": "image-1", "text": "text-1"},
        "seed": 0,
        "bytes_per_item": 32,
    }
    rows = np.array([7, 3, 20])
    part = model.transform(items.take(rows)).columns["embedding"]
    assert np.allclose(part, table.columns["embedding"][rows], atol=1e-5)


def test_save_and_load_give_the_same_bytes(model, tmp_path: Path) -> None:
    items, behaviour = make_items(), make_behaviour()
    model.save(tmp_path / "a")
    back = UniEmbedding.load(tmp_path / "a")
    back.save(tmp_path / "b")
    for name in ("method.json", "method.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (back.embed(items) == model.embed(items)).all() and (back.gates() == model.gates()).all()
    one, two = (m.view(items, behaviour).columns for m in (model, back))
    assert all((one[name] == two[name]).all() for name in one)


def test_a_damaged_file_is_refused(model, tmp_path: Path) -> None:
    model.save(tmp_path / "a")
    path = tmp_path / "a" / "method.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-4] + b"\0\0\0\1")
    with pytest.raises(DataError, match="not the one that was saved"):
        UniEmbedding.load(tmp_path / "a")
    path.unlink()
    with pytest.raises(DataError, match="damaged"):
        UniEmbedding.load(tmp_path / "a")


@pytest.mark.parametrize("at", [2, 11])
def test_an_interrupted_training_ends_with_the_same_bytes(at, model, tmp_path: Path, monkeypatch) -> None:
    loss, calls = UniEmbedding.loss, []

    def pressed(self: UniEmbedding, batch: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(self, batch)

    monkeypatch.setattr(UniEmbedding, "loss", pressed)
    with pytest.raises(KeyboardInterrupt):
        fitted(folder=tmp_path)
    monkeypatch.setattr(UniEmbedding, "loss", loss)
    assert any(tmp_path.iterdir())
    others: tuple[dict[str, Any], ...] = ({"seed": 1}, {"temperature": 0.2}, {"items": make_items(seed=5)})
    for changes in others:
        with pytest.raises(ConfigError):
            fitted(folder=tmp_path, **changes)
    resumed = fitted(folder=tmp_path)
    assert resumed.result is not None and resumed.result.resumed_from == at
    assert weights(resumed) == weights(model)
    assert not (tmp_path / "last").exists()


def test_held_out_users_stop_the_training(monkeypatch) -> None:
    monkeypatch.setattr("common.representation.uniembedding.method.MIN_VALIDATION", 5)
    fit = FIT | {"epochs": 40, "learning_rate": 0.05, "patience": 2}
    model = fitted(validation=0.3, fit=fit)  # random histories: nothing that holds for other users
    assert model.result is not None and model.result.stopped == "patience" and model.result.epochs < 40
    assert set(model.result.curve[0].figures) == {"score", "intra", "inter"}
    assert model.result.best == max(point.figures["score"] for point in model.result.curve)


# -- items and domains


def test_a_missing_modality_is_not_a_vector_of_zeros(model) -> None:
    items = make_items()
    image = items.modalities["image"]
    filled = replace(image, values=np.where(image.mask[:, :, None], image.values, 9.0))
    other = replace(items, modalities=items.modalities | {"image": filled})
    assert (model.embed(items) == model.embed(other)).all()
    zeros = replace(image, values=image.values * image.mask[:, :, None], mask=np.ones_like(image.mask))
    wrong = model.embed(replace(items, modalities=items.modalities | {"image": zeros}))
    assert not np.allclose(wrong[~image.present], model.embed(items)[~image.present], atol=1e-2)
    only = replace(items, modalities={"text": items.modalities["text"]})
    lacking = ~image.present
    assert np.allclose(model.embed(only)[lacking], model.embed(items)[lacking], atol=1e-6)


def test_domains_go_by_name(model) -> None:
    items = make_items()
    turned = replace(items, domains=1 - items.domain_of, domain_names=("books", "films"))
    assert (model.embed(turned) == model.embed(items)).all()
    wrong = replace(items, domain_names=("films", "songs"))
    with pytest.raises(DataError, match=r"was not there at fit[\s\S]*songs"):
        model.transform(wrong)


def test_one_domain_needs_no_inter_domain_loss() -> None:
    items = replace(make_items(), domains=None, domain_names=("all",))
    with pytest.raises(DataError, match=r"no user has items of two domains[\s\S]*inter_weight=0"):
        fitted(items=items)
    assert fitted(items=items, inter_weight=0).embed(items).shape == (40, 8)


def test_views_are_of_the_whole_history(model) -> None:
    items, behaviour = make_items(), make_behaviour()
    table = model.view(items, behaviour)
    assert table.id_name == "user_id" and (table.ids == behaviour.users).all()
    e = model.embed(items)
    mean = torch.from_numpy(np.stack([e[behaviour.history(row)].mean(0) for row in range(len(behaviour))]))
    scale, shift = (x.detach().numpy() for x in model.user_view(mean))
    assert np.allclose(table.columns["scale"], scale, atol=1e-5) and np.allclose(
        table.columns["shift"], shift, atol=1e-5
    )
    seen = see(*(torch.from_numpy(x) for x in (e, scale[0], shift[0]))).numpy()
    assert np.isfinite(seen).all() and not np.allclose(seen, e, atol=1e-2)


@pytest.mark.parametrize("through", [False, True])
def test_items_learn_from_their_part_in_views_only_when_asked(through) -> None:
    items, behaviour = make_items(), make_behaviour()
    model = fitted(history_gradient=through, inter_weight=0, fit=FIT | {"epochs": 1})
    found = model._pool(items)  # pyright: ignore[reportPrivateUsage]
    batches = PairBatches(found, behaviour, inter=False, history=4, batch_size=8)
    batch = batches.make(batches.epoch(0)[0])
    only = set(batch.context[batch.context_mask].tolist()) - set(batch.anchor.tolist()) - set(batch.intra.tolist())
    assert only  # items that are nothing but history
    text = batch.vectors["text"].requires_grad_()
    model.loss(batch)["loss"].backward()
    assert text.grad is not None and text.grad.abs().sum(1)[batch.anchor].all()
    assert bool(text.grad[sorted(only)].abs().sum() > 0) == through


def test_views_that_cannot_be(model) -> None:
    items = make_items()
    empty = Behaviour(np.array([5, 6, 7]), np.array([1, 2]), np.array([0, 1, 1, 2]))
    with pytest.raises(DataError, match=r"without history has no view[\s\S]*user 6"):
        model.view(items, empty)
    with pytest.raises(DataError, match="has no user views"):
        fitted(view=False).view(items, make_behaviour())


# -- bad input


def test_items_that_cannot_be(model) -> None:
    items = make_items()
    text, image = items.modalities["text"], items.modalities["image"]

    def with_text(**changes: Any) -> Items:
        return replace(items, modalities={"image": image, "text": replace(text, **changes)})

    with pytest.raises(DataError, match=r"another encoder[\s\S]*text-1[\s\S]*text-2"):
        model.transform(with_text(encoder="text-2"))
    with pytest.raises(DataError, match=r"another width[\s\S]*6[\s\S]*4"):
        model.transform(with_text(values=text.values[:, :, :4]))
    bare = np.where(np.arange(40) == 15, False, text.mask[:, 0])[:, None]  # item 15 + 10 has no image either
    for act in (model.transform, lambda x: fitted(items=x)):
        with pytest.raises(DataError, match=r"none of the modalities[\s\S]*item 25[\s\S]*1 such"):
            act(with_text(mask=bare))
    with pytest.raises(DataError, match="no sound"):
        fitted(modalities=("text", "sound"))
    nothing = replace(image, mask=np.zeros_like(image.mask))
    with pytest.raises(DataError, match=r"no item has this modality[\s\S]*image"):
        fitted(items=replace(items, modalities={"text": text, "image": nothing}))
    nan = text.values.copy()
    nan[3] = np.nan
    with pytest.raises(DataError, match=r"not finite[\s\S]*item 13"):
        with_text(values=nan)


def test_domains_and_histories_that_cannot_be() -> None:
    items = make_items()
    lonely = replace(items, domains=(np.arange(40) == 7).astype(np.int64))
    with pytest.raises(DataError, match=r"too few items[\s\S]*'books'[\s\S]*at least 2[\s\S]*1"):
        fitted(items=lonely)
    method = UniEmbedding(UniEmbeddingConfig.model_validate(TINY))
    with pytest.raises(DataError, match="learns from histories"):
        method.fit(items, None, seed=0)
    single = Behaviour(np.arange(3), np.arange(3), np.arange(4))
    with pytest.raises(DataError, match="too short"):
        method.fit(items, single, seed=0)
    unknown = Behaviour(np.arange(1), np.array([1, 99]), np.array([0, 2]))
    with pytest.raises(DataError, match="unknown item row"):
        method.fit(items, unknown, seed=0)


def test_what_cannot_be_learnt_from_is_said() -> None:
    said: list[str] = []
    made = make_behaviour()
    offsets = np.append(made.offsets, made.offsets[-1])
    behaviour = Behaviour(np.arange(31), made.items, offsets)
    domains = np.where(np.arange(40) >= 38, 2, np.arange(40) % 2)
    items = replace(make_items(), domains=domains, domain_names=("films", "books", "songs"))
    rows = np.where(behaviour.items >= 38, 0, behaviour.items)
    config = UniEmbeddingConfig.model_validate(TINY)
    UniEmbedding(config).fit(items, replace(behaviour, items=rows), seed=0, say=said.append)
    assert any("1 users have no history" in line for line in said)
    assert any("'songs' is in no pair" in line for line in said)


@pytest.mark.parametrize(
    "setting",
    [{"intra_weight": 0, "inter_weight": 0}, {"modalities": ()}, {"modalities": ("a", "a")}, {"temperature": 0}],
)
def test_bad_settings(setting) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        UniEmbeddingConfig.model_validate(setting)

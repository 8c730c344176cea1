"""UIST as a representation method: tables, determinism, save and load, resumption, bad input."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.planted_uist import World, make_world
from common.errors import ConfigError, DataError
from common.representation.inputs import Behaviour, Items, Tokens
from common.representation.table import read_features
from common.representation.uist import training
from common.representation.uist.config import UistConfig
from common.representation.uist.method import Uist
from common.representation.uist.network import SequenceTokenizer
from common.training.fit import fit_model

SMALL: dict[str, Any] = {"codebook_sizes": (8, 8, 8, 4), "batch_size": 64}
NET: dict[str, Any] = {
    **SMALL,
    "tokenizer": "transformer",
    "dim": 8,
    "heads": 2,
    "feedforward": 16,
    "warmup_epochs": 1,
}
FIT: dict[str, Any] = {"fit": {"epochs": 2, "figure": "score", "learning_rate": 0.003}, "user_codebook_sizes": (8, 4)}
DEEP: dict[str, Any] = {**NET, **FIT}


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(0, items=200, users=100, dim=12, history=5, rows=300)


def fitted(world: World, folder: Path | None = None, seed: int = 0, **values: Any) -> Uist:
    config = UistConfig.model_validate(values)
    return Uist(config).fit(world.items, world.behaviour, seed=seed, folder=folder, say=lambda _: None)


@pytest.fixture(scope="module")
def cheap(world: World) -> Uist:
    return fitted(world, **SMALL)


@pytest.fixture(scope="module")
def deep(world: World) -> Uist:
    return fitted(world, **DEEP)


def everything(method: Uist, folder: Path) -> dict[str, bytes]:
    method.save(folder)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("which", ["cheap", "deep"])
def test_tables_of_items_and_users(which: str, world: World, tmp_path: Path, request: pytest.FixtureRequest):
    method: Uist = request.getfixturevalue(which)
    items, users = method.transform(world.items), method.transform_users(world.items, world.behaviour)
    for table, name, ids, sizes in (
        (items, "item_id", world.items.ids, method.config.sizes("items")),
        (users, "user_id", world.behaviour.users, method.config.sizes("users")),
    ):
        codes = table.columns["codes"]
        assert table.id_name == name and np.array_equal(table.ids, ids)
        assert codes.shape == (len(ids), len(sizes)) and codes.dtype.kind == "i"
        assert (codes >= 0).all() and (codes < np.array(sizes)).all()
        assert len(np.unique(codes[:, 0])) > 2
        assert table.about["sizes"] == list(sizes) and table.about["excluded"] == 0
        assert len(table.about["version"]) == 16 and table.about["encoders"] == {"image": "planted"}
        assert table.about["method"] == "uist" and table.about["seed"] == 0 and table.about["bytes_per_item"] <= 2
        table.write(tmp_path / "t.parquet")
        back = read_features(tmp_path / "t.parquet")
        assert np.array_equal(back.columns["codes"], codes) and back.about == table.about
    assert items.about["version"] != users.about["version"]


@pytest.mark.parametrize("values", [SMALL, DEEP], ids=["rq_kmeans", "transformer"])
def test_same_seed_same_bytes(values: dict[str, Any], world: World, tmp_path: Path):
    first = everything(fitted(world, **values), tmp_path / "a")
    assert everything(fitted(world, **values), tmp_path / "b") == first
    assert everything(fitted(world, seed=1, **values), tmp_path / "c") != first


@pytest.mark.parametrize("which", ["cheap", "deep"])
def test_save_and_load(which: str, world: World, tmp_path: Path, request: pytest.FixtureRequest):
    method: Uist = request.getfixturevalue(which)
    saved = everything(method, tmp_path / "a")
    loaded = Uist.load(tmp_path / "a")
    assert everything(loaded, tmp_path / "b") == saved
    for side in ("items", "users"):
        a, b = (
            one.transform(world.items) if side == "items" else one.transform_users(world.items, world.behaviour)
            for one in (method, loaded)
        )
        assert np.array_equal(a.columns["codes"], b.columns["codes"]) and a.about == b.about


def test_the_order_of_rows_changes_no_code(deep: Uist, cheap: Uist, world: World):
    order = np.random.default_rng(0).permutation(len(world.items))
    for method in (deep, cheap):
        codes = method.transform(world.items).columns["codes"]
        assert np.array_equal(method.transform(world.items.take(order)).columns["codes"], codes[order])
        some = method.transform(world.items.take(order[:7])).columns["codes"]
        assert np.array_equal(some, codes[order[:7]])


class Stop(Exception):
    pass


@pytest.mark.parametrize("phase", ["items/warm-up", "items/codes", "users/codes"])
def test_an_interrupted_fit_goes_on_to_the_same_bytes(
    phase: str, world: World, deep: Uist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each training writes its state after every step, and stops in its last epoch the first time."""
    calls: list[str] = []

    def stopping(model: Any, batches: Any, config: Any, **options: Any) -> Any:
        folder = options["folder"]
        calls.append(f"{folder.parent.name}/{folder.name}")
        if calls[-1] != phase or calls.count(phase) > 1:
            return fit_model(model, batches, config, **options)
        steps, loss = 0, model.loss

        def counted(batch: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == len(batches) * config.epochs - 1 or len(batches) == 1:
                raise Stop
            return loss(batch)

        monkeypatch.setattr(model, "loss", counted)
        return fit_model(model, batches, config, checkpoint_seconds=0, **options)

    monkeypatch.setattr(training, "fit_model", stopping)
    with pytest.raises(Stop):
        fitted(world, tmp_path / "fit", **DEEP)
    assert list((tmp_path / "fit").rglob("state.safetensors"))
    said: list[str] = []
    again = Uist(UistConfig.model_validate(DEEP))
    again.fit(world.items, world.behaviour, seed=0, folder=tmp_path / "fit", say=said.append)
    assert any("goes on from step" in line for line in said)
    assert everything(again, tmp_path / "a") == everything(deep, tmp_path / "b")
    assert not (tmp_path / "fit").exists()


def test_ablations_leave_a_side_out(world: World):
    items = fitted(world, **SMALL, parts="items")
    assert len(items.transform(world.items).ids) == 200
    with pytest.raises(ConfigError, match="no tokenizer of users"):
        items.transform_users(world.items, world.behaviour)
    users = fitted(world, **SMALL, parts="users")
    assert len(users.transform_users(world.items, world.behaviour).ids) == 100
    with pytest.raises(ConfigError, match="no tokenizer of items"):
        users.transform(world.items)
    alone = Uist(UistConfig.model_validate({**SMALL, "parts": "items"}))
    assert alone.fit(world.items, None, seed=0, say=lambda _: None).state["versions"].keys() == {"items"}


def test_without_a_decoder_codes_are_still_made(world: World):
    method = fitted(world, **{**DEEP, "gen_weight": 0.0})
    model = method.tokenizer("items")
    assert isinstance(model, SequenceTokenizer) and model.decoder is None
    assert len(np.unique(method.transform(world.items).columns["codes"], axis=0)) > 8


def test_words_and_their_users(world: World):
    texts = [f"w{row % 5} v{row % 7} u{row % 11}" for row in range(200)]
    items = Items(world.items.ids, texts)
    config = UistConfig.model_validate({**DEEP, "max_tokens": 4})
    method = Uist(config).fit(items, world.behaviour, seed=0, say=lambda _: None)
    codes = method.transform(items).columns["codes"]
    assert len(np.unique(codes, axis=0)) > 8
    assert np.array_equal(codes[0], codes[385 % 200]) == (texts[0] == texts[385 % 200])
    assert len(method.transform_users(items, world.behaviour).ids) == 100
    some = method.transform(replace(items, texts=["", *texts[1:]]))
    assert some.about["excluded"] == 1 and some.ids[0] == 1
    with pytest.raises(DataError, match="codes vectors, not words"):
        Uist(UistConfig.model_validate(SMALL)).fit(items, world.behaviour, seed=0)
    with pytest.raises(ConfigError, match="items' tokenizer"):
        Uist(config.model_copy(update={"parts": "users"})).fit(items, world.behaviour, seed=0)
    with pytest.raises(DataError, match="no text"):
        Uist(config).fit(Items(items.ids, [""] * 200), world.behaviour, seed=0)


# ------------------------------------------------------------------ bad input


def without(behaviour: Behaviour, users: int) -> Behaviour:
    """Return histories whose first users are empty."""
    lengths = behaviour.lengths.copy()
    lengths[:users] = 0
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Behaviour(behaviour.users, behaviour.items[int(behaviour.offsets[users]) :], offsets)


@pytest.mark.parametrize("which", ["cheap", "deep"])
def test_users_without_history_are_left_out_and_counted(which: str, world: World, request: pytest.FixtureRequest):
    method: Uist = request.getfixturevalue(which)
    table = method.transform_users(world.items, without(world.behaviour, 3))
    assert table.about["excluded"] == 3 and np.array_equal(table.ids, world.behaviour.users[3:])
    whole = method.transform_users(world.items, world.behaviour).columns["codes"]
    assert np.array_equal(table.columns["codes"], whole[3:])
    with pytest.raises(DataError, match="none of the users"):
        method.transform_users(world.items, without(world.behaviour, 100))
    said: list[str] = []
    config = method.config.model_copy(update={"parts": "users", "tokenizer": "rq_kmeans"})
    Uist(config).fit(world.items, without(world.behaviour, 3), seed=0, say=said.append)
    assert any("3 of 100 users have nothing to read" in line for line in said)


def test_items_without_a_modality_are_left_out_and_counted(world: World):
    image = world.items.modalities["image"]
    second = Tokens.pooled(np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32), encoder="second")
    holes = replace(image, mask=image.mask & (np.arange(200) >= 10)[:, None])
    none = replace(second, mask=second.mask & (np.arange(200) >= 4)[:, None])
    items = replace(world.items, modalities={"image": holes, "text": none})
    for values in (SMALL, DEEP):
        method = Uist(UistConfig.model_validate(values)).fit(items, world.behaviour, seed=0, say=lambda _: None)
        table = method.transform(items)
        assert table.about["excluded"] == 4 and table.about["partial"] == {"image": 6}
        assert table.ids.tolist() == list(range(4, 200))
        history = Behaviour(np.array([7, 8]), np.array([0, 1, 2, 50]), np.array([0, 3, 4]))
        users = method.transform_users(items, history)  # the first has only items that have no vector
        assert users.ids.tolist() == [8] and users.about["excluded"] == 1


def test_other_encoders_widths_and_missing_modalities_are_refused(cheap: Uist, deep: Uist, world: World):
    image = world.items.modalities["image"]
    other = replace(world.items, modalities={"image": replace(image, encoder="another")})
    narrow = replace(world.items, modalities={"image": replace(image, values=image.values[:, :, :3])})
    absent = replace(world.items, modalities={"sound": image})
    for method in (cheap, deep):
        for items, message in ((other, "another encoder"), (narrow, "another width"), (absent, "have no image")):
            with pytest.raises(DataError, match=message):
                method.transform(items)
            with pytest.raises(DataError, match=message):
                method.transform_users(items, world.behaviour)


def test_a_fit_on_bad_data_says_so(world: World):
    image = world.items.modalities["image"]
    with pytest.raises(DataError, match="need histories"):
        Uist(UistConfig.model_validate(SMALL)).fit(world.items, None, seed=0)
    with pytest.raises(DataError, match="fewer items than codes"):
        Uist(UistConfig.model_validate({**SMALL, "codebook_sizes": (300, 8)})).fit(world.items, world.behaviour, seed=0)
    with pytest.raises(DataError, match="fewer users than codes"):
        fitted(world, **SMALL, user_codebook_sizes=(150, 8))
    same = replace(world.items, modalities={"image": replace(image, values=np.ones_like(image.values))})
    with pytest.raises(DataError, match="all vectors are the same"):
        Uist(UistConfig.model_validate(SMALL)).fit(same, world.behaviour, seed=0)
    values = image.values.copy()
    values[5, 0, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        replace(world.items, modalities={"image": replace(image, values=values)})
    with pytest.raises(DataError, match="unknown item row"):
        Uist(UistConfig.model_validate(SMALL)).fit(world.items.take(np.arange(50)), world.behaviour, seed=0)
    with pytest.raises(DataError, match="no modality"):
        fitted(replace(world, items=Items(world.items.ids, [""] * 200)), **SMALL, source="vectors")

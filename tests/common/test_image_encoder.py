"""The open_clip encoder: purity per item, loading, and what it refuses."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.encoders.image import RANDOM_WEIGHTS, OpenClipEncoder
from common.errors import ConfigError

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def write_tiny_clip(folder: Path, seed: int = 0) -> Path:
    """Write a tiny open_clip model, as `open_clip` saves its models for the hub."""
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(**TINY)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": {}}))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")


def pictures(count: int, seed: int = 1) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(20, 90, size=(count, 2)).tolist()
    return [Image.fromarray(rng.integers(0, 256, size=(h, w, 3), dtype=np.uint8)) for h, w in sizes]


def test_vectors_have_unit_length_and_the_stated_width(tiny: Path) -> None:
    encoder = OpenClipEncoder(str(tiny), batch_size=4)
    for vectors in (encoder.encode_images(pictures(6)), encoder.encode_texts(["a page", "", "x " * 200])):
        assert vectors.dtype == np.float32 and vectors.shape[1] == encoder.dim == 16
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert encoder.encode_images([]).shape == (0, 16)


def test_an_item_gives_the_same_bytes_in_any_batch(tiny: Path) -> None:
    encoder = OpenClipEncoder(str(tiny), batch_size=8)
    images = pictures(21)
    whole = encoder.encode_images(images)
    alone = np.concatenate([encoder.encode_images([image]) for image in images])
    order = np.random.default_rng(3).permutation(21)
    shuffled = encoder.encode_images([images[i] for i in order])
    assert alone.tobytes() == whole.tobytes()
    assert shuffled.tobytes() == whole[order].tobytes()
    texts = [f"question {i} about {'a ' * i}page" for i in range(11)]
    one_by_one = np.concatenate([encoder.encode_texts([text]) for text in texts])
    assert one_by_one.tobytes() == encoder.encode_texts(texts).tobytes()


def test_another_batch_size_changes_only_the_last_bits(tiny: Path) -> None:
    few, many = (OpenClipEncoder(str(tiny), batch_size=n).encode_images(pictures(9)) for n in (1, 16))
    np.testing.assert_allclose(few, many, atol=1e-5)


def test_revision_follows_the_weights_not_the_place(tiny: Path, tmp_path: Path) -> None:
    same = OpenClipEncoder(str(shutil.copytree(tiny, tmp_path / "copy")))
    other = OpenClipEncoder(str(write_tiny_clip(tmp_path / "other", seed=1)))
    original = OpenClipEncoder(str(tiny))
    assert original.revision == same.revision != other.revision
    assert original.notes == ()
    image = pictures(1)
    assert (original.encode_images(image) == same.encode_images(image)).all()
    assert not np.allclose(original.encode_images(image), other.encode_images(image), atol=1e-3)


def test_the_whole_image_counts_not_only_its_middle(tiny: Path) -> None:
    page = Image.new("RGB", (60, 240), "white")
    marked = page.copy()
    marked.paste((200, 0, 0), (0, 0, 60, 40))
    encoder = OpenClipEncoder(str(tiny), batch_size=2)
    assert not np.allclose(*encoder.encode_images([page, marked]), atol=1e-4)


def test_an_architecture_with_a_checkpoint_file(monkeypatch: pytest.MonkeyPatch, tiny: Path, tmp_path: Path) -> None:
    import open_clip.factory as factory

    monkeypatch.setitem(factory._MODEL_CONFIGS, "tiny-test", TINY)
    file = tiny / "open_clip_model.safetensors"
    from_file = OpenClipEncoder("tiny-test", str(file))
    assert from_file.revision == OpenClipEncoder(str(tiny)).revision and from_file.notes == ()
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ConfigError, match="cannot be loaded"):
        OpenClipEncoder("tiny-test", str(tmp_path / "cut.safetensors"))


def test_random_weights_are_loud_and_repeatable(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import open_clip.factory as factory

    monkeypatch.setitem(factory._MODEL_CONFIGS, "tiny-test", TINY)
    with caplog.at_level(logging.WARNING):
        first = OpenClipEncoder("tiny-test", None, seed=5)
    assert RANDOM_WEIGHTS in caplog.text and RANDOM_WEIGHTS in first.notes[0]
    assert first.revision == OpenClipEncoder("tiny-test", None, seed=5).revision
    assert first.revision != OpenClipEncoder("tiny-test", None, seed=6).revision


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("ViT-B-23", None, "ViT-B-32"),
        ("ViT-B-32", "laion2b_s43b", "laion2b_s34b_b79k"),
        ("hf-hub:nobody/no-such-clip", None, "--local-dir"),
        ("hf-hub:nobody/no-such-clip", "tag", "brings its own weights"),
        ("ViT-B-32", "laion2b_s34b_b79k", "pretrained to a local"),
    ],
)
def test_models_that_are_not_there_say_what_to_do(model: str, pretrained: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OpenClipEncoder(model, pretrained)


def test_a_folder_without_weights_is_refused_not_random(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    shutil.copy(tiny / "open_clip_config.json", tmp_path / "bare")
    with pytest.raises(ConfigError, match="copy them again"):
        OpenClipEncoder(str(tmp_path / "bare"))


def test_a_pickle_that_runs_code_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os
    import pickle

    import open_clip.factory as factory

    class Payload:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "ran"),)

    monkeypatch.setitem(factory._MODEL_CONFIGS, "tiny-test", TINY)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        OpenClipEncoder("tiny-test", str(tmp_path / "evil.pt"))
    assert not (tmp_path / "ran").exists()

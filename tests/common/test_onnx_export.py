"""Exports of sentence-transformers models: made once, whole or not at all, and the same vectors without torch."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from common.encoders import onnx_export
from common.encoders.onnx_export import export_once
from common.encoders.packaged import resolve
from common.encoders.revision import folder_revision, hub_revision
from common.encoders.text import build_text_encoder
from common.errors import ConfigError
from tests.common.tiny_models import write_bert, write_sentence_transformer

TEXTS = ["the cat sat", "", "a dog of paris " * 40, "bread and flour, the bank's revenue grew."]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prompts = {"query": "the dog ", "document": "a mat "}
    return write_sentence_transformer(tmp_path_factory.mktemp("model"), prompts=prompts)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, saved: Path) -> Path:
    """A cache with the export of `saved` in float32."""
    folder = tmp_path_factory.mktemp("cache")
    export_once(resolve(str(saved)), folder, "float32")
    return folder


def copy_with_pooling(saved: Path, to: Path, **pooling: object) -> Path:
    shutil.copytree(saved, to)
    config = to / "1_Pooling" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **pooling}))
    return to


def test_same_vectors_prompts_and_token_limit_as_torch(saved: Path, cache: Path) -> None:
    for limit in (16, 100_000):  # the second is above the model's own
        ours = build_text_encoder(str(saved), cache=cache, backend="onnx", max_tokens=limit)
        torchs = build_text_encoder(str(saved), backend="torch", max_tokens=limit)
        for role in ("query", "passage"):
            found = ours.encode(TEXTS, role=role, batch_size=2)
            np.testing.assert_allclose(found, torchs.encode(TEXTS, role=role, batch_size=2), atol=1e-5)
    given = build_text_encoder(str(saved), cache=cache, backend="onnx", query_prompt="of ")
    np.testing.assert_allclose(
        given.encode(["cat"], role="query", batch_size=1),
        build_text_encoder(str(saved), query_prompt="of ").encode(["cat"], role="query", batch_size=1),
        atol=1e-5,
    )


def test_the_first_token_s_pooling(saved: Path, tmp_path: Path) -> None:
    folder = copy_with_pooling(saved, tmp_path / "cls", pooling_mode="cls")
    ours = build_text_encoder(str(folder), cache=tmp_path, backend="onnx").encode(TEXTS, role="query", batch_size=1)
    torchs = build_text_encoder(str(folder)).encode(TEXTS, role="query", batch_size=1)
    np.testing.assert_allclose(ours, torchs, atol=1e-5)
    mean = build_text_encoder(str(saved)).encode(TEXTS, role="query", batch_size=1)
    assert np.abs(ours - mean).max() > 0.01


@pytest.mark.parametrize("change", [{"pooling_mode": "max"}, {"include_prompt": False}])
def test_a_model_that_pools_otherwise_is_refused(saved: Path, tmp_path: Path, change: dict[str, object]) -> None:
    folder = copy_with_pooling(saved, tmp_path / "other", **change)
    with pytest.raises(ConfigError, match="cannot be exported") as caught:
        build_text_encoder(str(folder), cache=tmp_path, backend="onnx")
    assert "backend: torch" in str(caught.value)
    assert not list((tmp_path / "onnx").rglob("model.onnx"))


def test_int8_is_another_export_and_close(saved: Path, cache: Path) -> None:
    whole = build_text_encoder(str(saved), cache=cache, backend="onnx")
    small = build_text_encoder(str(saved), cache=cache, precision="int8")  # auto: onnx
    assert small.revision != whole.revision
    cosines = small.encode(TEXTS, role="query", batch_size=1) * whole.encode(TEXTS, role="query", batch_size=1)
    assert 0.97 < cosines.sum(axis=1).min() < 1 - 1e-6
    sizes = {p.parent.name: p.stat().st_size for p in (cache / "onnx").rglob("model.onnx")}
    assert len(sizes) == 2 and max(sizes.values()) > 1.3 * min(sizes.values())


def test_a_second_use_exports_nothing_and_follows_the_weights(
    saved: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("exported again")

    monkeypatch.setattr(onnx_export, "_export", refuse)
    first = build_text_encoder(str(saved), cache=cache, backend="onnx")
    moved = shutil.copytree(saved, tmp_path / "moved" / saved.name)
    assert export_once(resolve(str(moved)), cache, "float32")[1].revision == folder_revision(saved)
    assert first.dim == 32
    (moved / "vocab.txt").write_text("another vocabulary")
    with pytest.raises(AssertionError, match="exported again"):
        build_text_encoder(str(moved), cache=cache, backend="onnx")


def test_an_export_that_is_cut_off_leaves_nothing(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(onnx_export, "write_text", full)
        with pytest.raises(OSError, match="No space"):
            build_text_encoder(str(saved), cache=tmp_path, backend="onnx")
    assert [p.name for p in (tmp_path / "onnx").iterdir() if p.is_dir()] == []
    encoder = build_text_encoder(str(saved), cache=tmp_path, backend="onnx")
    assert np.isfinite(encoder.encode(TEXTS, role="query", batch_size=1)).all()


def encode_apart(saved: str, cache: str) -> bytes:
    encoder = build_text_encoder(saved, cache=Path(cache), precision="int8")
    return encoder.encode(TEXTS, role="passage", batch_size=1).tobytes()


def test_two_processes_at_once_and_a_later_one_without_torch(saved: Path, tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(encode_apart, [str(saved)] * 2, [str(tmp_path)] * 2))
    assert results[0] == results[1]
    assert len(list((tmp_path / "onnx").rglob("export.json"))) == 1
    code = (
        "import sys; from tests.common.test_onnx_export import encode_apart\n"
        "for name in ('torch', 'sentence_transformers', 'transformers'): sys.modules[name] = None\n"
        f"sys.stdout.buffer.write(encode_apart({str(saved)!r}, {str(tmp_path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, check=True)
    assert done.stdout == results[0]


def test_precisions_that_a_backend_lacks(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="int8"):
        build_text_encoder(str(saved), cache=tmp_path, backend="torch", precision="int8")
    with pytest.raises(ConfigError, match="bfloat16"):
        build_text_encoder(str(saved), cache=tmp_path, backend="onnx", precision="bfloat16")
    with pytest.raises(ConfigError, match="no ONNX graph"):
        build_text_encoder(str(saved), backend="onnx")


def test_a_hub_model_s_revision_is_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub cache as a download leaves it."""
    repository = tmp_path / "models--team--tiny"
    write_bert(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert hub_revision("team/tiny") == resolve("team/tiny").revision() == f"commit:{COMMIT}"
    with pytest.raises(ConfigError, match="cannot be loaded"):
        hub_revision("team/absent")


def test_a_folder_s_revision_leaves_notes_and_hidden_files_out(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"one")
    first = folder_revision(tmp_path)
    (tmp_path / "README.md").write_text("a note")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "index").write_text("x")
    assert folder_revision(tmp_path) == first
    (tmp_path / "tokenizer.json").write_text("{}")
    assert folder_revision(tmp_path) != first

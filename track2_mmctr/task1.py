"""Task 1: the fixed official DIN scores an item embedding; five settings may be tuned, and no other."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from common.config import load_config
from common.errors import ConfigError
from track2_mmctr.config import CONFIG_FOLDER, RunConfig

ALLOWED = {
    "embedding_regularizer": "train.embedding_regularizer",
    "net_regularizer": "train.net_regularizer",
    "net_dropout": "ranker.net_dropout",
    "learning_rate": "train.learning_rate",
    "batch_size": "train.batch_size",
}
"""What the organisers let teams tune in Task 1 (README of the challenge's baseline), by short name."""


def task1_config(overrides: Sequence[str], embedding: str | None) -> RunConfig:
    """Return the configuration of a Task 1 run: configs/task1.yaml, an embedding, and allowed settings only.

    Parameters
    ----------
    overrides
        Strings `name=value`; the name is one of `ALLOWED`, short or in full (`train.learning_rate`).
    embedding
        A file made by `embed`; None = item_emb_d128 of item_info.

    Raises
    ------
    ConfigError
        Another setting, a setting given twice, or a value out of range.
    """
    full: dict[str, str] = {}
    for override in overrides:
        name, equals, value = override.partition("=")
        key = ALLOWED.get(name.strip(), name.strip())
        if key not in ALLOWED.values():
            raise _refused(name.strip())
        if not equals or not value.strip():
            raise ConfigError("a setting needs the form name=value", where="--set", got=override)
        if key in full:
            raise ConfigError(f"{key} is set twice", where="--set", got=f"{full[key]} and {override}")
        full[key] = f"{key}={value}"
    config = load_config(RunConfig, "task1", CONFIG_FOLDER, list(full.values()))
    if embedding is None:
        return config
    return config.model_copy(update={"features": config.features.model_copy(update={"embedding": embedding})})


def _refused(name: str) -> ConfigError:
    near = difflib.get_close_matches(name.rsplit(".", 1)[-1], ALLOWED, n=1)
    return ConfigError(
        f"Task 1 does not let {name!r} be changed: its model is fixed",
        where="--set",
        expected=", ".join(ALLOWED),
        got=name,
        todo=f"did you mean {near[0]}?" if near else "use `run` (Task 2) for another model or other settings",
    )

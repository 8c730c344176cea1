"""A trained ranker on disk: weights as safetensors, and as JSON what they belong to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.atomic import atomic_folder
from common.config import flatten
from common.errors import ConfigError, DataError, UserError
from common.hashing import digest, file_digest
from common.training.tensors import distinct
from track2_mmctr.config import RunConfig
from track2_mmctr.datasets.tables import ItemTable
from track2_mmctr.rankers import build_ranker
from track2_mmctr.rankers.base import Ranker

FORMAT = "mirc-track2-model-1"
WEIGHTS, ABOUT = "model.safetensors", "model.json"
TODO = "train again, or copy the folder again"


def model_digest(config: RunConfig) -> str:
    """Return the digest of what decides a model's shape and meaning: its ranker, its features, the history's length."""
    return digest(config.ranker.model_dump_json(), config.features.model_dump_json(), config.data.max_len)


def save_model(folder: Path, model: Ranker, config: RunConfig, items: ItemTable) -> None:
    """Write a ranker to a folder of its own, which is replaced as a whole.

    Raises
    ------
    UserError
        The disk is full, or the folder cannot be written; a folder that was there before is as it was.
    """
    try:
        with atomic_folder(folder) as temporary:
            save_file(distinct(model.state_dict()), temporary / WEIGHTS)
            about = {
                "format": FORMAT,
                "weights_sha256": file_digest(temporary / WEIGHTS),
                "config_digest": model_digest(config),
                "items_digest": items.digest,
                "items": len(items),
                "config": config.model_dump(mode="json"),
            }
            (temporary / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise UserError(
            "the model could not be written; an older one, if any, is as it was",
            where=folder,
            got=str(error),
            todo="make room on the disk, or write to another folder",
        ) from error


def load_model(folder: Path, items: ItemTable, expected: RunConfig | None = None) -> tuple[Ranker, RunConfig]:
    """Read a ranker and the configuration that it was trained with; it is ready to predict, in main memory.

    Parameters
    ----------
    items
        The item table that the ranker was trained on: the frozen embedding is looked up in it.
    expected
        A configuration whose ranker, features and history length the model must have; None takes what is there.

    Raises
    ------
    DataError
        A file is missing, damaged, truncated or of another version; the item table is another one.
    ConfigError
        The model was trained with another configuration than `expected`; what differs is named.
    """
    about = _read_about(folder / ABOUT)
    try:
        config = RunConfig.model_validate(about["config"])
    except ValidationError as error:
        raise DataError(
            "the model's configuration is not valid", where=folder / ABOUT, got=str(error), todo=TODO
        ) from None
    if expected is not None:
        _check_config(folder, config, expected)
    if about["config_digest"] != model_digest(config):
        raise DataError("the model's configuration was changed after it was written", where=folder / ABOUT, todo=TODO)
    if about["items_digest"] != items.digest:
        raise DataError(
            "the model was trained on another item table: its ids and embeddings mean something else there",
            where=folder,
            expected=f"{about['items']:,} items, digest {about['items_digest'][:16]}",
            got=f"{len(items):,} items, digest {items.digest[:16]}",
            todo="use the data and the files of features.embedding, features.semantic_ids, user_semantic_ids and "
            "knowledge that it was trained with, or train again",
        )
    weights = _read_weights(folder / WEIGHTS, about["weights_sha256"])
    with torch.random.fork_rng(devices=[]):  # loading leaves the caller's random state alone
        model = build_ranker(config.ranker, config.features, items)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(
            "the weights do not fit the ranker", where=folder / WEIGHTS, got=str(error).strip(), todo=TODO
        ) from None
    return model.eval(), config


def _read_about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("no model there", where=path, expected=f"{ABOUT} and {WEIGHTS}", todo=TODO) from None
    except (OSError, ValueError) as error:
        raise DataError("the model's description is damaged", where=path, got=str(error), todo=TODO) from None
    wanted = {"format", "weights_sha256", "config_digest", "items_digest", "items", "config"}
    if not isinstance(about, dict) or about.get("format") != FORMAT or wanted - about.keys():
        got = about.get("format") if isinstance(about, dict) else type(about).__name__
        raise DataError("not a model of this program's version", where=path, expected=FORMAT, got=got, todo=TODO)
    return about


def _read_weights(path: Path, sha256: str) -> dict[str, Tensor]:
    try:
        found = file_digest(path)
        if found != sha256:
            raise ValueError(f"SHA-256 {found[:16]}…, written was {sha256[:16]}…")
        return load_file(path)
    except FileNotFoundError:
        raise DataError("the model's weights are missing", where=path, expected=WEIGHTS, todo=TODO) from None
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError("the model's weights are damaged", where=path, got=str(error), todo=TODO) from None


def _check_config(folder: Path, config: RunConfig, expected: RunConfig) -> None:
    sections = {"ranker", "features"}
    old, new = (flatten(c.model_dump(mode="json", include=sections)) for c in (config, expected))
    old["data.max_len"], new["data.max_len"] = config.data.max_len, expected.data.max_len
    differ = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if differ:
        raise ConfigError(
            "the model was trained with another configuration: " + ", ".join(differ),
            where=folder,
            expected="; ".join(f"{name} = {new.get(name)}" for name in differ),
            got="; ".join(f"{name} = {old.get(name)}" for name in differ),
            todo="use the configuration that the model was trained with, or train again",
        )

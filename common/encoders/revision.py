"""What fixes a model's weights: the commit of its hub snapshot, or a digest of its files."""

from __future__ import annotations

import re
from pathlib import Path

from common.errors import ConfigError
from common.hashing import digest, file_digest

_NOTES = {".md", ".png", ".jpg", ".gif"}  # files of a model card


def folder_revision(folder: Path) -> str:
    """Return a SHA-256 over the names and contents of a model folder's files, hidden ones and notes left out."""
    parts: list[str] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and path.suffix not in _NOTES and not any(part.startswith(".") for part in name.parts):
            parts += [name.as_posix(), file_digest(path)]
    return "sha256:" + digest(*parts)


def hub_revision(model: str) -> str:
    """Return the commit of the hub snapshot that loading `model` takes.

    transformers no longer keeps it in the configuration; the hub's cache has it in each file's path.

    Raises
    ------
    ConfigError
        The model is neither in the hub's cache nor to be had from the hub.
    """
    from huggingface_hub import hf_hub_download

    try:
        path = Path(hf_hub_download(model, "config.json"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            "the model cannot be loaded: its revision is unknown",
            where=f"model {model}",
            expected="a local folder, or a hub name that is in the hub's cache or can be reached",
            got=str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__,
            todo="check the name and the connection (HF_HUB_OFFLINE), or give a local folder",
        ) from None
    found = re.search(r"/snapshots/([0-9a-f]{40})/", path.as_posix())
    if found is None:
        raise ConfigError("the model's revision is unknown", where=path, expected="a file of a hub snapshot")
    return f"commit:{found[1]}"


def model_revision(model: str) -> str:
    """Return the revision of a local folder or a hub name.

    Raises
    ------
    ConfigError
        The model is neither a folder nor at hand from the hub.
    """
    folder = Path(model)
    return folder_revision(folder) if folder.is_dir() else hub_revision(model)

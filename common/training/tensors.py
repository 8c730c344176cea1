"""One safetensors file with a JSON header: written in one step, checked when it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.atomic import atomic_path
from common.errors import DataError, UserError


def distinct(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in main memory, no two of which share it: the format holds no two names for one memory."""
    seen: set[int] = set()
    ready: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.data_ptr() in seen:
            value = value.clone()
        seen.add(value.data_ptr())
        ready[name] = value
    return ready


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header; the file at `path` stays as it was until the new one is whole.

    Raises
    ------
    UserError
        The disk is full, or the folder cannot be written.
    """
    try:
        with atomic_path(path) as temporary:
            save_file(distinct(tensors), temporary, metadata={"json": json.dumps(header)})
    except (OSError, SafetensorError) as error:
        raise UserError(
            "the checkpoint could not be written; the one before it, if any, is as it was",
            where=path,
            got=str(error),
            todo="make room on the disk (or point to another folder), then run the same command: it goes on from there",
        ) from error


def read_tensors(path: Path, form: str, todo: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote: tensors in main memory and the header, whose `format` must be `form`.

    Raises
    ------
    DataError
        The file is truncated, not a safetensors file, or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("json", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError("the checkpoint is damaged", where=path, got=str(error), todo=todo) from None
    if not isinstance(header, dict) or header.get("format") != form:
        got = header.get("format") if isinstance(header, dict) else header
        raise DataError("not a checkpoint of this program's version", where=path, expected=form, got=got, todo=todo)
    return tensors, header

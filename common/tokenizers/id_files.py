"""A `SemanticIdMap` as safetensors + JSON: any change to either is found when it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from common.atomic import atomic_folder
from common.errors import DataError
from common.hashing import digest, file_digest
from common.tokenizers.dedup import check_sids

if TYPE_CHECKING:
    from common.tokenizers.semantic_ids import SemanticIdMap

FORMAT = "mirc-semantic-ids-1"
Ids = TypeVar("Ids", bound="SemanticIdMap")


def write_ids(folder: Path, ids: SemanticIdMap) -> None:
    """Write semantic_ids.json and semantic_ids.safetensors to `folder`, whole or not at all."""
    with atomic_folder(folder) as temporary:
        save_file({"sids": ids.sids}, temporary / "semantic_ids.safetensors")
        header: dict[str, Any] = {
            "format": FORMAT,
            "version": ids.version,
            "sizes": list(ids.sizes),
            "levels": ids.levels,
            "dedup": ids.dedup,
            "source": ids.source,
            "parts": list(ids.parts),
            "sha256": file_digest(temporary / "semantic_ids.safetensors"),
        }
        header["check"] = _check(header)
        (temporary / "semantic_ids.json").write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")


def read_ids(folder: Path, cls: type[Ids]) -> Ids:
    """Read what `write_ids` wrote.

    Raises
    ------
    DataError
        A file is missing, damaged, was changed, or is of another format.
    """
    path, data = folder / "semantic_ids.json", folder / "semantic_ids.safetensors"
    todo = "make the IDs again (python -m common.tokenizers encode --help), or take the folder from a backup"
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        if header["format"] != FORMAT:
            raise DataError("semantic IDs of another format", where=path, expected=FORMAT, got=header["format"])
        if header["check"] != _check(header) or header["sha256"] != file_digest(data):
            raise DataError("the semantic IDs are not the ones that were saved", where=folder, todo=todo)
        sizes, parts = tuple(map(int, header["sizes"])), tuple(map(int, header["parts"]))
        sids = check_sids(load_file(data)["sids"], sizes)
        ids = cls(sids, sizes, int(header["levels"]), str(header["dedup"]), str(header["source"]), parts)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError("the semantic IDs are damaged", where=folder, got=str(error), todo=todo) from None
    if ids.version != header["version"]:
        raise DataError("the semantic IDs are not the ones that were saved", where=folder, todo=todo)
    return ids


def _check(header: dict[str, Any]) -> str:
    return digest(json.dumps({k: v for k, v in header.items() if k != "check"}, sort_keys=True))

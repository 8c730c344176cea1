"""The commands that `embed` prints at its end: how a ranker reads what a representation method wrote."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from track2_mmctr.embeddings.catalogue import INFO
from track2_mmctr.embeddings.registry import REPRESENTATIONS
from track2_mmctr.embeddings.represent import Represented


def next_steps(name: str, made: Represented, folder: Path, root: Path) -> list[str]:
    """Return the lines, one command each."""
    writes = REPRESENTATIONS[name].writes
    if writes == "embedding":
        return [
            f"next: python -m track2_mmctr task1 --embedding {made.path} --data {root}",
            f"or:   python -m track2_mmctr run --config din --set features.embedding={made.path} --data {root}",
        ]
    settings: dict[str, object] = {}
    if "item_emb_d128" not in pl.read_parquet_schema(folder / INFO):
        settings["features.embedding"] = "none"
    if writes == "knowledge":
        settings |= {"features.knowledge.items": made.path, "features.knowledge.users": made.users}
        if missing := max(made.missing_items, made.missing_users):
            settings["features.knowledge.allow_missing"] = missing
    else:
        settings["features.semantic_ids"] = made.path
        if made.users is not None:
            settings |= {
                "features.user_semantic_ids": made.users,
                "features.sid.combine": "sum",
                "features.hmi": "true",
            }
        if made.users is not None and made.missing_users:
            settings["features.user_sid.allow_missing"] = made.missing_users
    given = " ".join(f"--set {key}={value}" for key, value in settings.items())
    return [f"next: python -m track2_mmctr run --config din {given} --data {root}"]

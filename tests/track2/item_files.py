"""A tiny `microlens` folder with titles, covers and raw embeddings, and how tests embed it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from common.config import make_config
from common.faults import FaultLog
from track2_mmctr.embeddings.config import EmbedConfig
from track2_mmctr.embeddings.embed import EmbedResult, embed_items

COUNT = 12
IDS = list(range(1, COUNT + 1))
COLOURS = [(220, 30, 30), (30, 30, 220), (30, 200, 60)]
SUBJECTS = ["cooking soup", "football match", "guitar lesson"]
RAW = {"method": "joint_pca", "source": "files", "dim": 4}


def picture(item: int) -> Image.Image:
    """A cover whose colour tells item % 3, with noise of its own."""
    rng = np.random.default_rng(item)
    pixels = np.asarray(COLOURS[item % 3]) + rng.integers(-20, 20, (40, 40, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_microlens(
    folder: Path, *, order: np.ndarray | None = None, titles: dict[int, str | None] | None = None
) -> Path:
    """Write the files that `embed` reads, rows in any order."""
    ids = np.arange(1, COUNT + 1) if order is None else order
    (folder / "MicroLens_1M_x1").mkdir(parents=True)
    (folder / "item_images").mkdir()
    every = np.concatenate([[0], ids])
    info = {"item_id": every, "item_tags": [[int(i), 0] for i in every]}
    pq.write_table(pa.table(info), folder / "MicroLens_1M_x1" / "item_info.parquet")
    given = {i: f"{SUBJECTS[i % 3]} number {i}" for i in range(1, COUNT + 1)} | (titles or {})
    rng = np.random.default_rng(5)
    raw = {
        name: rng.normal(size=(COUNT + 1, d)).astype(np.float32)
        for name, d in (("txt_emb_BERT", 6), ("img_emb_CLIPRN50", 7))
    }
    columns: dict[str, Any] = {
        "item_id": ids,
        "item_title": pa.array([given[int(i)] for i in ids], pa.string()),
        "likes_level": np.ones(COUNT, np.int64),
        "views_level": np.ones(COUNT, np.int64),
        **{name: [row.tolist() for row in x[ids]] for name, x in raw.items()},
    }
    pq.write_table(pa.table(columns), folder / "item_feature.parquet")
    for i in ids.tolist():
        picture(i).save(folder / "item_images" / f"{i}.{'png' if i % 2 else 'jpg'}")
    return folder


def embed(folder: Path, out: Path, cache: Path, said: list[str] | None = None, **settings: Any) -> EmbedResult:
    settings = {"image": {"model": "test_efficientnet", "pretrained": "none"}, "dim": 4, **settings}
    config = make_config(EmbedConfig, settings, [], "test")
    said = [] if said is None else said
    return embed_items(folder, config, out, cache, "cpu", 1, FaultLog(), said.append)


def vectors(path: Path) -> np.ndarray:
    return np.array(pl.read_parquet(path)["item_emb_d128"].to_list())

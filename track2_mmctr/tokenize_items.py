"""`tokenize`: a quantizer fitted on the items' embedding, and each item's semantic ID in a parquet file."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from common.engine.base import Engine
from common.engine.local import LOCAL
from common.errors import ConfigError
from track2_mmctr.datasets.items import embedding_of, read_info
from track2_mmctr.datasets.microlens import INNER
from track2_mmctr.tokenize_config import TokenizeConfig

if TYPE_CHECKING:
    from common.tokenizers.base import Quantizer
    from common.tokenizers.collisions import CollisionReport

LEVELS, CODES, ITEMS_PER_CODE = 3, 256, 8


@dataclass(frozen=True)
class Tokenized:
    """What `tokenize_items` wrote.

    Attributes
    ----------
    path
        Columns item_id int64 and sid_0.. int32, a row for each item 1..N.
    items
        N.
    sizes, levels
        Codes of each level, and how many levels are the quantizer's (the rest is a rank).
    version
        Of the IDs; in the file as well.
    collisions
        Of the quantizer's codes, before they were made different.
    seconds
        Of fitting and encoding.
    notes
        Remarks on the item table.
    """

    path: Path
    items: int
    sizes: tuple[int, ...]
    levels: int
    version: str
    collisions: CollisionReport
    seconds: float
    notes: list[str]


def tokenize_items(
    folder: Path,
    config: TokenizeConfig,
    embedding: str,
    out: Path,
    quantizer_folder: Path | None = None,
    engine: Engine = LOCAL,
) -> Tokenized:
    """Fit a quantizer on the item embedding of a `microlens` folder and write the semantic IDs to `out`.

    Parameters
    ----------
    folder
        Holds MicroLens_1M_x1/.
    embedding
        `auto` = item_emb_d128 of item_info, or a parquet file of `embed`.
    quantizer_folder
        Where to save the quantizer, to encode new items with it; None: nowhere.
    engine
        Has the workers that encode the items with the fitted quantizer.

    Raises
    ------
    ConfigError
        No embedding, an unknown quantizer or argument.
    DataError
        Damaged files, fewer (different) items than codes, collisions that `dedup` does not mend. Nothing is written.
    """
    from common.tokenizers.collisions import collision_report
    from common.tokenizers.files import SidFile, write_sids
    from common.tokenizers.semantic_ids import SemanticIdMap
    from common.tokenizers.spread import item_codes

    notes: list[str] = []
    vectors = embedding_of(embedding, read_info(folder / INNER / "item_info.parquet", embedding, notes))
    if vectors is None:
        raise ConfigError(
            "the items have no embedding to quantize",
            where="--embedding",
            expected="official (item_info.parquet with item_emb_d128), or a parquet file",
            got=embedding,
            todo="make one: python -m track2_mmctr embed --help",
        )
    x = vectors[1:]
    started = perf_counter()
    quantizer = make_quantizer(config, len(x)).fit(x, seed=config.seed)
    codes = item_codes(quantizer, x, engine)
    ids = SemanticIdMap.from_codes(
        codes,
        quantizer.codebook_sizes,
        dedup=config.dedup,
        version=quantizer.version,
        rank_codes=config.rank_codes,
        quantizer=quantizer,
        x=x,
    )
    seconds = perf_counter() - started
    if quantizer_folder is not None:
        quantizer.save(quantizer_folder)
    write_sids(out, SidFile(np.arange(1, len(x) + 1), ids.sids, ids.sizes, ids.version, ids.levels))
    report = collision_report(codes, quantizer.codebook_sizes)
    return Tokenized(out, len(x), ids.sizes, ids.levels, ids.version, report, seconds, notes)


def make_quantizer(config: TokenizeConfig, items: int) -> Quantizer:
    """Return the unfitted quantizer of a configuration; without `codebook_sizes`, as large as `items` allow."""
    from common.tokenizers import QUANTIZERS, quantizer_class
    from common.tokenizers.app import build_quantizer

    arguments = dict(config.quantizer)
    if config.codebook_sizes:
        arguments["codebook_sizes"] = config.codebook_sizes
    elif config.kind in QUANTIZERS and "codebook_sizes" in inspect.signature(quantizer_class(config.kind)).parameters:
        arguments.setdefault("codebook_sizes", [default_codes(items)] * LEVELS)
    return build_quantizer(config.kind, [f"{name}={json.dumps(value)}" for name, value in arguments.items()])


def default_codes(items: int) -> int:
    """Return the largest power of two that leaves `ITEMS_PER_CODE` items for each code, 2..256.

    >>> default_codes(91_717), default_codes(240), default_codes(1)
    (256, 16, 2)
    """
    return min(CODES, max(2, 1 << max(0, (items // ITEMS_PER_CODE).bit_length() - 1)))

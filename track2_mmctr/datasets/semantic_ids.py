"""Semantic IDs of the items: the file of `tokenize` (or of `common.tokenizers encode`), checked against the items."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import ConfigError, DataError
from track2_mmctr.config import FeatureConfig

if TYPE_CHECKING:
    from common.tokenizers.files import SidFile

MAKE = "make the file again from this data: python -m track2_mmctr tokenize --help"


@dataclass(frozen=True, eq=False)
class SemanticIds:
    """The codes that rankers read.

    Attributes
    ----------
    codes
        int32 [N, L]: row i is item i; row 0, the padding, is zeros and means nothing.
    sizes
        Number of codes of each of the L levels.
    version
        Of the IDs that the codes were read from.
    """

    codes: np.ndarray
    sizes: tuple[int, ...]
    version: str

    def shuffled(self, seed: int) -> SemanticIds:
        """Return the same codes dealt to other items at random: the placebo of a benchmark."""
        order = np.concatenate([[0], 1 + np.random.default_rng(seed).permutation(len(self.codes) - 1)])
        return SemanticIds(self.codes[order], self.sizes, f"{self.version}-shuffled-{seed}")


def semantic_ids_of(config: FeatureConfig, items: int) -> SemanticIds | None:
    """Read what `features.semantic_ids` names, for an item table of `items` rows; None where it is "none".

    A row of the file for item 0, the padding, is not read.

    Raises
    ------
    ConfigError
        No such file, or more levels asked for than it has.
    DataError
        Damaged, a code outside its codebook, IDs of another version, an item that is unknown or missing.
    """
    if config.semantic_ids == "none":
        return None
    path = Path(config.semantic_ids)
    if not path.is_file():
        raise ConfigError(
            "no such file of semantic IDs",
            where="features.semantic_ids",
            expected="none, or a parquet file",
            got=config.semantic_ids,
            todo="write one: python -m track2_mmctr tokenize --help",
        )
    file = _read(path)
    if config.sid.version not in ("", file.version):
        raise DataError(
            "the semantic IDs are of another version",
            where=path,
            expected=f"{config.sid.version} (features.sid.version)",
            got=file.version,
            todo="use the file of that version, or train again with this one's",
        )
    levels = config.sid.levels or file.levels
    if levels > len(file.sizes):
        expected = f"0 (all codes of the quantizer), 1..{len(file.sizes)}"
        raise ConfigError("more levels than the file has", where="features.sid.levels", expected=expected, got=levels)
    _check_items(path, file.item_ids, items)
    codes = np.zeros((items, levels), np.int32)
    codes[file.item_ids] = file.sids[:, :levels]
    codes[0] = 0
    return SemanticIds(codes, file.sizes[:levels], file.version)


def _read(path: Path) -> SidFile:
    """Read a file of `tokenize`, or the item table of UIST."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from common.representation.table import read_features
    from common.tokenizers.files import SidFile, read_sids
    from track2_mmctr.datasets.knowledge import CODES, checked_codes

    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException):
        return read_sids(path)  # which says what is wrong
    if b"mirc" not in (schema.metadata or {}):
        return read_sids(path)
    table = read_features(path)
    if table.id_name != "item_id" or CODES not in table.columns:
        raise DataError(
            "the table has no codes of items",
            where=f"{path} (features.semantic_ids)",
            expected=f"item_id and {CODES}",
            got=", ".join([table.id_name, *table.columns]),
            todo=MAKE,
        )
    codes, sizes, version = checked_codes(table, path)
    return SidFile(table.ids, codes.astype(np.int32), sizes, version, len(sizes))


def _check_items(path: Path, ids: np.ndarray, items: int) -> None:
    """Refuse ids that the item table does not have, and items without an ID."""
    from track2_mmctr.datasets.items import shown_ids

    unknown = ids[(ids < 0) | (ids >= items)]
    if len(unknown):
        raise DataError(
            f"{len(unknown)} items of the file are not in the item table",
            where=path,
            expected=f"item ids 1..{items - 1}",
            got=shown_ids(unknown),
            todo=MAKE,
        )
    missing = np.setdiff1d(np.arange(1, items), ids)
    if len(missing):
        raise DataError(
            f"{len(missing)} items have no semantic ID",
            where=path,
            expected=f"one for each item 1..{items - 1}",
            got=f"none for item {shown_ids(missing)}",
            todo=MAKE,
        )

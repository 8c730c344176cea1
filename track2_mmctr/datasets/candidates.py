"""What a generator thinks of each row: the file of `common.generative export --rows`, checked against the splits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import ConfigError, DataError
from common.hashing import digest
from track2_mmctr.config import FeatureConfig
from track2_mmctr.datasets.tables import Split, SplitName

FORMAT = "mirc-candidates-1"
SETTING = "features.candidates"
COLUMNS = ("split", "row", "user_id", "item_id", "score", "rank", "known")
NAMES = ("generated_known", "generated_score", "generated_rank")
"""Of the columns of `Split.candidates`, as gbdt calls them."""
MAKE = "make the file again from this data: python -m common.generative export --rows FILE --help"


@dataclass(frozen=True, eq=False)
class Candidates:
    """Features of rows by split, and what tells the generator that they come from.

    Attributes
    ----------
    values
        float32 [R, 3] a split: known (0 or 1) ‖ score ‖ 1 / rank. The score is 1 + log p / log N of N items: 1 where
        the generator is sure of the item, 0 where it is as likely as any. Both are 0 where nothing is known; 1 / rank
        is 0 too where the item is not in the generated list.
    identity
        Digest of the generator, its data and how the rows were scored.
    """

    values: dict[SplitName, np.ndarray]
    identity: str

    def attached(self, splits: Mapping[SplitName, Split]) -> dict[SplitName, Split]:
        """Return the splits with their features."""
        return {
            name: replace(
                split,
                candidates=self.values[name],
                digest=digest("candidates", split.digest, self.identity, self.values[name].tobytes()),
            )
            for name, split in splits.items()
        }


def candidates_of(features: FeatureConfig, splits: Mapping[SplitName, Split], notes: list[str]) -> Candidates | None:
    """Read what `features.candidates` names; None where it is "none".

    Raises
    ------
    ConfigError
        No such file.
    DataError
        Another file, a damaged one, or one of other rows.
    """
    if features.candidates == "none":
        return None
    path = Path(features.candidates)
    if not path.is_file():
        raise ConfigError(
            "no such file of generated candidates",
            where=SETTING,
            expected="none, or a parquet file",
            got=features.candidates,
            todo="write one: python -m common.generative export --rows FILE --help",
        )
    columns, about = _read(path)
    values: dict[SplitName, np.ndarray] = {
        name: _of_split(columns, split, int(about["items"]), path) for name, split in splits.items()
    }
    shares = {name: float(value[:, 0].mean()) if len(value) else 0.0 for name, value in values.items()}
    notes.append(
        f"{path.name}: {about.get('model', 'a generator')} knows "
        + ", ".join(f"{share:.1%} of {name}" for name, share in shares.items())
    )
    if shares.get("train", 1.0) < 0.5 * max(shares.values(), default=0.0):
        notes.append(
            f"{path.name}: few rows of train are known, so that rankers can learn little: export with --folds 2"
        )
    return Candidates(values, digest(json.dumps(about, sort_keys=True)))


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {}).get(b"mirc_candidates", b"{}"))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError("the file of candidates is damaged", where=path, got=str(error), todo=MAKE) from None
    whole = isinstance(about, dict) and about.get("format") == FORMAT and isinstance(about.get("items"), int)
    if not whole or not set(COLUMNS) <= set(table.column_names):
        raise DataError(
            "not a file of candidates for rows",
            where=f"{path} ({SETTING})",
            expected=f"{FORMAT} with {', '.join(COLUMNS)}",
            got=", ".join(table.column_names),
            todo=MAKE,
        )
    columns = {name: table[name].to_numpy() for name in COLUMNS}
    bad = ~np.isfinite(columns["score"])
    if bad.any():
        raise DataError("a score is not finite", where=f"{path}, row {int(bad.argmax())}", todo=MAKE)
    return columns, about


def _of_split(columns: dict[str, np.ndarray], split: Split, items: int, path: Path) -> np.ndarray:
    """Return the features float32 [R, 3] of a split's rows."""
    mine = np.flatnonzero(columns["split"] == split.name)
    mine = mine[np.argsort(columns["row"][mine], kind="stable")]
    same = len(mine) == len(split) and np.array_equal(columns["row"][mine], np.arange(len(split)))
    if not same or not (
        np.array_equal(columns["user_id"][mine], split.users) and np.array_equal(columns["item_id"][mine], split.target)
    ):
        raise DataError(
            f"the candidates are of other rows than those of {split.name}.parquet",
            where=f"{path} ({SETTING})",
            expected=f"a line for each of {len(split):,} rows, with its user_id and item_id",
            got=f"{len(mine):,} lines of {split.name}",
            todo=MAKE,
        )
    known = columns["known"][mine].astype(bool)
    rank = columns["rank"][mine].astype(np.float64)
    score = 1 + columns["score"][mine].astype(np.float64) / np.log(max(2, items))
    parts = [known, np.where(known, score, 0), np.where(known & (rank > 0), 1 / np.maximum(rank, 1), 0)]
    return np.stack(parts, axis=1).astype(np.float32)

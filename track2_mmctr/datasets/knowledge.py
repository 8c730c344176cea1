"""What rankers know of items and users beside the challenge's files: KAR's knowledge vectors, UIST's user codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from common.errors import ConfigError, DataError
from common.representation.table import FeatureTable
from track2_mmctr.config import FeatureConfig, KnowledgeConfig
from track2_mmctr.datasets.id_tables import (
    IdTable,
    Wanted,
    check_known,
    check_missing,
    encoders_of,
    id_table,
    open_table,
)

if TYPE_CHECKING:
    from track2_mmctr.datasets.tables import Split, SplitName

KNOWLEDGE, CODES = "knowledge", "codes"


@dataclass(frozen=True, eq=False)
class Knowledge:
    """Knowledge vectors of items and of users, either of which may be absent."""

    items: IdTable | None
    users: IdTable | None

    def shuffled(self, seed: int) -> Self:
        """Return the same vectors dealt to other items and users at random: the placebo of a benchmark."""
        items, users = (None if table is None else table.shuffled(seed) for table in (self.items, self.users))
        return replace(self, items=items, users=users)

    def parts(self) -> list[str | bytes]:
        """Return all that a ranker reads of it, for a digest."""
        found: list[str | bytes] = []
        for name, table in (("items", self.items), ("users", self.users)):
            found += ["no", name] if table is None else [name, *table.parts()]
        return found


@dataclass(frozen=True, eq=False)
class UserCodes:
    """Semantic tokens of users.

    Attributes
    ----------
    table
        Codes int32 [M, L], coarse to fine.
    sizes
        Codes of each level.
    version
        Of the tokenizer: a model refuses codes of another.
    """

    table: IdTable
    sizes: tuple[int, ...]
    version: str

    def parts(self) -> list[str | bytes]:
        """Return all that a ranker reads of it, for a digest."""
        return [self.version, str(self.sizes), *self.table.parts()]


def knowledge_of(
    features: FeatureConfig, items: int, splits: Mapping[SplitName, Split], notes: list[str]
) -> Knowledge | None:
    """Read what `features.knowledge` names; None where both tables are "none".

    Parameters
    ----------
    items
        Rows of the item table.
    splits
        Their users need a row each.
    notes
        Takes remarks on items and users without a row.

    Raises
    ------
    ConfigError
        No such file.
    DataError
        Damaged, not finite, of another encoder than asked for or than the other table, unknown items, more items or
        users without a row than `allow_missing`.
    """
    config = features.knowledge
    if config.items == "none" and config.users == "none":
        return None
    found: dict[str, IdTable] = {}
    encoders: dict[str, object] = {}
    everything = (("items", config.items, "item_id"), ("users", config.users, "user_id"))
    for what, path, id_name in everything:
        if path == "none":
            continue
        setting = f"features.knowledge.{what}"
        raw = open_table(path, setting, id_name, KNOWLEDGE)
        encoders[what] = check_encoder(raw, config, path)
        about = f"{raw.about.get('method', '')} {sorted(encoders_of(raw).items())}"
        table = found[what] = id_table(raw, KNOWLEDGE, np.float32, about)
        if what == "items":
            check_known(table, items, path, setting)
        wanted = Wanted.items(items, splits) if what == "items" else Wanted.users(splits)
        if remark := check_missing(what, table, wanted, config.allow_missing, path, "features.knowledge"):
            notes.append(remark)
    if len(encoders) == 2 and encoders["items"] != encoders["users"]:
        raise DataError(
            "the knowledge of items and of users comes from two encoders",
            where=f"{config.items}, {config.users}",
            expected=encoders["items"],
            got=encoders["users"],
            todo="take two tables of one run: python -m track2_mmctr embed --method kar",
        )
    return Knowledge(found.get("items"), found.get("users"))


def check_encoder(table: FeatureTable, config: KnowledgeConfig, path: str) -> str:
    """Return a table's encoder; refuse another one than `features.knowledge.encoder`."""
    encoder = ", ".join(str(name) for _, name in sorted(encoders_of(table).items()))
    if config.encoder not in ("", encoder):
        raise DataError(
            "the knowledge vectors are of another encoder",
            where=path,
            expected=f"{config.encoder} (features.knowledge.encoder)",
            got=encoder or "a table that names none",
            todo="use the table of that encoder, or train again with this one's",
        )
    return encoder


def user_codes_of(features: FeatureConfig, splits: Mapping[SplitName, Split], notes: list[str]) -> UserCodes | None:
    """Read what `features.user_semantic_ids` names; None where it is "none".

    Raises
    ------
    ConfigError
        No such file, or more levels asked for than it has.
    DataError
        Damaged, codes outside their codebook or of another version, more users without a row than `allow_missing`.
    """
    path, config = features.user_semantic_ids, features.user_sid
    if path == "none":
        return None
    setting = "features.user_semantic_ids"
    raw = open_table(path, setting, "user_id", CODES)
    codes, sizes, version = checked_codes(raw, path)
    if config.version not in ("", version):
        raise DataError(
            "the user codes are of another version",
            where=path,
            expected=f"{config.version} (features.user_sid.version)",
            got=version,
            todo="use the table of that version, or train again with this one's",
        )
    levels = config.levels or len(sizes)
    if levels > len(sizes):
        expected = f"0 (all), 1..{len(sizes)}"
        raise ConfigError(
            "more levels than the table has", where="features.user_sid.levels", expected=expected, got=levels
        )
    table = id_table(replace(raw, columns={**raw.columns, CODES: codes[:, :levels]}), CODES, np.int32, version)
    remark = check_missing("users", table, Wanted.users(splits), config.allow_missing, path, "features.user_sid")
    if remark:
        notes.append(remark)
    return UserCodes(table, sizes[:levels], version)


def checked_codes(table: FeatureTable, path: object) -> tuple[np.ndarray, tuple[int, ...], str]:
    """Return codes [N, L], codes of each level and version of a table of codes.

    Raises
    ------
    DataError
        No sizes or version, no integers, or a code outside its codebook.
    """
    codes, sizes, version = table.columns[CODES], table.about.get("sizes"), table.about.get("version")
    whole = codes.dtype.kind in "iu" and isinstance(sizes, list) and len(sizes) == codes.shape[1]
    if not whole or not isinstance(version, str) or not all(isinstance(size, int) and size > 0 for size in sizes or ()):
        raise DataError(
            "not a table of codes",
            where=path,
            expected="integer codes [N, L], with sizes and version",
            got=f"{codes.dtype} {list(codes.shape)}, sizes {sizes}, version {version}",
        )
    limits = np.asarray(sizes)
    outside = (codes < 0) | (codes >= limits)
    if outside.any():
        row, level = np.argwhere(outside)[0]
        raise DataError(
            "a code is outside its codebook",
            where=f"{path}, {table.id_name} {table.ids[row]}, level {level}",
            expected=f"0..{limits[level] - 1}",
            got=int(codes[row, level]),
        )
    return codes, tuple(int(size) for size in limits), version

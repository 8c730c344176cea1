"""What STORE knows of items: their texts, and for the auxiliary tasks their categories and longer texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import DataError
from common.generative.item_sources import item_texts
from common.generative.systems import Prepared
from common.hashing import digest


@dataclass(frozen=True)
class StoreItems:
    """Texts of N items.

    Attributes
    ----------
    texts
        One an item, none of them empty: what its dense tokens are made of.
    longer, categories
        What the auxiliary tasks tell, "" where an item has none; None: no such task.
    """

    texts: list[str]
    longer: list[str] | None = None
    categories: list[str] | None = None

    def __post_init__(self) -> None:
        if not self.texts:
            raise DataError("no items", where="item texts", expected="one text an item")
        for row, text in enumerate(self.texts):
            if not text.strip():
                raise DataError("an item without text", where=f"item row {row}", todo="give it one, its ID at least")
        for name, found in (("longer texts", self.longer), ("categories", self.categories)):
            if found is not None and len(found) != len(self.texts):
                raise DataError(f"{name} of other items", expected=f"{len(self.texts)}", got=len(found))

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def digest(self) -> str:
        """SHA-256 over all texts."""
        parts = ("|".join(map(repr, one)) if one is not None else None for one in self.fields())
        return digest(*parts)

    def fields(self) -> tuple[list[str] | None, ...]:
        """Return texts, longer texts and categories."""
        return self.texts, self.longer, self.categories

    def words(self) -> list[str]:
        """Return all texts in one list: what a vocabulary is made of."""
        return [text for one in self.fields() if one is not None for text in one]


def store_items(run: Prepared) -> StoreItems:
    """Return the items of a run.

    An item's text is the first line of the data's text; what stands on later lines is its longer text. Without texts
    it is "item ID", which `item_texts` tells. Longer texts and categories come from `store.items.file` where that is
    given. What auxiliary tasks there are, is told.

    Raises
    ------
    DataError
        The file lacks a column or an item.
    """
    config, say = run.config.store.items, run.say
    whole, _ = item_texts(run)
    parted = [text.strip().partition("\n") for text in whole]
    texts, rest = [head.strip() for head, _, _ in parted], [" ".join(tail.split()) for _, _, tail in parted]
    longer = rest if any(rest) else None
    categories = None
    if config.file is not None:
        ids = [str(one) for one in run.data.item_ids.tolist()]
        columns = read_columns(config.file, ids, [name for name in (config.longer, config.category) if name])
        longer = columns[config.longer] if config.longer else longer
        categories = columns[config.category] if config.category else None
    items = StoreItems(texts, longer, categories)
    if run.config.store.dense.auxiliary:
        say(f"auxiliary tasks of the dense tokenizer: {_auxiliary(items)}")
    return items


def read_columns(path: Path, ids: list[str], columns: list[str]) -> dict[str, list[str]]:
    """Return string columns of a parquet file with item_id, in the order of `ids`; missing values are "".

    Raises
    ------
    DataError
        Not such a file, a column that is not there, an item that is twice there or not at all.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        lacking = [name for name in ("item_id", *columns) if name not in names]
        if lacking:
            raise DataError("no such column", where=path, expected=", ".join(lacking), got=", ".join(names))
        table = pq.read_table(path, columns=list(dict.fromkeys(["item_id", *columns])))
    except (OSError, pa.ArrowException) as error:
        raise DataError("not readable as parquet", where=path, got=str(error)) from None
    keys = [str(one) for one in table["item_id"].to_pylist()]
    row = {key: place for place, key in enumerate(keys)}
    if len(row) < len(keys):
        twice = next(key for place, key in enumerate(keys) if row[key] != place)
        raise DataError("an item is there twice", where=path, got=twice)
    unknown = [one for one in ids if one not in row]
    if unknown:
        raise DataError(
            f"{len(unknown):,} of {len(ids):,} items are not in the file", where=path, got=", ".join(unknown[:5])
        )
    found: dict[str, list[str]] = {}
    for name in columns:
        values = table[name].to_pylist()
        found[name] = ["" if (value := values[row[one]]) is None else " ".join(str(value).split()) for one in ids]
    return found


def _auxiliary(items: StoreItems) -> str:
    """Return the auxiliary tasks in words."""
    told = [
        f"{name} ({sum(map(bool, found)):,} of {len(items):,} items)"
        for name, found in (("category", items.categories), ("longer text", items.longer))
        if found is not None and any(found)
    ]
    lacks = "none: texts have one line, and store.items names neither longer texts nor categories"
    return ", ".join(told) or lacks

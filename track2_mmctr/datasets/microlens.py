"""MicroLens_1M_MMCTR: the challenge's folder becomes the typed tables.

The folder holds::

    MicroLens_1M_x1/train.parquet, valid.parquet    rows with labels
    MicroLens_1M_x1/test.parquet                    rows with an ID, no labels; optional
    MicroLens_1M_x1/item_info.parquet               tags and the official embedding of each item
    item_feature.parquet                            titles, levels; optional
    item_emb.parquet, item_seq.parquet              checked when present; nothing here reads them
    answers.parquet                                 labels of the test set (planted data, MovieLens); optional

The optional files may be in MicroLens_1M_x1/ as well.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.atomic import write_text
from common.errors import DataError
from common.hashing import digest, file_digest
from track2_mmctr.config import DataConfig, FeatureConfig
from track2_mmctr.datasets.candidates import candidates_of
from track2_mmctr.datasets.items import check_unique, embedding_of, item_table, levels_from, read_features, read_info
from track2_mmctr.datasets.knowledge import knowledge_of, user_codes_of
from track2_mmctr.datasets.leaks import check_leaks
from track2_mmctr.datasets.packing import FORMAT, check_ids, check_labels, pack
from track2_mmctr.datasets.schema import Place, Table, flat, plain
from track2_mmctr.datasets.semantic_ids import semantic_ids_of
from track2_mmctr.datasets.tables import SPLITS, CtrData, Split, SplitName

INNER = "MicroLens_1M_x1"
WHERE = "see data/README.md for where the files come from, or `python data/make_sample.py` for a sample"


def find_folder(root: Path) -> Path:
    """Return the folder that holds MicroLens_1M_x1/: `root`/microlens, or `root` itself.

    Raises
    ------
    DataError
        Neither does.
    """
    for folder in (root / "microlens", root):
        if (folder / INNER).is_dir():
            return folder
    raise DataError(
        "no Track 2 data",
        where=root,
        expected=f"microlens/{INNER}/ or {INNER}/ in it",
        got=", ".join(sorted(p.name for p in root.iterdir())[:10]) or "an empty folder" if root.is_dir() else "nothing",
        todo=f"give the folder above {INNER}" if root.name == INNER else WHERE,
    )


def load_data(
    folder: Path,
    config: DataConfig,
    features: FeatureConfig,
    cache: Path,
    *,
    splits: Sequence[SplitName] = SPLITS,
) -> CtrData:
    """Read, check and pack the challenge's files.

    Parameters
    ----------
    folder
        The one that holds MicroLens_1M_x1/ (see `find_folder`).
    config
        What to do about leaks.
    features
        Which item embedding to read.
    cache
        Where packed splits are kept, by content: a second load reads no row of them.
    splits
        Which to read. A test set that is absent is a note, unless it is all that is asked for.

    Raises
    ------
    DataError
        A file is absent or damaged or breaks the schema, answers do not match the test set, or there are leaks
        and `config.leaks` is `error`. The message names file, row and column.
    """
    notes: list[str] = []
    info = read_info(folder / INNER / "item_info.parquet", features.embedding, notes)
    found: dict[SplitName, Split] = {}
    for name in SPLITS:
        if name not in splits:
            continue
        path = folder / INNER / f"{name}.parquet"
        if name == "test" and len(splits) > 1 and not path.is_file():
            notes.append("no test.parquet: nothing to predict for a submission")
            continue
        found[name] = _split(path, name, len(info), cache, notes)
    if "test" in found:
        found["test"] = with_answers(found["test"], folder, notes)
    table = _optional(folder, "item_feature.parquet")
    if table is not None:
        levels = read_features(table, len(info), notes)
    else:
        train = folder / INNER / "train.parquet"  # read even if not asked for: the items must be the same
        source = found.get("train") or (pack(train, "train", len(info), cache).split if train.is_file() else None)
        levels = levels_from(source, len(info), notes, "item_feature.parquet")
    codes = semantic_ids_of(features, len(info))
    knowledge = knowledge_of(features, len(info), found, notes)
    user_codes = user_codes_of(features, found, notes)
    candidates = candidates_of(features, found, notes)
    generator = "" if candidates is None else candidates.identity
    vectors = embedding_of(features.embedding, info)
    items = item_table(info, levels, vectors, codes, knowledge, user_codes, generator)
    _check_others(folder, len(info), cache, notes)
    notes += check_leaks(list(found.values()), config.leaks, cache)
    return CtrData(folder, found if candidates is None else candidates.attached(found), items, notes)


def _split(path: Path, name: SplitName, items: int, cache: Path, notes: list[str]) -> Split:
    packed = pack(path, name, items, cache)
    if packed.unread:
        notes.append(f"{path.name}: columns that are not read: {', '.join(packed.unread)}")
    if packed.split.label is not None and len(labels := np.unique(packed.split.label)) == 1:
        notes.append(f"{path.name}: every label is {labels[0]:g}: an AUC is not defined")
    return packed.split


def _optional(folder: Path, name: str) -> Path | None:
    """Return a file that may be beside MicroLens_1M_x1/ or in it; two of the same name are an error."""
    present = [path for path in (folder / name, folder / INNER / name) if path.is_file()]
    if len(present) > 1:
        raise DataError(
            f"{name} is there twice", where=present[1], expected=f"only {present[0]}", todo="remove one of them"
        )
    return present[0] if present else None


def with_answers(test: Split, folder: Path, notes: list[str]) -> Split:
    """Return the test split with the labels (and true log-odds) of answers.parquet, joined by ID, if it is there."""
    path = _optional(folder, "answers.parquet")
    if path is None:
        return test
    assert test.ids is not None  # noqa: S101 - a test file has IDs
    table = Table(path, {"ID": "integer", "label": "number"}, {"oracle": "number"})
    ids = table.read("ID")
    check_ids(ids, path)
    if not np.array_equal(order := np.sort(ids), np.sort(test.ids)):
        extra, lost = np.setdiff1d(order, test.ids), np.setdiff1d(test.ids, order)
        raise Place(path, "ID").error(
            "the answers are not those of the test set",
            expected=f"the {len(test):,} IDs of test.parquet",
            got=f"{len(ids):,} IDs; {len(extra):,} unknown{_first(extra)}, {len(lost):,} without answer{_first(lost)}",
            todo="remove answers.parquet if it belongs to other data",
        )
    rows = np.argsort(ids, kind="stable")[np.searchsorted(order, test.ids)]
    label = table.read("label")
    check_labels(label, Place(path, "label"))
    oracle = table.read("oracle") if "oracle" in table else None
    if oracle is not None:
        bad = ~np.isfinite(oracle)
        Place(path, "oracle").refuse(bad, oracle, "a log-odds is not finite", "finite numbers")
        oracle = oracle[rows]
    notes.append(f"test labels are those of {path.name}: the real test set has none")
    if test.label is not None:
        notes.append(f"test.parquet has labels too: those of {path.name} are used")
    content = digest("answered", test.digest, file_digest(path))
    return replace(test, label=label[rows].astype(np.float32), oracle=oracle, digest=content)


def _first(ids: np.ndarray) -> str:
    return f" (first: {ids[0]})" if len(ids) else ""


def _check_others(folder: Path, items: int, cache: Path, notes: list[str]) -> None:
    """Check item_emb.parquet and item_seq.parquet. Nothing here reads them, so that their faults stop nothing."""
    for name, check in (("item_emb.parquet", _check_item_emb), ("item_seq.parquet", _check_item_seq)):
        path = _optional(folder, name)
        if path is None:
            continue
        try:
            check(path, items, cache)
        except DataError as error:
            fault = "; ".join(line.strip() for line in error.block().splitlines())
            notes.append(f"{name} has a fault (nothing here reads it): {fault}")


def _check_item_emb(path: Path, items: int, _: Path) -> None:
    ids, place = Table(path, {"item_id": "integer"}).read("item_id"), Place(path, "item_id")
    place.refuse((ids < 0) | (ids >= items), ids, "an item id is outside the item table", f"0..{items - 1}")
    check_unique(ids, place)


def _check_item_seq(path: Path, items: int, cache: Path) -> None:
    """Check all sequences, once for each content of the file: it has some 6 million rows."""
    table = Table(path, {"user_id": "integer", "item_seq": "integers"})
    done = cache / "track2" / f"checked-{digest('item_seq', FORMAT, items, file_digest(path))[:32]}.json"
    if done.is_file():
        return
    for first, batch in table.batches(what="checking item_seq"):
        plain(batch.column("user_id"), Place(path, "user_id", first))
        place = Place(path, "item_seq", first)
        values, lengths = flat(batch.column("item_seq"), place)
        outside = (values < 0) | (values >= items)
        if outside.any():
            at = int(np.argmax(outside))
            row = int(np.searchsorted(np.cumsum(lengths), at, side="right"))
            raise place.error(
                "an item id is outside the item table", row=row, expected=f"0..{items - 1}", got=int(values[at])
            )
    write_text(done, json.dumps({"rows": table.rows}))

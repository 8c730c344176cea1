"""The readers on bad data: each fault is found, and told with file, row, column, expected and got."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import ConfigError, DataError
from tests.track2.ctr_files import FOLDER, Planted, edit, list_column, put, write_layout
from track2_mmctr.config import DataConfig, FeatureConfig
from track2_mmctr.datasets import leaks, schema
from track2_mmctr.datasets.microlens import load_data
from track2_mmctr.datasets.tables import SPLITS, CtrData, Split

Change = Callable[[pa.Table], pa.Table]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "BATCH_ROWS", 16)  # so that row numbers are those of the file, not of a batch


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return write_layout(tmp_path / "data", rows=60, eval_rows=40)


def load(folder: Path, *, leaks: str = "warn", embedding: str = "auto") -> CtrData:
    config = DataConfig.model_validate({"leaks": leaks})
    return load_data(folder, config, FeatureConfig(embedding=embedding), folder.parent / "cache")


def at(column: str, row: int, value: object) -> Change:
    """Change one value of a column."""

    def change(table: pa.Table) -> pa.Table:
        values = table[column].to_pylist()
        values[row] = value
        return put(table, column, pa.array(values, table[column].type))

    return change


def drop(column: str) -> Change:
    return lambda table: table.drop_columns(column)


def typed(column: str, kind: pa.DataType) -> Change:
    return lambda table: put(table, column, table[column].cast(kind))


def twice(column: str) -> Change:
    return lambda table: table.append_column(column, table[column])


SEQ = [0] * 9
TRAIN, TEST, INFO = f"{FOLDER}/train.parquet", f"{FOLDER}/test.parquet", f"{FOLDER}/item_info.parquet"
FEATURE, ANSWERS = "item_feature.parquet", "answers.parquet"
FAULTS: list[tuple[str, Change, str, str, str]] = [
    # file, change, what, place, expected or got
    (TRAIN, drop("likes_level"), "train.parquet has no column likes_level", "column likes_level", "integers"),
    (TRAIN, drop("label"), "no column label", "column label", "numbers"),
    (TEST, drop("ID"), "test.parquet has no column ID", "column ID", "integers"),
    (TRAIN, twice("user_id"), "column user_id is given 2 times", "column user_id", "integers"),
    (TRAIN, typed("item_id", pa.string()), "column item_id has another type", "column item_id", "string"),
    (TRAIN, typed("item_id", pa.float64()), "column item_id has another type", "column item_id", "double"),
    (TRAIN, typed("item_seq", pa.list_(pa.float64())), "item_seq has another type", "column item_seq", "list<"),
    (TRAIN, lambda t: put(t, "item_seq", t["item_id"]), "another type", "column item_seq", "a list of integers"),
    (TRAIN, lambda t: t.slice(0, 0), "train.parquet has no rows", "train.parquet", "at least one row"),
    (TRAIN, at("user_id", 33, None), "a value is missing", "row 33, column user_id", "null"),
    (TRAIN, at("label", 17, None), "a value is missing", "row 17, column label", "null"),
    (TRAIN, at("label", 59, 2), "a label is neither 0 nor 1", "row 59, column label", "2"),
    (TRAIN, lambda t: at("label", 3, np.nan)(typed("label", pa.float32())(t)), "neither 0 nor 1", "row 3,", "nan"),
    (TRAIN, at("likes_level", 20, 11), "a level is out of range", "row 20, column likes_level", "0..10"),
    (TRAIN, at("views_level", 20, -1), "a level is out of range", "row 20, column views_level", "-1"),
    (TRAIN, at("item_id", 40, 51), "outside the item table", "row 40, column item_id", "1..50"),
    (TRAIN, at("item_id", 40, 0), "outside the item table", "row 40, column item_id", "1..50"),
    (TRAIN, at("item_id", 40, -7), "outside the item table", "row 40, column item_id", "-7"),
    (TRAIN, at("item_seq", 50, [*SEQ, 1, 2, 999]), "outside the item table", "row 50", "[999]"),
    (TRAIN, at("item_seq", 50, [*SEQ, 1, -2, 3]), "outside the item table", "row 50", "[-2]"),
    (TRAIN, at("item_seq", 35, [1, 2, 3]), "another length", "row 35, column item_seq", "12 values"),
    (TRAIN, at("item_seq", 35, [1] * 13), "another length", "row 35, column item_seq", "13"),
    (TRAIN, at("item_seq", 35, None), "a list is missing", "row 35, column item_seq", "null"),
    (TRAIN, at("item_seq", 35, [*SEQ, 1, None, 3]), "a missing value", "row 35", "null"),
    (TRAIN, at("item_seq", 18, [1, 2, 3, *SEQ]), "padded on the right", "row 18", "oldest, ..., newest"),
    (TRAIN, at("item_seq", 18, [*SEQ, 1, 0, 3]), "a 0 after a real item", "row 18", "0, 1, 0, 3]"),
    (TRAIN, at("item_seq", 18, [4, 0, *SEQ, 3]), "a 0 after a real item", "row 18", "[4, 0"),
    (TEST, lambda t: at("ID", 39, t["ID"][5].as_py())(t), "an ID is given twice", "row 39", "once"),
    (ANSWERS, lambda t: at("ID", 39, t["ID"][5].as_py())(t), "an ID is given twice", "row 39", "once"),
    (ANSWERS, at("ID", 9, 10_000), "not those of the test set", "column ID", "1 unknown (first: 10000)"),
    (ANSWERS, lambda t: t.slice(3), "not those of the test set", "column ID", "3 without answer"),
    (ANSWERS, at("label", 21, 5), "a label is neither 0 nor 1", "answers.parquet, row 21", "5"),
    (INFO, at("item_id", 30, 29), "an item id is given twice", "row 30, column item_id", "29"),
    (INFO, at("item_id", 30, -4), "an item id is negative", "row 30, column item_id", "-4"),
    (INFO, at("item_id", 30, 51), "1 item ids between 0 and the largest are missing", "item_id", "no row for 30"),
    (INFO, at("item_id", 30, 10**15), "item ids between 0 and the largest are missing", "item_id", "no row for 30, 51"),
    (INFO, at("item_emb_d128", 0, [0.0] * 127 + [1e-9]), "item 0 is the padding", "row 0,", "zeros"),
    (INFO, at("item_tags", 0, [0, 0, 3, 0, 0]), "item 0 is the padding", "row 0, column item_tags", "3"),
    (INFO, at("item_emb_d128", 44, [float("nan")] * 128), "NaN or infinite", "row 44", "finite"),
    (INFO, at("item_emb_d128", 44, [0.0] * 127 + [float("inf")]), "NaN or infinite", "row 44", "finite"),
    (INFO, at("item_emb_d128", 44, [1e300] * 128), "too large for float32", "row 44", "3e38"),
    (INFO, at("item_emb_d128", 44, [1.0] * 127), "another length", "row 44", "127"),
    (INFO, at("item_emb_d128", 44, None), "a list is missing", "row 44, column item_emb_d128", "null"),
    (INFO, lambda t: put(t, "item_emb_d128", list_column(np.ones((51, 4)))), "another length", "row 0,", "128 values"),
    (INFO, at("item_tags", 12, [1, 2]), "another length", "row 12, column item_tags", "5 values"),
    (INFO, at("item_tags", 12, [1, 2, 3, 4, -5]), "a tag id is out of range", "row 12", "-5"),
    (INFO, at("item_tags", 12, [1, 2, 3, 4, 10**9]), "a tag id is out of range", "row 12", "1000000000"),
    (FEATURE, at("likes_level", 20, 12), "a level is out of range", "row 20, column likes_level", "12"),
    (FEATURE, at("item_id", 20, 20), "an item id is given twice", "row 20, column item_id", "20"),
    (FEATURE, at("item_id", 20, 77), "outside the item table", "row 20, column item_id", "0..50"),
    (FEATURE, drop("views_level"), "item_feature.parquet has no column views_level", "column views_level", "integers"),
    (FEATURE, lambda t: put(t, "item_title", t["item_id"]), "has another type", "column item_title", "strings"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "change", "what", "place", "detail"), FAULTS)
def test_each_fault_is_told(planted: Planted, file: str, change: Change, what: str, place: str, detail: str) -> None:
    path = edit(planted.folder / file, change)
    with pytest.raises(DataError) as caught:
        load(planted.folder)
    error = caught.value
    assert what in error.what
    assert str(error.where).startswith(str(path))
    assert place in str(error.where).replace(" (counted from 0)", "")
    assert detail in f"{error.expected} {error.got}"
    assert not list((planted.folder.parent / "cache").rglob("manifest.json")) or file != TRAIN


@pytest.mark.parametrize("file", [TRAIN, f"{FOLDER}/valid.parquet", INFO])
def test_a_missing_file_is_named(planted: Planted, file: str) -> None:
    path = planted.folder / file
    path.unlink()
    with pytest.raises(DataError) as caught:
        load(planted.folder)
    assert caught.value.what == f"{path.name} is missing"
    assert caught.value.where == path.parent


@pytest.mark.parametrize("file", [TRAIN, TEST, INFO, FEATURE, ANSWERS])
@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.999])
def test_a_truncated_file_is_one_clear_message(planted: Planted, file: str, keep: float) -> None:
    path = planted.folder / file
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    with pytest.raises(DataError) as caught:
        load(planted.folder)
    assert caught.value.what == "the parquet file cannot be read"
    assert caught.value.where == path
    assert "\n" not in str(caught.value.got)


def test_damaged_pages_are_one_clear_message(planted: Planted) -> None:
    path = planted.folder / TRAIN
    edit(path, lambda t: t, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    file = pq.ParquetFile(path)
    chunk = file.metadata.row_group(0).column(1)
    start = chunk.data_page_offset + 30
    data[start : start + 60] = b"\xff" * 60
    path.write_bytes(bytes(data))
    with pytest.raises(DataError) as caught:
        load(planted.folder)
    assert caught.value.what == "the parquet file cannot be read"
    assert caught.value.where == path


def test_faults_of_files_that_nothing_reads_are_said_and_stop_nothing(planted: Planted) -> None:
    path = planted.folder / "item_seq.parquet"
    lists = pa.array([[1]] * 20 + [[], [2, 3], [4, 51]], pa.list_(pa.int64()))
    pq.write_table(pa.table({"user_id": np.arange(23), "item_seq": lists}), path)
    emb = pa.table({"item_id": [1, 2, 2], "e": list_column(np.ones((3, 4)))})
    pq.write_table(emb, planted.folder / "item_emb.parquet")
    for _ in range(2):  # a fault is not taken for checked
        first, second = [note for note in load(planted.folder).notes if "has a fault" in note]
        assert "item_emb.parquet, row 2 (counted from 0), column item_id" in first and "given twice" in first
        assert "item_seq.parquet, row 22 (counted from 0), column item_seq" in second
        assert "outside the item table" in second and "expected: 0..50; got:      51" in second
    path.write_bytes(path.read_bytes()[:100])
    assert any("cannot be read" in note for note in load(planted.folder).notes)


# --- an embedding file ---


def write_embedding(path: Path, ids: np.ndarray, vectors: np.ndarray, **more: object) -> str:
    pq.write_table(pa.table({"item_id": ids, "item_emb_d128": list_column(vectors), **more}), path)
    return str(path)


def test_items_without_embedding_are_counted_and_named(planted: Planted, tmp_path: Path) -> None:
    ids = np.setdiff1d(np.arange(1, 51), [3, 7, 9])
    path = write_embedding(tmp_path / "e.parquet", ids, np.ones((47, 128)))
    with pytest.raises(DataError, match=r"3 items have no embedding[\s\S]*none for item 3, 7, 9"):
        load(planted.folder, embedding=path)


def test_an_embedding_of_other_items_is_refused(planted: Planted, tmp_path: Path) -> None:
    path = write_embedding(tmp_path / "e.parquet", np.arange(1, 60), np.ones((59, 128)))
    with pytest.raises(DataError, match=r"outside the item table[\s\S]*0\.\.50[\s\S]*51"):
        load(planted.folder, embedding=path)


@pytest.mark.parametrize(("dim", "bad", "what"), [(96, 0.0, "another length"), (128, np.nan, "NaN or infinite")])
def test_an_embedding_file_is_checked(planted: Planted, tmp_path: Path, dim: int, bad: float, what: str) -> None:
    vectors = np.ones((50, dim))
    vectors[31, 5] = bad
    path = write_embedding(tmp_path / "e.parquet", np.arange(1, 51), vectors)
    with pytest.raises(DataError, match=what):
        load(planted.folder, embedding=path)


def test_an_embedding_of_item_0_must_be_zeros(planted: Planted, tmp_path: Path) -> None:
    path = write_embedding(tmp_path / "e.parquet", np.arange(51), np.ones((51, 128)))
    with pytest.raises(DataError, match="item 0 is the padding"):
        load(planted.folder, embedding=path)


def test_an_embedding_file_with_two_candidates_or_none_is_refused(planted: Planted, tmp_path: Path) -> None:
    two = pa.table(
        {"item_id": np.arange(1, 51), "a": list_column(np.ones((50, 4))), "b": list_column(np.ones((50, 4)))}
    )
    pq.write_table(two, tmp_path / "e.parquet")
    with pytest.raises(DataError, match="not clear which column"):
        load(planted.folder, embedding=str(tmp_path / "e.parquet"))
    with pytest.raises(ConfigError, match="no such embedding"):
        load(planted.folder, embedding=str(tmp_path / "absent.parquet"))


# --- leaks ---


def own(table: pa.Table) -> pa.Table:
    """Put the targets of rows 5, 20 and 21 into their own histories."""
    sequences = np.array(table["item_seq"].to_pylist())
    targets = table["item_id"].to_numpy()
    for row, column in ((5, 11), (20, 11), (21, 0)):
        sequences[row, column] = targets[row]
    sequences[21, 1:] = np.where(sequences[21, 1:] == 0, 1 + targets[21] % 50, sequences[21, 1:])
    return put(table, "item_seq", list_column(sequences))


def test_targets_in_their_own_history_are_told(planted: Planted) -> None:
    edit(planted.folder / TRAIN, own)
    label = planted.labels["train"]
    (note,) = [note for note in load(planted.folder).notes if "history" in note]
    assert note.startswith(
        "train.parquet: in 3 of 60 rows the target is already in the row's own history (first: row 5"
    )
    assert f"{label[[5, 20, 21]].mean():.1%} of them are positive, {label.mean():.1%} of all rows" in note
    with pytest.raises(DataError, match=r"train\.parquet: in 3 of 60 rows"):
        load(planted.folder, leaks="error")
    assert not [note for note in load(planted.folder, leaks="ignore").notes if "history" in note]


def test_targets_in_the_user_s_history_of_an_earlier_split_are_told(planted: Planted) -> None:
    row = int(np.argmax((planted.sequences["train"] > 0).sum(1)))
    item = int(planted.sequences["train"][row, -1])
    path = planted.folder / TEST
    edit(path, lambda t: at("user_id", 13, int(planted.users["train"][row]))(at("item_id", 13, item)(t)))
    test = planted.sequences["test"][13]
    edit(path, at("item_seq", 13, [0] * 12))
    notes = [note for note in load(planted.folder).notes if "history" in note]
    assert len(notes) == 1
    assert "test.parquet: in 1 of 40 rows the target is already in the same user's history in train.parquet" in notes[0]
    assert "first: row 13" in notes[0]
    edit(path, at("user_id", 13, 999_999))  # another user: no leak
    assert not [note for note in load(planted.folder).notes if "history" in note]
    assert len(test) == 12


def random_split(name: str, rng: np.random.Generator, rows: int) -> Split:
    lengths = rng.integers(0, 6, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    history = rng.integers(1, 15, offsets[-1]).astype(np.int32)
    users, target = rng.integers(-3, 12, rows), rng.integers(1, 15, rows).astype(np.int32)
    levels = np.zeros((rows, 2), np.int32)
    return Split(name, users, history, offsets, target, levels, None, None, name)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("chunk", [1, 10, 10_000])
def test_leaks_equal_a_search_row_by_row(seed: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "CHUNK", chunk)
    rng = np.random.default_rng(seed)
    earlier, split = random_split("train", rng, 40), random_split("valid", rng, 30)

    def histories(one: Split) -> list[set[int]]:
        return [set(one.history[one.offsets[r] : one.offsets[r + 1]].tolist()) for r in range(len(one))]

    seen: dict[int, set[int]] = {}
    for user, items in zip(earlier.users.tolist(), histories(earlier), strict=True):
        seen.setdefault(user, set()).update(items)
    targets = split.target.tolist()
    mine = [row for row, items in enumerate(histories(split)) if targets[row] in items]
    theirs = [row for row, user in enumerate(split.users.tolist()) if targets[row] in seen.get(user, set())]
    assert mine and theirs
    assert leaks.own_history(split).tolist() == mine
    assert leaks.earlier_history(split, earlier).tolist() == theirs


def test_good_data_has_no_leak(planted: Planted) -> None:
    assert set(load(planted.folder, leaks="error").splits) == set(SPLITS)

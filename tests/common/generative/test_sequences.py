"""Readers of sequences, the leave-one-out split, histories; bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import DataError
from common.generative.microlens_sequences import longest_rows
from common.generative.sequence_files import load_sequences
from common.generative.sequences import Sequences, from_lists, leave_one_out, next_items, whole

INTER: dict[str, Any] = {"10": [3, 1, 2], "9": [2, 1], "11": [1, 3, 2, 10]}


def write(folder: Path, inter: Any = None, index: Any = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "Toy.inter.json").write_text(json.dumps(INTER if inter is None else inter))
    if index is not None:
        (folder / "Toy.index.json").write_text(json.dumps(index))
    return folder


def ids_of(sequences: Sequences) -> dict[Any, list[Any]]:
    return {
        user: sequences.item_ids[sequences.items[a:b]].tolist()
        for user, a, b in zip(sequences.users.tolist(), sequences.offsets, sequences.offsets[1:], strict=False)
    }


def test_inter_json_keeps_order_and_sorts_ids_by_value(tmp_path: Path) -> None:
    found = load_sequences(write(tmp_path))
    assert found.item_ids.tolist() == [1, 2, 3, 10]
    assert ids_of(found) == {int(user): items for user, items in INTER.items()}
    assert (found.name, found.texts, found.embeddings, found.published) == ("Toy", None, None, None)


def test_text_ids_are_kept_as_text(tmp_path: Path) -> None:
    found = load_sequences(write(tmp_path, {"ann": ["b", "a", "01"]}))
    assert found.item_ids.tolist() == ["01", "a", "b"]
    assert ids_of(found) == {"ann": ["b", "a", "01"]}


def test_index_json_is_read_by_item_whatever_its_order(tmp_path: Path) -> None:
    index = {str(item): [f"<a_{item}>", f"<b_{7 - item % 4}>"] for item in (10, 2, 3, 1, 99)}
    found = load_sequences(write(tmp_path, index=index))
    assert found.published is not None
    assert found.published.tolist() == [[item, 7 - item % 4] for item in (1, 2, 3, 10)]
    assert any("1 IDs" in note for note in found.notes)


@pytest.mark.parametrize(
    ("tokens", "what"),
    [
        (None, "have no published ID"),
        (["<a_1>"], "another form"),
        (["<b_1>", "<a_1>"], "another form"),
        (["<a_1>", 3], "another form"),
        ("<a_1>", "another form"),
    ],
)
def test_an_index_that_misses_items_or_has_other_tokens_is_refused(tmp_path: Path, tokens: Any, what: str) -> None:
    index = {str(item): ["<a_1>", f"<b_{item}>"] for item in (1, 2, 3)} | ({} if tokens is None else {"10": tokens})
    with pytest.raises(DataError, match=what):
        load_sequences(write(tmp_path, index=index))


def test_texts_and_vectors_are_joined_by_id_and_bring_new_items(tmp_path: Path) -> None:
    ids = [10, 3, 2, 1, 50]
    vectors = [[float(one), 0.5] for one in ids]
    table = pa.table({"item_id": ids, "title": [f"t{one}" for one in ids], "emb": vectors})
    pq.write_table(table, write(tmp_path) / "items.parquet")
    found = load_sequences(tmp_path)
    assert found.item_ids.tolist() == [1, 2, 3, 10, 50]
    assert found.texts == ["t1", "t2", "t3", "t10", "t50"]
    assert found.embeddings is not None and found.embeddings[:, 0].tolist() == [1, 2, 3, 10, 50]
    assert ids_of(found)[10] == [3, 1, 2]


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"item_id": [1, 2, 3], "title": ["a", "b", "c"]}, "not in the item file"),
        ({"item_id": [1, 2, 3, 10, 10], "title": list("abcde")}, "twice"),
        ({"item_id": [1, 2, 3, 10], "emb": [[1.0], [1.0], [1.0], [1.0, 2.0]]}, "different lengths"),
        ({"item_id": [1, 2, 3, 10], "emb": [[1.0], [1.0], [1.0], [float("nan")]]}, "not finite"),
        ({"item_id": [1], "one": [[1.0]], "two": [[1.0]]}, "several columns"),
    ],
)
def test_bad_item_files(tmp_path: Path, columns: dict[str, Any], what: str) -> None:
    pq.write_table(pa.table(columns), write(tmp_path) / "items.parquet")
    with pytest.raises(DataError, match=what):
        load_sequences(tmp_path)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "not readable as JSON"),
        ("[1]", "not an object"),
        ('{"1": [1], "1": [2]}', "given twice"),
        ('{"1": 5}', "another form"),
        ('{"1": [1.5]}', "another form"),
        ('{"1": [true]}', "another form"),
        ('{"1": [null]}', "another form"),
        ("{}", "no interactions"),
        ('{"1": []}', "no interactions"),
    ],
)
def test_bad_inter_files(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "X.inter.json").write_text(text)
    with pytest.raises(DataError, match=what):
        load_sequences(tmp_path)


def test_empty_absent_and_doubled_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no sequences here"):
        load_sequences(tmp_path)
    with pytest.raises(DataError, match="no such data folder"):
        load_sequences(tmp_path / "nowhere")
    for name in ("A", "B"):
        (tmp_path / f"{name}.inter.json").write_text("{}")
    with pytest.raises(DataError, match="several data sets"):
        load_sequences(tmp_path)


# --- a Track 2 data root ---


def microlens(root: Path, rows: list[tuple[int, list[int]]], info: list[int] | None = None) -> Path:
    (root / "MicroLens_1M_x1").mkdir(parents=True)
    users, lists = zip(*rows, strict=True)
    pq.write_table(
        pa.table({"user_id": users, "item_seq": pa.array(lists, pa.list_(pa.int64()))}), root / "item_seq.parquet"
    )
    if info is not None:
        table = pa.table({"item_id": info, "item_emb_d128": [[float(one), 1.0] for one in info]})
        pq.write_table(table, root / "MicroLens_1M_x1" / "item_info.parquet")
    return root


def test_of_several_rows_a_user_the_longest_is_kept_whatever_the_padding(tmp_path: Path) -> None:
    rows = [(2, [0, 0, 5, 6]), (1, [4, 5]), (2, [5, 6, 7]), (1, [0, 4, 5, 9]), (2, [6, 7, 0])]
    found = load_sequences(microlens(tmp_path / "microlens", rows, [0, 4, 5, 6, 7, 8, 9]).parent)
    assert ids_of(found) == {1: [4, 5, 9], 2: [5, 6, 7]}
    assert found.item_ids.tolist() == [4, 5, 6, 7, 8, 9]
    assert found.embeddings is not None and found.embeddings[:, 0].tolist() == [4, 5, 6, 7, 8, 9]
    assert [note for note in found.notes if "neither" in note] == []


def test_rows_that_do_not_fold_into_the_longest_are_counted(tmp_path: Path) -> None:
    found = load_sequences(microlens(tmp_path, [(1, [4, 5, 6, 7]), (1, [5, 6]), (1, [9]), (1, [4])]))
    assert ids_of(found) == {1: [4, 5, 6, 7]}
    assert any(note.startswith("2 left-out rows") for note in found.notes)


def test_longest_rows_against_a_plain_loop() -> None:
    rng = np.random.default_rng(3)
    rows = [(int(rng.integers(20)), rng.integers(1, 9, rng.integers(0, 6)).tolist()) for _ in range(200)]
    users = np.array([user for user, _ in rows])
    offsets = np.concatenate([[0], np.cumsum([len(one) for _, one in rows])])
    found = longest_rows(users, np.array([i for _, one in rows for i in one]), offsets)
    wanted: dict[int, list[int]] = {}
    for user, one in rows:
        if user not in wanted or len(one) > len(wanted[user]):
            wanted[user] = one
    lists = np.split(found[1], found[2][1:-1])
    assert dict(zip(found[0].tolist(), [one.tolist() for one in lists], strict=True)) == dict(sorted(wanted.items()))


def test_train_parquet_appends_liked_targets_only(tmp_path: Path) -> None:
    folder = tmp_path / "MicroLens_1M_x1"
    folder.mkdir()
    table = pa.table({"user_id": [1, 2], "item_seq": [[0, 3], [0, 4]], "item_id": [5, 6], "label": [1, 0]})
    pq.write_table(table, folder / "train.parquet")
    assert ids_of(load_sequences(tmp_path)) == {1: [3, 5], 2: [4]}


def test_microlens_items_that_no_file_has_and_bad_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="in no item file"):
        load_sequences(microlens(tmp_path / "a", [(1, [4, 5, 77])], [0, 4, 5]))
    folder = tmp_path / "b"
    folder.mkdir()
    pq.write_table(pa.table({"user_id": [1]}), folder / "item_seq.parquet")
    with pytest.raises(DataError, match="not readable as sequences"):
        load_sequences(folder)


# --- split and histories ---


def test_leave_one_out_by_hand() -> None:
    data = from_lists([np.array([0, 1, 2, 3]), np.array([4, 5]), np.array([6, 7, 8])], 9)
    split = leave_one_out(data)
    assert split.train.items.tolist() == [0, 1, 4, 5, 6]
    assert (split.valid.targets.tolist(), split.test.targets.tolist()) == ([2, 7], [3, 8])
    assert [one.tolist() for one in split.valid.histories] == [[0, 1], [6]]
    assert [one.tolist() for one in split.test.histories] == [[0, 1, 2], [6, 7]]
    assert split.test.histories.users.tolist() == [0, 2]
    assert [one.tolist() for one in split.examples.histories] == [[0], [4]]
    assert split.examples.targets.tolist() == [1, 5]
    assert split.notes == ("1 users with fewer than 3 items only train",)


def test_no_held_out_item_reaches_the_training_part() -> None:
    rng = np.random.default_rng(1)
    lists = [np.arange(start, start + n) for start, n in zip(range(0, 2000, 40), rng.integers(1, 40, 50), strict=True)]
    split = leave_one_out(from_lists(lists, 2100))  # every item occurs once: a leak would show by its number
    held = set(split.valid.targets.tolist()) | set(split.test.targets.tolist())
    assert not held & set(split.train.items.tolist())
    assert not held & set(split.examples.histories.items.tolist())


def test_nobody_to_evaluate_is_an_error() -> None:
    with pytest.raises(DataError, match="no user can be evaluated"):
        leave_one_out(from_lists([np.array([0, 1])], 2))


def test_padded_keeps_the_last_items() -> None:
    data = from_lists([np.array([1, 2, 3]), np.array([], int), np.array([4])], 5)
    items, mask = whole(data).padded(2)
    assert items.tolist() == [[2, 3], [0, 0], [4, 0]]
    assert mask.tolist() == [[True, True], [False, False], [True, False]]
    assert len(next_items(data)) == 2


def test_unknown_ids_are_named(tmp_path: Path) -> None:
    data = load_sequences(write(tmp_path))
    assert data.rows_of([10, "1"], "items").tolist() == [3, 0]
    with pytest.raises(DataError, match="1 of 2 items"):
        data.rows_of([1, 77], "items")
    with pytest.raises(DataError, match="users"):
        data.user_rows(["nobody"])

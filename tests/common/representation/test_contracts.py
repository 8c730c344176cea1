"""What all methods share: tokens, items, histories, and the table of features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import DataError
from common.representation.inputs import Behaviour, Items, Tokens
from common.representation.table import FORMAT, FeatureTable, read_features

IDS = np.array([30, 10, 20])


def tokens(values: np.ndarray, mask: np.ndarray) -> Tokens:
    return Tokens(values.astype(np.float32), mask, "encoder@1")


def some_tokens() -> Tokens:
    values = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    return tokens(values, np.array([[True, True], [True, False], [False, False]]))


def test_the_mean_is_of_real_tokens_whatever_stands_in_the_masked_ones() -> None:
    made = some_tokens()
    np.testing.assert_array_equal(made.mean(), [made.values[0].mean(0), made.values[1, 0], np.zeros(4)])
    values = made.values.copy()
    values[~made.mask] = np.nan
    dirty = tokens(values, made.mask)
    dirty.check("image", IDS)  # nobody reads a masked token
    np.testing.assert_array_equal(dirty.mean(), made.mean())
    np.testing.assert_array_equal(dirty.present, [True, True, False])


def test_a_real_token_that_is_not_finite_is_named_by_its_item() -> None:
    values = some_tokens().values.copy()
    values[1, 0, 2] = np.inf
    with pytest.raises(DataError, match="item 10"):
        Items(IDS, ["", "", ""], {"image": tokens(values, some_tokens().mask)})
    with pytest.raises(DataError, match=r"\[3, T, D\]"):
        Items(IDS, ["", "", ""], {"image": tokens(values[:2], some_tokens().mask[:2])})


def test_items_are_taken_whole_and_their_digest_sees_every_part() -> None:
    items = Items(IDS, ["a", "b", "c"], {"image": some_tokens()}, np.array([0, 1, 0]), ("x", "y"))
    part = items.take(np.array([2, 0]))
    assert part.ids.tolist() == [20, 30] and list(part.texts) == ["c", "a"] and part.domain_of.tolist() == [0, 0]
    np.testing.assert_array_equal(part.modalities["image"].values, some_tokens().values[[2, 0]])
    moved = some_tokens().mask.copy()
    moved[2, 1] = True
    others = [
        Items(IDS + 1, ["a", "b", "c"], {"image": some_tokens()}, items.domains, ("x", "y")),
        Items(IDS, ["a", "bc", ""], {"image": some_tokens()}, items.domains, ("x", "y")),
        Items(IDS, ["a", "b", "c"], {"text": some_tokens()}, items.domains, ("x", "y")),
        Items(IDS, ["a", "b", "c"], {"image": tokens(some_tokens().values, moved)}, items.domains, ("x", "y")),
        Items(IDS, ["a", "b", "c"], {"image": some_tokens()}, 1 - np.array([0, 1, 0]), ("x", "y")),
        Items(IDS, ["a", "b", "c"], {"image": some_tokens()}, items.domains, ("x", "z")),
    ]
    assert len({items.digest(), *(other.digest() for other in others)}) == 1 + len(others)


@pytest.mark.parametrize(
    ("ids", "texts", "domains"),
    [([1, 1, 2], ["", "", ""], None), ([1, 2, 3], [""], None), ([1, 2, 3], [""] * 3, [0, 1, 2])],
)
def test_items_that_do_not_fit_are_refused(ids: list[int], texts: list[str], domains: list[int] | None) -> None:
    own = None if domains is None else np.array(domains)
    with pytest.raises(DataError):
        Items(np.array(ids), texts, domains=own, domain_names=("x", "y"))


def test_histories_of_some_users() -> None:
    made = Behaviour(np.array([7, 8, 9]), np.array([2, 0, 1]), np.array([0, 2, 2, 3]))
    part = made.take(np.array([2, 0]))
    assert part.users.tolist() == [9, 7] and part.lengths.tolist() == [1, 2]
    assert [part.history(row).tolist() for row in range(2)] == [[1], [2, 0]]
    assert len(made.take(np.zeros(0, np.int64))) == 0 and made.history(1).tolist() == []


@pytest.mark.parametrize(
    ("users", "items", "offsets", "named"),
    [
        ([1, 1], [0], [0, 1, 1], "two histories"),
        ([1, 2], [0, 5], [0, 1, 2], "5"),
        ([1, 2], [-4, 0], [0, 1, 2], "-4"),
        ([1, 2], [0, 1], [0, 2, 1], "ascending"),
        ([1, 2], [0, 1], [0, 1], "ascending"),
    ],
)
def test_histories_that_do_not_fit_are_refused(
    users: list[int], items: list[int], offsets: list[int], named: str
) -> None:
    with pytest.raises(DataError, match=named):
        Behaviour(np.array(users), np.array(items), np.array(offsets)).check(3)


def test_a_table_comes_back_as_it_was_and_equal_tables_are_equal_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {"embedding": rng.normal(size=(3, 5)).astype(np.float32), "codes": rng.integers(0, 9, (3, 2))}
    about = {"method": "uist", "sizes": [9, 9]}
    for name in ("a", "b"):
        FeatureTable(IDS, dict(columns), dict(about), "user_id").write(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    back = read_features(tmp_path / "a")
    assert back.ids.tolist() == IDS.tolist() and back.id_name == "user_id" and back.about == about
    assert back.columns["codes"].dtype == np.int32
    for name, values in columns.items():
        np.testing.assert_array_equal(back.columns[name], values)


@pytest.mark.parametrize(
    ("ids", "values", "named"),
    [
        ([1, 1, 2], np.zeros((3, 2), np.float32), "two rows"),
        ([1, 2, 3], np.zeros((2, 2), np.float32), "another shape"),
        ([1, 2, 3], np.array([[0.0], [np.nan], [1.0]], np.float32), "item_id 2"),
    ],
)
def test_features_that_do_not_fit_are_refused(ids: list[int], values: np.ndarray, named: str) -> None:
    with pytest.raises(DataError, match=named):
        FeatureTable(np.array(ids), {"embedding": values})


def damaged(path: Path, how: str) -> None:
    ids, lists = pa.array([1, 2]), pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2))
    about = {"mirc": json.dumps({"format": FORMAT})}
    columns = {"item_id": ids, "embedding": lists}
    if how == "other format":
        about = {"mirc": json.dumps({"format": "mirc-features-0"})}
    elif how == "no description":
        about = {}
    elif how == "broken description":
        about = {"mirc": "{"}
    elif how == "description of another type":
        about = {"mirc": "[1]"}
    elif how == "both ids":
        columns["user_id"] = ids
    elif how == "plain column":
        columns["embedding"] = pa.array([1.0, 2.0])
    elif how == "null row":
        columns["embedding"] = pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))
    elif how == "null value":
        columns["embedding"] = pa.array([[1, None], [3, 4]], pa.list_(pa.int32(), 2))
    pq.write_table(pa.table(columns).replace_schema_metadata(about), path)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    "how",
    [
        "other format",
        "no description",
        "broken description",
        "description of another type",
        "both ids",
        "plain column",
        "null row",
        "null value",
        "truncated",
    ],
)
def test_a_damaged_or_foreign_file_is_one_error(how: str, tmp_path: Path) -> None:
    damaged(tmp_path / "whole", "nothing")
    assert len(read_features(tmp_path / "whole").ids) == 2
    damaged(tmp_path / "t", how)
    with pytest.raises(DataError):
        read_features(tmp_path / "t")
    with pytest.raises(DataError, match="missing"):
        read_features(tmp_path / "absent")

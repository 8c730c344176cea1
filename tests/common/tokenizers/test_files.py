"""Files of vectors and of semantic IDs: what is read is what was written, and each fault is named."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import DataError
from common.tokenizers.files import SidFile, read_sids, read_vectors, write_sids

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def lists(rows: list[list[float | None] | None], **columns: list[int]) -> pa.Table:
    return pa.table({"emb": pa.array(rows, pa.list_(pa.float32())), **columns})


def test_npy_is_memory_mapped_and_parquet_lists_give_the_same_vectors(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    ids, x = read_vectors(tmp_path / "x.npy")
    assert isinstance(x, np.memmap)
    assert ids.tolist() == list(range(6))
    np.testing.assert_array_equal(x, X)
    pq.write_table(lists(X.tolist(), item_id=[9, 4, 7, 1, 2, 3]), tmp_path / "x.parquet")
    ids, x = read_vectors(tmp_path / "x.parquet")
    assert ids.tolist() == [9, 4, 7, 1, 2, 3]
    np.testing.assert_array_equal(x, X)
    fixed = pa.table({"v": pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 4), "title": ["a"] * 6})
    pq.write_table(fixed, tmp_path / "fixed.parquet")
    np.testing.assert_array_equal(read_vectors(tmp_path / "fixed.parquet")[1], X)


def test_column_chooses_among_several_lists(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": X.tolist(), "b": (2 * X).tolist()}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"which column[\s\S]*--column[\s\S]*a, b"):
        read_vectors(tmp_path / "x.parquet")
    np.testing.assert_allclose(read_vectors(tmp_path / "x.parquet", "b")[1], 2 * X, rtol=1e-6)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (lists([[1.0, 2.0], [3.0]]), r"different lengths[\s\S]*row 1, column emb[\s\S]*2[\s\S]*1"),
        (lists([[1.0, 2.0], None]), r"missing[\s\S]*row 1"),
        (lists([[1.0, 2.0], [3.0, None]]), r"null[\s\S]*row 1"),
        (lists([[1.0], [2.0]], item_id=[5, 5]), r"occurs twice[\s\S]*5"),
        (pa.table({"title": ["a"]}), "no column of float lists"),
    ],
)
def test_faults_of_a_table_are_named(tmp_path: Path, table: pa.Table, message: str) -> None:
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match=message):
        read_vectors(tmp_path / "x.parquet")


def test_what_is_no_file_of_vectors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"not numpy")
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    np.save(tmp_path / "codes.npy", np.zeros((3, 2), dtype=np.int64))
    for name in ("x.npy", "x.parquet", "codes.npy", "absent.npy"):
        with pytest.raises(DataError):
            read_vectors(tmp_path / name)


SIDS = SidFile(np.array([7, 3, 5]), np.array([[0, 1], [1, 0], [1, 1]], dtype=np.int32), (2, 2), "ab12")


def test_ids_come_back_by_item_with_sizes_and_version(tmp_path: Path) -> None:
    write_sids(tmp_path / "ids.parquet", SIDS)
    back = read_sids(tmp_path / "ids.parquet")
    assert back.item_ids.tolist() == [3, 5, 7]
    assert back.sids.tolist() == [[1, 0], [1, 1], [0, 1]]
    assert (back.sizes, back.version) == ((2, 2), "ab12")
    first = (tmp_path / "ids.parquet").read_bytes()
    write_sids(tmp_path / "ids.parquet", SIDS)
    assert (tmp_path / "ids.parquet").read_bytes() == first


@pytest.mark.parametrize(
    ("sids", "message"),
    [([[0, 1], [0, 1], [1, 1]], "same semantic ID"), ([[0, 1], [1, 2], [1, 1]], r"outside its codebook[\s\S]*level 1")],
)
def test_tampered_ids_are_refused(tmp_path: Path, sids: list[list[int]], message: str) -> None:
    write_sids(tmp_path / "ids.parquet", SidFile(SIDS.item_ids, np.array(sids, dtype=np.int32), (2, 2), "ab12"))
    with pytest.raises(DataError, match=message):
        read_sids(tmp_path / "ids.parquet")


def test_ids_without_a_version_or_with_other_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ids.parquet"
    pq.write_table(pa.table({"item_id": [1], "sid_0": [0]}), path)
    with pytest.raises(DataError, match=r"names no version[\s\S]*encode"):
        read_sids(path)
    meta = {b"mirc_semantic_ids": json.dumps({"sizes": [4, 4], "version": "x"}).encode()}
    pq.write_table(pa.table({"item_id": [1], "sid_0": [0]}).replace_schema_metadata(meta), path)
    with pytest.raises(DataError, match="other columns"):
        read_sids(path)

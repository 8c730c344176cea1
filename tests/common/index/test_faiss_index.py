"""FAISS behind the Index contract, against numpy's brute force."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.errors import DataError
from common.index.base import choose_kind, pq_parts
from common.index.faiss_index import FaissIndex
from tests.common.index.vectors import brute, clustered, recall

KINDS = ("flat", "hnsw", "ivfpq")


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    vectors = clustered(6000, 32, 60, seed=1)
    rng = np.random.default_rng(2)
    queries = vectors[rng.integers(6000, size=40)] + 0.05 * rng.normal(size=(40, 32)).astype(np.float32)
    return vectors, rng.permutation(20_000)[:6000].astype(np.int64), queries.astype(np.float32)


def build(kind: str, vectors: np.ndarray, ids: np.ndarray) -> FaissIndex:
    index = FaissIndex(vectors.shape[1], kind, threads=1)  # type: ignore[arg-type]
    index.add(vectors, ids)
    return index


@pytest.mark.parametrize(("kind", "least"), [("flat", 1.0), ("hnsw", 0.95), ("ivfpq", 0.5)])
def test_recall_against_brute_force(kind, least, planted):
    vectors, ids, queries = planted
    scores, found = build(kind, vectors, ids).search(queries, 10)
    expected = brute(vectors, ids, queries, 10)
    assert scores.shape == found.shape == (40, 10) and scores.dtype == np.float32 and found.dtype == np.int64
    assert (np.diff(scores, axis=1) <= 0).all()
    assert recall(found, expected) >= least
    shuffled = np.random.default_rng(3).permutation(ids)  # a placebo: right vectors under wrong ids
    assert recall(build(kind, vectors, shuffled).search(queries, 10)[1], expected) < 0.1
    if kind == "flat":
        assert (found == expected).all()
        np.testing.assert_allclose(scores, -np.sort(-(queries @ vectors.T), axis=1)[:, :10], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_filter(kind, planted):
    vectors, ids, queries = planted
    allowed = np.sort(ids[::7])
    index = build(kind, vectors, ids)
    _, found = index.search(queries, 5, allowed)
    kept = np.isin(ids, allowed)
    expected = brute(vectors[kept], ids[kept], queries, 5)
    assert np.isin(found, np.append(allowed, -1)).all()
    assert recall(found, expected) >= {"flat": 1.0, "hnsw": 1.0, "ivfpq": 0.5}[kind]
    few, unknown = ids[:3], np.asarray([10**9])
    scores, found = index.search(queries, 5, np.concatenate([few, unknown]))
    assert (np.sort(found[:, :3], axis=1) == np.sort(few)).all()
    assert (found[:, 3:] == -1).all() and np.isneginf(scores[:, 3:]).all()
    assert (index.search(queries, 5, unknown)[1] == -1).all()
    assert (index.search(queries, 5, np.empty(0, np.int64))[1] == -1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_many_candidates_are_filtered_inside_the_index(kind, planted, monkeypatch):
    monkeypatch.setattr("common.index.faiss_index.FEW_CANDIDATES", 0)
    vectors, ids, queries = planted
    kept = np.arange(len(ids)) % 3 > 0
    _, found = build(kind, vectors, ids).search(queries, 5, ids[kept])
    assert np.isin(found, ids[kept]).all()
    assert recall(found, brute(vectors[kept], ids[kept], queries, 5)) >= {"flat": 1.0, "hnsw": 0.9, "ivfpq": 0.4}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load_give_the_same_results_and_bytes(kind, planted, tmp_path):
    vectors, ids, queries = planted
    index = build(kind, vectors, ids)
    index.save(tmp_path / "a")
    build(kind, vectors, ids).save(tmp_path / "b")
    for name in ("index.faiss", "ids.npy", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    again = FaissIndex.load(tmp_path / "a")
    for one, other in zip(index.search(queries, 7), again.search(queries, 7), strict=True):
        np.testing.assert_array_equal(one, other)
    again.add(vectors[:1], np.asarray([77_777]))
    assert len(again) == 6001
    again.save(tmp_path / "a")  # replaces the old one
    assert len(FaissIndex.load(tmp_path / "a")) == 6001


@pytest.mark.parametrize("name", ["index.faiss", "ids.npy", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_a_data_error(name, damage, planted, tmp_path):
    vectors, ids, _ = planted
    build("flat", vectors, ids).save(tmp_path / "index")
    path = tmp_path / "index" / name
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        place = data.index(b'"vectors": 6000') + 12 if name == "manifest.json" else len(data) // 2
        data[place] ^= 1
        path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        FaissIndex.load(tmp_path / "index")
    assert str(tmp_path / "index") in str(caught.value)


def test_manifest_naming_a_file_elsewhere_is_refused(planted, tmp_path):
    vectors, ids, _ = planted
    build("flat", vectors, ids).save(tmp_path / "index")
    path = tmp_path / "index" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["sha256"]["../secret"] = "0"
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError):
        FaissIndex.load(tmp_path / "index")


def test_few_candidates_get_the_scores_of_the_whole_index_to_the_bit(planted, monkeypatch):
    vectors, ids, queries = planted
    index = build("flat", np.concatenate([vectors, vectors[:50]]), np.concatenate([ids, 20_000 + np.arange(50)]))
    allowed = np.concatenate([ids[:60], 20_000 + np.arange(50), ids[100:130]])
    few = index.search(queries, 20, allowed)
    monkeypatch.setattr("common.index.faiss_index.FEW_CANDIDATES", 0)
    for one, other in zip(few, index.search(queries, 20, allowed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_ties_are_ordered_by_id_also_across_the_kth_place():
    vectors = np.ones((50, 4), np.float32)
    ids = np.random.default_rng(0).permutation(50).astype(np.int64)
    _, found = build("flat", vectors, ids).search(vectors[:2], 5)
    assert found.tolist() == [[0, 1, 2, 3, 4]] * 2


def test_fewer_vectors_than_k_and_an_empty_index(tmp_path):
    index = FaissIndex(3)
    assert index.search(np.ones((2, 3)), 4)[1].tolist() == [[-1] * 4] * 2
    index.save(tmp_path / "empty")
    again = FaissIndex.load(tmp_path / "empty")
    again.add(np.eye(3, dtype=np.float32)[:2], np.asarray([8, 4]))
    scores, ids = again.search(np.asarray([[0.0, 1.0, 0.0]]), 4)
    assert ids.tolist() == [[4, 8, -1, -1]] and scores[0, :2].tolist() == [1.0, 0.0]
    assert again.search(np.empty((0, 3)), 2)[0].shape == (0, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused(value):
    index = FaissIndex(2)
    bad = np.asarray([[0.0, 1.0], [value, 1.0]])
    with pytest.raises(DataError, match="row 1"):
        index.add(bad, np.asarray([1, 2]))
    assert len(index) == 0
    index.add(np.eye(2), np.asarray([1, 2]))
    with pytest.raises(DataError, match="not finite"):
        index.search(bad, 1)


def test_wrong_shapes_and_ids_are_refused():
    index = FaissIndex(2)
    with pytest.raises(DataError, match="shape"):
        index.add(np.ones((2, 3)), np.asarray([1, 2]))
    with pytest.raises(DataError, match="number"):
        index.add(np.ones((2, 2)), np.asarray([1]))
    with pytest.raises(DataError, match="negative"):
        index.add(np.ones((2, 2)), np.asarray([1, -2]))
    with pytest.raises(DataError, match="twice"):
        index.add(np.ones((2, 2)), np.asarray([1, 1]))
    index.add(np.ones((1, 2)), np.asarray([1]))
    with pytest.raises(DataError, match="twice"):
        index.add(np.ones((1, 2)), np.asarray([1]))
    with pytest.raises(DataError, match="too few"):
        FaissIndex(4, "ivfpq").add(np.ones((9, 4)), np.arange(9))


def test_kind_by_size_and_memory():
    for n in (0, 1000, 200_000):
        assert choose_kind(n, 384, 8 << 30) == "flat"
    assert choose_kind(200_001, 384, 8 << 30) == "hnsw"
    assert choose_kind(200_001, 384, 100 << 20) == "ivfpq"
    assert choose_kind(1000, 384, 1000) == "ivfpq"
    assert [pq_parts(d) for d in (384, 128, 30, 7, 2)] == [96, 32, 6, 1, 1]


def test_importing_the_module_does_not_load_faiss(root: Path):
    code = "import sys, common.index.faiss_index; sys.exit('faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0

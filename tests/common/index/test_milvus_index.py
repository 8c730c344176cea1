"""Milvus inside the process (milvus-lite) behind the Index contract, against flat FAISS and numpy."""

import gc
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError, DataError
from common.index.build import IndexSettings, make_index
from common.index.milvus_index import MilvusIndex
from tests.common.index.vectors import brute, build, clustered, faiss, integers, recall

pytest.importorskip("pymilvus", reason="Milvus is an extra: pip install -r requirements-cluster.txt")
pytest.importorskip("milvus_lite", reason="Milvus is an extra: pip install -r requirements-cluster.txt")

Planted = tuple[np.ndarray, np.ndarray, MilvusIndex]


def folder_digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    vectors, ids = integers(600, 8, 0)[0], np.arange(700)[::-1]
    vectors = np.concatenate([vectors, vectors[:100]])
    index = build(tmp_path_factory.mktemp("milvus"), vectors, ids)
    yield vectors, ids, index
    index.close()


@pytest.mark.parametrize("k", [1, 7, 300, 900])
@pytest.mark.parametrize("allowed", ["all", "few", "third", "most", "a run", "none", "unknown"])
def test_flat_is_flat_faiss_ties_and_candidates_and_all(planted: Planted, k: int, allowed: str) -> None:
    vectors, ids, index = planted
    chosen = {
        "all": None,
        "few": ids[[3, 300, 650]],
        "third": np.append(ids[::3], 10**6),
        "most": np.delete(ids, [5, 9, 400]),
        "a run": np.arange(100, 400),
        "none": np.empty(0, np.int64),
        "unknown": np.asarray([7000, 10**12]),
    }[allowed]
    expected = faiss(vectors, ids).search(vectors[:9], k, chosen)
    for one, other in zip(index.search(vectors[:9], k, chosen), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    if chosen is None:
        np.testing.assert_array_equal(expected[1][:, :600], brute(vectors, ids, vectors[:9], k)[:, :600])


def test_the_limits_of_a_server_change_nothing(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, ids, index = planted
    queries, choices = vectors[:20], (None, ids[::3], np.arange(100, 400), np.delete(ids, [5, 9, 400]))
    expected = [faiss(vectors, ids).search(queries, 70, chosen) for chosen in choices]
    for module in ("milvus_filter", "milvus_index", "milvus_collection"):
        monkeypatch.setattr(f"common.index.{module}.MOST_FOUND", 64)
    monkeypatch.setattr("common.index.milvus_filter.IDS_IN_FILTER", 60)
    monkeypatch.setattr("common.index.milvus_filter.RANGES_IN_FILTER", 2)
    monkeypatch.setattr("common.index.milvus_index._QUERIES", 7)
    for chosen, wanted in zip(choices, expected, strict=True):
        for one, other in zip(index.search(queries, 70, chosen), wanted, strict=True):
            np.testing.assert_array_equal(one, other)


def test_random_vectors_have_the_scores_of_faiss_and_numpy(tmp_path: Path) -> None:
    vectors = clustered(500, 24, 10, seed=3)
    ids, queries = np.arange(500) * 10**15, vectors[::25] + np.float32(0.01)
    index = build(tmp_path, vectors, ids)
    scores, found = index.search(queries, 9)
    expected = faiss(vectors, ids).search(queries, 9)
    np.testing.assert_allclose(scores, expected[0], atol=2e-6)
    np.testing.assert_array_equal(found, expected[1])
    np.testing.assert_array_equal(found, brute(vectors, ids, queries, 9))
    index.close()


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 12), st.integers(1, 3), st.integers(1, 15), st.integers(0, 10**6))
def test_small_sets_are_as_in_faiss(
    tmp_path_factory: pytest.TempPathFactory, n: int, dim: int, k: int, seed: int
) -> None:
    vectors, ids = integers(n, dim, seed)
    index, queries = build(tmp_path_factory.mktemp("small"), vectors, ids), vectors[: 1 + seed % 3]
    for chosen in (None, ids[::2]):
        for one, other in zip(
            index.search(queries, k, chosen), faiss(vectors, ids).search(queries, k, chosen), strict=True
        ):
            np.testing.assert_array_equal(one, other)
    index.close()


@pytest.mark.parametrize(("kind", "least"), [("hnsw", 0.95), ("ivf", 0.8), ("ivfsq8", 0.8)])
def test_approximate_kinds_find_most_and_compare_all_of_a_few(tmp_path: Path, kind: str, least: float) -> None:
    vectors = clustered(2000, 16, 20, seed=1)
    ids = np.random.default_rng(2).permutation(6000)[:2000].astype(np.int64)
    index, queries = build(tmp_path, vectors, ids, kind), vectors[:40] + np.float32(0.02)
    expected = brute(vectors, ids, queries, 10)
    assert recall(index.search(queries, 10)[1], expected) >= least
    kept = np.sort(ids[::7])
    inside = np.isin(ids, kept)
    found = index.search(queries, 5, kept)[1]
    assert np.isin(found, kept).all()
    assert recall(found, brute(vectors[inside], ids[inside], queries, 5)) >= (0.9 if kind == "ivfsq8" else 1.0)
    index.close()
    shuffled = build(tmp_path, vectors, np.roll(ids, 1000), kind)  # a placebo: right vectors under wrong ids
    assert recall(shuffled.search(queries, 10)[1], expected) < 0.1
    shuffled.close()


def test_kinds_that_are_not_to_be_had_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="flat, hnsw, ivf, ivfsq8"):
        MilvusIndex(4, "ivfpq", work=tmp_path)
    made = make_index(IndexSettings("milvus"), 4, "ivfpq", work=tmp_path)
    assert isinstance(made, MilvusIndex) and made.kind == "ivfsq8"


def test_wrong_vectors_and_ids_are_refused_and_change_nothing(tmp_path: Path) -> None:
    index = MilvusIndex(2, work=tmp_path)
    assert (index.search(np.ones((2, 2)), 3)[1] == -1).all()
    index.add(np.eye(2), np.asarray([7, 3]))
    for vectors, ids, match in (
        (np.ones((1, 2)), [3], "twice"),
        (np.ones((2, 2)), [1, 1], "twice"),
        (np.ones((1, 2)), [-1], "negative"),
        (np.ones((1, 3)), [1], "shape"),
        (np.asarray([[0.0, np.nan]]), [1], "not finite"),
        (np.ones((2, 2)), [1], "number"),
    ):
        with pytest.raises(DataError, match=match):
            index.add(vectors, np.asarray(ids))
    with pytest.raises(DataError, match="not finite"):
        index.search(np.asarray([[np.inf, 0.0]]), 1)
    assert len(index) == 2 and index.search(np.asarray([[0.0, 1.0]]), 3)[1].tolist() == [[3, 7, -1]]
    index.close()
    assert len(index) == 0 and (index.search(np.ones((1, 2)), 1)[1] == -1).all()
    index.add(np.eye(2), np.asarray([5, 6]))
    assert index.search(np.asarray([[0.0, 1.0]]), 1)[1].tolist() == [[6]]


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_saved_it_answers_alike_and_is_never_changed(tmp_path: Path, kind: str) -> None:
    vectors, ids = integers(300, 8, 4)
    index, queries = build(tmp_path / "work", vectors, ids, kind), vectors[:5]
    index.save(tmp_path / "saved")
    before, expected = folder_digest(tmp_path / "saved"), index.search(queries, 9)
    again = MilvusIndex.load(tmp_path / "saved", work=tmp_path / "other")
    for one, other in zip(again.search(queries, 9), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    again.add(9 * vectors[:1], np.asarray([10**9]))
    assert again.search(vectors[:1], 1)[1].tolist() == [[10**9]] and len(again) == 301
    again.save(tmp_path / "more")
    again.close()
    index.close()
    assert folder_digest(tmp_path / "saved") == before
    assert not list((tmp_path / "work" / "milvus").iterdir()) and not list((tmp_path / "other" / "milvus").iterdir())
    for folder, count in (("saved", 300), ("more", 301)):
        one = MilvusIndex.load(tmp_path / folder, work=tmp_path / "other")
        assert len(one) == count
        one.close()


def test_an_empty_index_is_saved_and_filled_later(tmp_path: Path) -> None:
    MilvusIndex(3, work=tmp_path).save(tmp_path / "empty")
    index = MilvusIndex.load(tmp_path / "empty", work=tmp_path)
    index.add(np.eye(3), np.asarray([4, 8, 2]))
    assert index.search(np.asarray([[0.0, 1.0, 0.0]]), 2)[1].tolist() == [[8, 2]]
    index.close()


def test_damage_is_a_data_error(tmp_path: Path) -> None:
    vectors, ids = integers(50, 4, 5)
    index = build(tmp_path, vectors, ids)
    folder = tmp_path / "saved"
    index.save(folder)
    index.close()
    names = ["manifest.json", "ids.npy", *(str(p.relative_to(folder)) for p in folder.rglob("*.parquet"))]
    assert len(names) == 3
    for name in names:
        data = (folder / name).read_bytes()
        for damage in (data[: len(data) // 2], bytes([data[0] ^ 1]) + data[1:], None):
            if damage is None:
                (folder / name).unlink()
            else:
                (folder / name).write_bytes(damage)
            with pytest.raises(DataError, match="damaged"):
                MilvusIndex.load(folder, work=tmp_path)
        (folder / name).write_bytes(data)
    (folder / "one_too_many").touch()
    with pytest.raises(DataError, match="damaged"):
        MilvusIndex.load(folder, work=tmp_path)
    assert not list((tmp_path / "milvus").iterdir())


def test_two_of_the_same_content_are_two(tmp_path: Path) -> None:
    vectors, ids = integers(40, 4, 6)
    first, second = (build(tmp_path, vectors, ids) for _ in range(2))
    first.close()
    second.add(vectors[:1] * 9, np.asarray([999]))
    assert second.search(vectors[:1], 1)[1].tolist() == [[999]]
    second.close()


def test_what_is_forgotten_goes(tmp_path: Path) -> None:
    vectors, ids = integers(40, 4, 7)
    index = build(tmp_path, vectors, ids)
    assert list((tmp_path / "milvus").iterdir())
    del index
    gc.collect()
    assert not list((tmp_path / "milvus").iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
import common.index.milvus_collection as collection
from common.index.milvus_server import Server
from tests.common.index.vectors import build, integers

collection._BATCH_BYTES, calls, call = 2000, 0, Server.call

def counted(self, name, *arguments, **options):
    global calls
    calls += name == "insert"
    if calls == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return call(self, name, *arguments, **options)

Server.call = counted
build(Path(sys.argv[1]), *integers(400, 8, 8))
"""


def test_a_killed_process_is_gone_on_from(tmp_path: Path, root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL and list((tmp_path / "milvus").iterdir())
    said: list[str] = []
    vectors, ids = integers(400, 8, 8)
    index = build(tmp_path, vectors, ids, say=said.append)
    assert said == ["milvus: 150 of 400 vectors are there from a run that was cut off"]
    np.testing.assert_array_equal(index.search(vectors[:5], 9)[1], faiss(vectors, ids).search(vectors[:5], 9)[1])
    index.close()
    assert not list((tmp_path / "milvus").iterdir())

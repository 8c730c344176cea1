"""What the engines of an index share: the table of ids, ties, the best of all; and how settings become an index."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError, DataError
from common.index.base import IdTable, best_of_all, ranked, widened
from common.index.build import IndexSettings, check_engine, make_index
from common.index.faiss_index import FaissIndex
from common.index.milvus_filter import filters

IDS = st.lists(st.integers(0, 60), unique=True, max_size=30)


@given(IDS, st.lists(st.integers(0, 80), max_size=30))
def test_rows_of_ids_are_found_and_ascend(ids: list[int], wanted: list[int]) -> None:
    table = IdTable(np.asarray(ids, np.int64))
    assert table.rows(np.asarray(wanted, np.int64)).tolist() == [row for row, one in enumerate(ids) if one in wanted]


@given(IDS, IDS)
def test_ids_are_joined_unless_one_is_there(ids: list[int], more: list[int]) -> None:
    table, new = IdTable(np.asarray(ids, np.int64)), np.asarray(more, np.int64)
    if set(ids) & set(more):
        with pytest.raises(DataError, match="twice"):
            table.joined(new, len(new))
    else:
        assert table.joined(new, len(new)).ids.tolist() == ids + more
    assert table.ids.tolist() == ids


@given(st.integers(1, 5), st.integers(1, 12), st.integers(1, 15), st.integers(0, 1000))
def test_ranking_is_by_score_then_id(queries: int, width: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 4, size=(queries, width)).astype(np.float32)
    ids = np.stack([rng.permutation(30)[:width] for _ in range(queries)])
    ids[rng.random(ids.shape) < 0.2] = -1
    scores, names = ranked(found, ids, k)
    for row in range(queries):
        expected = sorted((-score, one) for score, one in zip(found[row], ids[row], strict=True) if one >= 0)[:k]
        missing = k - len(expected)
        assert names[row].tolist() == [one for _, one in expected] + [-1] * missing
        assert scores[row].tolist() == [-score for score, _ in expected] + [-np.inf] * missing


@given(st.integers(1, 4), st.integers(1, 20), st.integers(1, 25), st.integers(0, 1000))
def test_the_best_of_all_are_those_of_a_stable_sort(queries: int, columns: int, wanted: int, seed: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 5, size=(queries, columns)).astype(np.float32)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :wanted]
    np.testing.assert_array_equal(best_of_all(scores, wanted), expected)


def test_a_tie_at_the_last_place_widens_an_exact_search_only() -> None:
    asked: list[int] = []

    def find(wanted: int) -> tuple[np.ndarray, np.ndarray]:
        asked.append(wanted)
        return np.ones((1, wanted), np.float32), np.arange(wanted)[None]

    widened(find, 3, 50, exact=True)
    assert asked == [4, 8, 16, 32, 50]
    asked.clear()
    widened(find, 3, 50, exact=False)
    assert asked == [4]


def let_through(text: str, ids: list[int]) -> list[int]:
    """Return the ids that a filter's text lets through, read in the three forms that it may have."""
    if not text:
        return ids
    if text.startswith(("id in", "id not in")):
        named = {int(one) for one in text[text.index("[") + 1 : -1].split(",")}
        return [one for one in ids if (one in named) == text.startswith("id in")]
    parts = [part.strip("()").replace("id ", "").split(" and ") for part in text.split(" or ")]
    tests = {"==": lambda a, b: a == b, ">=": lambda a, b: a >= b, "<=": lambda a, b: a <= b}
    return [one for one in ids if any(all(tests[t.split()[0]](one, int(t.split()[1])) for t in part) for part in parts)]


@settings(max_examples=200)
@given(st.lists(st.integers(0, 60), unique=True, min_size=1, max_size=30), st.data())
def test_filters_let_each_allowed_id_through_once(ids: list[int], data: st.DataObject) -> None:
    allowed = data.draw(st.none() | st.lists(st.sampled_from(ids), unique=True, min_size=1))
    wanted, limits = data.draw(st.integers(1, 20)), data.draw(st.tuples(*[st.integers(1, 6)] * 3))
    with pytest.MonkeyPatch.context() as patch:
        for name, limit in zip(("MOST_FOUND", "IDS_IN_FILTER", "RANGES_IN_FILTER"), limits, strict=True):
            patch.setattr(f"common.index.milvus_filter.{name}", limit)
        table = IdTable(np.asarray(ids, np.int64))
        made = filters(table, None if allowed is None else np.sort(np.asarray(allowed, np.int64)), wanted)
    through = [let_through(one.text, ids) for one in made]
    assert sorted(one for part in through for one in part) == sorted(ids if allowed is None else allowed)
    assert [len(one) for one in through] == [one.size for one in made]
    assert wanted <= limits[0] or all(one.size <= max(limits[:2]) for one in made)


def test_an_address_needs_milvus_and_an_engine_has_a_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--index milvus"):
        IndexSettings.of("faiss", "http://localhost:19530", "")
    with pytest.raises(ConfigError, match="faiss or milvus"):
        IndexSettings.of("qdrant", None, "")
    assert "sesame" not in repr(IndexSettings.of("milvus", None, "open:sesame"))
    assert isinstance(make_index(IndexSettings(), 4, "hnsw", work=tmp_path), FaissIndex)


def test_milvus_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("common.index.milvus_server.find_spec", lambda _: None)
    for call in (
        lambda: check_engine(IndexSettings("milvus")),
        lambda: make_index(IndexSettings("milvus", "http://localhost:1"), 4, "flat", work=tmp_path),
        lambda: make_index(IndexSettings("milvus"), 4, "flat", work=tmp_path).add(np.eye(4), np.arange(4)),
    ):
        with pytest.raises(ConfigError, match=r"pip install -r requirements-cluster\.txt"):
            call()
    assert list(tmp_path.glob("milvus/*")) == []

"""The typed tables and what is built on them: candidates, gold, scores, ties."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DataError
from tests.track1.text_tables import make_passages, make_queries
from track1_mdr.datasets.tables import Candidates, NoImages, Scored, TaskTables, top_k


def scored(rows: list[int], scores: list[float]) -> Scored:
    return Scored(np.asarray(rows, np.int64), np.asarray(scores, np.float32))


def test_queries_of_one_document_share_one_array_and_form_one_group() -> None:
    candidates = Candidates.by_document(["b", "a", "b"], ["a", "a", "b", "c"])
    assert [rows.tolist() for rows in candidates.rows] == [[2], [0, 1], [2]]
    groups = [(rows.tolist(), members) for rows, members in candidates.groups()]
    assert groups == [([2], [0, 2]), ([0, 1], [1])]


def test_everything_is_one_group_held_once() -> None:
    candidates = Candidates.everything(3, 5)
    assert len(candidates) == 3
    ((rows, members),) = candidates.groups()
    assert rows.tolist() == [0, 1, 2, 3, 4]
    assert members == [0, 1, 2]
    assert len({id(rows) for rows in candidates.rows}) == 1


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_groups_cover_every_query_once(documents: list[str]) -> None:
    candidates = Candidates.by_document(documents, list("aabccc"))
    members = [query for _, queries in candidates.groups() for query in queries]
    assert sorted(members) == list(range(len(documents)))
    assert len(candidates.groups()) == len(set(documents))


def test_documents_without_pages_are_named() -> None:
    with pytest.raises(DataError, match="2 documents of the questions have no pages") as caught:
        Candidates.by_document(["a", "x", "y", "x"], ["a"])
    assert caught.value.where == "x, y"


def tables(gold: dict[str, tuple[str, ...]]) -> TaskTables:
    passages = make_passages([("a", "one"), ("a", "two"), ("b", "three"), ("b", "four")])
    queries = make_queries([("?", "a"), ("?", "b"), ("?", "b")])
    candidates = Candidates.by_document(["a", "b", "b"], ["a", "a", "b", "b"])
    return TaskTables("mmdocir", passages, queries, candidates, gold)


def test_gold_pages_are_rows_of_the_question_s_own_document() -> None:
    """Page "0" of both documents has one id: the row depends on the question's document."""
    gold = tables({"q0": ("0",), "q2": ("1", "0")}).gold_rows()
    assert gold[0] is not None and gold[0].tolist() == [0]
    assert gold[1] is None
    assert gold[2] is not None and gold[2].tolist() == [3, 2]


def test_gold_that_is_no_candidate_is_an_error_that_names_the_question() -> None:
    with pytest.raises(DataError, match="gold passage is not among") as caught:
        tables({"q1": ("0", "7")}).gold_rows()
    assert "q1" in str(caught.value.where)
    assert caught.value.got == "7"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_name_route_question_and_row(bad: float) -> None:
    with pytest.raises(DataError, match="not finite") as caught:
        scored([3, 8], [1.0, bad]).check("dense", "q7")
    assert "route dense, question q7, passage row 8" in str(caught.value)


def test_a_passage_scored_twice_is_an_error_not_a_choice() -> None:
    with pytest.raises(DataError, match="scored twice"):
        scored([3, 5, 3], [1.0, 2.0, 3.0]).check("dense", "q")


def test_lengths_that_differ_are_an_error() -> None:
    with pytest.raises(DataError, match="differ in shape"):
        scored([3, 5], [1.0]).check("dense", "q")


def test_what_is_sound_passes_unchanged() -> None:
    result = scored([4, 1], [0.5, -2.0])
    assert result.check("dense", "q") is result
    assert len(Scored.empty().check("dense", "q").rows) == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.sampled_from([0.0, 1.0, 2.5])), unique_by=lambda p: p[0]), st.data())
def test_top_k_orders_ties_by_row_whatever_the_order_of_entry(
    pairs: list[tuple[int, float]], data: st.DataObject
) -> None:
    k = data.draw(st.integers(0, 10))
    shuffled = data.draw(st.permutations(pairs))
    expected = sorted(pairs, key=lambda p: (-p[1], p[0]))[:k]
    best = top_k(scored([r for r, _ in shuffled], [s for _, s in shuffled]), k)
    assert list(zip(best.rows.tolist(), best.scores.tolist(), strict=True)) == expected


def test_a_table_without_images_says_so_when_asked() -> None:
    images = NoImages(3)
    assert len(images) == 3
    assert images.key(1) is None
    with pytest.raises(DataError, match="no image"):
        images.load(1)


def test_texts_come_row_by_row() -> None:
    passages = make_passages([("a", "one"), ("a", "")])
    assert passages.texts == ["one", ""]
    assert passages.table.schema["text"] == pl.String

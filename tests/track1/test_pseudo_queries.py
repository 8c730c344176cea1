"""Pseudo-queries of pages, and the user's own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError, DataError
from tests.track1.text_tables import QUESTIONS, make_passages
from track1_mdr.app import query_overrides
from track1_mdr.cart_config import PseudoQueryConfig, QueryKind
from track1_mdr.config import CONFIG_FOLDER, RunConfig
from track1_mdr.datasets.tables import LAYOUT_SCHEMA, Passages
from track1_mdr.given_queries import read_given
from track1_mdr.pseudo_queries import (
    clean,
    join_lines,
    key_phrases,
    match_key,
    pseudo_queries,
    readable,
    sentences,
    split_page,
    windows,
)

PAGE = """ANNUAL REPORT
1. Market overview
The market for solar panels grew by 12.5% in 2021, according to Smith et al. Prices fell in all re-
gions of the country, and most of the growth came from roofs.
Figure 3: Installed capacity by region
. . . . . . . . . 7
T | j ~ _ 1l x
2 4 8 16
"""


def queries(pages: list[tuple[str, str]], **settings: object):
    return pseudo_queries(make_passages(pages), PseudoQueryConfig.model_validate(settings))


def by_kind(pages: list[tuple[str, str]], kind: str, **settings: object) -> list[tuple[int, str]]:
    found = queries(pages, **settings)
    rows = found.rows.tolist()
    return [(row, text) for row, text, k in zip(rows, found.texts, found.kinds, strict=True) if k == kind]


def test_a_page_is_cut_into_titles_captions_and_sentences() -> None:
    found = split_page(PAGE, PseudoQueryConfig())
    assert found["title"] == ["ANNUAL REPORT", "1. Market overview"]
    assert found["caption"] == ["Figure 3: Installed capacity by region"]
    assert found["sentence"] == [
        "The market for solar panels grew by 12.5% in 2021, according to Smith et al. Prices fell in all regions of "
        "the country, and most of the growth came from roofs."
    ]  # the full stop after "al" ends nothing, and the word that the line end cut is whole
    assert [len(t.split()) for t in split_page(PAGE, PseudoQueryConfig(max_words=20))["sentence"]] == [16, 15]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("See Fig. 3 here. It rose by 3.5 points.", ["See Fig. 3 here.", "It rose by 3.5 points."]),
        ("Written by J. Smith in U.S. Courts. Why? (Nobody knows.)", None),
        ("no end at all", ["no end at all"]),
    ],
)
def test_sentences(text: str, expected: list[str] | None) -> None:
    found = sentences(text)
    assert " ".join(found) == text  # nothing lost
    if expected is None:
        assert found == ["Written by J. Smith in U.S. Courts.", "Why?", "(Nobody knows.)"]
    else:
        assert found == expected


def test_lines_that_go_on_are_joined_and_others_are_not() -> None:
    long = "this is a line that is long enough to run on into the next"
    assert join_lines(f"{long}\nOne of them\nHeading\nbody starts small") == [
        f"{long} One of them",
        "Heading body starts small",
    ]
    assert join_lines("Ended.\nNew one\n\nAfter a blank\nFigure 2: caption") == [
        "Ended.",
        "New one",
        "After a blank",
        "Figure 2: caption",
    ]


def test_cleaning_and_noise() -> None:
    assert clean("ﬁnance\u200b  of ½\x07x . . . . . . 12") == "finance of 1⁄2 x 12"
    assert all(readable(text) for text in ("Revenue grew by 3.5%", "The cat", "Größe in Zürich", "a map of China"))
    assert not any(readable(text) for text in ("", "12 14 18", "T j ~ 1l| _ .x ;", "| | |", "a b c", "x1 y2 z3 Q4_"))


def test_windows_are_of_equal_length_and_lose_nothing() -> None:
    text = " ".join(map(str, range(50)))
    parts = windows(text, 32)
    assert [len(part.split()) for part in parts] == [25, 25]
    assert " ".join(parts) == text and windows("", 5) == []


def test_key_phrases_are_the_rare_runs_of_content_words() -> None:
    from collections import Counter

    frequency = Counter({"company": 90, "annual": 90, "report": 90, "lunar": 1, "rover": 1, "wheels": 2})
    found = key_phrases(
        "The company annual report. It is about lunar rover wheels, and lunar rover.", frequency, 100, 2
    )
    assert found == ["lunar rover wheels", "company annual report"]  # the part of a better phrase is left out


def test_layout_titles_stand_in_for_guessed_ones() -> None:
    passages = make_passages([("d", "Not A Title\nsome body text of the page")])
    blocks = pl.DataFrame(
        [(0, "title", "The real\ntitle", [0.0, 0, 1, 1]), (0, "text", "body", [0.0, 0, 1, 1])],
        schema=LAYOUT_SCHEMA,
        orient="row",
    )
    found = pseudo_queries(replace(passages, layouts=blocks), PseudoQueryConfig(kinds=("title",)))
    assert found.texts == ["The real title"] and found.rows.tolist() == [0]


def test_running_headers_are_left_out_and_repeats_kept_once() -> None:
    pages = [("d", f"The Header Of All\nPage body number {word} is here. Page body number {word} is here.") for word in
             ("one", "two", "three", "four")]  # fmt: skip
    assert by_kind(pages, "title", shared=3) == []
    assert by_kind(pages, "title", shared=4) == [(row, "The Header Of All") for row in range(4)]
    assert by_kind(pages, "sentence") == [(i, f"Page body number {w} is here.") for i, w in
                                          enumerate(("one", "two", "three", "four"))]  # fmt: skip


def test_a_page_has_at_most_its_places_and_sentences_are_spread_over_it() -> None:
    words = ["alpha", "beta", "gamma", "delta", "omega", "kappa", "sigma", "theta"]
    text = " ".join(f"The {a} follows every {b} there." for a in words for b in words if a != b)
    found = queries([("d", text)], per_page=8, phrases=20)
    assert len(found) == 8 and found.kinds.count("sentence") >= 4
    spread = by_kind([("d", text)], "sentence", per_page=3, kinds=["sentence"])
    every = by_kind([("d", text)], "sentence", per_page=500, kinds=["sentence"])
    assert [t for _, t in spread] == [every[0][1], every[28][1], every[-1][1]]
    assert len(every) == 56


def test_only_what_stands_on_the_page_and_only_the_kinds_asked_for() -> None:
    passages = make_passages()
    found = pseudo_queries(passages, PseudoQueryConfig())
    for text, row in zip(found.texts, found.rows.tolist(), strict=True):
        assert match_key(text) in match_key(passages.texts[row])
    asked = {match_key(question) for question, _, _ in QUESTIONS}
    assert not asked & {match_key(text) for text in found.texts}
    kinds: tuple[QueryKind, ...] = ("phrase",)
    assert set(pseudo_queries(passages, PseudoQueryConfig(kinds=kinds)).kinds) == {"phrase"}


def test_a_page_of_which_nothing_is_fit_gives_its_words_and_an_empty_one_nothing() -> None:
    found = queries([("d", "§ cat ~ | % x"), ("d", " "), ("d", "7 8 9")])
    assert (found.texts, found.rows.tolist()) == (["cat x"], [0])
    assert len(queries([])) == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=200), max_size=6))
def test_any_text_gives_clean_distinct_queries_of_bounded_length(texts: list[str]) -> None:
    pages = [("d", text) for text in texts]
    config = {"per_page": 5, "max_words": 8}
    found = queries(pages, **config)
    again = queries(pages, **config)
    assert (found.texts, found.kinds) == (again.texts, again.kinds)
    assert np.bincount(found.rows, minlength=1).max(initial=0) <= 5
    assert (np.diff(found.rows) >= 0).all()
    for text in found.texts:
        assert text == " ".join(text.split()) and 1 <= len(text.split()) <= 12
    pairs = list(zip(found.rows.tolist(), map(match_key, found.texts), strict=True))
    assert len(set(pairs)) == len(pairs)


# --- the user's own ---

ROWS = [("d", "1", "how fast do loans grow"), ("e", "0", " bread  and salt "), ("d", "1", "revenue")]


def write(folder: Path, suffix: str, rows: list[tuple[str, str, str]] = ROWS) -> Path:
    table = pl.DataFrame(rows, schema=["doc_name", "passage_id", "text"], orient="row")
    path = folder / f"own{suffix}"
    {".parquet": table.write_parquet, ".csv": table.write_csv, ".jsonl": table.write_ndjson}[suffix](path)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_the_user_s_queries_are_read_from_any_format(tmp_path: Path, suffix: str) -> None:
    found = read_given(write(tmp_path, suffix), make_passages())
    assert found.texts == ["how fast do loans grow", "bread and salt", "revenue"]
    assert found.rows.tolist() == [1, 4, 1] and set(found.kinds) == {"given"}


def test_ids_of_a_csv_stay_strings(tmp_path: Path) -> None:
    passages = make_passages([("", "one"), ("", "two")])
    named = Passages(passages.table.with_columns(passage_id=pl.Series(["007", "7"])), passages.images)
    path = tmp_path / "own.csv"
    path.write_text("passage_id,text\n007,first\n7,second\n")
    assert read_given(path, named).rows.tolist() == [0, 1]


def test_one_file_serves_both_tasks(tmp_path: Path) -> None:
    path = write(tmp_path, ".csv", [("d", "0", "a page"), ("", "0", "a passage")])
    pages = read_given(path, make_passages([("d", "x")]))
    pool = read_given(path, make_passages([("", "x")]))
    assert (pages.texts, pool.texts) == (["a page"], ["a passage"])


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([("d", "1", "fine"), ("d", "77", "lost")], ("row 2", "unknown passage", "doc_name 'd'", "'77'")),
        ([("nowhere", "1", "lost")], ("row 1", "'nowhere'")),
        ([("d", "1", "fine"), ("d", "1", "  ")], ("row 2", "empty")),
        ([("d", "1", "")], ("row 1", "empty")),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, rows: list[tuple[str, str, str]], parts: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as caught:
        read_given(write(tmp_path, ".parquet", rows), make_passages())
    for part in (*parts, "own.parquet"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("own.txt", "a", "not a file of queries"),
        ("own.csv", "passage_id,question\n1,x\n", "missing columns: text"),
        ("own.parquet", "no parquet", "cannot be read"),
        ("own.jsonl", "{", "cannot be read"),
        ("own.csv", "", "cannot be read"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: str, part: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=part) as caught:
        read_given(tmp_path / name, make_passages())
    assert name in str(caught.value)
    with pytest.raises(DataError, match="cannot be read"):
        read_given(tmp_path / "absent.csv", make_passages())


def test_the_option_reaches_every_cart_route(tmp_path: Path) -> None:
    from common.config import load_config

    path = tmp_path / "my: own, #1.csv"
    changes = query_overrides("cart", [], path)
    config = load_config(RunConfig, "cart", CONFIG_FOLDER, changes)
    found = [
        getattr(route, "queries", None)
        for task in (config.tasks.mmdocir, config.tasks.m2kr)
        if task is not None
        for route in task.routes.values()
        if route is not None and route.type == "cart"
    ]
    assert found == [str(path)] * len(changes) and len(found) == 2
    with pytest.raises(ConfigError, match="type cart"):
        query_overrides("lexical", [], path)


def test_the_configuration_is_plain_json() -> None:
    assert PseudoQueryConfig.model_validate(json.loads(PseudoQueryConfig().model_dump_json())) == PseudoQueryConfig()

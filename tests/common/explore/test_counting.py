"""Counting, copies of files, choosing examples, and findings in their order."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest

from common.explore.copies import HEAD, same_files
from common.explore.counts import BINS, bins, length_chart, listed, of, plural, spread
from common.explore.findings import Finding, about, counted, findings_section, in_order, render
from common.explore.sample import spread_rows
from common.pages.blocks import Facts, Gallery, Gap, Table


@pytest.mark.parametrize("high", [0, 1, 7, 29, 30, 61, 1_000, 12_345])
def test_bins_hold_every_value_once_and_are_few(high: int) -> None:
    values = np.random.default_rng(high).integers(0, high + 1, 500)
    made, beyond = bins(values)
    assert sum(one.count for one in made) + beyond == 500 and len(made) <= BINS
    for one in made:
        assert one.count == ((values >= one.low) & (values < one.high)).sum()
    assert all(left.high == right.low for left, right in itertools.pairwise(made))
    assert beyond <= 5  # of 500 values, one in a hundred


def test_few_huge_values_do_not_squeeze_the_others_and_are_told() -> None:
    values = np.asarray([3, 4, 5, 6] * 100 + [90_000])
    made, beyond = bins(values)
    assert ([one.count for one in made], beyond) == ([100] * 4, 1)
    chart = length_chart("Words", values, "words", "pages")
    assert "none more than 90,000" in chart.text and "1 beyond 7 are not drawn" in chart.text
    assert bins(np.zeros(0, np.int64)) == ([], 0)
    assert spread("none", np.zeros(0))[:3] == ["none", 0, None]


def test_words_of_counts() -> None:
    assert (of(1, 8), of(0, 0)) == ("1 of 8 (12.5%)", "0 of 0")
    assert (plural(1, "query", "queries"), plural(2_000, "query", "queries")) == ("1 query", "2,000 queries")
    assert (listed([1, 2]), listed(range(7), 2)) == ("1, 2", "0, 1 and 5 more")


def test_same_files_are_found_by_content_alone(tmp_path: Path) -> None:
    long = b"x" * (HEAD + 10)
    contents = {
        "a": b"one", "b": b"two", "c": b"one", "d": b"", "e": b"",
        "f": long + b"1", "g": long + b"2", "h": long + b"1", "i": b"unlike",
    }  # fmt: skip
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    found = same_files({name: tmp_path / name for name in [*contents, "gone"]})
    assert found.groups == [["a", "c"], ["f", "h"]] and found.extra == 2
    assert (found.unreadable, found.empty) == (["gone"], ["d", "e"])
    assert same_files({}).groups == []


def test_a_sample_has_rows_of_all_groups_and_is_the_same_again() -> None:
    groups = ["many"] * 1000 + ["few"] * 3 + ["one"]
    rows = spread_rows(groups, 10, seed=1)
    assert sorted(groups[row] for row in rows) == ["few"] * 3 + ["many"] * 6 + ["one"] and len(set(rows)) == 10
    assert rows == spread_rows(groups, 10, seed=1) != spread_rows(groups, 10, seed=2)
    assert sorted(spread_rows(groups, 10**6, seed=1)) == list(range(len(groups)))
    assert spread_rows([], 5, seed=0) == spread_rows(groups, 0, seed=0) == []


FINDINGS = [
    Finding("first", "ok", "nothing [b]"),
    *about("rows", [Finding("second", "note", "2 of 3"), Finding("third", "problem", "[red]1 of 3[/]", "mend it")]),
]


def test_problems_come_first_and_are_counted() -> None:
    assert [finding.name for finding in in_order(FINDINGS)] == ["third", "second", "first"]
    assert counted(FINDINGS) == "1 problem, 1 note, 1 check without a finding"
    facts, gallery, table = findings_section(FINDINGS).blocks
    assert isinstance(facts, Facts) and [fact.value for fact in facts.facts] == ["1", "1", "1"]
    assert isinstance(gallery, Gallery) and [dict(card.facts)["found"] for card in gallery.cards] == [
        "[red]1 of 3[/]",
        "2 of 3",
    ]
    assert gallery.cards[0].facets == {"weight": ["problem"], "part": ["rows"]}
    assert isinstance(table, Table) and table.rows == [("first", "nothing [b]")]
    assert isinstance(findings_section([]).blocks[0], Gap)


def test_the_terminal_shows_what_was_found_as_it_is_written() -> None:
    from rich.console import Console

    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(render(FINDINGS))
    text = console.export_text()
    assert "rows: third" in text and "[red]1 of 3[/]" in text and "first" not in text

"""The page of all runs: what it holds, what it says is missing, and that it opens, sorts, filters and searches."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.pages.blocks import Chart, Column, Gallery, Gap, Link, Page, Section, Table
from common.pages.images import Images
from common.pages.render import render
from common.runs import __main__ as command
from common.runs.page import runs_page
from common.runs.records import read_runs
from common.runs.tags import change_tags
from tests.pages.browser import BrowserPage, assert_fits
from tests.runs.planted import BASELINE, DIN, LEXICAL, plant, plant_seven, track2_metrics

HOSTILE = '<script>alert("x")</script>'


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    plant_seven(tmp_path / "runs")
    (tmp_path / "runs" / BASELINE / "report.html").write_text("<!DOCTYPE html><title>Its report</title>")
    change_tags(tmp_path / "runs" / DIN, ["paper"])
    return tmp_path / "runs"


def page_of(runs: Path) -> Page:
    return runs_page(read_runs(runs), runs, runs / "index.html")


def blocks(page: Page, kind: type) -> list:
    return [block for section in page.sections for block in section.blocks if isinstance(block, kind)]


def test_the_table_has_every_run_and_its_figures(runs: Path) -> None:
    best, table = blocks(page_of(runs), Table)
    titles = [column.title for column in table.columns]
    rows = {row[0]: dict(zip(titles, row, strict=True)) for row in table.rows}
    assert [row[0] for row in table.rows] == ["aa0004", "bb0003", "bb0002", "bb0001", "aa0003", "aa0002", "aa0001"]
    assert rows["aa0002"]["score"] == 90.84 and rows["aa0002"]["error"] == 1.5 and rows["aa0002"]["seconds"] == 60.0
    assert rows["aa0002"]["report"] == Link("report", f"{BASELINE}/report.html") and rows["aa0001"]["report"] is None
    assert rows["bb0003"]["score"] is None and rows["bb0003"]["status"] == "running or killed"
    assert rows["bb0001"]["tags"] == "paper" and rows["aa0004"]["faults"] == 3
    assert {table.rows[row][0] for row in table.marked} == {"bb0002", "aa0003", "aa0002"}
    assert [row[0] for row in best.rows] == ["lexical", "baseline", "lexical", "gbdt", "din"]


def test_scores_as_runs_went_by(runs: Path) -> None:
    page = page_of(runs)
    first, second = blocks(page, Chart)
    assert first.title == "Track 1: both tasks, 39 + 84 questions" and "the best has 90.84" in first.text
    assert first.figures is not None and second.figures is not None
    assert [row[:3] for row in first.figures.rows][:4] == [
        ["each run", 1.0, 79.876],
        ["each run", 2.0, 90.84],
        ["best so far", 1.0, 79.876],
        ["best so far", 2.0, 90.84],
    ]
    assert second.title == "Track 2: test AUC, 1,500 rows"
    (gap,) = blocks(page, Gap)
    assert "39 + 1,658 questions: one run" in gap.what


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (none,) = blocks(page_of(tmp_path / "runs"), Gap)
    assert "no runs yet" in none.what and "python -m track1_mdr run" in none.todo
    plant(tmp_path / "runs", "20261106T100000Z-track2-gbdt-bb0003", status="running")
    told = " ".join(f"{gap.what} {gap.todo}" for gap in blocks(page_of(tmp_path / "runs"), Gap))
    assert "No run of Track 1 has a score" in told and "No run of Track 2 has a score" in told
    assert "No finished run has a score yet" in told and "python -m track2_mmctr run" in told
    render(page_of(tmp_path / "runs"))


def test_the_same_runs_give_the_same_page(runs: Path) -> None:
    assert render(page_of(runs)) == render(page_of(runs))


def test_filters_have_the_values_of_the_runs(runs: Path) -> None:
    (gallery,) = blocks(page_of(runs), Gallery)
    assert [choice.key for choice in gallery.filters] == ["track", "status", "config", "tag", "best"]
    assert gallery.cards[3].facets["tag"] == ("paper",) and "sha" not in gallery.noun
    change_tags(runs / DIN, remove=["paper"])
    assert "tag" not in [choice.key for choice in blocks(page_of(runs), Gallery)[0].filters]


def test_the_page_opens_sorts_filters_and_searches(runs: Path, browser_page: BrowserPage) -> None:
    hostile = plant(
        runs, "20261108T100000Z-track2-x-bb0009", track2_metrics(0.5), config=HOSTILE, error='"quoted" & <b>'
    )
    done = CliRunner().invoke(command.app, ["page", "--runs", str(runs)])
    assert done.exit_code == 0 and "8 runs" in done.output, done.output
    page = browser_page.open(runs / "index.html")
    assert page.locator(".plot svg").count() == 2
    assert page.locator("#all td", has_text=HOSTILE).count() == 1 and page.locator("#all b").count() == 0

    first = page.locator("#all tbody tr").first
    assert "bb0009" in (first.text_content() or "")
    page.locator("#all th button", has_text="score").click()
    assert "aa0002" in (first.text_content() or "")

    page.locator("#find select[data-filter=track]").select_option(label="track1 (4)")
    assert page.locator("#find .count").inner_text() == "shown 4 of 8 runs"
    page.locator("#find .reset").click()
    page.locator("#find input[type=search]").fill("bb0009")
    page.locator("#find .count", has_text="shown 1 of 8 runs").wait_for()
    assert hostile.name in (page.locator("#find .card").first.text_content() or "")

    page.locator("#all td a").click()
    page.wait_for_url("**/report.html")
    assert page.title() == "Its report" and LEXICAL not in page.url


@pytest.mark.parametrize("width", [360, 1440])
def test_no_text_is_cut(width: int, runs: Path, browser_page: BrowserPage) -> None:
    CliRunner().invoke(command.app, ["page", "--runs", str(runs)])
    assert_fits(browser_page.open(runs / "index.html", width=width))


@pytest.mark.parametrize("path", ["", "/etc/passwd", "javascript:alert(1)", "https://example.org/x", "\\\\host\\x"])
def test_a_link_leads_to_what_lies_with_the_page_only(path: str) -> None:
    with pytest.raises(ValueError, match="relative path"):
        Link("report", path)


def test_a_link_s_path_and_text_are_escaped() -> None:
    table = Table([Column("report")], [[Link("<b>", 'a b/"x">.html')]])
    text = render(Page("Links", "", [Section("links", "Links", [table])], Images()))
    assert '<a href="a%20b/%22x%22%3E.html">&lt;b&gt;</a>' in text

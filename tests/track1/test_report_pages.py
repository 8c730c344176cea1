"""`report` and `compare` as commands, the page of several runs, and both pages in a browser."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner, Result

import track1_mdr.__main__ as cli
from common.errors import ConfigError, DataError
from common.pages.blocks import Block, Card, Chart, Gallery, Gap, Page, Table
from common.pages.images import Images
from tests.pages.browser import BrowserPage, assert_fits, browser_page, chromium, until  # noqa: F401 - fixtures
from tests.track1.pdf_files import text_pdf
from tests.track1.planted_run import FINAL, QUESTIONS, ROUTES, Ranked, plant_run, planted_root
from track1_mdr.compare import compare_files
from track1_mdr.config import DataConfig
from track1_mdr.datasets import page_images
from track1_mdr.gold import read_ground
from track1_mdr.report.compare_page import compare_page
from track1_mdr.report.entries import compare_entries, data_of, read_entries
from track1_mdr.report.gallery import pictures_of
from track1_mdr.report.thumbnails import add_pictures
from track1_mdr.report.views import read_data

# Against FINAL: 10000 is better (rank 1, not 2), 10002 worse (nothing), 10003 and 10001 alike.
OTHER: Ranked = {**FINAL, "10000": ["1", "5", "6", "7", "8"], "10002": ["5", "6", "7", "4", "3"]}
HOSTILE = QUESTIONS[3][1]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return planted_root(tmp_path / "data")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setattr(cli, "ROOT", folder)
    monkeypatch.delenv("MIRC_DATA", raising=False)
    monkeypatch.setenv("MIRC_CACHE", str(tmp_path / "cache"))
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def page_of(given: Sequence[Path], root: Path, runs: Path) -> Page:
    entries = read_entries([str(one) for one in given], runs)
    data = data_of(entries, root, root / "cache")
    return compare_page(entries, compare_entries(entries, read_ground(root), data), data, [], root)


def section(page: Page, key: str) -> Sequence[Block]:
    (found,) = [one.blocks for one in page.sections if one.key == key]
    return found


def table(page: Page, key: str, number: int = 0) -> Table:
    return [block for block in section(page, key) if isinstance(block, Table)][number]


def cards(page: Page) -> dict[str, Card]:
    (gallery,) = [block for block in section(page, "questions") if isinstance(block, Gallery)]
    return {card.search: card for card in gallery.cards}


def gaps(blocks: Sequence[Block]) -> str:
    return "\n".join(f"{block.what} {block.todo}" for block in blocks if isinstance(block, Gap))


# --- the page of several runs ---


def test_differences_are_the_comparison_s(home: Path, root: Path) -> None:
    a, b = plant_run(home, root, name="one"), plant_run(home, root, final=OTHER, name="two", values={"seed": 3})
    page = page_of([a, b], root, home / "runs")
    want = compare_files(home / "submissions" / "one.csv", home / "submissions" / "two.csv", root)
    effect = want.tasks["mmdocir"]
    rows = {row[0]: row[1:] for row in table(page, "differences").rows}
    assert rows["MMDocIR"][:3] == [4, effect.mean_a, effect.mean_b]
    assert rows["MMDocIR"][3:] == [effect.difference, effect.low, effect.high, effect.p, 1, 2, 1]
    assert {n.removeprefix("MMDocIR: "): row[3] for n, row in rows.items() if ":" in str(n)} == {
        name: one.difference for name, one in want.domains["mmdocir"].items()
    }
    chart = next(block for block in section(page, "differences") if isinstance(block, Chart))
    assert chart.figures is not None and [row[1] for row in chart.figures.rows] == [row[3] for row in rows.values()]
    assert {row[0]: row[6] for row in table(page, "scores", 1).rows} == pytest.approx(
        {"A": effect.mean_a, "B": effect.mean_b}
    )


def test_wins_and_losses_hold_the_questions_that_differ_with_all_answers(home: Path, root: Path) -> None:
    a, b = plant_run(home, root, name="one"), plant_run(home, root, final=OTHER, name="two")
    page = page_of([a, b], root, home / "runs")
    found = cards(page)
    assert list(found) == ["10000", "10002"], "a loss of 33.3 and a win of 33.3; the other two are alike"
    assert found["10000"].facets["against-B"] == ["B is better"] and found["10002"].facets["against-B"] == [
        "A is better"
    ]
    assert found["10000"].numbers["gain-B"] == pytest.approx(-33.33, abs=0.01)
    labels = [strip.label for strip in found["10002"].strips]
    assert labels == ["gold", "A · one", "B · two"]
    gold = found["10002"].strips[0].tiles[0]
    assert gold.lines == ("A: rank 5", "B: missed") and gold.badge == "found by some"
    assert [tile.caption for tile in found["10002"].strips[2].tiles] == [f"page {p}" for p in (5, 6, 7, 4, 3)]
    shown = {tile.image for card in found.values() for strip in card.strips for tile in strip.tiles}
    assert shown == set(page.images.data)


def test_only_keys_that_differ_are_told_and_what_each_run_took(home: Path, root: Path) -> None:
    a = plant_run(home, root, name="one")
    b = plant_run(home, root, name="two", values={"seed": 3, "data": {"text": "ocr_text"}})
    c = plant_run(home, root, routes={"bm25": ROUTES["bm25"]}, name="three")
    page = page_of([a, b, c], root, home / "runs")
    rows = {row[0]: row[1:] for row in table(page, "configurations").rows}
    assert rows["name"] == ["one", "two", "three"] and rows["seed"] == ["7", "3", "7"]
    assert rows["data.text"] == ["auto", "ocr_text", "auto"]
    assert rows["tasks.mmdocir.routes.dense.type"] == ["bm25", "bm25", None]
    assert not any(str(key).startswith("tasks.mmdocir.routes.bm25") for key in rows)
    stages = table(page, "costs", 1)
    record = json.loads((b / "run.json").read_text())
    assert stages.rows == [["mmdocir.bm25", *(row for row in stages.rows[0][1:])]]
    assert stages.rows[0][2] == record["stages"][0]["wall_seconds"]
    assert "do alike" in gaps(section(page, "questions")), "three configurations, one ranking"
    same = page_of([a, a], root, home / "runs")
    assert "are the same" in gaps(section(same, "configurations"))


def test_bare_submissions_have_scores_and_gaps_for_the_rest(home: Path, root: Path) -> None:
    plant_run(home, root, name="one")
    b = plant_run(home, root, final=OTHER, name="two")
    page = page_of([home / "submissions" / "one.csv", b], root, home / "runs")
    assert "configuration of A is not known" in gaps(section(page, "configurations"))
    assert "A cost is not known" in gaps(section(page, "costs"))
    assert set(cards(page)) == {"10000", "10002"} and table(page, "scores").rows[0][2] == "a submission file"


def test_a_run_of_one_task_is_compared_on_that_task(home: Path, root: Path, both: Path) -> None:
    one = plant_run(home, both, name="one")
    two = plant_run(home, both, final=OTHER, name="two", m2kr=m2kr_sources(both))
    page = page_of([one, two], both, home / "runs")
    assert {row[0] for row in table(page, "differences").rows} >= {"MMDocIR"}
    assert not any("M2KR" in str(row[0]) for row in table(page, "differences").rows)
    assert "covers MMDocIR only" in gaps(section(page, "differences"))
    assert ["B", "M2KR"] in [list(row[:2]) for row in table(page, "scores", 1).rows]
    assert set(cards(page)) == set(cards(page_of([two, one], both, home / "runs"))) == {"10000", "10002"}


def test_without_gold_the_page_shows_where_answers_differ(home: Path, tmp_path: Path) -> None:
    root = planted_root(tmp_path / "plain", gold=False)
    a, b = plant_run(home, root, name="one"), plant_run(home, root, final=OTHER, name="two")
    refused = call("compare", a, b)
    assert refused.exit_code == 2 and "no gold" in refused.stderr
    made = call("compare", a, b, "--page", tmp_path / "c.html")
    assert made.exit_code == 0, made.output
    entries = read_entries([str(a), str(b)], home / "runs")
    page = compare_page(entries, [], data_of(entries, root, root), [], root)
    assert list(cards(page)) == ["10002"], "10000 has the same five in another order"
    assert cards(page)["10002"].facets["against-B"] == ["gold unknown"]
    assert "no differences" in gaps(section(page, "differences"))


def test_a_run_whose_submission_is_lost_is_compared_by_its_scores(home: Path, root: Path) -> None:
    a, b = plant_run(home, root, name="one"), plant_run(home, root, final=OTHER, name="two")
    want = compare_files(home / "submissions" / "one.csv", home / "submissions" / "two.csv", root).tasks
    (home / "submissions" / "two.csv").unlink()
    entries = read_entries([str(a), b.name], home / "runs")
    (comparison,) = compare_entries(entries, read_ground(root), data_of(entries, root, root))
    assert comparison.tasks == want and any("lost" in note for note in comparison.notes)


@pytest.mark.parametrize("given", [["a.csv"], [], ["a.csv"] * 27])
def test_nothing_or_too_much_to_compare(given: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to compare"):
        read_entries(given, tmp_path)


def test_what_is_neither_a_file_nor_a_run_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run") as told:
        read_entries(["nobody", "a.csv"], tmp_path)
    assert "nobody" in str(told.value)


# --- the command line ---


def test_report_writes_into_the_run_and_says_what_next(home: Path, root: Path) -> None:
    folder = plant_run(home, root)
    result = call("report", folder.name)
    assert result.exit_code == 0, result.output
    page = (folder / "report.html").read_bytes()
    assert f"wrote {folder / 'report.html'}" in result.output and "compare" in result.output
    assert call("report", "--data", root, "--out", home / "again.html").exit_code == 0, "the last run"
    assert (home / "again.html").read_bytes() == page, "the same run gives the same bytes"
    refused = call("report", "nobody")
    assert refused.exit_code == 2 and refused.stderr.startswith("error: no run") and "nobody" in refused.stderr


def test_compare_prints_what_it_did_before_and_writes_a_page_when_asked(home: Path, root: Path, tmp_path: Path) -> None:
    runs = [plant_run(home, root, name="one"), plant_run(home, root, final=OTHER, name="two")]
    files = [home / "submissions" / f"{name}.csv" for name in ("one", "two")]
    plain = call("compare", *files, "--data", root)
    assert plain.exit_code == 0 and "a = one.csv, b = two.csv" in plain.output and "wrote" not in plain.output
    again = call("compare", *files, "--data", root, "--page", tmp_path / "c.html")
    assert again.output.startswith(plain.output) and (tmp_path / "c.html").is_file()
    three = call("compare", *runs, files[1])
    assert three.output.count("95 % interval") == 2 and f"b = {runs[1].name}" in three.output
    assert call("compare", files[0]).exit_code == 2


# --- pictures from PDFs ---


def test_a_pdf_is_opened_once_for_its_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mmdocir"
    (folder / "pdfs").mkdir(parents=True)
    lines = []
    for number, name in enumerate(("a", "b")):
        text_pdf(folder / "pdfs" / f"{name}.pdf", [f"{name} page {page}" for page in range(6)])
        lines.append(
            {
                "question_id": str(10000 + number),
                "question": "Which page?",
                "doc_name": name,
                "domain": "d",
                "num_of_pages": 6,
            }
        )
    (folder / "MMDocIR_gt_remove.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = DataConfig.model_validate({"ocr": {"enabled": False}})
    view = read_data(tmp_path, config, tmp_path / "cache", ["mmdocir"]).views["mmdocir"]
    opened: list[Path] = []
    load = page_images.load_pdf
    monkeypatch.setattr(page_images, "load_pdf", lambda path: opened.append(path) or load(path))
    images = Images()
    wanted = [one for page in "052413" for i in ("10000", "10001") for one in pictures_of(view, i, [page])]
    assert add_pictures(images, wanted, "thumbnails") == []
    assert [path.name for path in opened] == ["a.pdf", "b.pdf"] and len(images.data) == 12


# --- in a browser ---


@pytest.fixture
def both(tmp_path: Path, root: Path) -> Path:
    """The planted pages, with a question that is a script, and M2KR of the sample, with its pictures."""
    shutil.copytree(SAMPLE / "m2kr", root / "m2kr")
    return root


SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"


def m2kr_sources(root: Path, shift: int = 0) -> Mapping[str, Ranked]:
    """Routes that find the gold of two questions of three."""
    ground = read_ground(root)
    pool = sorted(ground.expected.m2kr_passages or ())
    found: dict[str, list[str]] = {}
    for i in ground.expected.m2kr or ():
        others = [passage for passage in pool if passage not in ground.gold[i]][int(i) % 7 :][:7]
        found[i] = [*others[:2], *(ground.gold[i] if (int(i) + shift) % 3 else ()), *others[2:]]
    return {"bm25": found, "fusion": found}


def choose(page: Any, facet: str, value: str) -> None:
    """Choose a filter's value, whose option also tells how many there are."""
    select = page.locator(f"select[data-filter={facet}]")
    select.select_option(select.locator("option", has_text=value).first.get_attribute("value"))


def test_both_pages_in_a_browser(home: Path, both: Path, browser_page: BrowserPage) -> None:  # noqa: F811
    one = plant_run(home, both, name="one", m2kr=m2kr_sources(both))
    two = plant_run(home, both, final=OTHER, name="two <b>", m2kr=m2kr_sources(both, 1))
    assert call("report", one).exit_code == 0
    assert call("compare", one, two, "--page", home / "compare.html").exit_code == 0
    page = browser_page.open(one / "report.html")
    assert_fits(page)
    assert page.locator(".count").inner_text() == "shown 43 of 43 questions"
    page.locator("#questions").scroll_into_view_if_needed()
    until(page, "[...document.querySelectorAll('#questions img')].some((i) => i.complete && i.naturalWidth > 20)")
    choose(page, "task", "MMDocIR")
    choose(page, "outcome", "nothing found")
    assert page.locator(".count").inner_text() == "shown 1 of 43 questions"
    assert page.locator(".card h3").text_content() == HOSTILE
    page.locator(".reset").click()
    page.locator("input[type=search]").fill("lindqvist captains")
    until(page, "document.querySelector('.count').textContent === 'shown 1 of 43 questions'")
    assert (page.locator(".card mark").first.text_content() or "").lower() in ("captain", "retired", "sea")
    assert_fits(browser_page.open(one / "report.html", width=360))
    compared = browser_page.open(home / "compare.html", width=360)
    assert_fits(compared)
    choose(compared, "task", "MMDocIR")
    choose(compared, "against-B", "A is better")
    assert compared.locator(".count").inner_text().startswith("shown 1 of ")
    assert "A · one" in (compared.locator(".card").first.text_content() or "")
    assert "B · two <b>" in (compared.locator(".card").first.text_content() or "")


def test_the_record_names_the_data_root(home: Path, root: Path) -> None:
    (home / "tiny.yaml").write_text(
        "name: tiny\ndevice: cpu\ntasks:\n  mmdocir: {routes: {bm25: {type: bm25}}, fusion: {type: rrf}}\n"
    )
    assert call("run", "-c", home / "tiny.yaml", "--data", root).exit_code == 0
    (folder,) = (home / "runs").glob("*tiny*")
    assert json.loads((folder / "run.json").read_text())["data"] == str(root.resolve())
    assert pl.read_parquet(folder / "scores.parquet")["source"].unique().sort().to_list() == ["bm25", "fusion"]
    assert call("report").exit_code == 0


@pytest.mark.slow
def test_the_benchmark_of_reports_runs_on_a_small_size(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.report_pages", "--folder", str(tmp_path / "kept")]
    size = ["--documents", "3", "--pages", "24", "--questions", "9"]
    project = Path(__file__).resolve().parents[2]
    done = subprocess.run([*command, *size], cwd=project, capture_output=True, text=True, check=True)
    assert "9 questions, 24 pages" in done.stdout and "9 cards" in done.stdout


@pytest.mark.real
def test_a_report_on_real_documents(home: Path, real_data: Path) -> None:
    (home / "real.yaml").write_text(
        "name: real\ndevice: cpu\ndata: {ocr: {enabled: false}}\n"
        "tasks:\n  mmdocir: {routes: {bm25: {type: bm25}, names: {type: bm25, tokens: names}}, fusion: {type: rrf}}\n"
    )
    assert call("run", "-c", home / "real.yaml", "--data", real_data, "--out", home / "real.csv").exit_code == 0
    result = call("report")
    assert result.exit_code == 0, result.output
    (path,) = (home / "runs").glob("*real*/report.html")
    page = path.read_text()
    assert 1_000_000 < len(page) < 15_000_000
    assert "could not be drawn" not in page and "pictures are left out" not in page
    data = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[0])
    (gallery,) = data["galleries"]
    assert len(gallery["cards"]) == len(read_ground(real_data).gold)

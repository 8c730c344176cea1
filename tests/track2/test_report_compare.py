"""The page of several runs, the command lines of `report` and `compare`, and both pages in a browser."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import track2_mmctr.__main__ as cli
from common.errors import ConfigError, DataError
from common.metrics.ctr import auc
from common.metrics.ctr_intervals import bootstrap, delong_paired
from common.pages.blocks import Chart, Page, Table
from common.pages.render import write_page
from tests.pages.browser import BrowserPage, assert_fits, until
from tests.track2.report_runs import NASTY, Made, blocks, cards, gaps
from track2_mmctr.compare import FAR, compare_paths, ranks
from track2_mmctr.datasets.tables import CtrData
from track2_mmctr.evaluate import open_data, score_path
from track2_mmctr.predictions import predictions_path, read_predictions, write_predictions
from track2_mmctr.report.compare_page import Compared, compare_page, compare_runs
from track2_mmctr.report.contenders import config_difference
from track2_mmctr.report.page import report_page
from track2_mmctr.report.rows import Pair, furthest

REDRAWN = """[...document.querySelectorAll("[data-chart]")].every(
  (place) => Math.abs(place.clientWidth / Number(place.dataset.drawn) - 1) <= 0.2)"""


@pytest.fixture(scope="module")
def data(made: Made) -> CtrData:
    return open_data(made.root, made.cache)


@pytest.fixture(scope="module")
def compared(made: Made, data: CtrData) -> Compared:
    return compare_runs([made.neural, made.floor], data, resamples=40)


@pytest.fixture(scope="module")
def page(compared: Compared, data: CtrData) -> Page:
    return compare_page(compared, data)


def logits(run: Path, split: str = "test") -> np.ndarray:
    return read_predictions(predictions_path(run, split)).logits


def test_figures_are_those_of_compare_and_score(page: Page, made: Made, data: CtrData) -> None:
    found = compare_paths(made.neural, made.floor, data, resamples=40)
    (table,) = blocks(page, "differences", Table)
    (row,) = table.rows
    effect = found.overall
    assert list(row)[1:6] == [effect.auc_a, effect.auc_b, effect.difference, effect.error, effect.p]
    assert row[6] == f"{effect.low:+.4f} to {effect.high:+.4f}"
    assert list(row)[7:9] == [found.correlation, found.far]
    label, a, b = data.splits["test"].label, logits(made.neural), logits(made.floor)
    assert effect.difference == auc(label, a) - auc(label, b)
    assert effect.p == delong_paired(label, a, b).p
    assert effect.low == bootstrap(label, a, data.splits["test"].users, against=b, resamples=40).low
    (scores,) = blocks(page, "scores", Table)
    wanted = score_path(made.floor, data, resamples=40).reports
    for name, report in wanted.items():
        (line,) = [row for row in scores.rows if row[0] == "B floor" and row[1] == name]
        assert list(line)[2:4] == [report.headline, report.overall.error]
    (groups,) = blocks(page, "groups", Table)
    for name, one in found.by_length.items():
        (line,) = [row for row in groups.rows if row[1] == f"history {name}"]
        assert list(line)[2:6] == [one.rows, one.auc_a, one.auc_b, one.difference]
    roc = next(block for block in blocks(page, "curves", Chart) if block.title == "ROC")
    assert f"A tiny: {auc(label, a):.4f}" in roc.text and f"B floor: {auc(label, b):.4f}" in roc.text


def test_wins_and_losses_are_those_of_a_loop(page: Page, made: Made, data: CtrData) -> None:
    label, a, b = data.splits["test"].label, ranks(logits(made.neural)), ranks(logits(made.floor))
    wins = losses = 0
    for row in range(len(label)):
        if abs(a[row] - b[row]) > FAR:
            better = a[row] > b[row] if label[row] else a[row] < b[row]
            wins, losses = wins + better, losses + (not better)
    (row,) = blocks(page, "differences", Table)[0].rows
    assert list(row)[9:] == [wins, losses]
    assert wins and losses


def test_the_rows_ranked_furthest_apart_are_those_of_a_loop(compared: Compared, page: Page, data: CtrData) -> None:
    rng = np.random.default_rng(1)
    label = rng.integers(0, 2, 200)
    pair = Pair(compared.pairs[0].comparison, ("A", "B"), rng.integers(0, 9, 200) / 8, rng.integers(0, 9, 200) / 8)
    sides: list[list[tuple[float, int]]] = [[], []]
    for row in range(200):
        apart = pair.first[row] - pair.second[row]
        if apart:
            sides[0 if (apart > 0) == bool(label[row]) else 1].append((-abs(apart), row))
    for mine, wanted in zip(furthest(pair, label, 12), sides, strict=True):
        assert mine.tolist() == [row for _, row in sorted(wanted)[:12]]
    shown = cards(page, "disagreements")
    first, second = furthest(compared.pairs[0], compared.label, 20)
    assert {dict(card.facts)["row"] for card in shown} == {f"test {row}" for row in [*first, *second]}
    apart = [card.numbers["apart"] for card in shown]
    assert apart == sorted(apart, reverse=True)
    for card in shown:
        facts, row = dict(card.facts), int(dict(card.facts)["row"].split()[1])
        higher = float(facts["rank of A"]) > float(facts["rank of B"])
        assert facts["right"] == ("A" if higher == bool(compared.label[row]) else "B")
        assert card.title == data.items.titles[data.splits["test"].target[row]]
        assert {"right", "label", "history"} <= set(card.facets)


def test_only_settings_that_differ_are_told(page: Page) -> None:
    a = {"name": "a", "about": "x", "seed": 7, "train": {"epochs": 3, "amp": True}, "tune": {"space": {"k": 1}}}
    b = {"name": "b", "about": "y", "seed": 7, "train": {"epochs": 4, "amp": True}, "ranker": {"type": "din"}}
    assert config_difference({"A": a, "B": b}) == [["ranker.type", None, "din"], ["train.epochs", "3", "4"]]
    assert config_difference({"A": a, "B": a}) == []
    (table,) = blocks(page, "settings", Table)
    told = {row[0]: list(row[1:]) for row in table.rows}
    assert told["ranker.type"] == ["din", "similarity"]
    assert told["features.dim"] == ["4", "64"]
    assert "seed" not in told and "name" not in told


def test_three_runs_and_a_zip_which_tells_less(made: Made, data: CtrData) -> None:
    paths = [made.submission, made.neural, made.floor]
    found = compare_runs(paths, data, resamples=10)
    assert [pair.letters for pair in found.pairs] == [("A", "B"), ("A", "C")]
    assert found.pairs[1].comparison.overall.difference == 0, "the zip is the floor's own"
    page = compare_page(found, data)
    assert "No configuration: A floor" in gaps(page)
    assert {card.facets["pair"][0] for card in cards(page, "disagreements")} == {"A and B"}
    assert [row[0] for row in blocks(page, "costs", Table)[0].rows] == ["B tiny", "C floor"]
    alone = compare_page(compare_runs([made.submission, made.submission], data, resamples=5), data)
    assert "rank all rows alike" in gaps(alone) and "no time" in gaps(alone)


def test_what_cannot_be_compared_is_refused(made: Made, data: CtrData, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 to 26"):
        compare_runs([made.neural], data)
    valid = shutil.copytree(made.floor, tmp_path / "valid")
    predictions_path(valid, "test").unlink()
    assert compare_runs([made.neural, valid], data, resamples=5).split.name == "valid"
    with pytest.raises(DataError, match="no split to compare"):
        compare_runs([made.submission, valid], data, resamples=5)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def done(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def home(made: Made, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cli, "ROOT", made.home)
    monkeypatch.delenv("MIRC_DATA", raising=False)
    monkeypatch.setenv("MIRC_CACHE", str(made.cache))
    return made.home


def test_report_by_folder_by_name_and_the_last(home: Path, made: Made, tmp_path: Path) -> None:
    output = done("report", made.neural, "--data", made.root)
    page = made.neural / "report.html"
    assert f"wrote {page}" in output and "compare" in output
    assert "Run tiny" in page.read_text(encoding="utf-8")
    done("report", "--data", made.root, "--out", tmp_path / "last.html")
    assert "Run floor" in (tmp_path / "last.html").read_text(encoding="utf-8")
    name = made.neural.name
    done("report", name, "--data", made.root, "--out", tmp_path / "again.html", "--map", "tsne")
    assert "t-SNE" in (tmp_path / "again.html").read_text(encoding="utf-8")
    page.unlink()
    for wrong, said in (("nowhere", "no run of track2 has this name"), (made.submission, "not a run's folder")):
        refused = call("report", wrong, "--data", made.root)
        assert refused.exit_code == 2 and said in refused.stderr, refused.output


def test_compare_prints_as_before_and_writes_a_page_when_asked(home: Path, made: Made, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    arguments = ("--data", made.root)
    two = done("compare", made.neural, made.floor, *arguments)
    assert two.count("test: a = ") == 1 and "ranked furthest apart" in two
    three = done("compare", made.neural, made.floor, made.submission, *arguments, "--page", out)
    assert three.count("test: a = ") == 2 and f"wrote {out}" in three
    assert out.read_text(encoding="utf-8").count("<h2") >= 7
    alone = call("compare", made.neural, *arguments)
    assert alone.exit_code == 2 and "2 to 26" in alone.stderr


def shown(browser_page: BrowserPage, path: Path, key: str, choice: Sequence[str], word: str, count: int) -> None:
    """Open a page wide and narrow; filter its gallery, search in it, and look at the pictures that are drawn."""
    tab = browser_page.open(path)
    assert tab.evaluate("window.hit") is None
    assert_fits(tab)
    section = tab.locator(f"#{key}")
    section.scroll_into_view_if_needed()
    section.locator(f"select[data-filter={choice[0]}]").select_option(label=f"{choice[1]} ({count})")
    until(tab, f"document.querySelector('#{key} .count').textContent.startsWith('shown {count} of')")
    section.locator(".reset").click()
    section.locator("input[type=search]").fill(word)
    until(tab, f"document.querySelectorAll('#{key} .card').length > 0")
    first = section.locator(".card").first
    assert word in (first.text_content() or "").lower()
    until(tab, f"[...document.querySelectorAll('#{key} .card img')].some((image) => image.naturalWidth > 0)")
    tab.set_viewport_size({"width": 360, "height": 780})
    until(tab, REDRAWN)
    assert_fits(tab)


def test_both_pages_in_the_browser(
    browser_page: BrowserPage, made: Made, data: CtrData, compared: Compared, tmp_path: Path
) -> None:
    targets = {name: np.where(np.arange(len(split)) % 4, split.target, 3) for name, split in data.splits.items()}
    nasty = replace(data, splits={name: replace(s, target=targets[name]) for name, s in data.splits.items()})
    run = shutil.copytree(made.neural, tmp_path / "run")
    shutil.rmtree(run / "predictions")
    for name in ("valid", "test"):
        write_predictions(run, nasty.splits[name], logits(made.neural, name))
    pages = {
        "report": report_page(run, nasty, resamples=5),
        "compare": compare_page(replace(compared, split=nasty.splits["test"]), nasty),
    }
    for (name, page), key in zip(pages.items(), ("wrong", "disagreements"), strict=True):
        path = tmp_path / f"{name}.html"
        assert write_page(path, page) < 15e6
        found = cards(page, key)
        assert any(card.title == NASTY for card in found)
        clicked = sum(card.facets["label"] == ["clicked"] for card in found)
        shown(browser_page, path, key, ("label", "clicked"), "<script>", clicked)

"""One file, the same bytes each time, in which data is never markup."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DataError
from common.pages import render as renderer
from common.pages.blocks import Card, Chart, Choice, Column, Gallery, Gap, Link, Page, Section, Strip, Table, Text, Tile
from common.pages.charts import Bar, bars
from common.pages.images import Images
from common.pages.render import LIMIT, render, write_page
from tests.pages.planted import NASTY, gallery_page, nasty_page


class Read(HTMLParser):
    """What a parser of HTML makes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.data: dict[str, str] = {}
        self.policy = ""
        self.links: list[str] = []
        self.title = ""
        self.cells: list[str] = []
        self.open: list[str] = []
        self.script = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action", "srcset")]
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"] or ""
        if tag == "script":
            self.script = named.get("id") or ""
            if "type" not in named:
                self.scripts.append("")
        if tag == "td":
            self.cells.append("")
        if tag not in ("meta", "link", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        if inside == "script" and self.script:
            self.data[self.script] = self.data.get(self.script, "") + data
        elif inside == "script":
            self.scripts[-1] += data
        elif inside == "title":
            self.title += data
        elif "td" in self.open:
            self.cells[-1] += data


def one(*blocks: object, title: str = "Page", images: Images | None = None) -> Page:
    return Page(title, "", [Section("part", "Part", blocks)], images or Images())  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"])))
def test_any_text_comes_back_from_the_parser(text: str) -> None:
    quoted = f"<script>{text}</script><!--{text}"
    table = Table([Column("c")], [[quoted]])
    gallery = Gallery([Card(quoted, strips=[Strip("s", [Tile(quoted)])])], "cards")
    read = Read(render(one(table, gallery, title=quoted)))
    plain = Read(render(one(Table([Column("c")], [["c"]]), Gallery([Card("c")], "cards"), title="t")))
    assert read.tags == plain.tags
    assert read.title == quoted
    assert read.cells == [quoted]
    card = json.loads(read.data["data"])["galleries"][0]["cards"][0]
    assert card["title"] == quoted
    assert card["strips"][0]["tiles"][0]["caption"] == quoted


def test_the_json_holds_no_character_of_markup() -> None:
    read = Read(render(nasty_page(" ".join(NASTY))))
    for text in read.data.values():
        assert not set(text) & set("<>&\u2028\u2029")
        json.loads(text)
    assert len(read.data["images"]) > 100


def test_only_our_scripts_may_run_and_nothing_is_asked_for() -> None:
    with_chart = Read(render(one(bars("Bars", [Bar("a", 1.0)], text="", axis="score"))))
    without = Read(render(one(Text("words"))))
    for read in (with_chart, without):
        hashes = {f"sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}" for s in read.scripts}
        assert set(re.findall(r"'(sha256-[^']+)'", read.policy)) == hashes
        assert "default-src 'none'" in read.policy and "unsafe-eval" not in read.policy
        assert all(link.startswith(("#", "data:")) for link in read.links)
    assert len(with_chart.scripts) == len(without.scripts) + 2, "Vega comes only where there is a chart"
    assert max(map(len, without.scripts)) < 50_000 < max(map(len, with_chart.scripts))


def test_the_same_page_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        size = write_page(tmp_path / f"{name}.html", nasty_page("text"))
        assert size == (tmp_path / f"{name}.html").stat().st_size
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_gap_shows_its_commands_as_code() -> None:
    gap = Gap("No gold.", "Bring it: `ls -l <folder>`, then python -m track1_mdr download --only gold.")
    html = render(one(gap))
    assert "<code>ls -l &lt;folder&gt;</code>" in html
    assert "<code>python -m track1_mdr download --only gold</code>." in html


def test_cells_are_written_by_their_columns_form() -> None:
    columns = [Column("a", ","), Column("b", "+.2f"), Column("c"), Column("d")]
    rows = [[1234567, 0.5, 12, "x"], [None, math.nan, 0.1 + 0.2, None], [0, -0.5, True, "y"]]
    read = Read(render(one(Table(columns, rows))))
    assert read.cells == ["1,234,567", "+0.50", "12", "x", "–", "–", "0.3", "–", "0", "-0.50", "yes", "y"]


def test_a_link_leads_to_a_file_beside_the_page() -> None:
    rows = [[Link("the <b>report", "runs/a b/report.html?#1")], [Link("another", "../x.html")], [None]]
    html = render(one(Table([Column("report")], rows)))
    read = Read(html)
    assert read.cells == ["the <b>report", "another", "–"]
    assert [link for link in read.links if ".html" in link] == ["runs/a%20b/report.html%3F%231", "../x.html"]
    assert html.count("data-none>") + html.count("data-none dir") == 1
    for path in ("javascript:alert(1)", "//host/x", "/etc/passwd", "https://host/", "", "\\\\host"):
        with pytest.raises(ValueError, match="relative path"):
            Link("text", path)


def test_control_characters_and_lone_surrogates_do_no_harm(tmp_path: Path) -> None:
    text = "a\x00b\x08c\ud800d"
    write_page(tmp_path / "page.html", one(Table([Column("c")], [[text]]), Gallery([Card(text)], "cards"), title=text))
    read = Read((tmp_path / "page.html").read_text("utf-8"))
    assert read.cells == ["a\ufffdb\ufffdc?d"]
    assert json.loads(read.data["data"])["galleries"][0]["cards"][0]["title"] == "a\x00b\x08c?d"


def test_marked_text_is_kept_in_turns() -> None:
    def title(*segments: tuple[str, bool]) -> object:
        read = Read(render(one(Gallery([Card(segments)], "cards"))))
        return json.loads(read.data["data"])["galleries"][0]["cards"][0].get("title")

    assert title(("a", False), ("b", True), ("c", True), ("d", False)) == ["a", "bc", "d"]
    assert title(("a", True)) == ["", "a"]
    assert title(("a", False), ("b", False)) == "ab"
    assert title() is None


@pytest.mark.parametrize("keys", [["a", "a"], ["Upper"], ["two words"], ["about"], [""]])
def test_section_keys_are_anchors(keys: list[str]) -> None:
    with pytest.raises(ValueError, match="section key"):
        render(Page("t", "", [Section(key, "s", []) for key in keys], Images()))


def test_pictures_left_out_are_told() -> None:
    images = Images(budget=5)
    for number in range(1200):
        images.add(f"page:{number}", b"12345")
    assert "1,199 pictures are left out: the 1 kept fill the 5e-06 MB" in render(one(Text("t"), images=images))
    assert "pictures are left out" not in render(one(Text("t")))


def test_a_page_too_large_loses_its_last_pictures_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = gallery_page(20, 120)
    whole = write_page(tmp_path / "whole.html", page)
    monkeypatch.setattr(renderer, "LIMIT", whole - 60_000)
    size = write_page(tmp_path / "less.html", page)
    assert whole - 70_000 < size <= whole - 60_000
    text = (tmp_path / "less.html").read_text("utf-8")
    kept = list(json.loads(Read(text).data["images"]))
    order = list(page.images.data)
    assert set(kept) == set(order[: len(kept)]) and 0 < len(kept) < 120
    assert f"{120 - len(kept)} pictures are left out" in text
    assert len(page.images.data) == 120, "the page itself is not touched"
    monkeypatch.setattr(renderer, "LIMIT", 1000)
    with pytest.raises(DataError, match="lower the number of examples"):
        write_page(tmp_path / "none.html", page)
    assert not (tmp_path / "none.html").exists()


def test_a_page_of_more_than_15_megabytes_is_refused(tmp_path: Path) -> None:
    cards = [Card("w" * 1000)] * 16_000
    with pytest.raises(DataError, match="at most 15 MB") as error:
        write_page(tmp_path / "page.html", one(Gallery(cards, "cards")))
    assert "16." in str(error.value.got) and LIMIT == 15_000_000
    assert list(tmp_path.iterdir()) == []


def test_a_choice_and_empty_parts() -> None:
    chart = Chart("Chart", {}, "says", Table([Column("a")], []))
    gallery = Gallery([Card("c", facets={"k": ["v"]}, numbers={"n": math.nan, "m": 2})], "cards", [Choice("k", "K")])
    read = render(one(chart, Table([Column("a")], []), Gallery([], "questions"), gallery))
    for said in ("There is nothing to draw.", "No rows.", "No questions to show."):
        assert said in read
    data = json.loads(Read(read).data["data"])
    assert data["charts"] == []
    assert data["galleries"][0]["cards"] == [{"title": "c", "facets": {"k": ["v"]}, "numbers": {"m": 2}}]
    assert data["galleries"][0]["filters"] == [{"key": "k", "label": "K", "descending": False}]


def test_numbers_of_numpy_are_numbers() -> None:
    import numpy as np

    chart = bars("Bars", [Bar("a", np.float32(0.5), np.float64(0.1), np.float32(math.nan))], text="", axis="score")
    card = Card("c", numbers={"n": np.float32(1.5), "m": np.int64(3)})
    table = Table([Column("a", ".2f")], [[np.float32(2.5)], [np.float32(math.nan)]])
    html = render(one(chart, table, Gallery([card], "cards")))
    data = json.loads(Read(html).data["data"])
    assert data["charts"][0]["spec"]["data"]["values"] == [{"label": "a", "value": 0.5, "low": 0.1}]
    assert data["galleries"][0]["cards"][0]["numbers"] == {"n": 1.5, "m": 3}
    assert Read(html).cells[-2:] == ["2.50", "–"]


def test_charts_in_a_row_share_one() -> None:
    def chart(title: str) -> Chart:
        return bars(title, [Bar("a", 1.0)], text="", axis="score")

    html = render(one(chart("one"), chart("two"), Text("between"), chart("three")))
    assert html.count('<div class="charts">') == 1
    assert [int(n) for n in re.findall(r'data-chart="(\d+)"', html)] == [0, 1, 2]
    moved = replace(one(chart("one")), about=[("label", "value")])
    assert '<a href="#about">' in render(moved)


def luminance(colour: str) -> float:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_colours_have_the_contrast_of_wcag_aa(root: Path) -> None:
    css = (root / "common" / "pages" / "static" / "page.css").read_text("utf-8")
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", css)
    themes = [{name: light for name, light, _ in found}, {name: dark for name, _, dark in found}]
    words = [(ink, paper) for ink in ("ink", "muted", "accent") for paper in ("bg", "surface", "raised", "accent-soft")]
    words += [(tone, "surface") for tone in ("good", "bad", "gold")] + [("ink", "mark"), ("surface", "accent")]
    drawn = [(f"series-{n}", "surface") for n in range(1, 9)] + [("edge", "surface"), ("edge", "bg")]
    for theme in themes:
        for pairs, least in ((words, 4.5), (drawn, 3.0)):
            for one_of, other in pairs:
                high, low = sorted((luminance(theme[one_of]), luminance(theme[other])), reverse=True)
                assert (high + 0.05) / (low + 0.05) >= least, (one_of, other, theme[one_of], theme[other])

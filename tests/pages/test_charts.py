"""Charts say what they were given: in their figures, and in what Vega draws of them."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
import vl_convert

from common.pages.blocks import Chart
from common.pages.charts import Bar, Bin, Dot, Point, bars, histogram, lines, scatter


def drawn(chart: Chart) -> str:
    """The chart as Vega draws it, at a width that the page would give it."""
    return vl_convert.vegalite_to_svg(json.dumps({**chart.spec, "width": 400}))


def marks(svg: str, kind: str) -> int:
    return len(re.findall(rf'aria-roledescription="{kind}"', svg))


def rows_of(chart: Chart) -> list[list[Any]]:
    assert chart.figures is not None
    return [list(row) for row in chart.figures.rows]


def heads_of(chart: Chart) -> list[str]:
    assert chart.figures is not None
    return [column.title for column in chart.figures.columns]


def test_bars_keep_their_order_and_have_whiskers_where_there_are_intervals() -> None:
    rows = [Bar("b", 20.0, 18.0, 25.0), Bar("a", 30.0), Bar("c", 5.0, 4.0, 7.0, ceiling=50.0, note="few")]
    chart = bars("Bars", rows, text="c is least.", axis="score", per="domain")
    assert heads_of(chart) == ["domain", "score", "low", "high", "at best", "note"]
    assert rows_of(chart) == [
        ["b", 20.0, 18.0, 25.0, None, ""],
        ["a", 30.0, None, None, None, ""],
        ["c", 5.0, 4.0, 7.0, 50.0, "few"],
    ]
    svg = drawn(chart)
    assert (marks(svg, "bar"), marks(svg, "rule mark"), marks(svg, "tick")) == (3, 2, 1)
    order = [svg.index(f">{label}</text>") for label in "bac"]
    assert order == sorted(order)
    assert not any(word in json.dumps(chart.spec) for word in ("#", "font", '"config"')), "colours are the page's"


def test_bars_of_several_series_stand_side_by_side() -> None:
    rows = [Bar(label, 10.0, series=series) for label in ("x", "y") for series in ("first", "second")]
    chart = bars("Bars", rows, text="", axis="score")
    svg = drawn(chart)
    places = re.findall(r'aria-label="[^"]*" role="graphics-symbol" aria-roledescription="bar" d="M[^,]*,([\d.]+)', svg)
    assert marks(svg, "bar") == 4
    assert len(set(places)) == 4
    assert chart.spec["height"] > bars("Bars", rows[:1], text="", axis="score").spec["height"]


def test_lines_have_bands_and_a_diagonal() -> None:
    rows = [Point(x, x / 4, series, x / 5, x / 3) for series in ("a", "b") for x in (1, 2, 3)]
    chart = lines("Lines", rows, text="", x="k", y="recall", diagonal=True)
    svg = drawn(chart)
    assert (marks(svg, "area mark"), marks(svg, "line mark"), marks(svg, "point")) == (2, 3, 6)
    assert heads_of(chart) == ["series", "k", "recall", "low", "high"]
    assert rows_of(chart)[0] == ["a", 1, 0.25, 0.2, 1 / 3]
    plain = drawn(lines("Lines", [Point(1, 2.0), Point(10, 3.0)], text="", x="k", y="recall", log_x=True))
    assert (marks(plain, "area mark"), marks(plain, "line mark")) == (0, 1)
    assert ">1</text>" in plain and ">10</text>" in plain


def test_zero_and_no_zero() -> None:
    rows = [Point(1, 0.71), Point(2, 0.74)]
    assert ">0.0</text>" in drawn(lines("", rows, text="", x="", y="", zero=True))
    assert ">0.0</text>" not in drawn(lines("", rows, text="", x="", y=""))


def test_scatter_keeps_keys_of_pictures_and_hides_axes_without_meaning() -> None:
    rows = [Dot(0.5, 1.5, "one", "g", "item:1"), Dot(2.0, 3.0, "two", "h")]
    chart = scatter("Map", rows, text="")
    assert chart.images == "image"
    assert [row.get("image") for row in chart.spec["data"]["values"]] == ["item:1", None]
    assert rows_of(chart) == [["one", "g", 0.5, 1.5], ["two", "h", 2.0, 3.0]]
    svg = drawn(chart)
    assert marks(svg, "point") == 2
    assert ">2.0</text>" not in svg
    titled = drawn(scatter("Map", rows, text="", x="clicks", y="AUC"))
    assert "clicks" in titled and ">2.0</text>" in titled
    assert scatter("Map", [Dot(0.0, 0.0, "one")], text="").images == ""


def test_histogram_stands_on_zero() -> None:
    bins = [Bin(0, 10, 5, "train"), Bin(10, 20, 1200, "train"), Bin(0, 10, 7, "valid")]
    chart = histogram("Pages", bins, text="", x="pages", y="documents")
    assert heads_of(chart) == ["series", "pages, from", "below", "documents"]
    assert rows_of(chart) == [["train", 0, 10, 5], ["train", 10, 20, 1200], ["valid", 0, 10, 7]]
    svg = drawn(chart)
    assert marks(svg, "bar") == 3
    heights = [float(h) for h in re.findall(r'roledescription="bar" d="M[^"]*?v([\d.]+)', svg)]
    assert len(heights) == 3
    assert math.isclose(max(heights) / min(heights), 1200 / 5, rel_tol=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_left_out(bad: float) -> None:
    charts = [
        bars("", [Bar("a", bad, bad, bad), Bar("b", 1.0)], text="", axis=""),
        lines("", [Point(1, bad), Point(2, 1.0)], text="", x="", y=""),
        scatter("", [Dot(bad, 1.0, "a"), Dot(1.0, 1.0, "b")], text=""),
    ]
    for chart in charts:
        json.dumps(chart.spec, allow_nan=False)
        assert not re.search(r' d="[^"]*(NaN|Inf)', drawn(chart))
        assert None in rows_of(chart)[0]


def test_the_same_rows_give_the_same_chart_and_no_rows_none() -> None:
    def made() -> list[Chart]:
        return [
            bars("", [Bar("a", 1.0, series="s"), Bar("a", 2.0, series="t")], text="", axis=""),
            lines("", [Point(1, 1.0, "s"), Point(1, 1.0, "t")], text="", x="", y=""),
            scatter("", [Dot(1, 1, "a", "s"), Dot(1, 1, "b", "t")], text=""),
            histogram("", [Bin(0, 1, 2)], text="", x=""),
        ]

    assert [json.dumps(chart.spec) for chart in made()] == [json.dumps(chart.spec) for chart in made()]
    empty = [bars("", [], text="", axis=""), lines("", [], text="", x="", y=""), scatter("", [], text="")]
    assert all(rows_of(chart) == [] for chart in [*empty, histogram("", [], text="", x="")])


def test_any_name_can_be_drawn() -> None:
    names = ["a\u2028b", "new\nline", 'it\'s "quoted" \\ back', "__proto__", "</script>", "w" * 300, "مرحبا", "{{x}}"]
    title = " ".join(names)
    made = [
        bars(title, [Bar(name, 1.0, series=name) for name in names], text=title, axis=title),
        lines(title, [Point(1, 1.0, name) for name in names], text=title, x=title, y=title),
        scatter(title, [Dot(1, 1, name, name) for name in names], text=title, x=title),
        histogram(title, [Bin(0, 1, 2, name) for name in names], text=title, x=title, y=title),
    ]
    kinds = ("bar", "point", "point", "bar")
    assert [marks(drawn(chart), kind) for chart, kind in zip(made, kinds, strict=True)] == [len(names)] * 4
    assert [[name in row for row, name in zip(rows_of(chart), names, strict=True)] for chart in made] == [
        [True] * 8
    ] * 4

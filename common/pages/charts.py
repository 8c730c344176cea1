"""Charts of pages: bars with intervals, lines with bands, scatter plots and histograms, drawn by Altair (Vega-Lite).

Each function takes plain rows, in the order in which they are to be shown, and returns a `Chart` with the
same figures as a table. Colours, fonts and width are the page's: the specification names styles only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from common.pages.blocks import Cell, Chart, Column, Table
from common.pages.data import plain

if TYPE_CHECKING:
    import altair as alt

HEIGHT = 230
"""Pixels of a chart whose height does not follow from its rows."""
BAR = 22
"""Pixels of a bar and the gap below it."""

_NAMES = frozenset(("label", "series", "group"))
"""Fields whose values Vega-Lite writes into expressions."""


@dataclass(frozen=True)
class Bar:
    """A bar: its value, an interval (whiskers) and the highest value that could be reached (a tick)."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    series: str = ""
    note: str = ""
    ceiling: float | None = None


@dataclass(frozen=True)
class Point:
    """A point of a line; low and high are drawn as a band."""

    x: float
    y: float
    series: str = ""
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Dot:
    """A point of a scatter plot; `image` is a key of the page's images, shown with the tip."""

    x: float
    y: float
    label: str
    group: str = ""
    image: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Bin:
    """Values in [low, high), counted."""

    low: float
    high: float
    count: int
    series: str = ""


def bars(title: str, rows: Sequence[Bar], *, text: str, axis: str, per: str = "", form: str = ".1f") -> Chart:
    """Return horizontal bars, in the order given; those of one label and several series stand together.

    Parameters
    ----------
    title, text
        Heading, and what the chart says in one sentence.
    axis, per
        What the values are, and what a bar is: titles of the axis and of the table's first column.
    form
        Of the values in tips and in the table.
    """
    import altair as alt

    series = _distinct(_line(row.series) for row in rows)
    values = [_valid(asdict(row)) for row in rows]
    columns = [_Field("label", per or "label"), _Field("series", "series"), _Field("value", axis, form)]
    columns += [_Field("low", "low", form), _Field("high", "high", form), _Field("ceiling", "at best", form)]
    columns = _filled([*columns, _Field("note", "note")], values)
    base = alt.Chart().encode(
        y=alt.Y("label:N", sort=None, scale=alt.Scale(domain=_distinct(_line(row.label) for row in rows)), title=None),
        tooltip=_tips(columns),
    )
    if len(series) > 1:
        base = base.encode(
            yOffset=alt.YOffset("series:N", sort=None, scale=alt.Scale(domain=series, paddingInner=0.05))
        )
    drawn = base.mark_bar().encode(x=alt.X("value:Q", title=_line(axis), stack=None), **_coloured(series))
    layers: list[alt.Chart] = [drawn]
    if any(row.low is not None for row in rows):
        whisker = base.transform_filter("isValid(datum.low) && isValid(datum.high)")
        layers.append(whisker.mark_rule(style="whisker").encode(x=alt.X("low:Q", title=_line(axis)), x2="high:Q"))
    if any(row.ceiling is not None for row in rows):
        tick = base.transform_filter("isValid(datum.ceiling)")
        layers.append(tick.mark_tick(style="ceiling").encode(x=alt.X("ceiling:Q", title=_line(axis))))
    height = max(BAR, BAR * len({row.label for row in rows}) * (1 if len(series) < 2 else 0.3 + 0.75 * len(series)))
    return _chart(title, alt.layer(*layers), round(height), text, columns, values)


def lines(
    title: str,
    rows: Sequence[Point],
    *,
    text: str,
    x: str,
    y: str,
    form: str = ".3f",
    log_x: bool = False,
    zero: bool = False,
    diagonal: bool = False,
) -> Chart:
    """Return a line with points for each series, with bands where points have intervals.

    Parameters
    ----------
    x, y
        Titles of the axes.
    form
        Of y in tips and in the table.
    log_x
        Logarithmic x axis; all x above 0.
    zero
        Whether the y axis starts at 0.
    diagonal
        Draw y = x, as calibration and ROC need it.
    """
    import altair as alt

    series = _distinct(_line(row.series) for row in rows)
    values = [_valid(asdict(row)) for row in rows]
    columns = [_Field("series", "series"), _Field("x", x), _Field("y", y, form)]
    columns += [_Field("low", "low", form), _Field("high", "high", form), _Field("note", "note")]
    columns = _filled(columns, values)
    whole = all(float(row.x).is_integer() for row in rows)
    places = sorted({row.x for row in rows})
    ticks: dict[str, Any] = {"tickMinStep": 1} if whole and not log_x else {}
    if len(places) <= 8 and (whole or log_x):
        ticks = {"values": places}
    base = alt.Chart().encode(
        x=alt.X(
            "x:Q",
            title=_line(x),
            scale=alt.Scale(type="log", nice=False) if log_x else alt.Scale(zero=False),
            axis=alt.Axis(format="~s" if log_x else ",~r", **ticks),
        ),
        y=alt.Y("y:Q", title=_line(y), scale=alt.Scale(zero=zero)),
        **_coloured(series),
    )
    layers: list[alt.Chart] = []
    if diagonal:
        ends = [{"x": 0, "y": 0}, {"x": 1, "y": 1}]
        layers.append(alt.Chart(alt.Data(values=ends)).mark_line(style="reference").encode(x="x:Q", y="y:Q"))
    if any(row.low is not None for row in rows):
        banded = base.transform_filter("isValid(datum.low) && isValid(datum.high)")
        layers.append(banded.mark_area(style="band").encode(y=alt.Y("low:Q", title=_line(y)), y2="high:Q"))
    layers.append(base.mark_line().encode(order="x:Q"))
    # Of a long line the points are not seen, but still met by the pointer.
    dots = base.mark_point(filled=True, size=40, opacity=1 if len(rows) <= 40 * len(series) else 0)
    if 1 < len(series) <= 6:
        dots = dots.encode(shape=alt.Shape("series:N", sort=None, scale=alt.Scale(domain=series), title=None))
    layers.append(dots.encode(tooltip=_tips(columns)))
    return _chart(title, alt.layer(*layers), HEIGHT, text, columns, values)


def scatter(title: str, rows: Sequence[Dot], *, text: str, x: str = "", y: str = "") -> Chart:
    """Return a scatter plot to be moved and zoomed, each dot with its label, note and picture in the tip.

    The axes have ticks where they have titles: those of a map by t-SNE mean nothing.
    """
    import altair as alt

    groups = _distinct(_line(row.group) for row in rows)
    values = [_valid(asdict(row)) for row in rows]
    columns = _filled(
        [_Field("label", "label"), _Field("group", "group"), _Field("note", "note"), _Field("x", x or "x", ".3f"),
         _Field("y", y or "y", ".3f")], values,
    )  # fmt: skip
    bare: dict[str, Any] = {"labels": False, "ticks": False, "domain": False, "grid": False}
    plain = alt.Scale(zero=False, nice=False, padding=12)
    # The wheel alone is for the page.
    move = alt.selection_interval(name="move", bind="scales", zoom="wheel![event.ctrlKey || event.metaKey]")
    pick = alt.selection_point(name="pick", fields=["group"], bind="legend")
    drawn = (
        alt.Chart(name="plot")
        .mark_point(filled=True, size=60 if len(rows) <= 400 else 28)
        .encode(
            x=alt.X("x:Q", title=_line(x) or None, scale=plain, axis=alt.Axis(**({} if x else bare))),
            y=alt.Y("y:Q", title=_line(y) or None, scale=plain, axis=alt.Axis(**({} if y else bare))),
            tooltip=_tips([field for field in columns if field.name not in "xy"]),
            **_coloured(groups, "group"),
        )
        .add_params(move)
    )
    if len(groups) > 1:
        seen = alt.when(pick).then(alt.value(0.8)).otherwise(alt.value(0.08))
        drawn = drawn.add_params(pick).encode(opacity=seen)
    images = "image" if any(row.image for row in rows) else ""
    return _chart(title, drawn, 420, text, columns, values, images)


def histogram(title: str, counts: Sequence[Bin], *, text: str, x: str, y: str = "") -> Chart:
    """Return bars from each bin's low to its high; several series lie over each other."""
    import altair as alt

    series = _distinct(_line(row.series) for row in counts)
    values = [_valid(asdict(row)) for row in counts]
    columns = [_Field("series", "series"), _Field("low", f"{x}, from"), _Field("high", "below")]
    columns = _filled([*columns, _Field("count", y or "count", ",")], values)
    drawn = (
        alt.Chart()
        .mark_bar(style="over" if len(series) > 1 else "bin")
        .encode(
            x=alt.X("low:Q", bin="binned", title=_line(x), scale=alt.Scale(zero=False, nice=False)),
            x2="high:Q",
            y=alt.Y("count:Q", title=_line(y or "count"), stack=None, axis=alt.Axis(format="~s")),
            tooltip=_tips(columns),
            **_coloured(series),
        )
    )
    return _chart(title, drawn, HEIGHT - 40, text, columns, values)


@dataclass(frozen=True)
class _Field:
    """A field of the rows: how it is titled, and how its numbers are formed."""

    name: str
    title: str
    form: str = ""


def _chart(
    title: str,
    drawn: alt.Chart | alt.LayerChart | alt.FacetChart,
    height: int,
    text: str,
    columns: Sequence[_Field],
    values: Sequence[Mapping[str, Cell]],
    images: str = "",
) -> Chart:
    """Return the chart with its figures; the specification is checked against Vega-Lite's schema."""
    import altair as alt

    told = [
        {name: _line(value) if name in _NAMES else value for name, value in row.items() if value not in (None, "")}
        for row in values
    ]
    whole = drawn.properties(
        data=alt.Data(values=told),
        width="container",
        height=height,  # of the plot itself: axes and legend come on top
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
    )
    spec = whole.to_dict()
    spec.pop("config", None)  # Altair's look: the page has its own
    figures = Table(
        [Column(field.title, field.form) for field in columns],
        [[row[field.name] for field in columns] for row in values],
    )
    return Chart(title, spec, text, figures, images)


def _valid(row: Mapping[str, Any]) -> dict[str, Cell]:
    """Return the row with None in the place of NaN and infinities, which JSON has no words for."""
    return {name: plain(value) for name, value in row.items()}


def _line(text: Any) -> str:
    """Return a title or a name in one line: Vega-Lite writes both into expressions, which ends of lines break."""
    return " ".join(text.split())


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _filled(columns: Sequence[_Field], values: Sequence[Mapping[str, Cell]]) -> list[_Field]:
    """Return the columns in which any row has something."""
    return [field for field in columns if any(row[field.name] not in ("", None) for row in values)]


def _tips(columns: Sequence[_Field]) -> list[alt.Tooltip]:
    import altair as alt

    return [
        alt.Tooltip(field.name, type="quantitative", format=field.form, title=_line(field.title))
        if field.form
        else alt.Tooltip(field.name, type="nominal", title=_line(field.title))
        for field in columns
    ]


def _coloured(series: Sequence[str], field: str = "series") -> dict[str, Any]:
    """Return the encoding of colours by series, of which a single one needs none."""
    import altair as alt

    if len(series) < 2:
        return {}
    return {"color": alt.Color(f"{field}:N", sort=None, scale=alt.Scale(domain=list(series)), title=None)}

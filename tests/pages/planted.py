"""Pages with every block, whose texts try to break out, and the texts that a reader must find in them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from PIL import Image

from common.pages import charts
from common.pages.blocks import (
    Card,
    Chart,
    Choice,
    Column,
    Fact,
    Facts,
    Gallery,
    Gap,
    Page,
    Section,
    Strip,
    Table,
    Text,
    Tile,
)  # fmt: skip
from common.pages.images import Images, thumbnail

NASTY = (
    "<script>window.hit=1</script>",
    "</script><script>window.hit=2</script>",
    '"><img src=x onerror=window.hit=3>',
    "' onmouseover='window.hit=4' \"quoted\"",
    "<!-- <script> &amp; &lt;b&gt; {{ 7*7 }} ${7*7}",
    "line\u2028and\u2029paragraph",
    "emoji 🦉 and مرحبا بالعالم (من اليمين)",
    "w" * 300,
)
# Names of the dataclasses' fields that hold no text to be read.
_NO_TEXT = {"key", "form", "image", "images", "tone", "spec", "facets", "numbers", "search", "marked", "descending"}
DOMAINS = ("Academic paper", "News", "Laws", "Financial report")


def picture(seed: int, width: int = 60, height: int = 80) -> bytes:
    """A thumbnail as it is kept in a page."""
    rng = random.Random(seed)
    image = Image.frombytes("RGB", (6, 8), rng.randbytes(6 * 8 * 3)).resize((width * 2, height * 2))
    return thumbnail(image, width, height)


def nasty_page(text: str) -> Page:
    """A page with every block and `text` in every place for text."""
    count = 0

    def said(what: str) -> str:
        nonlocal count
        count += 1
        return f"{what} {count} {text}"

    images = Images()
    images.add(text, picture(1))
    images.left_out.add("page:left out")
    tiles = [
        Tile(said("caption"), text, said("badge"), "gold", [said("line")], [(said("passage"), False), ("word", True)]),
        Tile(said("caption"), "page:left out", said("badge"), "bad"),
        Tile(said("caption")),
    ]
    card = Card(said("question"), [(said("fact"), said("value"))], [Strip(said("strip"), tiles)], {text: [text, "b"]})
    marked = Card([(said("question"), False), (said("marked"), True)], facets={text: ["b"]}, numbers={text: 1.0})
    rows = [[said("cell"), 1.5], [said("cell"), None]]
    ours = charts.Bar(said("bar"), 41.5, 40.0, 43.0, said("series"), said("note"), 99.0)
    bars = [ours, charts.Bar(said("bar"), 20.0, series=said("series"))]
    points = [charts.Point(x, x / 2, said("series"), x / 3, x, said("note")) for x in (0.0, 1.0)]
    dots = [charts.Dot(n, n, said("label"), said("group"), text, said("note")) for n in range(3)]
    bins = [charts.Bin(n, n + 1, n, said("series")) for n in range(2)]
    titles = {"x": said("x"), "y": said("y")}
    drawn = [
        charts.bars(said("chart"), bars, text=said("says"), axis=said("axis"), per=said("per")),
        charts.lines(said("chart"), points, text=said("says"), diagonal=True, **titles),
        charts.scatter(said("chart"), dots, text=said("says"), **titles),
        charts.histogram(said("chart"), bins, text=said("says"), **titles),
    ]
    columns = [Column(said("column"), note=said("note")), Column(said("column"), ".2f")]
    blocks = [
        Text(said("text")),
        Gap(said("gap"), said("do")),
        Facts([Fact(said("fact"), said("value"), said("note"), "good")]),
        Table(columns, rows, said("table"), frozenset({1})),
        Table(columns, [], said("empty table")),
        charts.bars(said("empty chart"), [], text=said("says"), axis=""),
        *drawn,
        Gallery([card, marked], said("noun"), [Choice(text, said("filter"))], [Choice(text, said("sort"))]),
        Gallery([], said("noun")),
    ]
    section = Section("all", said("section"), blocks, said("intro"))
    return Page(said("title"), said("subtitle"), [section], images, [(said("label"), said("value"))])


def texts(value: object, name: str = "") -> Iterator[str]:
    """Every text in blocks that a reader must find."""
    if name in _NO_TEXT or isinstance(value, Images):
        return
    if isinstance(value, str):
        if value:
            yield value
    elif isinstance(value, list) and value and isinstance(value[0], tuple) and isinstance(value[0][1], bool):
        yield "".join(piece for piece, _ in value)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from texts(part)
    elif is_dataclass(value):
        if isinstance(value, Chart) and value.figures is not None and not value.figures.rows:
            yield value.title
            return
        for each in fields(value):
            yield from texts(getattr(value, each.name), each.name)


def gallery_page(cards: int, pictures: int, tiles: int = 6, pages: int = 0) -> Page:
    """A gallery of questions as a report has them; tile t of card c shows page (c * tiles + t) % pages."""
    rng = random.Random(5)
    images = Images()
    known = [picture(seed) for seed in range(24)]
    pages = pages or cards * tiles
    for number in range(pictures):
        images.add(f"page:document-{number // 12}.pdf:{number % 12}", known[number % len(known)])
    made = []
    for c in range(cards):
        shown = [divmod((c * tiles + t) % pages, 12) for t in range(tiles)]
        strip = [
            Tile(f"page {page + 1}", f"page:document-{document}.pdf:{page}", f"rank {t}", lines=[f"bm25 {t}.5"])
            for t, (document, page) in enumerate(shown)
        ]
        domain = rng.choice(DOMAINS)
        routes = rng.sample(("bm25", "dense", "late"), rng.randint(0, 2))
        words = " ".join(rng.choices(("Revenue", "figure", "author", "Straße", "table", "growth"), k=3))
        numbers = {"score": float(rng.randint(0, 9))} if c % 7 else {}
        facts = [("score", f"{numbers.get('score', 0):.1f}"), ("domain", domain)]
        facets = {"domain": [domain], "route": routes}
        strips = [Strip("gold", strip[:1]), Strip("top five", strip[1:])]
        made.append(Card(f"What is {words} of {c}?", facts, strips, facets, numbers, search=f"hidden{c % 5}"))
    filters = [Choice("domain", "Domain"), Choice("route", "Found by")]
    sorts = [Choice("score", "hardest first"), Choice("score", "easiest first", descending=True)]
    sections = [Section("errors", "Error gallery", [Gallery(made, "questions", filters, sorts)])]
    return Page("Report", f"{cards} questions", sections, images)

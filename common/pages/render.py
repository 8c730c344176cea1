"""From a `Page` to one HTML file that opens from disk: no network, nothing loaded, nothing repeated.

What comes from data enters the file in two ways only: as text that Jinja2 escapes, and as JSON in a script
element that is no program, with `<`, `>` and `&` written as escapes. The page's own scripts put it into the document by
`textContent`. A content security policy with the hashes of these scripts forbids all others, and every request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markupsafe import Markup

from common.atomic import write_bytes
from common.errors import DataError
from common.pages.blocks import Cell, Chart, Column, Gallery, Link, Page, Table
from common.pages.data import as_json, gallery_data, plain
from common.pages.images import Images

if TYPE_CHECKING:
    from jinja2 import Environment

LIMIT = 15_000_000
"""Bytes that a page may have: more opens slowly, and cannot be sent by mail."""

_SHORT = 32
"""Characters of a table's cell that always stand in one line."""
_SENTENCE = 1000
"""Bytes for the sentence that says how many pictures are left out."""
_HERE = Path(__file__).parent
_STYLES = ("page.css", "blocks.css", "gallery.css", "print.css")
_SCRIPTS = ("page.js", "table.js", "gallery.js")
_CODE = re.compile(r"`([^`]+)`|((?:\.venv/bin/)?python -m [\w.]+(?: [^\s,;:()]+)*[^\s,;:().])")
_CONTROLS = dict.fromkeys((*range(9), 11, *range(14, 32)), "�")


def write_page(path: Path, page: Page) -> int:
    """Render the page, write it atomically, and return its size in bytes.

    Where it would have more than `LIMIT` bytes, the pictures that were added last are left out, and the page says so.

    Raises
    ------
    DataError
        It would be too large without any picture; what to lower is named.
    """
    data = render(page).encode("utf-8", "replace")
    excess = len(data) - LIMIT
    if excess > 0:
        page = replace(page, images=_fewer(page.images, excess))
        data = render(page).encode("utf-8", "replace")
    if len(data) > LIMIT:
        raise DataError(
            "the page is too large to be opened with ease",
            where=path,
            expected=f"at most {LIMIT / 1e6:.0f} MB",
            got=f"{len(data) / 1e6:.1f} MB of text and figures, without any picture",
            todo="lower the number of examples, or the words shown of each",
        )
    write_bytes(path, data)
    return len(data)


def render(page: Page) -> str:
    """Return the page as one HTML document; the same page always gives the same text.

    Raises
    ------
    ValueError
        Two sections have the same key, or a key that cannot be an anchor.
    """
    keys = [section.key for section in page.sections]
    for key in keys:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", key) or keys.count(key) > 1 or key == "about":
            raise ValueError(f"section key {key!r}: lower case with dashes, once a page")
    parts = _Parts(page)
    body = _environment().get_template("body.html.j2").render(page=page, parts=parts)
    scripts = [_static(name) for name in _SCRIPTS]
    if parts.charts:
        scripts += [_vega(), _static("charts.js")]
    first = _static("theme.js")
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in (first, *scripts))
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            page=page,
            policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes}",
            styles=Markup("\n".join(_static(name) for name in _STYLES)),  # noqa: S704 - our own files
            first=Markup(first),  # noqa: S704
            body=Markup(body),  # noqa: S704 - escaped where it was rendered
            data=as_json({"charts": parts.charts, "galleries": parts.galleries}),
            images=as_json({key: base64.b64encode(page.images.data[key]).decode() for key in sorted(page.images.data)}),
            scripts=[Markup(script) for script in scripts],  # noqa: S704
        )
    )


def _fewer(images: Images, excess: int) -> Images:
    """Return the images without those added last, so that the page loses `excess` bytes where it can."""
    kept = dict(images.data)
    left_out = set(images.left_out)
    spare = excess + _SENTENCE
    while kept and spare > 0:
        key, image = kept.popitem()
        left_out.add(key)
        spare -= -(-len(image) // 3) * 4 + len(json.dumps(key, ensure_ascii=False).encode()) + 4
    used = sum(len(image) for image in kept.values())
    return Images(used, kept, left_out, used)


@dataclass
class _Parts:
    """What the template asks for while it goes through a page, and what it left for the scripts to draw."""

    page: Page
    charts: list[Mapping[str, Any]] = field(default_factory=list)
    galleries: list[dict[str, Any]] = field(default_factory=list)

    def chart(self, chart: Chart) -> int:
        """Keep a chart for the scripts and return its number."""
        self.charts.append({"spec": chart.spec, "images": chart.images})
        return len(self.charts) - 1

    def gallery(self, gallery: Gallery) -> int:
        """Keep a gallery for the scripts and return its number."""
        self.galleries.append(gallery_data(gallery))
        return len(self.galleries) - 1

    def left_out(self) -> str:
        """Return the sentence on pictures that found no room."""
        images = self.page.images
        number = len(images.left_out)
        return (
            f"{number:,} picture{' is' if number == 1 else 's are'} left out: the {len(images.data):,} kept "
            f"fill the {images.budget / 1e6:.3g} MB that this page has for pictures."
        )

    @staticmethod
    def rows(blocks: Sequence[object]) -> list[list[object]]:
        """Return blocks in rows: charts that follow each other share one."""
        rows: list[list[object]] = []
        for block in blocks:
            if isinstance(block, Chart) and rows and isinstance(rows[-1][-1], Chart):
                rows[-1].append(block)
            else:
                rows.append([block])
        return rows

    @staticmethod
    def kind(block: object) -> str:
        return type(block).__name__

    @staticmethod
    def pieces(text: str) -> Iterator[tuple[str, bool]]:
        """Yield a gap's words in pieces: (piece, whether it is a command)."""
        start = 0
        for match in _CODE.finditer(text):
            yield text[start : match.start()], False
            yield match[1] or match[2], True
            start = match.end()
        yield text[start:], False

    @staticmethod
    def looks(table: Table) -> list[str]:
        """Return the class of each column: numbers stand to the right, long texts may run over several lines."""
        looks = []
        for number, column in enumerate(table.columns):
            cells = [row[number] for row in table.rows if row[number] is not None]
            words = [_cell(cell, "") for cell in cells if isinstance(cell, str | Link)]
            right = bool(column.form) or (bool(cells) and not words)
            looks.append("right" if right else "long" if any(len(cell) > _SHORT for cell in words) else "")
        return looks

    @staticmethod
    def cell(column: Column, value: Cell) -> str:
        return _cell(value, column.form)

    @staticmethod
    def absent(value: Cell) -> bool:
        """Return whether a cell has no value, so that it comes last in every order."""
        return not isinstance(value, Link) and plain(value) is None

    @staticmethod
    def link(value: Cell) -> str:
        """Return where a cell leads, as an address; "" where it leads nowhere."""
        return quote(value.path) if isinstance(value, Link) else ""

    @staticmethod
    def number(value: Cell) -> str:
        """Return what a cell is sorted by, where that is not its text."""
        known = None if isinstance(value, Link) else plain(value)
        return "" if known is None or isinstance(known, str) else repr(known + 0)


def _cell(value: Cell, form: str) -> str:
    """Return a cell's text; None and what is no number are a dash."""
    known = value.text if isinstance(value, Link) else plain(value)
    if known is None:
        return "–"
    if isinstance(known, str):
        return known
    if isinstance(known, bool):
        return "yes" if known else "no"
    return format(known, form or ("d" if isinstance(known, int) else ".6g"))


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _static(name: str) -> str:
    return (_HERE / "static" / name).read_text("utf-8")


@cache
def _vega() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, which the package ships."""
    import vl_convert

    return vl_convert.javascript_bundle()  # pyright: ignore[reportCallIssue] - its stub knows no default


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    def visible(value: object) -> object:
        # HTML has no way to write most control characters.
        return value.translate(_CONTROLS) if isinstance(value, str) and not isinstance(value, Markup) else value

    return Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )

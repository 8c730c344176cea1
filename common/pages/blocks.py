"""What a page holds: plain values, no HTML. Everything here is escaped when the page is rendered.

All text is given as it is in the data; all figures are figures that the metrics' own modules computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from common.pages.images import Images


@dataclass(frozen=True)
class Link:
    """A table's cell that leads to another file beside the page; it is sorted by its text.

    Raises
    ------
    ValueError
        `path` is not relative: a page links to what lies with it, and to no other place.
    """

    text: str
    path: str

    def __post_init__(self) -> None:
        if not self.path or self.path.startswith(("/", "\\")) or ":" in self.path.split("/")[0]:
            raise ValueError(f"a link needs a relative path, not {self.path!r}")


Cell = str | int | float | Link | None
Segments = Sequence[tuple[str, bool]]
"""Text in pieces: (piece, whether it is marked)."""
Tone = Literal["", "good", "bad", "gold"]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Gap:
    """A part that cannot be shown: what is missing, and what would bring it.

    Commands stand as code: words in backticks, and `python -m` with what follows up to the next mark.
    """

    what: str
    todo: str = ""


@dataclass(frozen=True)
class Fact:
    """One figure to be seen first: "Score", "41.7 ± 2.1", "of 99.1 at best"."""

    label: str
    value: str
    note: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Facts:
    """A row of figures."""

    facts: Sequence[Fact]


@dataclass(frozen=True)
class Column:
    """A table's column.

    Attributes
    ----------
    title
        Of the head.
    form
        Format specification of numbers, as ".1f", "+.4f" or ","; numbers stand to the right.
    note
        What the column means, shown when the head is pointed at or focused.
    """

    title: str
    form: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table that can be sorted by its heads; None is told as a dash. `marked`: numbers of rows to stand out."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    marked: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite chart, made by `charts`.

    Attributes
    ----------
    title
        Its heading.
    spec
        Without width, colours and fonts, which the page sets.
    text
        What the chart says, in one sentence: for those who do not see it.
    figures
        The same as a table, folded away below the chart.
    images
        Field of the data that holds keys of the page's images, shown with the tip of a point; "" for none.
    """

    title: str
    spec: Mapping[str, Any]
    text: str
    figures: Table | None = None
    images: str = ""


@dataclass(frozen=True)
class Tile:
    """A picture (or its absence) with what belongs to it: a page, a passage, a cover.

    Attributes
    ----------
    caption
        As "page 12", or an item's title.
    image
        Key in the page's images; None shows the caption alone.
    badge
        One or two words on the picture: "gold", "rank 1".
    tone
        gold: the right answer; good: a right answer that was found; bad: a wrong one.
    lines
        Short lines below, as "bm25 12.3".
    text
        A passage's words, the matched ones marked.
    """

    caption: str
    image: str | None = None
    badge: str = ""
    tone: Tone = ""
    lines: Sequence[str] = ()
    text: Segments = ()


@dataclass(frozen=True)
class Strip:
    """Tiles side by side under a label: "gold pages", "top five of fusion", "history"."""

    label: str
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Card:
    """One entry of a gallery: a question, a row, an item.

    Attributes
    ----------
    title
        The question's text.
    facts
        (label, value), as ("score", "33.3").
    strips
        Pictures.
    facets
        Facet's key -> this card's values, what the filters go by.
    numbers
        Sort's key -> this card's number; a card without one comes last.
    search
        Words that a search finds beside all text above.
    """

    title: str | Segments
    facts: Sequence[tuple[str, str]] = ()
    strips: Sequence[Strip] = ()
    facets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    search: str = ""


@dataclass(frozen=True)
class Choice:
    """A filter (`key` of a card's facets) or an order (`key` of a card's numbers)."""

    key: str
    label: str
    descending: bool = False


@dataclass(frozen=True)
class Gallery:
    """Cards that can be filtered, searched and sorted; drawn as one scrolls. `noun`: what a card is, as "questions"."""

    cards: Sequence[Card]
    noun: str
    filters: Sequence[Choice] = ()
    sorts: Sequence[Choice] = ()


Block = Text | Gap | Facts | Table | Chart | Gallery


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading; `key` is its anchor, lower case with dashes."""

    key: str
    title: str
    blocks: Sequence[Block]
    intro: str = ""


@dataclass(frozen=True)
class Page:
    """A whole page. `about`: (label, value) of the run, the data and the machine, told at the end."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    images: Images
    about: Sequence[tuple[str, str]] = ()

"""Galleries as JSON for the page's scripts, and JSON that can stand in HTML."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from common.pages.blocks import Card, Choice, Gallery, Segments, Strip, Tile

_ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def plain(value: Any) -> Any:
    """Return a value as Python's own: numpy's numbers as numbers, and None for what is no finite number.

    Raises
    ------
    TypeError
        It is neither text nor a number.
    """
    if hasattr(value, "item"):
        value = value.item()
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    raise TypeError(f"neither text nor a number: {type(value).__name__}")


def gallery_data(gallery: Gallery) -> dict[str, Any]:
    """Return a gallery for the scripts: without pictures, which the page keeps once by their keys."""
    return {
        "noun": gallery.noun,
        "filters": [_choice(choice) for choice in gallery.filters],
        "sorts": [_choice(choice) for choice in gallery.sorts],
        "cards": [_card(card) for card in gallery.cards],
    }


def as_json(value: object) -> Markup:
    """Return JSON that no parser of HTML takes for anything but text."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=plain)
    return Markup(text.translate(_ESCAPES))  # noqa: S704 - nothing of markup is left in it


def _choice(choice: Choice) -> dict[str, Any]:
    return {"key": choice.key, "label": choice.label, "descending": choice.descending}


def _segments(text: str | Segments) -> str | list[str]:
    """Return text as it is, or its pieces by turns: the first unmarked, the second marked, and so on."""
    if isinstance(text, str):
        return text
    pieces: list[str] = []
    for piece, marked in text:
        if len(pieces) % 2 == marked:
            pieces.append(piece)
        elif pieces:
            pieces[-1] += piece
        else:
            pieces += ["", piece]
    return pieces if len(pieces) > 1 else "".join(pieces)


def _card(card: Card) -> dict[str, Any]:
    """Return a card for the scripts, without what it lacks."""
    return _without_empty(
        {
            "title": _segments(card.title),
            "facts": [list(fact) for fact in card.facts],
            "strips": [_strip(strip) for strip in card.strips],
            "facets": {key: list(values) for key, values in card.facets.items()},
            "numbers": {key: plain(value) for key, value in card.numbers.items() if plain(value) is not None},
            "search": card.search,
        }
    )


def _strip(strip: Strip) -> dict[str, Any]:
    return {"label": strip.label, "tiles": [_tile(tile) for tile in strip.tiles]}


def _tile(tile: Tile) -> dict[str, Any]:
    return _without_empty(
        {
            "caption": tile.caption,
            "image": tile.image,
            "badge": tile.badge,
            "tone": tile.tone,
            "lines": list(tile.lines),
            "text": _segments(tile.text),
        }
    )


def _without_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, "", [], {})}

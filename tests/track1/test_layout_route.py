"""BM25 over layout blocks: the best block of a page counts; short blocks join the next one."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DataError
from tests.track1.text_tables import make_passages, make_queries
from track1_mdr.config import LayoutConfig
from track1_mdr.datasets.tables import LAYOUT_SCHEMA, Candidates, NoImages, Passages, Scored, top_k
from track1_mdr.routes.base import Environment
from track1_mdr.routes.layout import LayoutRoute, join_short_blocks

BLOCKS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), max_size=20)


def layouts(blocks: list[tuple[int, str | None]]) -> pl.DataFrame:
    rows = [{"passage": p, "kind": "text", "text": t, "bbox": [0.0, 0.0, 1.0, 1.0]} for p, t in blocks]
    return pl.DataFrame(rows, schema=LAYOUT_SCHEMA)


def layout_route(**options: Any) -> LayoutRoute:
    return LayoutRoute(LayoutConfig(type="layout", **options), Environment(Path("unused")))


def run(blocks: list[tuple[int, str | None]], pages: int, question: str, **options: Any) -> Scored:
    table = make_passages([("d", "")] * pages).table
    route = layout_route(**options)
    route.fit(Passages(table, NoImages(pages), layouts(blocks)))
    (scored,) = route.score(make_queries([(question, "d")]), Candidates.by_document(["d"], ["d"] * pages))
    return scored.check("layout", "q0")


def as_dict(scored: Scored) -> dict[int, float]:
    return dict(zip(scored.rows.tolist(), scored.scores.tolist(), strict=True))


@settings(deadline=None)
@given(BLOCKS, st.integers(1, 8))
def test_joined_blocks_hold_every_word_of_their_page_once(shape: list[tuple[int, int]], min_words: int) -> None:
    blocks: list[tuple[int, str | None]] = [
        (page, " ".join(f"w{number}.{i}" for i in range(words))) for number, (page, words) in enumerate(shape)
    ]
    units = join_short_blocks(layouts(blocks), min_words)
    for page in range(5):
        expected = [word for owner, text in blocks if owner == page for word in (text or "").split()]
        mine = [text.split() for text, owner in zip(units.texts, units.owners, strict=True) if owner == page]
        assert [word for unit in mine for word in unit] == expected
        # Only the last unit of a page may be short: nothing is left to join it with.
        assert all(len(unit) >= min_words for unit in mine[:-1])
        assert all(mine)
    assert (np.diff(units.owners) >= 0).all()


def test_blocks_out_of_page_order_keep_their_own_order_inside_a_page() -> None:
    units = join_short_blocks(layouts([(1, "one"), (0, "zero"), (1, None), (1, " two "), (0, "and more")]), 2)
    assert units.texts == ["zero and more", "one two"]
    assert units.owners.tolist() == [0, 1]


def test_a_heading_never_joins_the_next_page() -> None:
    units = join_short_blocks(layouts([(0, "Heading"), (1, "text of the other page")]), 4)
    assert units.texts == ["Heading", "text of the other page"]


FILL = "saffron violin tundra lemur basalt walnut copper meadow"


def test_words_together_in_a_block_beat_words_spread_over_the_page() -> None:
    together: list[tuple[int, str | None]] = [
        (0, f"quark {FILL}"), (0, f"zephyr {FILL}"),
        (1, "quark zephyr copper meadow walnut basalt lemur tundra"), (1, f"{FILL} violin saffron"),
    ]  # fmt: skip
    best = run(together, 2, "quark zephyr", min_words=8)
    assert top_k(best, 1).rows.tolist() == [1]
    # Placebo: the same words in one block a page give the two pages the same words to offer.
    whole: list[tuple[int, str | None]] = [
        (page, " ".join(t or "" for p, t in together if p == page)) for page in range(2)
    ]
    scores = as_dict(run(whole, 2, "quark zephyr", min_words=8))
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


def test_pages_without_blocks_have_no_score() -> None:
    scored = run([(0, f"quark {FILL}"), (2, FILL), (3, "  "), (4, None)], 5, "quark")
    assert set(as_dict(scored)) == {0, 2}
    assert as_dict(scored)[0] > as_dict(scored)[2] == 0.0


def test_a_layouts_table_without_rows_says_nothing() -> None:
    assert len(run([], 3, "quark").rows) == 0


def test_data_without_layouts_says_how_to_get_them_or_do_without() -> None:
    route = layout_route()
    with pytest.raises(DataError, match="needs a layouts table") as caught:
        route.fit(make_passages())
    assert "--set" in str(caught.value.todo)


def test_score_before_fit_is_refused() -> None:
    route = layout_route()
    with pytest.raises(RuntimeError, match="fit before score"):
        route.score(make_queries([("q", "a")]), Candidates.everything(1, 1))

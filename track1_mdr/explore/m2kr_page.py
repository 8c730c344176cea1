"""M2KR on the page: counts, distributions, tables by kind of query, sampled queries with their gold passages."""

from __future__ import annotations

import re

import numpy as np
import polars as pl

from common.errors import DataError
from common.explore.counts import length_chart, plural, spread, spread_table
from common.explore.sample import spread_rows
from common.pages.blocks import (
    Block,
    Card,
    Cell,
    Choice,
    Column,
    Fact,
    Facts,
    Gallery,
    Gap,
    Section,
    Strip,
    Table,
    Tile,
)
from common.pages.images import Images, thumbnail
from track1_mdr.datasets.tables import ImageSource
from track1_mdr.explore.m2kr_checks import M2kr, prefixes
from track1_mdr.explore.mmdocir_samples import marked_words
from track1_mdr.explore.scripts import script_table

SIZE = (220, 300)
GOLD = 3


def m2kr_sections(data: M2kr, images: Images, *, samples: int, seed: int) -> list[Section]:
    """Return the sections of M2KR; what is absent is a gap in its place."""
    intro = "Questions with an image, an image alone, or words alone, about one pool of passages."
    return [
        Section("m2kr", "M2KR", _counts(data), intro),
        Section("m2kr-lengths", "M2KR: how long and how many", _lengths(data)),
        Section("m2kr-tables", "M2KR: by kind of query", _tables(data)),
        Section("m2kr-samples", "M2KR: sampled queries", _samples(data, images, samples, seed)),
    ]


def _counts(data: M2kr) -> list[Block]:
    queries, passages = data.tables.queries.table, data.tables.passages.table
    labels = sum(map(len, data.gold.values()))
    pictured, shot = queries["image_name"].count(), passages["image_name"].count()
    facts = [
        Fact("Queries", f"{queries.height:,}", plural(queries["domain"].n_unique(), "kind")),
        Fact("Query images", f"{queries['image_name'].n_unique() - (pictured < queries.height):,}", "different names"),
        Fact("Passages", f"{passages.height:,}", f"{shot:,} with a screenshot"),
        Fact("With gold", f"{len(data.gold):,}", f"{labels:,} gold passages"),
    ]
    blocks: list[Block] = [Facts(facts)]
    if not pictured:
        blocks.append(Gap("There are no query images.", "python -m track1_mdr download --help"))
    if not shot:
        blocks.append(Gap("There are no screenshots.", "python -m track1_mdr download --help"))
    if not data.gold:
        blocks.append(Gap("No query has gold: there is no local score.", "see data/README.md, gold.csv"))
    return blocks


def _lengths(data: M2kr) -> list[Block]:
    queries, passages = data.tables.queries.table, data.tables.passages.table
    asked = queries["question"].str.count_matches(r"\S+").to_numpy()
    gold = np.asarray([len(ids) for ids in data.gold.values()], dtype=np.int64)
    measured = [
        ("Words of a passage", passages["text"].str.count_matches(r"\S+").to_numpy(), "words", "passages"),
        ("Words of a question", asked[asked > 0], "words", "queries with words"),
        ("Gold passages of a query", gold, "gold passages", "queries"),
    ]
    candidates = np.asarray([len(rows) for rows in data.tables.candidates.rows], dtype=np.int64)
    rows = [spread(title, values) for title, values, _, _ in measured]
    blocks: list[Block] = [spread_table([*rows, spread("Candidates of a query", candidates)])]
    blocks += [length_chart(title, values, x, y) for title, values, x, y in measured if len(values)]
    return [*blocks, script_table(passages["text"], queries["question"], "passages")]


def _tables(data: M2kr) -> list[Block]:
    table = data.tables.queries.table.with_columns(
        words=pl.col("question").str.count_matches(r"\S+"), known=pl.col("question_id").is_in(list(data.gold))
    )
    kinds = table.group_by("domain").agg(
        queries=pl.len(),
        images=pl.col("image_name").drop_nulls().n_unique(),
        words=pl.col("words").mean(),
        instructions=pl.col("instruction").n_unique(),
        gold=pl.col("known").sum(),
    )
    rows: list[tuple[Cell, ...]] = kinds.sort("domain").rows()
    columns = [
        Column("kind of query"),
        Column("queries", ","),
        Column("images", ",", "different ones"),
        Column("words a question", ".1f"),
        Column("instructions", ",", "different wordings"),
        Column("with gold", ","),
    ]
    blocks: list[Block] = [Table(columns, rows, "Kinds of query")]
    if data.gold:
        columns = [Column("kind of query"), Column("gold ids begin with"), Column("queries", ",")]
        blocks.append(Table(columns, prefixes(data).rows(), "Passage ids by kind of query"))
    wording = table.group_by("instruction").agg(pl.len()).sort("len", "instruction", descending=[True, False]).head(30)
    blocks.append(Table([Column("instruction"), Column("queries", ",")], wording.rows(), "Instructions"))
    return blocks


def _samples(data: M2kr, images: Images, samples: int, seed: int) -> list[Block]:
    queries, passages = data.tables.queries, data.tables.passages
    at = {passage: row for row, passage in enumerate(passages.table["passage_id"])}
    broken: list[str] = []

    def drawn(source: ImageSource, row: int, key: str) -> str | None:
        if source.key(row) is None:
            return None
        try:
            return key if images.add(key, thumbnail(source.load(row), *SIZE)) else None
        except DataError as error:
            broken.append(f"{key}: {error.what}")
            return None

    cards: list[Card] = []
    for row in sorted(spread_rows(queries.table["domain"].to_list(), samples, seed)):
        question = queries.table.row(row, named=True)
        asked, instruction, kind = question["question"], question["instruction"], question["domain"]
        strips: list[Strip] = []
        if question["image_name"] is not None:
            image = drawn(queries.images, row, f"query:{row}")
            strips.append(Strip("query image", [Tile(question["image_name"], image)]))
        gold = data.gold.get(question["question_id"], ())
        words = {word.lower() for word in re.findall(r"\w{4,}", asked)}
        tiles = [
            Tile(
                passage,
                drawn(passages.images, at[passage], f"passage:{at[passage]}"),
                "gold",
                "gold",
                text=marked_words(passages.table["text"][at[passage]], words),
            )
            for passage in gold[:GOLD]
        ]
        if tiles:
            strips.append(
                Strip("gold passages" if len(gold) <= GOLD else f"{GOLD} of {len(gold)} gold passages", tiles)
            )
        facts = [("id", question["question_id"]), ("kind", kind)]
        if asked and instruction:
            facts.append(("instruction", instruction))
        facets = {"kind": [kind], "gold": ["known" if gold else "unknown"]}
        cards.append(Card(asked or instruction or "(no words)", facts, strips, facets, {"words": len(asked.split())}))
    blocks: list[Block] = []
    if broken:
        blocks.append(
            Gap(f"{plural(len(broken), 'image')} could not be drawn, first: {broken[0]}", "get the files again")
        )
    filters = [Choice("kind", "Kind of query"), Choice("gold", "Gold")]
    return [*blocks, Gallery(cards, "queries", filters, [Choice("words", "Longest question", descending=True)])]

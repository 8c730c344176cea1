"""Which scripts texts are written in: a quick count of letters, no guess of the language."""

from __future__ import annotations

import polars as pl

from common.pages.blocks import Column, Table

SCRIPTS = (
    "Latin",
    "Han",
    "Cyrillic",
    "Arabic",
    "Hangul",
    "Hiragana",
    "Katakana",
    "Greek",
    "Devanagari",
    "Thai",
    "Hebrew",
)
HEAD = 2000
"""Characters of each text that are looked at."""


def scripts_of(texts: pl.Series) -> pl.DataFrame:
    """Return (script, count): the script that most letters of each text are of; "none" without letters of any."""
    head = pl.col("text").str.slice(0, HEAD)
    counts = texts.alias("text").to_frame().lazy().select(
        head.str.count_matches(rf"\p{{{script}}}").alias(script) for script in SCRIPTS
    )  # fmt: skip
    most = pl.concat_list(SCRIPTS)
    names = pl.Series("script", SCRIPTS).to_frame().with_row_index("at")
    told = counts.select(at=pl.when(most.list.max() > 0).then(most.list.arg_max())).collect()
    found = told.join(names, on="at", how="left").with_columns(pl.col("script").fill_null("none"))
    return found.group_by("script").len("count").sort("count", "script", descending=[True, False])


def script_table(texts: pl.Series, questions: pl.Series, noun: str) -> Table:
    """Return how many texts and questions are mostly of each script. `noun`: what the texts are, as "pages"."""
    of_texts, of_questions = scripts_of(texts), scripts_of(questions)
    rows = of_texts.join(of_questions, on="script", how="full", coalesce=True, suffix="_asked")
    rows = rows.sort("count", "script", descending=[True, False], nulls_last=True)
    columns = [Column("script", note="of most letters at its beginning"), Column(noun, ","), Column("questions", ",")]
    return Table(columns, rows.select("script", "count", "count_asked").rows(), "Scripts")

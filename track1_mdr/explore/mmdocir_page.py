"""MMDocIR on the page: counts, distributions, tables by domain and document, sampled questions with their pages."""

from __future__ import annotations

import numpy as np
import polars as pl

from common.explore.counts import length_chart, plural, spread, spread_table
from common.pages.blocks import Block, Cell, Column, Fact, Facts, Gap, Section, Table, Text
from common.pages.images import Images
from track1_mdr.explore.mmdocir_checks import FEW_WORDS, verbatim
from track1_mdr.explore.mmdocir_read import Mmdocir
from track1_mdr.explore.mmdocir_samples import question_gallery
from track1_mdr.explore.scripts import script_table

DOCUMENTS = 400
"""Rows of the table of documents at most: the official set has 313."""


def mmdocir_sections(data: Mmdocir, images: Images, *, samples: int, seed: int) -> list[Section]:
    """Return the sections of MMDocIR; what is absent is a gap in its place."""
    if not data.questions.height and not data.pages.height:
        return [Section("mmdocir", "MMDocIR", [_no_questions(), _no_pages()])]
    return [
        Section("mmdocir", "MMDocIR", _counts(data), "Questions about the pages of one long document each."),
        Section("mmdocir-lengths", "MMDocIR: how long and how many", _lengths(data)),
        Section("mmdocir-tables", "MMDocIR: by domain and document", _tables(data)),
        Section("mmdocir-samples", "MMDocIR: sampled questions", _samples(data, images, samples, seed)),
    ]


def _no_questions() -> Gap:
    return Gap("The questions of MMDocIR cannot be read.", "python -m track1_mdr download --help")


def _no_pages() -> Gap:
    return Gap("There are no pages of MMDocIR that can be read.", "python -m track1_mdr download --help")


def _counts(data: Mmdocir) -> list[Block]:
    questions, pages = data.questions, data.pages
    labels = [len(gold) for gold in data.gold.values()]
    facts = [
        Fact("Documents", f"{pages['doc_name'].n_unique():,}", f"{questions['doc_name'].n_unique():,} are asked about"),
        Fact("Pages", f"{pages.height:,}", data.source),
        Fact("Questions", f"{questions.height:,}", plural(questions["domain"].n_unique(), "domain")),
        Fact("With gold", f"{len(labels):,}", f"{sum(labels):,} gold pages"),
    ]
    blocks: list[Block] = [Facts(facts)]
    if data.source.endswith("text layer only"):
        blocks.append(Text("Words are those of the PDFs' text layer. With --ocr pages are read as a run reads them."))
    if not questions.height:
        blocks.append(_no_questions())
    if not pages.height:
        blocks.append(_no_pages())
    if not data.gold:
        blocks.append(Gap("No question has gold: there is no local score.", "see data/README.md, gold.csv"))
    if data.has_images and not data.compared:
        blocks.append(Gap("Pages of PDFs are not compared as images.", "python -m track1_mdr prepare --help"))
    return blocks


def _lengths(data: Mmdocir) -> list[Block]:
    questions, pages = data.questions, data.pages
    per_document = pages.group_by("doc_name").len().sort("doc_name")["len"].to_numpy()
    page_words = pages["words"].to_numpy()
    asked = questions["question"].str.count_matches(r"\S+").to_numpy()
    counts = dict(pages.group_by("doc_name").len().iter_rows())
    candidates = np.asarray([counts.get(name, 0) for name in questions["doc_name"]], dtype=np.int64)
    gold = np.asarray([len(data.gold[q]) for q in questions["question_id"] if q in data.gold], dtype=np.int64)
    measured = [
        ("Pages of a document", per_document, "pages", "documents"),
        ("Words of a page", page_words, "words", "pages"),
        ("Words of a question", asked, "words", "questions"),
        ("Candidates of a question", candidates, "pages", "questions"),
        ("Gold pages of a question", gold, "gold pages", "questions"),
    ]
    blocks: list[Block] = [spread_table([spread(title, values) for title, values, _, _ in measured])]
    blocks += [length_chart(title, values, x, y) for title, values, x, y in measured if len(values)]
    if pages.height:
        blocks.append(script_table(pages["text"], questions["question"], "pages"))
    return blocks


def _tables(data: Mmdocir) -> list[Block]:
    blocks: list[Block] = []
    by_page = data.pages.group_by("doc_name").agg(
        pages=pl.len(),
        words=pl.col("words").mean(),
        bare=(pl.col("words") < FEW_WORDS).mean(),
    )
    if data.questions.height:
        blocks.append(_domains(data, by_page))
    asked = data.questions.group_by("doc_name").agg(pl.col("domain").first(), questions=pl.len())
    table = by_page.join(asked, on="doc_name", how="full", coalesce=True).sort("doc_name")
    rows = table.select("doc_name", "domain", "pages", "words", pl.col("bare") * 100, "questions").rows()
    columns = [
        Column("document"),
        Column("domain"),
        Column("pages", ","),
        Column("words a page", ",.0f"),
        Column("bare pages %", ".0f", f"pages with fewer than {FEW_WORDS} words"),
        Column("questions", ","),
    ]
    caption = f"{DOCUMENTS} of {len(rows):,} documents" if len(rows) > DOCUMENTS else "Documents"
    blocks.append(Table(columns, rows[:DOCUMENTS], caption))
    return blocks


def _domains(data: Mmdocir, by_page: pl.DataFrame) -> Table:
    found = list(verbatim(data)) if data.pages.height else []
    gold = pl.DataFrame(
        {"question_id": list(data.gold), "gold": [len(pages) for pages in data.gold.values()]},
        schema={"question_id": pl.String, "gold": pl.Int64},
    )
    per_question = data.questions.join(gold, on="question_id", how="left").with_columns(
        words=pl.col("question").str.count_matches(r"\S+"), told=pl.col("question_id").is_in(found)
    )
    asked = per_question.group_by("domain").agg(
        questions=pl.len(),
        documents=pl.col("doc_name").n_unique(),
        asked=pl.col("words").mean(),
        gold=pl.col("gold").mean(),
        told=pl.col("told").sum(),
    )
    own = data.questions.select("doc_name", "domain").unique().join(by_page, on="doc_name")
    pages = own.group_by("domain").agg(
        pages=pl.col("pages").sum(),
        words=(pl.col("words") * pl.col("pages")).sum() / pl.col("pages").sum(),
        bare=100 * (pl.col("bare") * pl.col("pages")).sum() / pl.col("pages").sum(),
    )
    joined = asked.join(pages, on="domain", how="left").sort("questions", "domain", descending=[True, False])
    names = ["domain", "questions", "documents", "pages", "words", "bare", "asked", "gold", "told"]
    rows: list[tuple[Cell, ...]] = joined.select(names).rows()
    columns = [
        Column("domain"),
        Column("questions", ","),
        Column("documents", ","),
        Column("pages", ","),
        Column("words", ",.0f", "words of a page"),
        Column("bare %", ".0f", f"pages with fewer than {FEW_WORDS} words"),
        Column("question", ".1f", "words of a question"),
        Column("gold", ".2f", "gold pages of a question"),
        Column("verbatim", ",", "questions whose text stands on a page of their document"),
    ]
    return Table(columns, rows, "Domains")


def _samples(data: Mmdocir, images: Images, samples: int, seed: int) -> list[Block]:
    if not data.questions.height:
        return [_no_questions()]
    if not data.pages.height:
        return [_no_pages()]
    gallery, broken = question_gallery(data, images, samples, seed)
    blocks: list[Block] = []
    if not data.has_images:
        blocks.append(
            Gap("The page table has no images, so that pages are shown by their words.", "see data/README.md")
        )
    if broken:
        blocks.append(
            Gap(f"{plural(len(broken), 'page')} could not be drawn, first: {broken[0]}", "get the files again")
        )
    return [*blocks, gallery]

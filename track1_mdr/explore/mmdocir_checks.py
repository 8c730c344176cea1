"""What to know of MMDocIR's pages, questions and gold: each check returns one finding."""

from __future__ import annotations

from collections import Counter

import polars as pl

from common.explore.counts import listed, of, plural
from common.explore.findings import Finding
from track1_mdr.explore.mmdocir_read import Mmdocir

FEW_WORDS = 10
"""A page with fewer words is as good as an image: OCR reads such pages of PDFs."""
TELLING_WORDS = 5
"""Shorter texts and questions are alike by chance: "1", "Notes"."""


def check_mmdocir(data: Mmdocir) -> list[Finding]:
    """Return what reading met and what each check says; checks whose part is absent say nothing."""
    findings = list(data.findings)
    asked, there = data.questions.height > 0, data.pages.height > 0
    if asked and there:
        findings += [_documents(data), _unasked(data), _numbers(data)]
    if there:
        findings += [_words(data), _images(data), _same_pages(data), _same_documents(data)]
        if data.compared:
            findings.append(_same_images(data))
    if asked:
        findings += [_same_questions(data), _gold(data)]
    if asked and there:
        findings.append(_verbatim(data))
        if data.gold:
            findings.append(_gold_without_words(data))
            findings.append(_gold_twins(data))
    return findings


def _documents(data: Mmdocir) -> Finding:
    name = "documents of the questions"
    asked = data.questions["doc_name"].unique(maintain_order=True)
    absent = asked.filter(~asked.is_in(data.pages["doc_name"].unique().to_list())).sort().to_list()
    if not absent:
        return Finding(name, "ok", f"all {plural(len(asked), 'document')} have pages")
    lost = data.questions.filter(pl.col("doc_name").is_in(absent)).height
    return Finding(
        name,
        "problem",
        f"{of(len(absent), len(asked))} have no pages ({listed(absent)}); {plural(lost, 'question')} ask about them",
        "these questions have no candidates: add the pages or PDFs, or a run stops",
    )


def _unasked(data: Mmdocir) -> Finding:
    name = "documents without questions"
    documents = data.pages["doc_name"].unique().sort()
    idle = documents.filter(~documents.is_in(data.questions["doc_name"].unique().to_list())).to_list()
    if not idle:
        return Finding(name, "ok", "every document has a question")
    pages = data.pages.filter(pl.col("doc_name").is_in(idle)).height
    return Finding(
        name,
        "note",
        f"{of(len(idle), len(documents))}, {plural(pages, 'page')} ({listed(idle)})",
        "a run leaves them out; they are text to train or to pre-train on",
    )


def wrong_numbers(data: Mmdocir) -> list[tuple[str, str]]:
    """Return (document, what is wrong) where the pages are not 0 to num_of_pages - 1, each once."""
    counts = data.questions.group_by("doc_name").agg(pl.col("num_of_pages").first())
    found = data.pages.group_by("doc_name").agg(
        rows=pl.len(),
        known=pl.col("page").drop_nulls().n_unique(),
        nameless=pl.col("page").is_null().sum(),
        low=pl.col("page").min(),
        high=pl.col("page").max(),
    )
    wrong: list[tuple[str, str]] = []
    for row in counts.join(found, on="doc_name").sort("doc_name").iter_rows(named=True):
        count, told = row["num_of_pages"], []
        if row["nameless"]:
            told.append(f"{row['nameless']} without a page number")
        if doubled := row["rows"] - row["nameless"] - row["known"]:
            told.append(f"{doubled} more than once")
        if row["known"] != count or row["low"] != 0 or row["high"] != count - 1:
            told.append(f"{row['known']} of {count} pages, numbered {row['low']} to {row['high']}")
        if told:
            wrong.append((row["doc_name"], ", ".join(told)))
    return wrong


def _numbers(data: Mmdocir) -> Finding:
    name = "page numbers"
    wrong = wrong_numbers(data)
    if not wrong:
        return Finding(name, "ok", "each document has its pages 0 to num_of_pages - 1, each once")
    return Finding(
        name,
        "problem",
        f"{plural(len(wrong), 'document')} with other pages than num_of_pages says: "
        + "; ".join(f"{document}: {what}" for document, what in wrong[:3]),
        "page ids in a submission would name other pages; ranges in the benchmark's files include both ends",
    )


def _words(data: Mmdocir) -> Finding:
    name = "pages without words"
    empty = int((data.pages["words"] == 0).sum())
    few = int((data.pages["words"] < FEW_WORDS).sum())
    if not few:
        return Finding(name, "ok", f"all {plural(data.pages.height, 'page')} have {FEW_WORDS} words and more")
    documents = data.pages.group_by("doc_name").agg(pl.col("words").max()).filter(pl.col("words") < FEW_WORDS).height
    return Finding(
        name,
        "note",
        f"{of(empty, data.pages.height)} have none, {few:,} fewer than {FEW_WORDS}; "
        f"in {plural(documents, 'document')} every page is such",
        "text routes cannot find them: OCR (data.ocr) or image routes must",
    )


def _images(data: Mmdocir) -> Finding:
    name = "page images"
    if not data.has_images:
        return Finding(name, "note", f"{data.source} has none", "image routes have nothing to look at; PDFs have pages")
    if not data.compared:
        return Finding(name, "ok", "pages of PDFs are rendered when they are asked for")
    missing = data.pages.filter(pl.col("image").is_null())
    if not missing.height:
        return Finding(name, "ok", f"all {plural(data.pages.height, 'page')} have one")
    documents = missing["doc_name"].unique().sort().to_list()
    return Finding(
        name,
        "problem",
        f"{of(missing.height, data.pages.height)} have none, in {listed(documents)}",
        "image routes have no score for these pages: download the table again, or render them from the PDFs",
    )


def _same_pages(data: Mmdocir) -> Finding:
    name = "pages with the same text"
    long = data.pages.filter(pl.col("words") >= TELLING_WORDS)
    if not long.height:
        return Finding(name, "note", f"no page has {TELLING_WORDS} words", "there is no text to compare")
    groups = long.group_by("same").agg(rows=pl.len(), documents=pl.col("doc_name").n_unique())
    again = groups.filter(pl.col("rows") > 1)
    if not again.height:
        return Finding(name, "ok", f"no two of the {long.height:,} pages with {TELLING_WORDS} words and more")
    rows, across = int(again["rows"].sum()), again.filter(pl.col("documents") > 1).height
    return Finding(
        name,
        "note",
        f"{plural(rows, 'page')} share {plural(again.height, 'text')}; {plural(across, 'text')} in several documents",
        "no text route can tell such pages of one document apart: their order is a matter of chance",
    )


def _same_documents(data: Mmdocir) -> Finding:
    name = "documents under two names"
    texts = data.pages.group_by("doc_name").agg(pl.col("same").sort_by("page"), words=pl.col("words").sum())
    groups: dict[tuple[str, ...], list[str]] = {}
    for document, pages, words in texts.sort("doc_name").iter_rows():
        key = (data.file_digests[document],) if document in data.file_digests else tuple(pages)
        if words or data.file_digests:
            groups.setdefault(key, []).append(document)
    doubled = [names for names in groups.values() if len(names) > 1]
    by = "bytes" if data.file_digests else "pages"
    if not doubled:
        return Finding(name, "ok", f"no two of {plural(texts.height, 'document')} have the same {by}")
    return Finding(
        name,
        "problem",
        f"{plural(len(doubled), 'group')} of documents with the same {by}: {'; '.join(listed(n) for n in doubled[:3])}",
        "folds by document do not part them: what is fitted on one is tested on the other",
    )


def _same_images(data: Mmdocir) -> Finding:
    name = "pages with the same image"
    groups = data.pages.filter(pl.col("image").is_not_null()).group_by("image").agg(pl.len())
    again = groups.filter(pl.col("len") > 1)
    if not again.height:
        return Finding(name, "ok", f"no two of {plural(groups.height, 'image')}, by their bytes")
    return Finding(
        name,
        "note",
        f"{plural(int(again['len'].sum()), 'page')} share {plural(again.height, 'image')}",
        "image routes give such pages one score; most are blank pages",
    )


def _same_questions(data: Mmdocir) -> Finding:
    name = "questions asked twice"
    text = pl.col("question").str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()
    asked = data.questions.select("question_id", "doc_name", text=text)
    own = asked.group_by("doc_name", "text").agg(pl.col("question_id")).filter(pl.col("question_id").list.len() > 1)
    across = asked.group_by("text").agg(pl.col("doc_name").n_unique()).filter(pl.col("doc_name") > 1).height
    if not own.height and not across:
        return Finding(name, "ok", f"no two of {plural(asked.height, 'question')} have the same text")
    ids = own["question_id"].to_list()
    differing = sum(len({data.gold.get(question) for question in group}) > 1 for group in ids)
    return Finding(
        name,
        "note",
        f"{plural(sum(map(len, ids)), 'question')} repeat the text of another of their document "
        f"({differing} of {plural(len(ids), 'text')} with another gold), {plural(across, 'text')} in several documents",
        "gold that is joined by text must keep their order; where their gold differs, no answer is right for all",
    )


def _gold(data: Mmdocir) -> Finding:
    name = "gold"
    if not data.gold:
        return Finding(name, "note", "no question has gold", "there is no local score: data/README.md says where it is")
    known = pl.col("question_id").is_in(list(data.gold))
    with_gold, without = (data.questions.filter(part)["doc_name"].unique().sort() for part in (known, ~known))
    shared = with_gold.filter(with_gold.is_in(without.to_list())).to_list()
    found = f"{of(len(data.gold), data.questions.height)} from {data.gold_source}"
    if not shared:
        return Finding(name, "ok", f"{found}; no document has questions with and without gold")
    return Finding(
        name,
        "note",
        f"{found}; {plural(len(shared), 'document')} have questions with and without it ({listed(shared)})",
        "a score on the questions with gold is of documents that the others ask about too: part them by document",
    )


def verbatim(data: Mmdocir) -> dict[str, list[int]]:
    """Return question id -> the pages of its document on which its text stands word for word, where there are any."""
    pages: dict[str, list[tuple[int, str]]] = {}
    for document, page, same in data.pages.select("doc_name", "page", "same").iter_rows():
        if page is not None:
            pages.setdefault(document, []).append((page, same))
    found: dict[str, list[int]] = {}
    for question, document, text in data.questions.select("question_id", "doc_name", "question").iter_rows():
        words = text.lower().split()
        if len(words) >= TELLING_WORDS:
            wanted = " ".join(words)
            if on := [page for page, same in pages.get(document, ()) if wanted in same]:
                found[question] = on
    return found


def _verbatim(data: Mmdocir) -> Finding:
    name = "questions that stand on a page"
    found = verbatim(data)
    if not found:
        return Finding(name, "ok", f"the text of no question (of {TELLING_WORDS} words and more) is on a page")
    on_gold = sum(any(str(page) in data.gold.get(question, ()) for page in on) for question, on in found.items())
    return Finding(
        name,
        "note",
        f"{of(len(found), data.questions.height)} are on a page of their document word for word, "
        f"{on_gold} on a gold page (first: {listed(list(found), 3)})",
        "exact matching finds these: a score on them tells little of a route",
    )


def _gold_without_words(data: Mmdocir) -> Finding:
    name = "gold pages without words"
    words = {(doc, str(page)): count for doc, page, count in data.pages.select("doc_name", "page", "words").iter_rows()}
    labels = [(document, page) for document, pages in _gold_pages(data) for page in pages]
    bare = sum(words.get(label, 0) < FEW_WORDS for label in labels)
    if not bare:
        return Finding(name, "ok", f"all {plural(len(labels), 'gold label')} are on pages with words")
    return Finding(
        name,
        "note",
        f"{of(bare, len(labels))} gold labels are on pages with fewer than {FEW_WORDS} words",
        "this share of the gold is out of reach of text routes without OCR",
    )


def _gold_twins(data: Mmdocir) -> Finding:
    name = "gold pages with a twin"
    long = data.pages.filter(pl.col("words") >= TELLING_WORDS)
    texts = {(doc, str(page)): same for doc, page, same in long.select("doc_name", "page", "same").iter_rows()}
    count = Counter((document, same) for (document, _), same in texts.items())
    hit = 0
    for document, pages in _gold_pages(data):
        own = Counter(texts.get((document, page)) for page in pages)
        hit += any(same is not None and count[document, same] > n for same, n in own.items())
    if not hit:
        return Finding(name, "ok", "no gold page has the same text as another page of its document that is not gold")
    return Finding(
        name,
        "note",
        f"of {plural(hit, 'question')} a gold page has the same text as a page of the document that is not gold",
        "half of the time the twin comes first: this much of recall@1 is chance for text routes",
    )


def _gold_pages(data: Mmdocir) -> list[tuple[str, tuple[str, ...]]]:
    rows = data.questions.select("question_id", "doc_name").iter_rows()
    return [(document, data.gold[question]) for question, document in rows if question in data.gold]

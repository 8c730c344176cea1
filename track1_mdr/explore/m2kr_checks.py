"""What to know of M2KR's queries, passages and images: each check returns one finding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from common.errors import DataError
from common.explore.copies import Copies, same_files
from common.explore.counts import listed, of, plural
from common.explore.findings import Finding
from common.faults import FaultLog
from track1_mdr.config import DataConfig
from track1_mdr.datasets.image_folder import FolderImages
from track1_mdr.datasets.m2kr import load_m2kr
from track1_mdr.datasets.tables import TaskTables

KINDS = {"m2kr query image": "query images", "m2kr screenshot": "screenshots"}


@dataclass(frozen=True)
class M2kr:
    """The tables, the rows' image files, what reading could not find, and files with the same bytes.

    Keys of `copies` are ("query" or "passage", row).
    """

    tables: TaskTables
    faults: FaultLog
    copies: Copies[tuple[str, int]]

    @property
    def gold(self) -> dict[str, tuple[str, ...]]:
        """Return question id -> gold passage ids."""
        return dict(self.tables.qrels)


def read_m2kr(root: Path) -> tuple[M2kr | None, list[Finding]]:
    """Read the `m2kr` folder; None with a finding where a run could not read it either."""
    faults = FaultLog()
    try:
        tables = load_m2kr(root, DataConfig(), faults)
    except DataError as error:
        said = "; ".join(line.strip() for line in error.block().splitlines())
        return None, [Finding("tables", "problem", said, "a run stops at this")]
    paths = {
        (side, row): path
        for side, images in (("query", tables.queries.images), ("passage", tables.passages.images))
        if isinstance(images, FolderImages)
        for row, path in enumerate(images.paths)
        if path is not None
    }
    return M2kr(tables, faults, same_files(paths)), []


def check_m2kr(data: M2kr) -> list[Finding]:
    """Return what each check says."""
    findings = [_missing(data, stage, what) for stage, what in KINDS.items()]
    findings += [_files(data), _answerable(data), _words(data), _unpictured(data)]
    findings += [_same_passages(data), _same_queries(data), _same_images(data), _query_on_screenshot(data)]
    return [*findings, _gold(data), _prefixes(data)]


def _missing(data: M2kr, stage: str, what: str) -> Finding:
    name = what
    missing = [fault for fault in data.faults.faults if fault.stage == stage]
    side = data.tables.queries if what == "query images" else data.tables.passages
    there = side.table["image_name"].count()
    if missing:
        first = listed([fault.item for fault in missing], 3)
        return Finding(
            name,
            "problem",
            f"{of(len(missing), there + len(missing))} that the table names are not in the folder ({first})",
            "a run counts them as faults and stops at more than data.allow_faults: unpack the archives again",
        )
    if not there:
        return Finding(name, "note", "there are none", f"image routes have nothing to look at on the side of {what}")
    return Finding(name, "ok", f"all {there:,} that the table names are there")


def _files(data: M2kr) -> Finding:
    name = "image files"
    bad = [*data.copies.empty, *data.copies.unreadable]
    if not bad:
        return Finding(name, "ok", "none is empty or cannot be opened")
    names = [f"{side} {_names(data, side)[row]}" for side, row in bad]
    return Finding(
        name,
        "problem",
        f"{plural(len(bad), 'file')} empty or not to be opened: {listed(names, 3)}",
        "unpack the archive again",
    )


def _answerable(data: M2kr) -> Finding:
    name = "queries with nothing to ask"
    empty = data.tables.queries.table.filter(pl.col("domain") == "")["question_id"].to_list()
    if not empty:
        return Finding(name, "ok", "every query has a question or an image")
    return Finding(
        name,
        "problem",
        f"{of(len(empty), len(data.tables.queries))} have neither a question nor an image ({listed(empty)})",
        "no route can answer them",
    )


def _words(data: M2kr) -> Finding:
    name = "passages without words"
    empty = data.tables.passages.table.filter(pl.col("text").str.strip_chars() == "")["passage_id"].to_list()
    if not empty:
        return Finding(name, "ok", f"all {plural(len(data.tables.passages), 'passage')} have words")
    return Finding(
        name, "note", f"{of(len(empty), len(data.tables.passages))} ({listed(empty)})", "text routes cannot find them"
    )


def _unpictured(data: M2kr) -> Finding:
    name = "passages without a screenshot"
    table = data.tables.passages.table
    bare = table.filter(pl.col("image_name").is_null())["passage_id"].to_list()
    if not bare or len(bare) == table.height:  # none at all is told by the screenshots' own finding
        return Finding(name, "ok", "every passage has one" if not bare else "no passage has one")
    return Finding(name, "note", f"{of(len(bare), table.height)} ({listed(bare)})", "image routes cannot find them")


def _same_passages(data: M2kr) -> Finding:
    name = "passages with the same text"
    table = data.tables.passages.table.select("passage_id", text=_plain("text")).filter(pl.col("text") != "")
    groups = table.group_by("text").agg("passage_id").filter(pl.col("passage_id").list.len() > 1)
    if not groups.height:
        return Finding(name, "ok", f"no two of {plural(table.height, 'passage')}")
    ids = [sorted(group) for group in groups["passage_id"].to_list()]
    gold = {passage for passages in data.gold.values() for passage in passages}
    hit = sum(bool(gold & set(group)) for group in ids)
    return Finding(
        name,
        "note",
        f"{plural(sum(map(len, ids)), 'passage')} share {plural(len(ids), 'text')}, {hit:,} of them gold of a question "
        f"(first: {listed(min(ids), 3)})",
        "text routes cannot tell them apart, and the twin of the gold earns nothing",
    )


def _same_queries(data: M2kr) -> Finding:
    name = "queries asked twice"
    twin = {key: group[0] for group in data.copies.groups for key in group}
    table = data.tables.queries.table.select("question_id", "image_name", text=_plain("question"))
    groups: dict[tuple[str, object], list[str]] = {}
    for row, (question, image, text) in enumerate(table.iter_rows()):
        key = None if image is None else twin.get(("query", row), ("query", row))
        if text or key:  # those with nothing to ask are told of elsewhere
            groups.setdefault((text, key), []).append(question)
    doubled = [group for group in groups.values() if len(group) > 1]
    if not doubled:
        return Finding(name, "ok", f"no two of {plural(table.height, 'query', 'queries')} share question and image")
    return Finding(
        name,
        "note",
        f"{plural(sum(map(len, doubled)), 'query', 'queries')} in {plural(len(doubled), 'group')} share question and "
        f"image (first: {listed(doubled[0], 3)})",
        "one ranking serves them all: they are one observation, not several",
    )


def _same_images(data: M2kr) -> Finding:
    name = "images with the same bytes"
    sides = {"query": "query images", "passage": "screenshots"}
    told: list[str] = []
    for side, noun in sides.items():
        names = [{_names(data, side)[row] for at, row in group if at == side} for group in data.copies.groups]
        doubled = [one for one in names if len(one) > 1]
        if doubled:
            told.append(f"{sum(map(len, doubled)):,} {noun} in {plural(len(doubled), 'group')}")
    if not told:
        return Finding(name, "ok", "no two files of one folder have the same content")
    return Finding(name, "note", ", ".join(told), "image routes cannot tell these apart")


def _query_on_screenshot(data: M2kr) -> Finding:
    name = "query images that are a screenshot"
    hit: list[tuple[int, list[int]]] = []
    for group in data.copies.groups:
        passages = [row for side, row in group if side == "passage"]
        hit += [(row, passages) for side, row in group if side == "query" and passages]
    if not hit:
        return Finding(name, "ok", "no query image has the bytes of a screenshot")
    ids = data.tables.passages.table["passage_id"].to_list()
    questions = data.tables.queries.table["question_id"].to_list()
    right = sum(any(ids[p] in data.gold.get(questions[row], ()) for p in passages) for row, passages in hit)
    return Finding(
        name,
        "note",
        f"{of(len(hit), len(questions))}, of which {right:,} are the screenshot of their gold passage",
        "comparing bytes answers these: a score on them tells nothing of a route",
    )


def _gold(data: M2kr) -> Finding:
    name = "gold"
    questions = len(data.tables.queries)
    if not data.gold:
        return Finding(name, "note", "no query has gold", "there is no local score: the challenge keeps it")
    uses = pl.Series([passage for passages in data.gold.values() for passage in passages]).value_counts()
    often = uses.filter(pl.col("count") > 1).height
    found = f"{of(len(data.gold), questions)} have gold; {of(often, uses.height)} gold passages answer several queries"
    if not often:
        return Finding(name, "ok", found)
    return Finding(name, "note", found, "folds by query do not part them: what is fitted on one is tested on the other")


def prefixes(data: M2kr) -> pl.DataFrame:
    """Return (kind, letter, queries): by what their gold passages' ids begin with, for each kind of query."""
    rows = data.tables.queries.table.select("question_id", "domain").iter_rows()
    pairs = [(kind, letter) for q, kind in rows for letter in sorted({p[:1] for p in data.gold.get(q, ())})]
    schema = {"kind": pl.String, "letter": pl.String}
    return pl.DataFrame(pairs, schema, orient="row").group_by("kind", "letter").len("queries").sort("kind", "letter")


def _prefixes(data: M2kr) -> Finding:
    name = "passage ids tell the query's kind"
    first = data.tables.passages.table["passage_id"].str.slice(0, 1).value_counts().sort("passage_id")
    letters = ", ".join(f"{letter}: {count:,}" for letter, count in first.iter_rows())
    table = prefixes(data)
    per_kind = table.group_by("kind").agg(pl.col("letter").n_unique())["letter"].to_list()
    if not data.gold or first.height < 2 or any(count > 1 for count in per_kind):
        return Finding(name, "ok", f"first letters of passage ids: {letters}")
    pairs = ", ".join(f"{kind} {letter}" for kind, letter, _ in table.iter_rows())
    return Finding(
        name,
        "note",
        f"first letters of passage ids: {letters}; the gold of each kind has one letter ({pairs})",
        "data.m2kr_restrict: block_prefix uses this on the official set: a shortcut of the set, not of what it shows",
    )


def _plain(column: str) -> pl.Expr:
    return pl.col(column).str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()


def _names(data: M2kr, side: str) -> list[str | None]:
    return (data.tables.queries if side == "query" else data.tables.passages).table["image_name"].to_list()

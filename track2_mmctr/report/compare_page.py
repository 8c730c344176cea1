"""The page of several runs: paired differences, where they disagree, what they were and what they took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.metrics.ctr_intervals import RESAMPLES
from common.pages.blocks import Block, Cell, Column, Fact, Facts, Gap, Page, Section, Table, Text
from common.pages.charts import Bar, bars
from common.pages.images import Images
from common.submission.mmctr import Task
from track2_mmctr.compare import FAR, Comparison, Effect, compare, ranks
from track2_mmctr.datasets.tables import CtrData, Split
from track2_mmctr.groups import train_counts
from track2_mmctr.report.contenders import (
    LETTERS,
    Contender,
    check_paths,
    costs_section,
    read_contender,
    score_table,
    settings_section,
    shared_split,
)
from track2_mmctr.report.items import Shelf
from track2_mmctr.report.page import with_gaps
from track2_mmctr.report.rows import Pair, Rows, apart_section
from track2_mmctr.report.scores import calibration_chart, roc_chart


@dataclass(frozen=True, eq=False)
class Compared:
    """Runs, the split that all of them have, and the first of them against each other one."""

    contenders: Sequence[Contender]
    split: Split
    label: np.ndarray
    counts: np.ndarray | None
    pairs: Sequence[Pair]


def compare_runs(
    paths: Sequence[Path], data: CtrData, task: Task | None = None, *, resamples: int = RESAMPLES
) -> Compared:
    """Compare the first of several runs' folders or submission zips with each other one.

    Raises
    ------
    ConfigError
        Fewer than two.
    InvalidSubmission, DataError
        As `evaluate.predicted`; or they have no labelled split in common.
    """
    check_paths(paths)
    counts = train_counts(data) if "train" in data.splits else None
    contenders = [
        read_contender(letter, path, data, task, counts, resamples)
        for letter, path in zip(LETTERS, paths, strict=False)
    ]
    name = shared_split(contenders)
    split, first = data.splits[name], contenders[0]
    pairs: list[Pair] = []
    for other in contenders[1:]:
        a, b = first.logits[name], other.logits[name]
        names = (first.path.name, other.path.name)
        names = names if names[0] != names[1] else (str(first.path), str(other.path))
        found = compare(split, a, b, counts, names=names, resamples=resamples)
        pairs.append(Pair(found, (first.letter, other.letter), ranks(a), ranks(b)))
    return Compared(contenders, split, np.asarray(split.label), counts, pairs)


def compare_page(compared: Compared, data: CtrData, *, images: Images | None = None) -> Page:
    """Return the page of a comparison; `images` takes the covers."""
    contenders, pairs, split, label = compared.contenders, compared.pairs, compared.split, compared.label
    shelf = Shelf.of(data, Images() if images is None else images)
    apart = apart_section(pairs, Rows.of(split, compared.counts, shelf), label)
    curves = [
        roc_chart({one.label: (label, one.logits[split.name]) for one in contenders}),
        calibration_chart({one.label: one.reports[split.name] for one in contenders}),
    ]
    sections = [
        score_table(contenders),
        _differences(pairs, split, label),
        _groups(pairs),
        Section("curves", "Curves", curves, f"On {split.name}."),
        with_gaps(apart, shelf.gaps()),
        settings_section(contenders),
        costs_section(contenders),
    ]
    told = [(one.label, one.path.name) for one in contenders] + [("items", f"{len(data.items) - 1:,}")]
    title = " · ".join(one.label for one in contenders)
    return Page(f"Compared: {title}", _headline(pairs[0], split.name), sections, shelf.images, told)


def _headline(pair: Pair, name: str) -> str:
    effect = pair.comparison.overall
    if effect.difference is None:
        return f"on {name}"
    a, b = pair.letters
    return f"AUC of {a} less that of {b} on {name}: {effect.difference:+.4f} ({_sure(effect)})"


def _sure(effect: Effect) -> str:
    """Return how sure a difference is: the interval by user, else the error by row."""
    span = _span(effect)
    if span is not None:
        return f"95 % {span}"
    return "no interval" if effect.error is None else f"± {effect.error:.4f}"


def _span(effect: Effect) -> str | None:
    return None if effect.low is None or effect.high is None else f"{effect.low:+.4f} to {effect.high:+.4f}"


def _differences(pairs: Sequence[Pair], split: Split, label: np.ndarray) -> Section:
    rows: list[list[Cell]] = []
    drawn: list[Bar] = []
    facts: list[Fact] = []
    for pair in pairs:
        found, (a, b) = pair.comparison, pair.letters
        effect, name = found.overall, f"{a} less {b}"
        right = pair.right(label)
        far = np.abs(pair.first - pair.second) > FAR
        wins, losses = int((far & (right > 0)).sum()), int((far & (right < 0)).sum())
        span = _span(effect)
        rows.append([name, effect.auc_a, effect.auc_b, effect.difference, effect.error, effect.p, span,
                     found.correlation, found.far, wins, losses])  # fmt: skip
        if effect.difference is not None:
            drawn.append(Bar(name, effect.difference, effect.low, effect.high, note=f"against {found.b}"))
            facts.append(Fact(name, f"{effect.difference:+.4f}", _sure(effect)))
    columns = [
        Column("runs"),
        Column("AUC", ".4f"),
        Column("other AUC", ".4f"),
        Column("difference", "+.4f"),
        Column("±", ".4f", "paired DeLong, rows taken as independent"),
        Column("p", ".2g", "of no difference, paired DeLong"),
        Column("95 % by user", note="paired resamples of whole users"),
        Column("correlation", ".4f", "Spearman's, of the two orders"),
        Column("far apart", ",", f"rows whose ranks differ by more than {FAR:g} of all rows"),
        Column("wins", ",", "of these, rows that the first run has right"),
        Column("losses", ",", "of these, rows that the other has right"),
    ]
    blocks: list[Block] = [Facts(facts), Table(columns, rows, f"The first run and each other, on {split.name}")]
    if drawn:
        text = "Positive: the first run is better. Whiskers: 95 % interval of the bootstrap of whole users."
        blocks.append(bars("Difference in AUC", drawn, text=text, axis="difference in AUC", per="runs", form="+.4f"))
    if any(pair.comparison.overall.low is None for pair in pairs):
        blocks.append(Text("Where there is no interval by user, too few users have clicks and no clicks."))
    return Section(
        "differences", "Differences", blocks, f"Paired by row on {split.name}; positive: the first is better."
    )


def _groups(pairs: Sequence[Pair]) -> Section:
    rows: list[list[Cell]] = []
    drawn: list[Bar] = []
    for pair in pairs:
        name = f"{pair.letters[0]} less {pair.letters[1]}"
        for group, effect in _effects(pair.comparison):
            span = _span(effect)
            rows.append([name, group, effect.rows, effect.auc_a, effect.auc_b, effect.difference, effect.error, span])
            if effect.difference is not None:
                note = f"{effect.rows:,} rows of {effect.users:,} users"
                drawn.append(Bar(group, effect.difference, effect.low, effect.high, name, note))
    columns = [
        Column("runs"),
        Column("rows"),
        Column("n", ","),
        Column("AUC", ".4f"),
        Column("other AUC", ".4f"),
        Column("difference", "+.4f"),
        Column("±", ".4f", "paired DeLong, rows taken as independent"),
        Column("95 % by user", note="paired resamples of whole users"),
    ]
    blocks: list[Block] = []
    if drawn:
        text = "Positive: the first run is better in this group. Groups are not corrected for their number."
        title = "Difference in AUC by group"
        blocks.append(bars(title, drawn, text=text, axis="difference in AUC", per="rows", form="+.4f"))
    else:
        blocks.append(Gap("No group has clicks and no clicks."))
    return Section("groups", "Differences by group", [*blocks, Table(columns, rows, "Differences by group of rows")])


def _effects(found: Comparison) -> list[tuple[str, Effect]]:
    by_length = [(f"history {name}", effect) for name, effect in found.by_length.items()]
    return [*by_length, *((f"in train {name}", effect) for name, effect in found.by_popularity.items())]

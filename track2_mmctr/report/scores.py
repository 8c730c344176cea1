"""Scores of a run for a page: headline figures, groups of rows, ROC, calibration, predictions by label."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.logits import sigmoid
from common.metrics.ctr_curves import roc_curve, wilson
from common.metrics.ctr_intervals import Z95
from common.pages.blocks import Block, Chart, Column, Fact, Facts, Gap, Section, Table, Text
from common.pages.charts import Bar, Bin, Point, bars, histogram, lines
from track2_mmctr.datasets.tables import CtrData, SplitName
from track2_mmctr.evaluate import CtrReport, Figures
from track2_mmctr.report.files import RunFiles
from track2_mmctr.score_tables import number

BINS = 40
"""Bins of the histogram of predictions."""


@dataclass(frozen=True)
class Scored:
    """A run's logits and the reports that `evaluate` made of them, by split with known labels."""

    run: RunFiles
    data: CtrData
    logits: Mapping[SplitName, np.ndarray]
    reports: Mapping[SplitName, CtrReport]

    def label(self, split: SplitName) -> np.ndarray:
        """Return the labels of a scored split, float32 [R]."""
        label = self.data.splits[split].label
        if label is None:
            raise ValueError(f"{split} has no labels")
        return np.asarray(label)


def score_section(scored: Scored, gaps: Sequence[Gap]) -> Section:
    """Return the headline figures of each split, the table of groups, and what is missing."""
    blocks: list[Block] = [Facts(_facts(report)) for report in scored.reports.values()]
    if scored.reports:
        blocks += [group_table(scored.reports), Text(_how(scored.reports))]
    else:
        blocks += _recorded(scored.run)
    blocks += [Text(note) for report in scored.reports.values() for note in report.notes]
    return Section("scores", "Scores", [*blocks, *gaps])


def _facts(report: CtrReport) -> list[Fact]:
    rates, found, overall, user = report.calibration, report.gauc, report.overall, report.by_user
    said = [f"± {number(overall.error)}"]
    said += [] if user is None else [f"95 % with users resampled: {user.low:.4f} to {user.high:.4f}"]
    said += [] if overall.oracle is None else [f"of {overall.oracle:.4f} at best"]
    ratio = f"{rates.predicted / rates.label:.3f}" if rates.label else "-"
    left = f"{found.users:,} users; {found.left_out_users:,} with one class left out"
    return [
        Fact(f"AUC on {report.split}", f"{report.headline:.4f}", "; ".join(said)),
        Fact("GAUC", number(found.value), left),
        Fact("log-loss", f"{overall.log_loss:.4f}", "nats a row"),
        Fact("calibration error", f"{rates.error:.4f}", f"mean prediction / click rate: {ratio}"),
        Fact("rows", f"{overall.rows:,}", f"{overall.positives:,} clicks ({100 * overall.label:.1f} %)"),
    ]


def _how(reports: Mapping[SplitName, CtrReport]) -> str:
    resampled = next((report.by_user for report in reports.values() if report.by_user is not None), None)
    users = "" if resampled is None else f"; with users resampled: {resampled.resamples:,} resamples of whole users"
    return (
        "The AUC is over all rows, 0 to 1, as on the leaderboard. ±: DeLong's standard error, rows taken as "
        f"independent{users}. GAUC: AUC within users, averaged by their rows. Calibration: over bins of equal mass."
    )


def _recorded(run: RunFiles) -> list[Block]:
    """Return the figures that the run noted down itself, for want of predictions."""
    facts = [
        Fact(f"AUC on {split}", f"{found['auc']:.4f}", "as the run recorded it")
        for split, found in run.metrics.items()
        if isinstance(found, dict) and isinstance(found.get("auc"), float)
    ]
    return [Facts(facts)] if facts else []


def groups_of(report: CtrReport) -> Iterator[tuple[str, Figures]]:
    """Give the groups of a report that are not all rows: name and figures."""
    for name, figures in report.by_length.items():
        yield f"history {name}", figures
    for name, figures in report.by_popularity.items():
        yield f"in train {name}", figures
    if report.warm is not None:
        yield "all but cold", report.warm


def group_table(reports: Mapping[SplitName, CtrReport]) -> Table:
    """Return the figures of all rows and of each group, as `score` prints them."""
    planted = any(report.overall.oracle is not None for report in reports.values())
    rows: list[list[Any]] = []
    marked: set[int] = set()
    for split, report in reports.items():
        marked.add(len(rows))
        for name, one in [("all", report.overall), *groups_of(report)]:
            best = [one.oracle] if planted else []
            figures = [one.auc, one.error, *best, one.log_loss, one.predicted, one.label]
            rows.append([split, name, one.rows, one.positives, *figures])
    columns = [
        Column("split"),
        Column("rows", note="history: items in it; in train: training rows with the same target"),
        Column("n", ","),
        Column("clicks", ","),
        Column("AUC", ".4f"),
        Column("±", ".4f", "standard error (DeLong)"),
        *([Column("at best", ".4f", "AUC of the true log-odds, of planted data")] if planted else []),
        Column("log-loss", ".4f"),
        Column("predicted", ".4f", "mean prediction"),
        Column("clicked", ".4f", "click rate"),
    ]
    return Table(columns, rows, "Figures by group of rows", frozenset(marked))


def group_section(reports: Mapping[SplitName, CtrReport]) -> Section:
    """Return the AUC by history length and by the target's popularity, cold ones among them, with intervals."""
    intro = "95 % intervals by DeLong's error, rows taken as independent; the tick is the best possible, where known."
    blocks: list[Block] = []
    by_length = [_bar(f, n, split) for split, report in reports.items() for n, f in report.by_length.items()]
    by_popularity = [
        _bar(figures, "all but cold" if name == "warm" else name, split)
        for split, report in reports.items()
        for name, figures in [*report.by_popularity.items(), *([("warm", report.warm)] if report.warm else [])]
    ]
    if not reports:
        blocks.append(Gap("No split with known labels and predictions: no groups.", "see Scores"))
    for title, per, found in (
        ("AUC by history length", "items in the history", by_length),
        ("AUC by popularity of the target", "training rows with the same target", by_popularity),
    ):
        rows = [row for row in found if row is not None]
        if rows:
            blocks.append(bars(title, rows, text=_extremes(title, rows), axis="AUC", per=per, form=".4f"))
        elif reports:
            blocks.append(Gap(f"{title}: no group has clicks and no clicks, or train.parquet is missing."))
    return Section("groups", "By group of rows", blocks, intro)


def _bar(figures: Figures, name: str, split: str) -> Bar | None:
    if figures.auc is None:
        return None
    low = high = None
    if figures.error is not None:
        low, high = max(0.0, figures.auc - Z95 * figures.error), min(1.0, figures.auc + Z95 * figures.error)
    note = f"{figures.rows:,} rows, {figures.positives:,} clicks"
    return Bar(name, figures.auc, low, high, split, note, figures.oracle)


def _extremes(title: str, rows: Sequence[Bar]) -> str:
    worst, best = min(rows, key=lambda row: row.value), max(rows, key=lambda row: row.value)
    return (
        f"{title}: lowest {worst.value:.4f} ({worst.label}, {worst.series}), "
        f"highest {best.value:.4f} ({best.label}, {best.series})."
    )


def curve_section(scored: Scored) -> Section:
    """Return the ROC curve, the calibration plot and the histogram of predictions by label."""
    if not scored.reports:
        return Section(
            "curves", "Curves", [Gap("No split with known labels and predictions: no curves.", "see Scores")]
        )
    blocks: list[Block] = [
        roc_chart({split: (scored.label(split), scored.logits[split]) for split in scored.reports}),
        calibration_chart(scored.reports),
    ]
    for split in scored.reports:
        blocks.append(prediction_chart(split, scored.label(split), scored.logits[split]))
    return Section("curves", "Curves", blocks)


def roc_chart(series: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Chart:
    """Return the ROC curves of (labels, logits) by name, thinned for drawing; the area told is the whole curve's."""
    points: list[Point] = []
    said: list[str] = []
    for name, (label, logits) in series.items():
        curve = roc_curve(label, logits)
        said.append(f"{name}: {curve.area:.4f}")
        drawn = curve.thinned()
        points += [
            Point(float(x), float(y), name)
            for x, y in zip(drawn.false_positive, drawn.true_positive, strict=True)
        ]  # fmt: skip
    return lines(
        "ROC",
        points,
        text=f"Area under the ROC curve, {', '.join(said)}; the diagonal is chance.",
        x="false positive rate",
        y="true positive rate",
        diagonal=True,
        zero=True,
    )


def calibration_chart(reports: Mapping[Any, CtrReport]) -> Chart:
    """Return click rate against mean prediction of each bin of the reports' calibration, with Wilson's intervals."""
    points: list[Point] = []
    for split, report in reports.items():
        for rows, predicted, rate in report.calibration.bins:
            low, high = wilson(min(rows, max(0.0, rate * rows)), rows)
            points.append(Point(predicted, rate, split, low, high, f"{rows:,} rows"))
    errors = ", ".join(f"{report.calibration.error:.4f} on {split}" for split, report in reports.items())
    return lines(
        "Calibration",
        points,
        text=f"Calibration error {errors}. Above the diagonal the run predicts too little, below it too much. "
        "Bins of about equal mass; the band is the 95 % interval of a bin's click rate.",
        x="mean prediction",
        y="click rate",
        diagonal=True,
        zero=True,
    )


def prediction_chart(split: str, label: np.ndarray, logits: np.ndarray) -> Chart:
    """Return the histogram of predicted probabilities, of clicked rows and of the others."""
    probability = sigmoid(logits)
    low, high = math.floor(20 * float(probability.min())) / 20, math.ceil(20 * float(probability.max())) / 20
    edges = np.linspace(low, max(high, low + 0.05), BINS + 1)
    counts: list[Bin] = []
    for series, rows in (("not clicked", label == 0), ("clicked", label == 1)):
        found, _ = np.histogram(probability[rows], edges)
        counts += [
            Bin(float(a), float(b), int(n), series) for a, b, n in zip(edges[:-1], edges[1:], found, strict=True)
        ]
    means = [float(probability[label == value].mean()) for value in (1, 0)]
    return histogram(
        f"Predictions on {split}",
        counts,
        text=f"Mean prediction of clicked rows {means[0]:.3f}, of the others {means[1]:.3f}.",
        x="predicted probability of a click",
        y="rows",
    )

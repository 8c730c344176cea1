"""The page of one run."""

from __future__ import annotations

from pathlib import Path

from common.metrics.ctr_intervals import RESAMPLES
from common.pages.blocks import Gap, Page, Section
from common.pages.images import Images
from track2_mmctr.datasets.tables import CtrData, SplitName
from track2_mmctr.evaluate import CtrReport, evaluate
from track2_mmctr.groups import train_counts
from track2_mmctr.report.codes import code_section
from track2_mmctr.report.files import read_logits, read_run
from track2_mmctr.report.item_map import ITEMS, Method, map_section, neighbour_section, read_vectors
from track2_mmctr.report.items import Shelf
from track2_mmctr.report.rows import wrong_section
from track2_mmctr.report.scores import Scored, curve_section, group_section, score_section
from track2_mmctr.report.training import about, cost_section, training_section


def report_page(
    folder: Path,
    data: CtrData,
    *,
    method: Method = "pca",
    items: int = ITEMS,
    resamples: int = RESAMPLES,
    images: Images | None = None,
) -> Page:
    """Return the page of a run.

    Parameters
    ----------
    folder
        The run's.
    data
        What it was made on (`evaluate.open_data`).
    method, items
        Of the map: how it is made, and how many items it shows at most.
    resamples
        Of the bootstrap by user.
    images
        Takes the covers; None for a budget as pages have it.

    Raises
    ------
    DataError
        `folder` is no folder, or its predictions are damaged or of other data. Whatever else is missing is a gap.
    """
    run = read_run(folder)
    logits, gaps = read_logits(run, data)
    counts = train_counts(data) if "train" in data.splits else None
    reports: dict[SplitName, CtrReport] = {
        name: evaluate(data.splits[name], found, counts, resamples=resamples) for name, found in logits.items()
    }
    scored = Scored(run, data, logits, reports)
    shelf = Shelf.of(data, Images() if images is None else images)
    vectors = read_vectors(run, data)
    # Covers of rows and neighbours first: the map has the most of them, and does without the least asked for.
    wrong = wrong_section(scored, counts, shelf)
    neighbours = neighbour_section(vectors, data, counts, shelf)
    codes = code_section(run, data, shelf)
    shown = shelf.gaps()
    sections = [
        score_section(scored, gaps),
        group_section(reports),
        curve_section(scored),
        training_section(run),
        map_section(vectors, data, counts, shelf, method, items),
        neighbours,
        codes,
        cost_section(run),
        with_gaps(wrong, shown),
    ]
    best = ", ".join(f"AUC {report.headline:.4f} on {name}" for name, report in reports.items())
    return Page(f"Run {run.label}", best or "no figures", sections, shelf.images, about(run, data))


def with_gaps(section: Section, gaps: list[Gap]) -> Section:
    """Return the section with gaps before its blocks."""
    return Section(section.key, section.title, [*gaps, *section.blocks], section.intro)

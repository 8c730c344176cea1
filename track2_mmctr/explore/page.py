"""The data of Track 2 on one page, the findings first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.explore.findings import Finding, about, findings_section
from common.pages.blocks import Page
from common.pages.images import Images
from track2_mmctr.datasets.microlens import find_folder
from track2_mmctr.explore.item_checks import check_items
from track2_mmctr.explore.read import read_ctr
from track2_mmctr.explore.row_checks import check_rows
from track2_mmctr.explore.rows import Rows
from track2_mmctr.explore.sections import ctr_sections

SAMPLES = 60
"""Rows, and items, that are shown."""


@dataclass(frozen=True)
class Explored:
    """The page, and its findings for the terminal."""

    page: Page
    findings: list[Finding]


def explore(root: Path, cache: Path, *, samples: int = SAMPLES, seed: int = 0) -> Explored:
    """Look at the data under a data root.

    Parameters
    ----------
    root
        The data root, or the folder that holds MicroLens_1M_x1/.
    cache
        Where packed splits are kept, as for a run.
    samples, seed
        How many rows and items are shown, and which.

    Raises
    ------
    DataError
        There is no Track 2 data. Damaged or absent files are findings and gaps.
    """
    data = read_ctr(find_folder(root), cache)
    rows, images = Rows(data), Images()
    findings = about("files", data.findings) + about("rows", check_rows(rows)) + about("items", check_items(rows))
    sections = ctr_sections(rows, images, samples=samples, seed=seed)
    told = [("data", str(data.folder)), ("samples", f"{samples} rows and items, seed {seed}")]
    page = Page("Track 2: what the data is", root.name, [findings_section(findings), *sections], images, told)
    return Explored(page, findings)

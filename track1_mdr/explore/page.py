"""Both tasks on one page, the findings first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import DataError
from common.explore.findings import Finding, about, findings_section
from common.pages.blocks import Gap, Page, Section
from common.pages.images import Images
from track1_mdr.explore.m2kr_checks import check_m2kr, read_m2kr
from track1_mdr.explore.m2kr_page import m2kr_sections
from track1_mdr.explore.mmdocir_checks import check_mmdocir
from track1_mdr.explore.mmdocir_page import mmdocir_sections
from track1_mdr.explore.mmdocir_read import read_mmdocir

SAMPLES = 60
"""Questions of each task that are shown."""
GET = "python -m track1_mdr download --help, or --data data/sample"


@dataclass(frozen=True)
class Explored:
    """The page, and its findings for the terminal."""

    page: Page
    findings: list[Finding]


def explore(root: Path, cache: Path, *, ocr: bool = False, samples: int = SAMPLES, seed: int = 0) -> Explored:
    """Look at the data of both tasks under a data root.

    Parameters
    ----------
    root
        The data root; a task that is not there leaves a gap.
    cache
        Where the texts of PDFs are kept.
    ocr
        Read pages of PDFs without words by OCR, as a run does.
    samples, seed
        How many questions of each task are shown, and which.

    Raises
    ------
    DataError
        Neither task's folder is there.
    """
    folders = {task: root / task for task in ("mmdocir", "m2kr")}
    if not any(folder.is_dir() for folder in folders.values()):
        raise DataError("no data to explore", where=root, expected="mmdocir/ or m2kr/ in the data root", todo=GET)
    images = Images()
    findings: list[Finding] = []
    sections: list[Section] = []
    if folders["mmdocir"].is_dir():
        mmdocir = read_mmdocir(folders["mmdocir"], cache, ocr=ocr)
        findings += about("MMDocIR", check_mmdocir(mmdocir))
        sections += mmdocir_sections(mmdocir, images, samples=samples, seed=seed)
    else:
        sections.append(Section("mmdocir", "MMDocIR", [Gap("The folder mmdocir is not in the data root.", GET)]))
    if folders["m2kr"].is_dir():
        m2kr, faults = read_m2kr(folders["m2kr"])
        if m2kr is None:
            findings += about("M2KR", faults)
            sections.append(Section("m2kr", "M2KR", [Gap(f"M2KR cannot be read: {faults[0].found}", GET)]))
        else:
            findings += about("M2KR", check_m2kr(m2kr))
            sections += m2kr_sections(m2kr, images, samples=samples, seed=seed)
    else:
        sections.append(Section("m2kr", "M2KR", [Gap("The folder m2kr is not in the data root.", GET)]))
    told = [("data", str(root)), ("samples", f"{samples} of each task, seed {seed}")]
    page = Page("Track 1: what the data is", root.name, [findings_section(findings), *sections], images, told)
    return Explored(page, findings)

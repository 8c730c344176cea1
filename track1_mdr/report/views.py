"""What a report shows of the data: questions, gold, page texts and images, as far as the data root has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from common.errors import UserError
from common.faults import FaultLog
from common.pages.blocks import Gap
from common.submission.mdr import TASK_TITLES, Task, tasks_of
from track1_mdr.config import DataConfig
from track1_mdr.datasets.m2kr import load_m2kr
from track1_mdr.datasets.mmdocir import QUESTIONS_FILE, load_mmdocir
from track1_mdr.datasets.page_images import PdfImages
from track1_mdr.datasets.questions import read_questions
from track1_mdr.datasets.tables import ImageSource, NoImages, Passages, Qrels
from track1_mdr.gold import Ground, read_ground

THUMB_PIXELS = 320
"""Long side of a page rendered for a thumbnail."""


@dataclass(frozen=True)
class Question:
    """A question as the data has it; `row` is its row in the query images, -1 where it is not known."""

    id: str
    text: str = ""
    document: str = ""
    domain: str = ""
    pages: int = 0
    row: int = -1


@dataclass(frozen=True)
class View:
    """One task's questions, gold and passages.

    `passages` is None where no page is at hand; `rows` has the row of each (document, passage id), the document
    being "" for M2KR.
    """

    task: Task
    questions: Mapping[str, Question]
    gold: Qrels = field(default_factory=dict)
    evidence: Mapping[str, Sequence[str]] = field(default_factory=dict)
    passages: Passages | None = None
    rows: Mapping[tuple[str, str], int] = field(default_factory=dict)
    images: ImageSource = field(default_factory=lambda: NoImages(0))
    query_images: ImageSource = field(default_factory=lambda: NoImages(0))

    def question(self, question: str) -> Question:
        """Return the question, or its id alone where the data has no more."""
        return self.questions.get(question) or Question(question)

    def row(self, question: str, passage: str) -> int | None:
        """Return the row of a question's candidate in `passages`; None where it is not at hand."""
        return self.rows.get((self.question(question).document, passage))

    def candidates(self, question: str) -> Iterator[str]:
        """Yield the ids of a question's candidates in the order of the data."""
        known = self.question(question)
        if known.document:
            yield from map(str, range(known.pages))
        else:
            yield from (passage for _, passage in self.rows)


@dataclass(frozen=True)
class Data:
    """The tasks' views, what a score needs (None without questions), and what is missing."""

    views: Mapping[Task, View]
    ground: Ground | None
    gaps: Sequence[Gap] = ()

    def documents(self) -> dict[str, str]:
        """Return the document of each question, "" for M2KR."""
        return {i: q.document for view in self.views.values() for i, q in view.questions.items()}


def read_data(root: Path, config: DataConfig, cache: Path, tasks: Sequence[Task]) -> Data:
    """Read what a report shows of `tasks`; what cannot be read is a gap.

    Parameters
    ----------
    root
        The data root.
    config
        How the run read its pages: the same text is shown.
    cache
        Where the run kept prepared documents: PDFs are not read again.
    tasks
        The tasks of the run.
    """
    gaps: list[Gap] = []
    todo = "name the data root with --data or MIRC_DATA; data/README.md says where the files come from"
    try:
        ground = read_ground(root)
    except UserError as error:
        gaps.append(Gap(f"The questions and gold cannot be read: {error.what}.", error.todo or todo))
        return Data({task: View(task, {}) for task in tasks}, None, gaps)
    views: dict[Task, View] = {task: _view(task, root, config, cache, ground, gaps) for task in tasks}
    for task in tasks:
        if not views[task].gold:
            gaps.append(
                Gap(
                    f"{TASK_TITLES[task]}: no gold at hand, so no score, no curves and no outcome of its questions.",
                    f"put gold.csv under {task}/ of the data root"
                    + (", or MMDocIR_annotations.jsonl" if task == "mmdocir" else ""),
                )
            )
    return Data(views, ground, gaps)


def _view(task: Task, root: Path, config: DataConfig, cache: Path, ground: Ground, gaps: list[Gap]) -> View:
    gold = {i: ids for i, ids in ground.gold.items() if tasks_of([i]) == (task,)}
    evidence = {i: kinds for i, kinds in ground.evidence.items() if tasks_of([i]) == (task,)}
    faults = FaultLog()
    try:
        if task == "mmdocir":
            tables = load_mmdocir(root / task, config, cache, faults, layouts=False)
        else:
            tables = load_m2kr(root / task, config, faults)
    except UserError as error:
        gaps.append(
            Gap(f"{TASK_TITLES[task]}: pages cannot be shown, neither text nor images: {error.what}.", error.todo or "")
        )
        return View(task, _questions_alone(task, root, ground), gold, evidence)
    if faults.faults:
        first = ", ".join(fault.item for fault in faults.faults[:3])
        gaps.append(Gap(f"{TASK_TITLES[task]}: {len(faults)} items of the data cannot be read: {first}."))
    passages, table = tables.passages, tables.passages.table
    images = passages.images
    if isinstance(images, PdfImages):  # a tenth of the pixels that an encoder is given
        images = PdfImages(images.pages, THUMB_PIXELS)
    if table["image_name"].null_count() == table.height:
        gaps.append(
            Gap(
                f"{TASK_TITLES[task]}: the data has no page images; pages are shown by their words.",
                "put the PDFs into mmdocir/pdfs, or use a page table with image_binary"
                if task == "mmdocir"
                else "put the screenshots into m2kr/Challenge",
            )
        )
    if "no folder query_images" in " ".join(tables.notes):
        gaps.append(Gap("M2KR: the query images are not at hand.", "extract them into m2kr/query_images"))
    return View(
        task,
        _questions(tables.queries.table),
        gold,
        evidence,
        passages,
        {key: row for row, key in enumerate(zip(table["doc_name"], table["passage_id"], strict=True))},
        images,
        tables.queries.images,
    )


def _questions(table: pl.DataFrame) -> dict[str, Question]:
    rows = table.select("question_id", "question", "doc_name", "domain", "num_of_pages").iter_rows()
    return {
        i: Question(i, text, document, domain, pages, row)
        for row, (i, text, document, domain, pages) in enumerate(rows)
    }


def _questions_alone(task: Task, root: Path, ground: Ground) -> dict[str, Question]:
    """Return the questions of a task whose pages cannot be read; without their words where these cannot either."""
    if task == "mmdocir":
        return (
            _questions(read_questions(root / task / QUESTIONS_FILE)) if (root / task / QUESTIONS_FILE).is_file() else {}
        )
    rows = ground.questions.select("question_id", "doc_name", "domain", "num_of_pages").iter_rows()
    return {
        i: Question(i, "", document, domain, pages) for i, document, domain, pages in rows if tasks_of([i]) == (task,)
    }

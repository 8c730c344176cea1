"""What Track 1 can download, and the check of what came: every file by the reader that runs use."""

from __future__ import annotations

from pathlib import Path

from common.download.cli import Track
from common.download.parts import ARCHIVE, Offer, Part, Want
from common.faults import FaultLog

_KAGGLE = Offer("kaggle", "multimodal-document-retrieval-challenge")
_MMDOCIR = Offer("hub", "MMDocIR/MMDocIR-Challenge")
_M2KR = (_KAGGLE, Offer("hub", "Jingbiao/M2KR-Challenge"), Offer("hub", "Jingbiao/M2KR-WWW2025-Challenge"))
_EVALUATION = Offer("hub", "MMDocIR/MMDocIR_Evaluation_Dataset")
_TRAINING = Offer("hub", "MMDocIR/MMDocIR_Train_Dataset")
_ANNOTATIONS = Offer(
    "pages", "https://raw.githubusercontent.com/MMDocRAG/MMDocIR/main/dataset/MMDocIR_annotations.jsonl"
)
_SCREENSHOTS = "(Web_Image|Challenge|passage_images)"  # on the hub, unpacked, and as Kaggle's users have them

PARTS: tuple[Part, ...] = (
    Part(
        "questions",
        "MMDocIR questions",
        "mmdocir",
        (Want("mmdocir", (r"MMDocIR_gt_remove\.jsonl",)),),
        (_KAGGLE, _MMDOCIR),
    ),
    Part(
        "pages",
        "MMDocIR pages: text and images",
        "mmdocir",
        (Want("mmdocir", (r"MMDocIR_doc_passages\.parquet", r"MMDocIR_pages\.parquet")),),
        (_KAGGLE, _MMDOCIR, _EVALUATION),
    ),
    Part(
        "gold",
        "MMDocIR gold pages (public: it is the test set's)",
        "mmdocir",
        (Want("mmdocir", (r"MMDocIR_annotations\.jsonl",)),),
        (_EVALUATION, _ANNOTATIONS),
    ),
    Part(
        "layouts",
        "MMDocIR layout blocks",
        "mmdocir",
        (Want("mmdocir", (r"MMDocIR_layouts\.parquet",)),),
        (_EVALUATION,),
        default=False,
    ),
    Part(
        "pdfs",
        "MMDocIR documents as PDFs",
        "mmdocir",
        (Want("mmdocir/pdfs", (rf"doc_pdfs{ARCHIVE}", r"doc_pdfs/.+\.pdf"), folder=True),),
        (_EVALUATION,),
        default=False,
    ),
    Part(
        "queries",
        "M2KR queries",
        "m2kr",
        (Want("m2kr/challenge_data", (r"challenge_data/[^/]+\.parquet",), many=True),),
        _M2KR,
    ),
    Part(
        "passages",
        "M2KR passages",
        "m2kr",
        (Want("m2kr/challenge_passage", (r"challenge_passage/[^/]+\.parquet",), many=True),),
        _M2KR,
    ),
    Part(
        "query_images",
        "M2KR query images",
        "m2kr",
        (Want("m2kr/query_images", (rf"query_images{ARCHIVE}", r"query_images/.+"), folder=True),),
        _M2KR,
    ),
    Part(
        "screenshots",
        "M2KR page screenshots",
        "m2kr",
        (Want("m2kr/Challenge", (rf"{_SCREENSHOTS}{ARCHIVE}", rf"{_SCREENSHOTS}/.+"), folder=True),),
        _M2KR,
    ),
    Part(
        "training",
        "MMDocIR training set (nothing here reads it yet)",
        "training",
        (Want("mmdocir_train", (r".+\.(parquet|jsonl)",), folder=True),),
        (_TRAINING,),
        default=False,
    ),
)


def check(root: Path, cache: Path) -> list[str]:
    """Read what is under a data root with the readers of runs, and sum it up; the last line is the next command.

    Raises
    ------
    DataError
        A file is damaged or breaks its schema; the message names file and row.
    """
    del cache  # Track 2's check keeps packed splits there
    lines, ready = _mmdocir(root / "mmdocir")
    more, ready_too = _m2kr(root / "m2kr")
    verb = "run" if ready or ready_too else "download"
    return [*lines, *more, f"next: python -m track1_mdr {verb} --data {root}"]


def _mmdocir(folder: Path) -> tuple[list[str], bool]:
    """Return what the folder `mmdocir` holds, and whether a run can start on it."""
    from track1_mdr.datasets.mmdocir import ANNOTATIONS_FILE, PAGE_FILES, QUESTIONS_FILE
    from track1_mdr.datasets.prepare import find_pdfs
    from track1_mdr.datasets.questions import read_questions
    from track1_mdr.gold import read_annotations

    lines: list[str] = []
    table = next((folder / name for name in PAGE_FILES if (folder / name).is_file()), None)
    pdfs = find_pdfs(folder / "pdfs") if (folder / "pdfs").is_dir() else {}
    if not (folder / QUESTIONS_FILE).is_file():
        if table is not None or pdfs:
            lines.append(f"mmdocir: no {QUESTIONS_FILE} yet: its pages are checked with it")
        return lines, False
    questions = read_questions(folder / QUESTIONS_FILE)
    counts = dict(zip(questions["doc_name"], questions["num_of_pages"], strict=True))
    lines.append(f"mmdocir: {questions.height:,} questions on {len(counts):,} documents")
    if table is not None:
        lines += _pages(table, counts)
    if pdfs:
        absent = [name for name in counts if name not in pdfs]
        lines.append(f"mmdocir: {len(pdfs):,} PDFs" + (f", {len(absent)} documents have none" if absent else ""))
    if (folder / ANNOTATIONS_FILE).is_file():
        gold, _ = read_annotations(folder / ANNOTATIONS_FILE, questions, questions["question"].to_list())
        lines.append(
            f"mmdocir: gold of {len(gold):,} of {questions.height:,} questions. It is the test set's: what is chosen "
            "on it says nothing about other data"
        )
    return lines, table is not None or bool(pdfs)


def _pages(table: Path, counts: dict[str, int]) -> list[str]:
    from track1_mdr.datasets.page_table import read_layouts, read_pages
    from track1_mdr.datasets.prepare import LAYOUTS_FILE

    pages = read_pages(table, counts, "auto")
    images = "with" if pages.has_images else "without"
    lines = [f"mmdocir: {pages.table.height:,} pages {images} images in {table.name}"]
    layouts = table.with_name(LAYOUTS_FILE)
    if layouts.is_file():
        first: dict[str, int] = {}
        for row, name in enumerate(pages.table["doc_name"]):
            first.setdefault(name, row)
        blocks, _ = read_layouts(layouts, first, counts)
        lines.append(f"mmdocir: {blocks.height:,} layout blocks")
    return lines


def _m2kr(folder: Path) -> tuple[list[str], bool]:
    """Return what the folder `m2kr` holds, and whether a run can start on it."""
    from track1_mdr.config import DataConfig
    from track1_mdr.datasets.m2kr import load_m2kr
    from track1_mdr.gold import read_m2kr_questions, read_pool

    has = {name: any((folder / name).glob("*.parquet")) for name in ("challenge_data", "challenge_passage")}
    if not all(has.values()):
        lines: list[str] = []
        if has["challenge_data"]:
            lines.append(f"m2kr: {read_m2kr_questions(folder / 'challenge_data')[0].height:,} queries, no passages yet")
        if has["challenge_passage"]:
            lines.append(f"m2kr: {len(read_pool(folder / 'challenge_passage') or ()):,} passages, no queries yet")
        return lines, False
    faults = FaultLog()
    tables = load_m2kr(folder, DataConfig(), faults)
    lines = [
        f"m2kr: {len(tables.queries):,} queries, {_named(tables.queries.table['image_name'])} with an image; "
        f"{len(tables.passages):,} passages, {_named(tables.passages.table['image_name'])} with a screenshot",
        *tables.notes,
    ]
    if len(faults):
        lines.append(f"m2kr: {len(faults):,} images are named and not there:\n{faults.summary(5)}")
    return lines, True


def _named(column: object) -> str:
    return f"{sum(name is not None for name in column):,}"  # pyright: ignore[reportGeneralTypeIssues]


TRACK = Track(PARTS, check)

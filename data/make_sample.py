"""Make the shipped sample: `python data/make_sample.py --out DIR` (default: data/sample, replaced).

The same versions of reportlab, Pillow, numpy and pyarrow (requirements.txt) give the same bytes: seeds are fixed,
PDFs carry no date, and nothing is drawn with a font of the system.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT.parent))

from reportlab import rl_config  # noqa: E402

from common.atomic import atomic_folder  # noqa: E402
from data.sample_documents import Document, read_source, write_pdf  # noqa: E402
from data.sample_m2kr import write_m2kr  # noqa: E402
from data.sample_microlens import write_microlens  # noqa: E402

FIRST_QUESTION = 10000


def make_sample(out: Path) -> None:
    """Write the whole sample to the folder `out`, replacing it when all of it is made."""
    with atomic_folder(out) as folder:
        write_mmdocir(folder / "mmdocir")
        write_m2kr(folder / "m2kr")
        write_microlens(folder / "microlens")


def write_mmdocir(folder: Path) -> None:
    """Write pdfs/, the questions in the official form, gold.csv and the annotations with evidence types."""
    documents = [read_source(path) for path in sorted((ROOT / "sample_source").glob("*.txt"))]
    (folder / "pdfs").mkdir(parents=True)
    rl_config.useA85 = 0  # binary image streams: a quarter smaller
    for document in documents:
        write_pdf(document, folder / "pdfs" / f"{document.name}.pdf")
    questions, gold, annotations = [], [], []
    first_page = 0
    for document in documents:
        entries = []
        for question in document.questions:
            question_id = str(FIRST_QUESTION + len(questions))
            questions.append(_question_row(document, question_id, question.text))
            gold.append((question_id, [str(page) for page in question.pages]))
            entries.append(
                {
                    "Q": question.text,
                    "A": question.answer,
                    "page_id": list(question.pages),
                    "type": question.kind,
                    "layout_mapping": [],
                    "question_id": question_id,
                }
            )
        last_page = first_page + len(document.pages) - 1  # inclusive, as in the official file
        annotations.append(
            {
                "doc_name": f"{document.name}.pdf",
                "domain": document.domain,
                "page_indices": [first_page, last_page],
                "layout_indices": [],
                "questions": entries,
            }
        )
        first_page = last_page + 1
    write_lines(folder / "MMDocIR_gt_remove.jsonl", questions)
    write_lines(folder / "MMDocIR_annotations.jsonl", annotations)
    write_gold(folder / "gold.csv", gold)


def _question_row(document: Document, question_id: str, text: str) -> dict[str, object]:
    return {
        "question_id": question_id,
        "question": text,
        "doc_name": document.name,
        "domain": document.domain,
        "num_of_pages": len(document.pages),
        "passage_id": [],
    }


def write_lines(path: Path, rows: Iterable[dict[str, object]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_gold(path: Path, rows: Iterable[tuple[str, list[str]]]) -> None:
    """Write `question_id,passage_id` with JSON lists of strings, like a submission."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["question_id", "passage_id"])
    writer.writerows((question_id, json.dumps(ids)) for question_id, ids in rows)
    path.write_text(buffer.getvalue(), encoding="utf-8")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "sample", help="folder to write (replaced)")
    out = parser.parse_args().out
    make_sample(out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"wrote {out} ({size / 1e6:.2f} MB)")
    print(f"next: python -m track1_mdr run --data {out}\n      python -m track2_mmctr run --data {out}")


if __name__ == "__main__":
    main()

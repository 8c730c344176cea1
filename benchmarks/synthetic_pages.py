"""A made-up MMDocIR of the official size and layout, with page and document lengths like the real ones."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

# Words a page, by quantile, measured on 2,186 pages of 47 real documents (text layer; the scanned ones have none).
QUANTILES = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
WORDS = (0, 0, 36, 137, 202, 255, 300, 352, 496, 643, 732, 976, 3723)
DOMAINS = (
    "Academic paper",
    "Financial report",
    "Research report / Introduction",
    "News",
    "Laws",
    "Guidebook",
    "Government",
    "Tutorial/Workshop",
    "Brochure",
    "Administration/Industry file",
)
VOCABULARY = 60_000
_ROW_GROUP = 256


@dataclass(frozen=True)
class Size:
    """How much to make; the default is the official evaluation set. `image_bytes`: of each page's JPEG."""

    documents: int = 313
    pages: int = 20_395
    questions: int = 1_658
    image_bytes: int = 100_000
    seed: int = 7


def page_counts(size: Size) -> np.ndarray:
    """Return int64 [documents] page counts: 3 to 844, median 27 and the exact sum, as the official ones.

    The quantiles are log-normal; those above the median are stretched until the sum fits.
    """
    normal = NormalDist()
    places = [(i + 0.5) / size.documents for i in range(size.documents)]
    raw = np.asarray([27 * np.exp(1.33 * normal.inv_cdf(p)) for p in places])
    low, high = 0.0, 50.0
    counts = np.empty(0, np.int64)
    for _ in range(60):
        middle = (low + high) / 2
        stretched = np.where(raw > 27, 27 + (raw - 27) * middle, raw)
        counts = np.clip(stretched, 3, 844).astype(np.int64)
        low, high = (middle, high) if counts.sum() < size.pages else (low, middle)
    if not 3 * size.documents <= size.pages <= 844 * size.documents:
        raise ValueError(f"{size.pages} pages do not fit into {size.documents} documents of 3 to 844 pages")
    place = size.documents - 1
    while (rest := int(size.pages - counts.sum())) != 0:
        changed = counts[place] + (1 if rest > 0 else -1)
        if 3 <= changed <= 844:
            counts[place] = changed
        place = (place - 1) % size.documents
    return np.random.default_rng(size.seed).permutation(counts)


def write_dataset(folder: Path, size: Size, pictures: Sequence[bytes] = ()) -> None:
    """Write `mmdocir/` with the page table, the questions and gold.csv under `folder`.

    Pages have `pictures` by turns, or where there are none one colour each, in `size.image_bytes` bytes.

    A question is eight words of its gold page in another order, mixed with common words; so retrieval has
    something to find, and finding it says nothing about real questions.
    """
    rng = np.random.default_rng(size.seed + 1)
    counts = page_counts(size)
    names = [f"document_{i:03}" for i in range(size.documents)]
    asked_again = rng.choice(size.documents, size.questions - size.documents, p=_question_share(counts))
    wanted = np.bincount(np.concatenate([np.arange(size.documents), asked_again]))  # at least one each
    (folder / "mmdocir").mkdir(parents=True, exist_ok=True)
    asked: list[dict[str, object]] = []
    gold: list[str] = ["question_id,passage_id"]
    writer: pq.ParquetWriter | None = None
    rows: list[dict[str, object]] = []
    for document, (name, pages) in enumerate(zip(names, counts.tolist(), strict=True)):
        texts = [_page_text(rng) for _ in range(pages)]
        for _ in range(int(wanted[document])):
            page = int(rng.integers(pages))
            question_id = str(10_000 + len(asked))
            asked.append(_question(question_id, name, document, pages, texts[page], rng))
            gold.append(f'{question_id},"[""{page}""]"')
        for row in _page_rows(name, document, texts, size.image_bytes, rng, pictures):
            rows.append(row)
            if len(rows) == _ROW_GROUP:
                writer = _write(writer, folder / "mmdocir" / "MMDocIR_doc_passages.parquet", rows)
                rows = []
    writer = _write(writer, folder / "mmdocir" / "MMDocIR_doc_passages.parquet", rows) if rows else writer
    if writer is not None:
        writer.close()
    lines = "".join(json.dumps(row) + "\n" for row in asked)
    (folder / "mmdocir" / "MMDocIR_gt_remove.jsonl").write_text(lines, encoding="utf-8")
    (folder / "mmdocir" / "gold.csv").write_text("\n".join(gold) + "\n", encoding="utf-8")


def _question_share(counts: np.ndarray) -> np.ndarray:
    share = np.sqrt(counts.astype(np.float64))
    return share / share.sum()


def _page_text(rng: np.random.Generator) -> str:
    words = int(np.interp(rng.random(), QUANTILES, WORDS))
    # Ranks with density 1 / rank, as words of a language have.
    ranks = np.exp(rng.random(words) * np.log(VOCABULARY)).astype(np.int64)
    return " ".join(map(word, ranks.tolist()))


@functools.cache
def word(rank: int) -> str:
    """Return a pronounceable word for a rank; frequent words are short."""
    syllables: list[str] = []
    while rank or not syllables:
        rank, place = divmod(rank, 70)
        syllables.append("bdfgklmnprstvz"[place % 14] + "aeiou"[place // 14])
    return "".join(syllables)


def _question(
    question_id: str, name: str, document: int, pages: int, text: str, rng: np.random.Generator
) -> dict[str, object]:
    words = text.split()
    hints = [words[int(i)] for i in rng.integers(len(words), size=8)] if words else []
    return {
        "question_id": question_id,
        "question": " ".join(["what is the", *hints, "in", *_page_text_words(6, rng)]) + "?",
        "doc_name": name,
        "domain": DOMAINS[document % len(DOMAINS)],
        "num_of_pages": pages,
        "passage_id": [],
    }


def _page_text_words(count: int, rng: np.random.Generator) -> list[str]:
    return [word(int(np.exp(x * np.log(VOCABULARY)))) for x in rng.random(count)]


def _page_rows(
    name: str,
    document: int,
    texts: list[str],
    image_bytes: int,
    rng: np.random.Generator,
    pictures: Sequence[bytes],
) -> Iterator[dict[str, object]]:
    for page, text in enumerate(texts):
        words = text.split()
        yield {
            "doc_name": name,
            "domain": DOMAINS[document % len(DOMAINS)],
            "passage_id": str(page),
            "image_path": f"page_images/{name}_{page}.jpg",
            "image_binary": pictures[(7 * document + page) % len(pictures)]
            if pictures
            else _jpeg(document, page, image_bytes, rng),
            "ocr_text": text,
            "vlm_text": " ".join(["The page shows", *words[: max(len(words) // 3, 1)]]),
        }


def _jpeg(document: int, page: int, length: int, rng: np.random.Generator) -> bytes:
    """Return a small JPEG, filled up to `length` bytes after its end, which readers ignore."""
    colour = (document * 37 % 256, page * 11 % 256, (document + page) * 53 % 256)
    buffer = io.BytesIO()
    Image.new("RGB", (60, 80), colour).save(buffer, "JPEG", quality=50)
    return buffer.getvalue() + rng.bytes(max(length - buffer.tell(), 0))


def _write(writer: pq.ParquetWriter | None, path: Path, rows: list[dict[str, object]]) -> pq.ParquetWriter:
    table = pa.Table.from_pylist(rows)
    writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
    writer.write_table(table)
    return writer

"""A small data root and runs on it whose every figure can be counted by hand: no pipeline, no models."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl
from PIL import Image

from common.config import make_config
from common.experiment import Experiment
from common.submission.mdr import write_submission
from track1_mdr.config import RunConfig
from track1_mdr.evaluate import score_files
from track1_mdr.gold import read_ground

PAGES = {"ferry": 30, "bees": 8}
# id, question, document, gold pages, domain, evidence
QUESTIONS = [
    ("10000", "How much revenue came from tickets?", "ferry", ("1",), "Guidebook", "Table"),
    ("10001", "Which captains retired at sea?", "ferry", ("2", "20"), "Guidebook", "Pure-text"),
    ("10002", "Which plants feed the colonies?", "bees", ("2",), "News", "Chart"),
    ("10003", 'What do <script>alert(1)</script> bees "eat"?', "bees", ("7",), "News", "Chart"),
]
TEXTS = {
    ("ferry", 1): "The yearly report. Ticket revenues rose to 12 million crowns, and the revenue from cargo fell.",
    ("ferry", 2): "Captain Lindqvist retired after forty years at sea.",
    ("bees", 2): "Lavender and clover are the plants that feed most of the colony.",
}
Ranked = Mapping[str, Sequence[str]]
# By hand, in the first five: 10000 by bm25 and dense, 10001's page 2 by bm25 alone and page 20 by dense alone,
# 10002 by bm25 alone, 10003 by none.
ROUTES: dict[str, Ranked] = {
    "bm25": {
        "10000": ["1", "5", "6", "7", "8", "9"],
        "10001": ["3", "2", "4", "5", "6", "20"],
        "10002": ["2", "0", "1"],
        "10003": ["0", "1", "2", "3", "4", "7"],
    },
    "dense": {
        "10000": ["9", "8", "7", "1", "5"],
        "10001": ["20", "9", "8", "7", "6"],
        "10003": ["0", "1", "2", "3", "4", "5", "7"],
    },
}
# 10002: two pages only, so that the run fills up from the document's first pages.
FINAL: Ranked = {
    "10000": ["5", "1", "6", "7", "8", "9"],
    "10001": ["20", "3", "4", "5", "2", "6"],
    "10002": ["6", "5"],
    "10003": ["0", "1", "2", "3", "4", "5", "6", "7"],
}


def planted_root(root: Path, gold: bool = True, images: bool = True) -> Path:
    """Write the data root."""
    folder = root / "mmdocir"
    folder.mkdir(parents=True)
    rows = [
        {
            "doc_name": name,
            "domain": "d",
            "passage_id": str(page),
            "image_path": f"{name}_{page}.jpg",
            **({"image_binary": jpeg(page)} if images else {}),
            "ocr_text": TEXTS.get((name, page), f"Page number {page}." if page else ""),
            "vlm_text": "",
        }
        for name, count in PAGES.items()
        for page in range(count)
    ]
    pl.DataFrame(rows).write_parquet(folder / "MMDocIR_doc_passages.parquet")
    lines = [
        {"question_id": i, "question": text, "doc_name": name, "domain": domain, "num_of_pages": PAGES[name]}
        for i, text, name, _, domain, _ in QUESTIONS
    ]
    (folder / "MMDocIR_gt_remove.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if gold:
        (folder / "MMDocIR_annotations.jsonl").write_text(
            "".join(
                json.dumps(
                    {
                        "doc_name": name,
                        "questions": [{"Q": text, "page_id": [int(p) for p in pages], "type": f"['{kind}']"}],
                    }
                )
                + "\n"
                for _, text, name, pages, _, kind in QUESTIONS
            )
        )
    return root


def jpeg(page: int) -> bytes:
    """Return a picture of a page, of a colour of its own."""
    buffer = io.BytesIO()
    Image.new("RGB", (60, 80), (page * 8, 120, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


def plant_run(
    home: Path,
    root: Path,
    routes: Mapping[str, Ranked] = ROUTES,
    final: Ranked = FINAL,
    *,
    m2kr: Mapping[str, Ranked] | None = None,
    values: Mapping[str, object] | None = None,
    name: str = "planted",
) -> Path:
    """Write a run as the pipeline leaves it, of MMDocIR or (`m2kr`: its routes, and "fusion") of both tasks."""
    parts: dict[str, Mapping[str, Ranked]] = {
        "mmdocir": {**routes, "fusion": final},
        **({"m2kr": m2kr} if m2kr else {}),
    }
    tasks = {
        task: {"routes": {one: {"type": "bm25"} for one in sources if one != "fusion"}, "fusion": {"type": "rrf"}}
        for task, sources in parts.items()
    }
    settings = {"name": name, "tasks": tasks, **(values or {})}
    config = make_config(RunConfig, dict(settings), (), "planted")
    ground = read_ground(root)
    out = home / "submissions" / f"{name}.csv"
    with Experiment(home / "runs", "track1", config, config.seed, data=root) as record:
        with record.stage("mmdocir.bm25"):
            tables = [score_table(task, sources) for task, sources in parts.items()]
            pl.concat(tables).write_parquet(record.folder / "scores.parquet")
        answers = {i: ids for sources in parts.values() for i, ids in sources["fusion"].items()}
        pages = ground.expected.pages or {}
        write_submission(out, {i: filled(i, ids, pages) for i, ids in answers.items()}, ground.expected)
        record.add_submission(out)
        if ground.gold:
            record.add_metrics(score_files(out, root).to_dict())
    return record.folder


def filled(question: str, ids: Sequence[str], pages: Mapping[str, int]) -> list[str]:
    """Return five passages: the ranked ones, then the document's pages in order, as the pipeline does."""
    rest = [str(page) for page in range(pages.get(question, 0))]
    return list(dict.fromkeys([*ids[:5], *rest]))[:5]


def score_table(task: str, sources: Mapping[str, Ranked]) -> pl.DataFrame:
    """Return a scores.parquet; the score falls by one a rank."""
    rows = [
        (task, question, source, rank, passage, 20.0 - rank)
        for source, ranked in sources.items()
        for question, ids in ranked.items()
        for rank, passage in enumerate(ids, 1)
    ]
    schema = {
        "task": pl.String,
        "question_id": pl.String,
        "source": pl.String,
        "rank": pl.Int32,
        "passage_id": pl.String,
        "score": pl.Float32,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")

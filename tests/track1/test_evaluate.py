"""Local score and comparison against hand-worked figures, brute force and the Kaggle metric."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from rich.console import Console

from common.errors import DataError
from common.metrics.retrieval import score
from common.submission.mdr import InvalidSubmission, write_submission
from track1_mdr.compare import compare, compare_files, resample_means
from track1_mdr.evaluate import evaluate, score_files, validate_file
from track1_mdr.gold import read_ground

QUESTIONS = pl.DataFrame(
    {
        "question_id": ["10000", "10001", "10002", "10003", "0", "1"],
        "doc_name": ["d1", "d1", "d2", "d3", "", ""],
        "domain": ["Laws", "Laws", "News", "News", "image", "text"],
    }
)
GOLD = {"10000": ("3", "4"), "10001": ("0",), "10002": ("2",), "10003": ("7",), "0": ("Q7",), "1": ("Q1",)}
RUN = {
    "10000": ("3", "0", "1", "4", "2"),  # recall 1/2, 1/2, 1: mean 2/3
    "10001": ("1", "2", "3", "4", "5"),  # nothing
    "10002": ("2", "0", "1", "3", "4"),  # all
    "10003": ("0", "1", "2", "7", "3"),  # at rank 4: 0, 0, 1
    "0": ("Q1", "Q7", "Q2", "Q3", "Q4"),  # at rank 2: 0, 1, 1
    "1": ("Q1", "Q2", "Q3", "Q4", "Q5"),  # all
}
EVIDENCE = {"10000": ("Table", "Chart"), "10001": ("Table",)}


def render(thing: object) -> str:
    out = io.StringIO()
    Console(width=160, file=out).print(thing)
    return out.getvalue()


def test_hand_worked_report() -> None:
    report = evaluate(RUN, GOLD, QUESTIONS, EVIDENCE)
    pages = report.tasks["mmdocir"]
    want = {"R@1": 100 * 1.5 / 4, "R@3": 100 * 1.5 / 4, "R@5": 75.0, "mean": 50.0}
    assert pages.micro.recall == pytest.approx(want)
    assert pages.micro.hit == {"hit@1": 50.0, "hit@3": 50.0, "hit@5": 75.0}
    assert pages.micro.questions == 4


def test_ceiling_share_and_errors() -> None:
    pages = evaluate(RUN, GOLD, QUESTIONS).tasks["mmdocir"]
    ceiling = (87.5 + 100 + 100) / 3
    assert pages.micro.ceiling["mean"] == pytest.approx(ceiling)
    assert pages.micro.share_of_ceiling == pytest.approx(100 * 50 / ceiling)
    values = 100 * np.array([2 / 3, 0, 1, 1 / 3])
    assert pages.micro.error == pytest.approx(values.std(ddof=1) / 2)
    residuals = values - values.mean()
    clusters = np.array([residuals[0] + residuals[1], residuals[2], residuals[3]])
    assert pages.error_by_document == pytest.approx(np.sqrt((clusters**2).sum() * 3 / 2) / 4)


def test_groups_and_macro() -> None:
    pages = evaluate(RUN, GOLD, QUESTIONS, EVIDENCE).tasks["mmdocir"]
    means = {name: figures.mean for name, figures in pages.by_domain.items()}
    assert means == pytest.approx({"Laws": 100 / 3, "News": 200 / 3})
    assert pages.macro is not None
    assert pages.macro["mean"] == pytest.approx(50)
    assert {n: (f.questions, f.mean) for n, f in pages.by_evidence.items()} == {
        "Table": (2, pytest.approx(100 / 3)),
        "Chart": (1, pytest.approx(200 / 3)),
    }
    assert pages.by_evidence["Chart"].error is None


def test_macro_differs_from_micro_with_unequal_domains() -> None:
    gold = {i: GOLD[i] for i in ("10000", "10001", "10002")}
    pages = evaluate(RUN, gold, QUESTIONS).tasks["mmdocir"]
    assert pages.micro.mean == pytest.approx(100 * (2 / 3 + 0 + 1) / 3)
    assert pages.macro is not None
    assert pages.macro["mean"] == pytest.approx(100 * (1 / 3 + 1) / 2)


def frame(rows: dict[str, tuple[str, ...]]) -> pd.DataFrame:
    return pd.DataFrame({"question_id": list(rows), "passage_id": [json.dumps(ids) for ids in rows.values()]})


def test_final_is_the_kaggle_metric() -> None:
    report = evaluate(RUN, GOLD, QUESTIONS)
    assert report.final == pytest.approx(score(frame(GOLD), frame(RUN), "question_id"))
    assert report.final == pytest.approx((50 + 100 * (2 / 3 + 1) / 2) / 2)
    assert report.headline == report.final
    assert report.notes == ()
    one = evaluate(RUN, {i: g for i, g in GOLD.items() if len(i) == 5}, QUESTIONS)
    assert one.final is None
    assert one.headline == pytest.approx(50)
    assert one.notes == ("local score covers MMDocIR only",)


def test_the_error_of_the_final_score_is_that_of_a_mean_of_independent_tasks() -> None:
    report = evaluate(RUN, GOLD, QUESTIONS)
    errors = [
        score.micro.error if score.error_by_document is None else score.error_by_document
        for score in report.tasks.values()
    ]
    assert report.tasks["mmdocir"].error_by_document and len(errors) == 2 and None not in errors
    assert report.error == pytest.approx(np.hypot(*errors) / 2) == report.to_dict()["standard_error"]
    one = evaluate(RUN, {i: g for i, g in GOLD.items() if len(i) == 5}, QUESTIONS)
    assert one.error == one.tasks["mmdocir"].error_by_document
    alone = evaluate(RUN, {i: g for i, g in GOLD.items() if len(i) == 5 or i == "1"}, QUESTIONS)
    assert alone.tasks["m2kr"].micro.error is None and alone.error is None  # of one question, nothing is known


def test_random_runs_agree_with_the_kaggle_metric() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        run = {i: tuple(map(str, rng.permutation(12)[:5])) for i in GOLD}
        gold = {i: tuple(map(str, rng.permutation(12)[: rng.integers(1, 7)])) for i in GOLD}
        assert evaluate(run, gold, QUESTIONS).final == pytest.approx(score(frame(gold), frame(run), "question_id"))


def test_missing_questions_are_named() -> None:
    run = {i: ids for i, ids in RUN.items() if i not in ("10001", "1")}
    with pytest.raises(DataError, match="2 of 6 questions with gold are not in the submission") as caught:
        evaluate(run, GOLD, QUESTIONS)
    assert "10001, 1" in caught.value.block()
    with pytest.raises(DataError, match="question file"):
        evaluate(RUN, GOLD, QUESTIONS.head(3))
    with pytest.raises(DataError, match="no gold"):
        evaluate(RUN, {}, QUESTIONS)


def test_report_as_json_and_tables() -> None:
    questions = QUESTIONS.with_columns(pl.col("domain").replace({"Laws": "[red]Laws[/"}))
    report = evaluate(RUN, GOLD, questions, EVIDENCE, notes=["a note"])
    data = json.loads(json.dumps(report.to_dict()))
    assert data["tasks"]["mmdocir"]["R@5"] == pytest.approx(75)
    assert data["tasks"]["mmdocir"]["by_evidence"]["Chart"]["questions"] == 1
    text = render(report.render())
    for piece in ("MMDocIR: 50.00", "M2KR: 83.33", "final: 66.67", "[red]Laws[/", "Chart", "a note", "macro"):
        assert piece in text


def test_a_paired_comparison_by_hand() -> None:
    other = RUN | {"10001": ("0", "1", "2", "3", "4"), "10002": ("0", "1", "2", "3", "4")}
    result = compare(RUN, other, GOLD, QUESTIONS, names=("a.csv", "b.csv"))
    effect = result.tasks["mmdocir"]
    # 10001: 0 -> 1 (a loses 100), 10002: 1 -> 2/3 (a wins 33.3), the others tie.
    assert effect.difference == pytest.approx((-100 + 100 / 3) / 4)
    assert (effect.wins, effect.ties, effect.losses) == (1, 2, 1)
    assert effect.clusters == 3
    assert effect.mean_a - effect.mean_b == pytest.approx(effect.difference)
    assert evaluate(RUN, GOLD, QUESTIONS).tasks["m2kr"].error_by_document is None
    assert result.tasks["m2kr"].clusters == 2
    assert result.tasks["m2kr"].difference == 0
    assert result.tasks["m2kr"].p == 1
    assert result.final is not None
    assert result.final.difference == pytest.approx(effect.difference / 2)
    assert result.domains["mmdocir"]["News"].difference == pytest.approx(100 / 6)
    text = render(result.render())
    assert "a.csv" in text
    assert "one document" in text  # Laws: a single document gives no interval
    laws = result.domains["mmdocir"]["Laws"]
    assert (laws.low, laws.high, laws.p) == (None, None, None)
    json.dumps(result.to_dict())


def test_a_comparison_is_antisymmetric_and_repeatable() -> None:
    other = RUN | {"10001": ("0", "1", "2", "3", "4")}
    a, b = compare(RUN, other, GOLD, QUESTIONS), compare(other, RUN, GOLD, QUESTIONS)
    assert a.to_dict() == compare(RUN, other, GOLD, QUESTIONS).to_dict()
    x, y = a.tasks["mmdocir"], b.tasks["mmdocir"]
    assert (x.difference, x.low, x.high, x.p) == pytest.approx((-y.difference, -(y.high or 0), -(y.low or 0), y.p))
    assert (x.wins, x.losses) == (y.losses, y.wins)


def test_comparisons_need_the_same_questions() -> None:
    part = {i: ids for i, ids in RUN.items() if i != "10001"}
    for a, b in ((part, RUN), (RUN, part)):
        with pytest.raises(DataError, match=r"not in [ab]") as caught:
            compare(a, b, GOLD, QUESTIONS)
        assert "10001" in caught.value.block()


def test_resampling_equals_a_loop_in_mean_and_spread() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, size=25)
    clusters = np.repeat(np.arange(25), sizes)
    values = rng.normal(size=25)[clusters] + rng.normal(size=len(clusters))
    fast = resample_means(values, clusters, 20_000, np.random.default_rng(1))
    loop = []
    for _ in range(4000):
        drawn = rng.integers(0, 25, size=25)
        loop.append(np.concatenate([values[clusters == c] for c in drawn]).mean())
    assert fast.mean() == pytest.approx(np.mean(loop), abs=4 * np.std(loop) / np.sqrt(4000))
    assert fast.std() == pytest.approx(np.std(loop), rel=0.06)


def test_the_interval_is_the_middle_95_percent() -> None:
    rng = np.random.default_rng(5)
    ids = [str(10_000 + i) for i in range(400)]
    runs = [{i: (str(int(rng.random() < share)),) * 5 for i in ids} for share in (0.6, 0.4)]
    table = pl.DataFrame({"question_id": ids, "doc_name": ids, "domain": [""] * 400})
    effect = compare(runs[0], runs[1], dict.fromkeys(ids, ("1",)), table).tasks["mmdocir"]
    gains = np.array([100.0 * ((runs[0][i][0] == "1") - float(runs[1][i][0] == "1")) for i in ids])
    normal = 1.96 * gains.std() / np.sqrt(400)  # 400 independent questions: the normal interval is right
    assert effect.low == pytest.approx(gains.mean() - normal, abs=0.06 * normal)
    assert effect.high == pytest.approx(gains.mean() + normal, abs=0.06 * normal)


def simulated(effect: float, seed: int, documents: int = 30) -> tuple[dict, dict, dict, pl.DataFrame]:
    """Two runs on questions whose luck is shared within a document; `a` finds more by `effect`."""
    rng = np.random.default_rng(seed)
    ids = [str(10_000 + i) for i in range(documents * 6)]
    names = [f"d{i // 6}" for i in range(len(ids))]
    luck = np.repeat(rng.choice([-1, 1], size=documents), 6) * 0.45
    found = [rng.random(len(ids)) < 0.5 + sign * luck / 2 + gain for sign, gain in ((1, effect), (-1, 0.0))]
    runs = [{i: ("1" if hit else "0",) * 5 for i, hit in zip(ids, hits, strict=True)} for hits in found]
    table = pl.DataFrame({"question_id": ids, "doc_name": names, "domain": [""] * len(ids)})
    return runs[0], runs[1], dict.fromkeys(ids, ("1",)), table


def test_p_holds_its_level_by_document_where_questions_do_not() -> None:
    false_alarms = {True: 0, False: 0}
    for seed in range(120):
        a, b, gold, table = simulated(0.0, seed)
        for by_document in (True, False):
            effect = compare(a, b, gold, table, by_document=by_document, resamples=600).tasks["mmdocir"]
            false_alarms[by_document] += (effect.p or 0) < 0.05
    assert false_alarms[True] <= 15  # 6 expected at the 5 % level; 15 has a chance below 0.1 %
    assert false_alarms[False] >= 2 * false_alarms[True]


def test_a_planted_gain_is_found() -> None:
    found = 0
    for seed in range(20):
        a, b, gold, table = simulated(0.3, seed)
        effect = compare(a, b, gold, table, resamples=600).tasks["mmdocir"]
        found += (effect.p or 1) < 0.05 and (effect.low or 0) > 0
    assert found >= 17


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A small data root with both tasks."""
    root = tmp_path / "data"
    pages, pool = root / "mmdocir", root / "m2kr"
    for folder in (pages, pool / "challenge_data", pool / "challenge_passage"):
        folder.mkdir(parents=True)
    rows = [
        {
            "question_id": i,
            "question": f"what {i[-1]}?",
            "doc_name": d,
            "domain": k,
            "num_of_pages": 9,
            "passage_id": [],
        }
        for i, d, k in QUESTIONS.head(4).iter_rows()
    ]
    rows[1]["question"] = rows[0]["question"]  # the same text twice in one document: joined in order
    (pages / "MMDocIR_gt_remove.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [
        {"doc_name": "d3.pdf", "questions": [{"Q": "what 3?", "page_id": [7], "type": "[]"}]},
        {"doc_name": "d1.pdf", "questions": [
            {"Q": "what 0?", "page_id": [3, 4], "type": "['Table', 'Chart']"},
            {"Q": "what 0?", "page_id": [0], "type": "['Pure-text (Plain-text)']"},
        ]},
        {"doc_name": "d2.pdf", "questions": [{"Q": "what 2?", "page_id": [2], "type": "['Table']"}]},
    ]  # fmt: skip
    (pages / "MMDocIR_annotations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pl.DataFrame(
        {"question_id": ["0", "1"], "question": ["", "who?"], "instruction": ["", ""], "img_path": ["a.jpg", None]}
    ).write_parquet(pool / "challenge_data" / "train.parquet")
    pl.DataFrame({"passage_id": [f"Q{i}" for i in range(9)]}).write_parquet(pool / "challenge_passage" / "t.parquet")
    write_gold(pool / "gold.csv", {i: GOLD[i] for i in ("0", "1")})
    return root


def write_gold(path: Path, gold: dict[str, tuple[str, ...]]) -> None:
    frame(gold).to_csv(path, index=False)


def test_gold_is_read_from_annotations_by_text_and_from_gold_files(data: Path) -> None:
    ground = read_ground(data)
    assert dict(ground.gold) == GOLD
    assert ground.evidence["10000"] == ("Table", "Chart")
    assert ground.evidence["10001"] == ("Pure-text (Plain-text)",)
    assert ground.questions["domain"].to_list() == ["Laws", "Laws", "News", "News", "image", "text"]
    write_gold(data / "mmdocir" / "gold.csv", {"10000": ("8",)})
    assert read_ground(data).gold["10000"] == ("8",)


def test_files_are_scored_validated_and_compared(data: Path, tmp_path: Path) -> None:
    ground = read_ground(data)
    a, b = tmp_path / "a.csv", tmp_path / "b.csv"
    write_submission(a, RUN, ground.expected)
    report = score_files(a, data)
    want = evaluate(RUN, GOLD, ground.questions, ground.evidence)
    assert report.to_dict()["tasks"] == want.to_dict()["tasks"]
    assert report.final == pytest.approx(want.final)
    assert validate_file(a, data).ok
    write_submission(b, {i: ids for i, ids in RUN.items() if len(i) == 5}, ground.expected)
    partial = score_files(b, data)
    assert partial.final is None
    assert partial.headline == pytest.approx(50)
    assert partial.notes[0] == "local score covers MMDocIR only"
    assert "Kaggle wants both tasks" in partial.notes[1]
    both = compare_files(a, b, data)
    assert set(both.tasks) == {"mmdocir"}
    assert both.tasks["mmdocir"].difference == 0
    assert any(note.startswith("b.csv: partial") for note in both.notes)


def test_an_invalid_file_gets_no_score(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_submission(path, RUN, read_ground(data).expected)
    path.write_text(path.read_text().replace('""7""', '""9""'))
    with pytest.raises(InvalidSubmission, match="pages 0 to 8"):
        score_files(path, data)
    assert not validate_file(path, data).ok
    with pytest.raises(InvalidSubmission):
        compare_files(path, path, data)


def test_no_gold_is_said(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    (data / "mmdocir" / "MMDocIR_annotations.jsonl").unlink()
    write_submission(path, {i: ids for i, ids in RUN.items() if len(i) == 5}, read_ground(data).expected)
    with pytest.raises(DataError, match="no gold for the tasks") as caught:
        score_files(path, data)
    assert "gold for M2KR" in caught.value.block()
    with pytest.raises(DataError, match="no questions under the data root"):
        validate_file(path, tmp_path / "empty")


@pytest.mark.parametrize(
    ("gold", "said"),
    [
        ({"10000": ("9",)}, "line 2: '9': not a page"),
        ({"10000": ("1",), "10009": ("1",)}, "line 3: '10009': unknown question_id"),
        ({"10000": ()}, "0 ids"),
    ],
)
def test_damaged_gold_is_refused(gold: dict[str, tuple[str, ...]], said: str, data: Path) -> None:
    write_gold(data / "mmdocir" / "gold.csv", gold)
    with pytest.raises(DataError, match=said):
        read_ground(data)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("MMDocIR_gt_remove.jsonl", "{", "not JSON"),
        ("MMDocIR_gt_remove.jsonl", '{"question_id": "10000"}', "'question' is missing"),
        ("MMDocIR_annotations.jsonl", "{", "not JSON"),
        ("MMDocIR_annotations.jsonl", "[]", "not a JSON object"),
        ("MMDocIR_annotations.jsonl", '{"doc_name": "d1.pdf"}', "not an annotation line"),
        (
            "MMDocIR_annotations.jsonl",
            '{"doc_name": "d2.pdf", "questions": [{"Q": "what 2?", "page_id": [9], "type": ""}]}',
            "annotated page is out of range",
        ),
    ],
)
def test_damaged_questions_are_refused(name: str, text: str, said: str, data: Path) -> None:
    (data / "mmdocir" / name).write_text(text + "\n")
    with pytest.raises(DataError, match=said):
        read_ground(data)


def test_gold_of_a_part_is_said_and_gold_outside_the_pool_refused(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_submission(path, RUN, read_ground(data).expected)
    write_gold(data / "m2kr" / "gold.csv", {"0": ("Q7",)})
    assert "M2KR: gold is known for 1 of 2 questions" in score_files(path, data).notes
    write_gold(data / "m2kr" / "gold.csv", {"0": ("Q99",)})
    with pytest.raises(DataError, match="not in challenge_passage"):
        read_ground(data)


def test_damaged_parquet_is_refused(data: Path) -> None:
    path = data / "m2kr" / "challenge_passage" / "t.parquet"
    pl.DataFrame({"id": ["Q1"]}).write_parquet(path)
    with pytest.raises(DataError, match="missing columns: passage_id"):
        read_ground(data)
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not a readable parquet file"):
        read_ground(data)


@pytest.mark.real
def test_published_figures_on_the_development_split(real_data: Path, tmp_path: Path) -> None:
    ground = read_ground(real_data)
    pages = ground.expected.pages or {}
    perfect, first = {}, {}
    for question, count in pages.items():
        every = [str(i) for i in range(count)]
        gold = list(ground.gold[question])
        perfect[question] = (gold + [i for i in every if i not in gold])[:5]
        first[question] = every[:5]
    report = write_submission(tmp_path / "perfect.csv", perfect, ground.expected)
    assert (report.partial or "").startswith(f"partial: MMDocIR only, {len(pages):,} of 8,073 rows")
    write_submission(tmp_path / "first.csv", first, ground.expected)
    best = score_files(tmp_path / "perfect.csv", real_data).tasks["mmdocir"].micro
    assert [round(v, 1) for v in best.recall.values()] == [79.0, 99.2, 99.9, 92.7]
    assert best.share_of_ceiling == pytest.approx(100)
    plain = score_files(tmp_path / "first.csv", real_data).tasks["mmdocir"].micro
    assert [round(v, 1) for v in plain.recall.values()] == [4.6, 13.0, 19.5, 12.4]
    assert [round(v, 1) for v in plain.hit.values()] == [5.3, 15.4, 21.4]
    effect = compare_files(tmp_path / "perfect.csv", tmp_path / "first.csv", real_data).tasks["mmdocir"]
    assert effect.clusters == 47
    assert (effect.low or 0) > 70

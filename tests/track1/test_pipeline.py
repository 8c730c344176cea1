"""The run as a whole: five ids a question whatever happens, faults, absent tasks, what a run leaves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from common.config import load_config
from common.errors import ConfigError, DataError
from common.experiment import read_log
from common.faults import FaultLog
from common.hashing import file_digest
from common.submission.mdr import read_submission
from tests.conftest import SampleRun
from tests.track1.pdf_files import text_pdf
from tests.track1.text_tables import make_passages, make_queries
from tests.track1.tiny_root import DOCUMENTS, QUESTIONS, tiny_root, write_questions
from track1_mdr.app import run_config
from track1_mdr.config import CONFIG_FOLDER, RunConfig
from track1_mdr.datasets.tables import Candidates, Scored, TaskTables, top_k
from track1_mdr.pipeline import KEPT, RunResult, TaskRanking, complete, load_tasks, run, save_scores, score_routes
from track1_mdr.routes.base import Environment
from track1_mdr.stages import question_recall, stage_scores

BM25 = {"bm25": {"type": "bm25"}}
RRF = {"type": "rrf"}


def config(routes: dict[str, Any] = BM25, fusion: dict[str, Any] = RRF, m2kr: bool = False, **data: Any) -> RunConfig:
    task = {"routes": routes, "fusion": fusion}
    tasks = {"mmdocir": task, **({"m2kr": task} if m2kr else {})}
    return RunConfig.model_validate({"name": "tiny", "device": "cpu", "data": data, "tasks": tasks})


def go(tmp_path: Path, root: Path, settings: RunConfig, faults: FaultLog | None = None) -> tuple[RunResult, list[str]]:
    said: list[str] = []
    environment = Environment(tmp_path / "cache", faults=faults if faults is not None else FaultLog())
    result = run(settings, root, tmp_path / "out.csv", environment, tmp_path / "runs", tmp_path, said.append)
    return result, said


def scored(rows: list[int], scores: list[float]) -> Scored:
    return Scored(np.asarray(rows, np.int64), np.asarray(scores, np.float32))


def test_candidates_that_no_route_scored_follow_in_order() -> None:
    pages = np.arange(10, 18)
    assert complete(scored([15, 12], [0.1, 0.9]), pages, 5) == [12, 15, 10, 11, 13]
    assert complete(Scored.empty(), pages, 5) == [10, 11, 12, 13, 14]
    assert complete(Scored.empty(), pages[:2], 5) == [10, 11]
    assert complete(scored([15, 12, 11, 10, 17, 16], [1, 2, 3, 4, 5, 6]), pages, 5) == [16, 17, 10, 11, 12]


def test_a_small_document_has_its_pages_and_a_silent_question_too(tmp_path: Path) -> None:
    result, said = go(tmp_path, tiny_root(tmp_path / "data"), config())
    rows = read_submission(result.submission)
    assert list(rows) == [i for i, _, _, _ in QUESTIONS]
    assert all(len(ids) == 5 for ids in rows.values())
    assert rows["10000"][0] == "1" and rows["10001"][0] == "2" and rows["10002"][0] == "2"
    assert set(rows["10002"]) == {"0", "1", "2"}  # three pages, the last one repeated
    assert rows["10003"] == ("0", "1", "2", "2", "2")  # "???" has no word
    assert "mmdocir: route bm25 done (says nothing on 1 questions)" in said
    assert result.report is not None and result.report.headline > 60


def test_when_no_route_says_anything_the_submission_is_still_valid(tmp_path: Path) -> None:
    silent = {"ref": {"type": "reference", "kind": "caption"}}
    result, _ = go(tmp_path, tiny_root(tmp_path / "data"), config(silent))
    rows = read_submission(result.submission)
    assert rows["10000"] == ("0", "1", "2", "3", "4")
    assert not result.validation.faults


def test_a_route_that_is_null_does_not_run(tmp_path: Path) -> None:
    result, _ = go(tmp_path, tiny_root(tmp_path / "data"), config({**BM25, "off": None}))
    assert list(result.tasks["mmdocir"].scores) == ["bm25"]


def test_all_routes_off_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="all routes of mmdocir are off"):
        go(tmp_path, tiny_root(tmp_path / "data"), config({"off": None}))
    assert not (tmp_path / "out.csv").exists()


def test_a_task_whose_data_is_absent_is_said_and_skipped(tmp_path: Path) -> None:
    result, said = go(tmp_path, tiny_root(tmp_path / "data"), config(m2kr=True))
    assert list(result.tasks) == ["mmdocir"]
    assert any(line.startswith("m2kr: no data in") and "skipped" in line for line in said)
    _, said = go(tmp_path, tmp_path / "data", config())
    assert any(line == "m2kr: not in the configuration, skipped" for line in said)


def test_no_data_at_all_is_an_error_that_says_where_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match="no data for any configured task") as caught:
        go(tmp_path, tmp_path / "data", config(m2kr=True))
    assert "data/README.md" in str(caught.value.todo)


def broken_root(tmp_path: Path) -> Path:
    """One sound PDF, one that is none."""
    folder = tmp_path / "data" / "mmdocir"
    (folder / "pdfs").mkdir(parents=True)
    text_pdf(folder / "pdfs" / "ferry.pdf", [text or " " for text in DOCUMENTS["ferry"]])
    (folder / "pdfs" / "bees.pdf").write_bytes(b"not a PDF")
    write_questions(folder, QUESTIONS, {name: len(pages) for name, pages in DOCUMENTS.items()})
    return tmp_path / "data"


@pytest.mark.parametrize("allowed", [0, 1])
def test_faults_end_a_run_unless_that_many_are_allowed(allowed: int, tmp_path: Path) -> None:
    faults = FaultLog()
    settings = config(allow_faults=allowed, ocr={"enabled": False})
    if allowed:
        result, _ = go(tmp_path, broken_root(tmp_path), settings, faults)
        rows = read_submission(result.submission)
        assert rows["10002"] == ("0", "1", "2", "2", "2")  # its pages are there, without text
        assert rows["10001"][0] == "2"
        folder = result.folder
    else:
        with pytest.raises(DataError, match="1 items failed") as caught:
            go(tmp_path, broken_root(tmp_path), settings, faults)
        assert "bees" in str(caught.value) and "allow_faults=1" in str(caught.value.todo)
        assert not (tmp_path / "out.csv").exists()
        (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    assert len(faults) == 1
    assert [json.loads(line)["item"] for line in (folder / "faults.jsonl").read_text().splitlines()] == [
        faults.faults[0].item
    ]
    (line,) = read_log(tmp_path / "runs")
    assert (line["status"], line["faults"]) == ("finished" if allowed else "failed", 1)


def test_without_gold_there_is_a_submission_and_no_score(tmp_path: Path) -> None:
    result, _ = go(tmp_path, tiny_root(tmp_path / "data", gold=False), config())
    assert result.report is None
    assert len(read_submission(result.submission)) == len(QUESTIONS)
    assert not (result.folder / "metrics.json").exists()


def test_what_a_run_records(tmp_path: Path) -> None:
    result, _ = go(tmp_path, tiny_root(tmp_path / "data"), config())
    record = json.loads((result.folder / "run.json").read_text())
    assert record["status"] == "finished" and record["seed"] == 7
    assert record["submission"] == {"path": str(tmp_path / "out.csv"), "sha256": file_digest(tmp_path / "out.csv")}
    assert [stage["stage"] for stage in record["stages"]] == [
        "read data", "mmdocir.bm25", "mmdocir.fusion", "submission", "score",
    ]  # fmt: skip
    assert yaml.safe_load((result.folder / "config.yaml").read_text())["tasks"]["mmdocir"]["fusion"]["type"] == "rrf"
    metrics = json.loads((result.folder / "metrics.json").read_text())
    assert result.report is not None
    assert metrics["tasks"]["mmdocir"]["mean"] == pytest.approx(result.report.headline)


def test_scores_parquet_holds_each_source_s_best_in_order(tmp_path: Path) -> None:
    routes = {**BM25, "ref": {"type": "reference", "kind": "page"}}
    result, _ = go(tmp_path, tiny_root(tmp_path / "data"), config(routes))
    table = pl.read_parquet(result.folder / "scores.parquet")
    assert table.columns == ["task", "question_id", "source", "rank", "passage_id", "score"]
    assert set(table["source"]) == {"bm25", "ref", "fusion"}
    ranking = result.tasks["mmdocir"]
    ids = ranking.tables.passages.table["passage_id"].to_list()
    for source, results in {**ranking.scores, **ranking.rankings}.items():
        for (question, _, _, _), one in zip(QUESTIONS, results, strict=True):
            best = top_k(one, KEPT)
            mine = table.filter((pl.col("source") == source) & (pl.col("question_id") == question))
            assert mine["rank"].to_list() == list(range(1, len(best.rows) + 1))
            assert mine["passage_id"].to_list() == [ids[row] for row in best.rows]
            assert mine["score"].to_list() == best.scores.tolist()


def test_scores_parquet_keeps_the_head_and_takes_a_silent_route(tmp_path: Path) -> None:
    passages = make_passages([("d", "x")] * 30)
    tables = TaskTables("mmdocir", passages, make_queries([("q", "d")]), Candidates.everything(1, 30))
    ranking = TaskRanking(tables, {"all": [scored(list(range(30)), list(range(30)))], "none": [Scored.empty()]})
    save_scores({"mmdocir": ranking}, tmp_path / "scores.parquet")
    table = pl.read_parquet(tmp_path / "scores.parquet")
    assert table["passage_id"].to_list() == [str(n) for n in range(29, 29 - KEPT, -1)]
    save_scores({"mmdocir": TaskRanking(tables, {"none": [Scored.empty()]})}, tmp_path / "scores.parquet")
    assert pl.read_parquet(tmp_path / "scores.parquet").height == 0


def tiny_tables() -> TaskTables:
    passages = make_passages([("d", "quark"), ("d", "lemur")])
    return TaskTables("mmdocir", passages, make_queries([("quark", "d")]), Candidates.everything(1, 2))


class BadRoute:
    """Gives what it was made with, whatever is asked."""

    def __init__(self, results: list[Scored]) -> None:
        self.results = results

    def fit(self, passages: object) -> None:
        pass

    def score(self, queries: object, candidates: object) -> list[Scored]:
        return self.results


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([scored([0, 1], [1.0, np.nan])], "not finite"),
        ([scored([0], [np.inf])], "not finite"),
        ([scored([1, 1], [1.0, 2.0])], "scored twice"),
        ([], "0 results for 1 questions"),
    ],
)
def test_a_route_that_breaks_the_contract_is_named(
    results: list[Scored], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A team's own route is where this happens: its code is not ours."""
    monkeypatch.setattr("track1_mdr.pipeline.build_route", lambda *_: BadRoute(results))
    task = config({"mine": {"type": "my_route"}}).tasks.mmdocir
    assert task is not None
    with pytest.raises(DataError, match=message) as caught:
        score_routes(task, tiny_tables(), Environment(tmp_path))
    assert "mine" in str(caught.value)


def test_a_route_that_scores_what_is_no_candidate_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of another document would be written as a page of this one."""
    passages = make_passages([("d", "quark"), ("e", "lemur")])
    tables = TaskTables("mmdocir", passages, make_queries([("quark", "d")]), Candidates.by_document(["d"], ["d", "e"]))
    monkeypatch.setattr("track1_mdr.pipeline.build_route", lambda *_: BadRoute([scored([1], [1.0])]))
    task = config({"mine": {"type": "my_route"}}).tasks.mmdocir
    assert task is not None
    with pytest.raises(DataError, match="mine"):
        score_routes(task, tables, Environment(tmp_path))


def test_stage_scores_are_recall_of_what_a_stage_itself_ranked() -> None:
    passages = make_passages([("d", "x")] * 6)
    queries = make_queries([("q", "d")] * 3)
    gold = {"q0": ("1",), "q1": ("0", "5")}
    tables = TaskTables("mmdocir", passages, queries, Candidates.everything(3, 6), gold)
    results = [scored([0, 1], [2.0, 1.0]), Scored.empty(), scored([2], [1.0])]
    ranking = TaskRanking(tables, {"route": results}, {"fusion": results})
    route, fusion = stage_scores(ranking)
    assert (route.name, fusion.name) == ("route", "fusion")
    assert route.recall == (0.0, 0.5, 0.5)
    assert route.mean == pytest.approx(1 / 3)
    assert route.answers == 0.5  # of the two questions with gold
    assert question_recall(results, tables.gold_rows()).tolist() == [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("fusion", "message"),
    [
        ({"type": "zscore", "weights": {"typo": 1.0}}, "typo"),
        ({"type": "learned", "model": "nowhere"}, "no fitted fusion"),
    ],
)
def test_a_fusion_that_cannot_work_is_told_before_the_routes_run(
    fusion: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("track1_mdr.pipeline.build_route", lambda *_: pytest.fail("a route was built"))
    with pytest.raises(ConfigError, match=message):
        go(tmp_path, tiny_root(tmp_path / "data"), config(fusion=fusion))
    with pytest.raises(ConfigError, match=message):
        settings = config()
        assert settings.tasks.mmdocir is not None
        final = config(fusion=fusion).tasks.mmdocir
        assert final is not None
        task = settings.tasks.mmdocir.model_copy(update={"final": final.fusion})
        tasks = settings.tasks.model_copy(update={"mmdocir": task})
        go(tmp_path, tmp_path / "data", settings.model_copy(update={"tasks": tasks}))
    assert not (tmp_path / "out.csv").exists()


def test_load_tasks_reads_the_tasks_that_are_there(tmp_path: Path) -> None:
    tables = load_tasks(config(m2kr=True), tiny_root(tmp_path), Environment(tmp_path / "c"), lambda _: None)
    assert list(tables) == ["mmdocir"]
    assert len(tables["mmdocir"].passages) == 9


# --- the shipped sample, run once a session ---


def test_the_sample_s_run_is_valid_complete_and_far_above_chance(sample_run: SampleRun) -> None:
    result = sample_run.result
    rows = read_submission(result.submission)
    assert len(rows) == 84 + 39
    assert result.report is not None
    scores = {task: score.micro.mean for task, score in result.report.tasks.items()}
    assert scores["mmdocir"] > 50 and scores["m2kr"] > 70
    assert len(result.tasks["mmdocir"].scores) == 6
    stages = {stage.name: stage for stage in stage_scores(result.tasks["mmdocir"])}
    assert stages["fusion"].mean > stages["bm25_names"].mean
    assert stages["named_page"].answers < 0.2
    stages = {stage.name: stage for stage in stage_scores(result.tasks["m2kr"])}
    assert stages["fusion"].mean >= stages["subfigure"].mean  # text never outvotes a confirmed figure


def test_placebo_questions_asked_of_other_documents_are_at_chance(sample_run: SampleRun) -> None:
    """The same rankings against gold shuffled inside each document: what is left is chance."""
    ranking = sample_run.result.tasks["mmdocir"]
    gold = ranking.tables.gold_rows()
    rng = np.random.default_rng(0)
    final = list(ranking.rankings.values())[-1]
    recalls: list[float] = []
    for _ in range(20):
        moved = [
            rng.choice(rows, len(pages), replace=False) if pages is not None else None
            for pages, rows in zip(gold, ranking.tables.candidates.rows, strict=True)
        ]
        recalls.append(float(question_recall(final, moved)[:, 0].mean()))
    chance = np.mean([1 / len(rows) for rows in ranking.tables.candidates.rows])
    assert np.mean(recalls) == pytest.approx(chance, abs=0.03)
    assert question_recall(final, gold)[:, 0].mean() > 4 * chance


def test_the_same_seed_gives_the_same_submission(sample_run: SampleRun, root: Path, tmp_path: Path) -> None:
    again = run_config(
        "lexical", [], root / "data" / "sample", tmp_path / "again.csv", sample_run.cache, tmp_path,
        lambda *_: tmp_path / "unused.csv", lambda _: None,
    )  # fmt: skip
    assert again.submission.read_bytes() == sample_run.result.submission.read_bytes()
    before, after = (pl.read_parquet(r.folder / "scores.parquet") for r in (sample_run.result, again))
    assert before.equals(after)


def test_the_lexical_configuration_is_what_it_says() -> None:
    settings = load_config(RunConfig, "lexical", CONFIG_FOLDER)
    kinds = {
        route.type
        for task in (settings.tasks.mmdocir, settings.tasks.m2kr)
        if task is not None
        for route in task.routes.values()
        if route is not None
    }
    assert kinds <= {"bm25", "reference", "layout", "subfigure"}

"""The run: tables → routes → fusion → rerank → submission → local score. Each stage is a function of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from common.atomic import atomic_path
from common.errors import ConfigError, DataError
from common.experiment import Experiment
from common.submission.mdr import ValidationReport, write_submission
from track1_mdr.config import CrossEncoderConfig, RerankConfig, RunConfig, TaskConfig
from track1_mdr.datasets.tables import Scored, TaskName, TaskTables, top_k
from track1_mdr.evaluate import ScoreReport, score_files
from track1_mdr.fusion.combine import blend, check_fusion, fuse
from track1_mdr.gold import read_ground
from track1_mdr.rerank.base import Reranker
from track1_mdr.routes import build_route
from track1_mdr.routes.base import Environment

TASKS: tuple[TaskName, ...] = ("mmdocir", "m2kr")
KEPT = 20
"""Passages per query and route that a run leaves behind for reports."""

Say = Callable[[str], None]


@dataclass
class TaskRanking:
    """What one task's stages gave: each route's and reranker's scores, each ranking, the last of them final."""

    tables: TaskTables
    scores: dict[str, list[Scored]] = field(default_factory=dict)
    rankings: dict[str, list[Scored]] = field(default_factory=dict)

    def final(self) -> dict[str, list[str]]:
        """Return question id -> at least five passage ids (fewer only where fewer candidates exist)."""
        ids = self.tables.passages.table["passage_id"].to_list()
        last = list(self.rankings.values())[-1]
        questions = self.tables.queries.table["question_id"].to_list()
        return {
            question: [ids[row] for row in complete(scored, rows, 5)]
            for question, scored, rows in zip(questions, last, self.tables.candidates.rows, strict=True)
        }


@dataclass(frozen=True)
class RunResult:
    """What a run leaves: the submission, its validation, its local score where gold is known, its folder."""

    submission: Path
    validation: ValidationReport
    report: ScoreReport | None
    folder: Path
    tasks: dict[str, TaskRanking]


def complete(scored: Scored, candidates: np.ndarray, count: int) -> list[int]:
    """Return the `count` best passage rows; candidates that no route scored follow in order, at the end."""
    best = [int(row) for row in top_k(scored, count).rows]
    if len(best) < count:
        known = set(best)
        for row in candidates:
            if len(best) == count:
                break
            if int(row) not in known:
                best.append(int(row))
    return best


def load_tasks(config: RunConfig, root: Path, environment: Environment, say: Say) -> dict[TaskName, TaskTables]:
    """Read the tasks that are both configured and present; say which are absent; none is an error."""
    from track1_mdr.datasets.m2kr import load_m2kr
    from track1_mdr.datasets.mmdocir import load_mmdocir

    tables: dict[TaskName, TaskTables] = {}
    for task in TASKS:
        if getattr(config.tasks, task) is None:
            say(f"{task}: not in the configuration, skipped")
        elif not (root / task).is_dir():
            say(f"{task}: no data in {root / task}, skipped (data/README.md says where it comes from)")
        elif task == "mmdocir":
            tables[task] = load_mmdocir(
                root / task, config.data, environment.cache, environment.faults, engine=environment.engine
            )
        else:
            tables[task] = load_m2kr(root / task, config.data, environment.faults)
        for note in tables[task].notes if task in tables else ():
            say(note)
    if not tables:
        raise DataError(
            "no data for any configured task",
            where=root,
            expected="mmdocir/ or m2kr/ in the data root",
            todo="set MIRC_DATA or --data to your data, or use --data data/sample; see data/README.md",
        )
    return tables


def score_routes(
    task: TaskConfig,
    tables: TaskTables,
    environment: Environment,
    experiment: Experiment | None = None,
    say: Say = lambda _: None,
) -> dict[str, list[Scored]]:
    """Fit and score every route that is on; return name -> one checked `Scored` per query."""
    from contextlib import nullcontext

    results: dict[str, list[Scored]] = {}
    questions = tables.queries.table["question_id"].to_list()
    for name, config in task.routes.items():
        if config is None:
            continue
        with experiment.stage(f"{tables.task}.{name}") if experiment else nullcontext():
            route = build_route(config, environment)
            for note in getattr(route, "notes", ()):  # what a route must tell, as: its weights are random
                say(f"{tables.task}: route {name}: {note}")
            route.fit(tables.passages)
            scored = route.score(tables.queries, tables.candidates)
        if len(scored) != len(questions):
            raise DataError(f"route {name} gave {len(scored)} results for {len(questions)} questions")
        results[name] = [s.check(name, q) for s, q in zip(scored, questions, strict=True)]
        for question, one, rows in zip(questions, scored, tables.candidates.rows, strict=True):
            _check_candidates(one.rows, rows, f"route {name}, question {question}")
        silent = sum(len(s.rows) == 0 for s in scored)
        say(f"{tables.task}: route {name} done" + (f" (says nothing on {silent} questions)" if silent else ""))
    if not results:
        raise ConfigError(f"all routes of {tables.task} are off", todo="switch one on under tasks.*.routes")
    return results


def _check_candidates(scored: np.ndarray, candidates: np.ndarray, where: str) -> None:
    """Raise `DataError` on a passage row that is no candidate: it would be written as a page of another document."""
    if not len(scored):
        return
    known = np.zeros(len(scored), dtype=bool)
    if len(candidates):
        place = np.searchsorted(candidates, scored).clip(max=len(candidates) - 1)
        known = candidates[place] == scored
    if not known.all():
        raise DataError(
            "a route scored a passage that is not among the question's candidates",
            where=f"{where}, passage row {int(scored[~known][0])}",
            todo="score rows of `candidates.rows[query]` only",
        )


def check_fusions(config: TaskConfig) -> None:
    """Raise, before any work is done, what the fusions would raise after the routes and rerankers have run."""
    routes = [name for name, route in config.routes.items() if route is not None]
    if not routes:
        return  # said by `score_routes`, with the task's name
    check_fusion(config.fusion, routes)
    if config.final is not None:
        check_fusion(config.final, [*routes, *(name for name, one in config.rerank.items() if one is not None)])


def build_reranker(config: RerankConfig, environment: Environment) -> Reranker:
    """Return the reranker that the configuration names."""
    if isinstance(config, CrossEncoderConfig):
        from track1_mdr.rerank.cross_encoder import CrossEncoderReranker

        return CrossEncoderReranker(config, environment)
    from track1_mdr.rerank.vlm_judge import VlmJudgeReranker

    return VlmJudgeReranker(config, environment)


def rank_task(
    config: TaskConfig, tables: TaskTables, environment: Environment, experiment: Experiment, say: Say
) -> TaskRanking:
    """Run one task's routes, fusion, rerankers and final fusion."""
    ranking = TaskRanking(tables, score_routes(config, tables, environment, experiment, say))
    with experiment.stage(f"{tables.task}.fusion"):
        ranking.rankings["fusion"] = fuse(config.fusion, ranking.scores, tables.queries, tables.passages)
    for name, reranker in config.rerank.items():
        if reranker is None:
            continue
        with experiment.stage(f"{tables.task}.{name}"):
            head = list(ranking.rankings.values())[-1]
            reranked = build_reranker(reranker, environment).rerank(tables.queries, tables.passages, head)
            ranking.scores[name] = reranked
            ranking.rankings[f"fusion + {name}"] = blend(head, reranked, reranker.weight)
        say(f"{tables.task}: reranker {name} done")
    if config.final is not None:
        with experiment.stage(f"{tables.task}.final"):
            ranking.rankings["final"] = fuse(config.final, ranking.scores, tables.queries, tables.passages)
    return ranking


def check_faults(config: RunConfig, environment: Environment, say: Say, said: int = 0) -> int:
    """Say which items have failed, if more than `said` have, and return their number.

    Raises
    ------
    DataError
        More items failed than the configuration allows.
    """
    faults = environment.faults
    faults.check(config.data.allow_faults, f"mend the items, or allow them with --set data.allow_faults={len(faults)}")
    if len(faults) > said:
        say(f"{len(faults)} items failed and are left out, as data.allow_faults permits:\n{faults.summary()}")
    return len(faults)


def run(
    config: RunConfig, root: Path, out: Path, environment: Environment, runs: Path, repository: Path, say: Say
) -> RunResult:
    """Run a configuration on a data root and leave a validated, locally scored submission at `out`.

    Raises
    ------
    UserError
        A fault of data or configuration; more failed items than `data.allow_faults`.
    """
    with Experiment(
        runs, "track1", config, config.seed, repository=repository, device=environment.device, data=root
    ) as record:
        record.faults = environment.faults
        for section in (config.tasks.mmdocir, config.tasks.m2kr):
            if section is not None:
                check_fusions(section)
        with record.stage("read data"):
            tables = load_tasks(config, root, environment, say)
        said = check_faults(config, environment, say)  # before hours of encoding, not after
        tasks: dict[str, TaskRanking] = {}
        for task, table in tables.items():
            section = getattr(config.tasks, task)
            tasks[task] = rank_task(section, table, environment, record, say)
        check_faults(config, environment, say, said)
        with record.stage("submission"):
            final = {question: ids for ranking in tasks.values() for question, ids in ranking.final().items()}
            ground = read_ground(root)
            validation = write_submission(out, final, ground.expected)
            record.add_submission(out)
            save_scores(tasks, record.folder / "scores.parquet")
        report = None
        if any(tables_.qrels for tables_ in tables.values()):
            with record.stage("score"):
                report = score_files(out, root)
                record.add_metrics(report.to_dict())
        return RunResult(out, validation, report, record.folder, tasks)


def save_scores(tasks: dict[str, TaskRanking], path: Path) -> None:
    """Save each route's and ranking's best passages: task, question_id, source, rank (from 1), passage_id, score."""
    frames: list[pl.DataFrame] = []
    for task, ranking in tasks.items():
        ids = np.asarray(ranking.tables.passages.table["passage_id"].to_list(), dtype=object)
        questions = ranking.tables.queries.table["question_id"].to_list()
        for source, results in [*ranking.scores.items(), *ranking.rankings.items()]:
            frames.append(_best(task, source, questions, results, ids))
    with atomic_path(path) as temporary:
        pl.concat(frames).write_parquet(temporary)


def _best(task: str, source: str, questions: Sequence[str], results: Sequence[Scored], ids: np.ndarray) -> pl.DataFrame:
    best = [top_k(scored, KEPT) for scored in results]
    counts = [len(scored.rows) for scored in best]
    rows = np.concatenate([scored.rows for scored in best]) if best else np.empty(0, np.int64)
    return pl.DataFrame(
        {
            "task": [task] * len(rows),
            "question_id": np.repeat(np.asarray(questions, dtype=object), counts).tolist(),
            "source": [source] * len(rows),
            "rank": np.concatenate([np.arange(1, n + 1) for n in counts]) if len(rows) else [],
            "passage_id": ids[rows].tolist(),
            "score": np.concatenate([scored.scores for scored in best]) if len(rows) else [],
        },
        schema={
            "task": pl.String,
            "question_id": pl.String,
            "source": pl.String,
            "rank": pl.Int32,
            "passage_id": pl.String,
            "score": pl.Float32,
        },
    )


__all__ = ["RunResult", "TaskRanking", "complete", "load_tasks", "rank_task", "run", "score_routes"]

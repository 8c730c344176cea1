"""What the command line does: configuration and paths in, files and printed tables out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from common.config import load_config
from common.device import choose_device
from common.engine.base import Engine
from common.engine.local import LOCAL
from common.errors import ConfigError, DataError
from common.experiment import Experiment, cores
from common.faults import FaultLog
from common.index.build import IndexSettings, check_engine
from track1_mdr.config import CONFIG_FOLDER, CartRouteConfig, RunConfig, TasksConfig, coverages
from track1_mdr.pipeline import RunResult, TaskRanking, check_faults, load_tasks, rank_task, run
from track1_mdr.routes.base import Environment

Say = Callable[[str], None]

INDEXED = ("dense_text", "image", "ease")
"""Types of routes that search an index."""


def make_environment(
    config: RunConfig,
    cache: Path,
    shard: tuple[int, int] = (0, 1),
    say: Say = lambda _: None,
    engine: Engine = LOCAL,
) -> Environment:
    """Return the environment of one run; "auto" takes a GPU where torch sees one."""
    return Environment(
        cache=cache,
        device=choose_device(config.device),
        seed=config.seed,
        threads=cores(),
        faults=FaultLog(),
        shard=shard,
        say=say,
        engine=engine,
    )


def query_overrides(name: str, overrides: Sequence[str], queries: Path) -> list[str]:
    """Return the overrides that give every cart route of a configuration the file of training queries.

    Raises
    ------
    ConfigError
        The configuration has no route of type cart.
    """
    tasks = load_config(RunConfig, name, CONFIG_FOLDER, overrides).tasks
    sections = {"mmdocir": tasks.mmdocir, "m2kr": tasks.m2kr}
    found = [
        f"tasks.{task}.routes.{route}.queries={json.dumps(str(queries))}"
        for task, section in sections.items()
        if section is not None
        for route, config in section.routes.items()
        if isinstance(config, CartRouteConfig)
    ]
    if not found:
        raise ConfigError(
            "training queries are for routes of type cart, and the configuration has none",
            where="--queries",
            todo="use --config cart, or add a route {type: cart, ...} to the configuration",
        )
    return found


def run_config(
    name: str,
    overrides: Sequence[str],
    root: Path,
    out: Path | None,
    cache: Path,
    home: Path,
    default_out: Callable[[str, Path], Path],
    say: Say,
    index: IndexSettings = IndexSettings(),  # noqa: B008 - frozen
    engine: Engine = LOCAL,
) -> RunResult:
    """Load a configuration and run it.

    Raises
    ------
    ConfigError
        Another index than FAISS is asked for, and no route uses one; the server cannot be reached.
    """
    config = load_config(RunConfig, name, CONFIG_FOLDER, overrides)
    if index.engine != "faiss":
        check_index(config, index)
    say(f"configuration {config.name}, data {root}, seed {config.seed}")
    target = out or default_out(config.name, root)
    environment = replace(make_environment(config, cache, say=say, engine=engine), index=index)
    return run(config, root, target, environment, home / "runs", home, say)


def check_index(config: RunConfig, index: IndexSettings) -> None:
    """Raise `ConfigError` if no route of a configuration uses an index, or the engine of it is not to be had."""
    sections = [section for section in (config.tasks.mmdocir, config.tasks.m2kr) if section is not None]
    types = {route.type for section in sections for route in section.routes.values() if route is not None}
    if not types & set(INDEXED):
        raise ConfigError(
            "no route of the configuration uses an index",
            where=f"--index {index.engine}",
            expected=f"a route of type {' or '.join(INDEXED)}",
            got=", ".join(sorted(types)),
        )
    check_engine(index)


def print_result(result: RunResult, root: Path, say: Say) -> None:
    """Print every route's own score, the report, where the files are, and the next command."""
    from rich.console import Console

    console = Console()
    if result.report is not None:
        for ranking in result.tasks.values():
            if ranking.tables.qrels:
                console.print(stage_table(ranking))
        console.print(result.report.render())
    else:
        say("no gold in the data root: no local score")
    say(result.validation.render())
    say(f"run record:  {result.folder}")
    say(f"submission:  {result.submission}")
    if result.report is not None:
        score = f"{result.report.headline:.2f} of 100"
        say(f"local score: {score}")
    say(f"next:        python -m track1_mdr report {result.folder} --data {root}")


def stage_table(ranking: TaskRanking) -> object:
    """Return a table of each route's, fusion's and reranker's own recall on the questions with gold."""
    from rich.table import Table

    from track1_mdr.stages import stage_scores

    table = Table(title=f"{ranking.tables.task}: each stage alone", title_justify="left")
    for column in ("stage", "R@1", "R@3", "R@5", "mean", "answers"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for row in stage_scores(ranking):
        table.add_row(
            row.name, *(f"{100 * value:.1f}" for value in (*row.recall, row.mean)), f"{100 * row.answers:.0f}%"
        )
    return table


def encode_shard(
    name: str,
    overrides: Sequence[str],
    root: Path,
    cache: Path,
    shard: tuple[int, int],
    say: Say,
    engine: Engine = LOCAL,
) -> None:
    """Encode one shard of the passages of every embedding route into the cache, and stop there."""
    from track1_mdr.routes import build_route

    config = load_config(RunConfig, name, CONFIG_FOLDER, overrides)
    environment = make_environment(config, cache, shard, say, engine)
    for task, tables in load_tasks(config, root, environment, say).items():
        for route_name, route in getattr(config.tasks, task).routes.items():
            if route is None or not route.embeds:
                continue
            build_route(route, environment).fit(tables.passages)
            say(f"{task}: route {route_name}: shard {shard[0]}/{shard[1]} is in {cache}")
    check_faults(config, environment, say)
    say("next: run the other shards, then the same command without --shard")


def fit_fusion(
    name: str,
    overrides: Sequence[str],
    root: Path,
    cache: Path,
    home: Path,
    task: str,
    folds: int,
    out: Path,
    note: str,
    say: Say,
) -> None:
    """Fit the learned fusion of one task on its gold; save it and print its out-of-fold score."""
    from rich.console import Console

    from track1_mdr.fusion.learned import LearnedFusion
    from track1_mdr.stages import stage_scores

    config = load_config(RunConfig, name, CONFIG_FOLDER, overrides)
    section = getattr(config.tasks, task, None)
    if section is None:
        raise ConfigError(f"the configuration has no task {task!r}", where="--task", expected="mmdocir or m2kr")
    section = section.model_copy(update={"final": None})
    environment = make_environment(config, cache, say=say)
    with Experiment(home / "runs", "track1-fit", config, config.seed, repository=home) as record:
        record.faults = environment.faults
        with record.stage("read data"):
            alone = config.model_copy(update={"tasks": TasksConfig.model_validate({task: section.model_dump()})})
            tables = next(iter(load_tasks(alone, root, environment, say).values()))
        said = check_faults(config, environment, say)
        if not tables.qrels:
            raise DataError(f"no gold for {task}", where=root / task, todo="fit on data with a gold.csv")
        ranking = rank_task(section, tables, environment, record, say)
        check_faults(config, environment, say, said)
        with record.stage("fit"):
            fusion = LearnedFusion.fit(
                ranking.scores,
                tables,
                coverage=coverages(section),
                folds=folds,
                seed=config.seed,
                provenance={"configuration": config.name, "task": task, "note": note},
            )
        ranking.rankings["learned (out of fold)"] = fusion.fuse(ranking.scores, tables.queries, tables.passages)
        figures = {
            row.name: [round(100 * value, 2) for value in (*row.recall, row.mean)] for row in stage_scores(ranking)
        }
        kept = {**fusion.provenance, "recall at 1, 3, 5 and mean": figures}
        replace(fusion, provenance=kept).save(out)
    Console().print(stage_table(ranking))
    say(f"wrote {out}: {fusion.provenance['documents']} documents, {fusion.provenance['questions']} questions")
    say(f"next: python -m track1_mdr run --config {name} --set tasks.{task}.final='{{type: learned, model: {out}}}'")

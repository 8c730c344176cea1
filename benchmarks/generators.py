"""Generative recommenders side by side with their baselines, on real sequences and on planted ones.

    python -m benchmarks.generators beauty --data DIR --minutes 30 --results FILE.jsonl --work DIR
    python -m benchmarks.generators movielens --data ROOT --ids IDS.parquet --seeds 3 --results FILE.jsonl --work DIR
    python -m benchmarks.generators planted --seeds 3

`beauty` (Amazon Beauty: purchases and published IDs, no text) and `movielens` (ROOT is made by `python -m track2_mmctr
prepare movielens`: likes, titles, overviews, and their vectors by a sentence encoder) train each arm for the same wall
time, or until valid gains no more, and evaluate it on each user's last item, over all items. Both are resumable: an arm
that the results hold is not run again, an unfinished one goes on from its folder under --work. All arms that need a
ranker's item vectors take those of the arm `sasrec`, which is trained first; its time is in its own line. IDS.parquet
are those of Uni-Code: `python -m benchmarks.uni_code_real vectors`, then `python -m common.tokenizers uni-code`.
`planted` prints the table of arms on a chain whose best recall is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.generators_real import (
    BEAUTY,
    BEAUTY_RECIPE,
    HEAVY,
    MOVIELENS,
    MOVIELENS_RECIPE,
    Arm,
    Settings,
    known_rows,
    movielens_folder,
    run_all,
    usable,
)
from benchmarks.generators_tables import print_results
from benchmarks.planted_generators import planted_table
from common.experiment import cores, cpu_name

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

MinutesOption = Annotated[float, typer.Option(help="Wall time of each arm's training, at most")]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Of torch")]
ArmsOption = Annotated[str, typer.Option(help="Separated by commas [default: all but those with a large model]")]
ResultsOption = Annotated[Path | None, typer.Option(help="JSON lines; an arm that is in there is not run again")]
WorkOption = Annotated[Path, typer.Option(help="Folder for the arms' checkpoints")]
SetOption = Annotated[list[str] | None, typer.Option("--set", "-s", help="Of every arm: a.b=value; repeatable")]
SeedOption = Annotated[int, typer.Option(help="The first one")]
SeedsOption = Annotated[int, typer.Option(min=1, help="Each arm is trained with so many seeds")]
ShowOption = Annotated[bool, typer.Option("--show", help="Print what the results hold, run nothing")]


def chosen(arms: str, known: dict[str, Arm]) -> list[str]:
    """Return the names of arms that are asked for."""
    names = [name.strip() for name in arms.split(",")] if arms else [name for name in known if name not in HEAVY]
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(known)}", param_hint="--arms")
    return names


def table(
    arms: str, known: dict[str, Arm], settings: Settings, seeds: range, results: Path | None, *, show: bool
) -> None:
    """Run what is asked for and print the tables."""
    there = usable(known, settings)
    names = chosen(arms, there)
    typer.echo(
        f"{cpu_name()}, {cores()} cores; {settings.threads} threads, at most {settings.minutes:g} minutes of training "
        f"an arm, seeds {', '.join(map(str, seeds))}"
    )
    if len(there) < len(known):
        typer.echo(f"left out, for a file was not given: {', '.join(name for name in known if name not in there)}")
    rows = known_rows(names, settings, seeds, results) if show else run_all(names, there, settings, seeds, results)
    print_results(rows, settings)


@app.command()
def beauty(
    data: Annotated[Path, typer.Option("--data", help="Folder with NAME.inter.json and published IDs")],
    minutes: MinutesOption = 30,
    threads: ThreadsOption = 2,
    arms: ArmsOption = "",
    results: ResultsOption = None,
    work: WorkOption = Path("runs/generators"),
    overrides: SetOption = None,
    seed: SeedOption = 7,
    seeds: SeedsOption = 1,
    show: ShowOption = False,
) -> None:
    """Train and evaluate the arms, print Recall, NDCG, CPU time and the learning curves."""
    settings = Settings(data.resolve(), work.resolve(), minutes, threads, tuple(overrides or ()), BEAUTY_RECIPE)
    table(arms, BEAUTY, settings, range(seed, seed + seeds), results, show=show)


@app.command()
def movielens(
    data: Annotated[Path, typer.Option("--data", help="Made by: python -m track2_mmctr prepare movielens")],
    ids: Annotated[Path | None, typer.Option("--ids", help="IDs of Uni-Code, for the arms of that name")] = None,
    minutes: MinutesOption = 10,
    threads: ThreadsOption = 2,
    arms: ArmsOption = "",
    results: ResultsOption = None,
    work: WorkOption = Path("runs/generators-movielens"),
    overrides: SetOption = None,
    seed: SeedOption = 7,
    seeds: SeedsOption = 1,
    show: ShowOption = False,
) -> None:
    """Train and evaluate the arms on likes of movies with titles and overviews, print the same tables."""
    from common.generative.config import TextsConfig
    from common.generative.item_sources import encode_texts

    texts = TextsConfig(threads=threads)
    folder, fields = movielens_folder(
        data.resolve(), work.resolve(), lambda lines: encode_texts(lines, texts, work.resolve() / "texts")
    )
    given = None if ids is None else ids.resolve()
    given_sets = tuple(overrides or ())
    settings = Settings(folder, work.resolve(), minutes, threads, given_sets, MOVIELENS_RECIPE, given, fields)
    table(arms, MOVIELENS, settings, range(seed, seed + seeds), results, show=show)


@app.command()
def planted(
    seeds: Annotated[int, typer.Option(min=1, help="Each arm is trained with this many seeds")] = 3,
    epochs: Annotated[int, typer.Option(min=1)] = 12,
    threads: Annotated[int, typer.Option(min=1, help="Of torch")] = 1,
) -> None:
    """Print Recall@10 of the arms on planted sequences: mean and standard deviation over seeds."""
    import torch

    torch.set_num_threads(threads)
    typer.echo(f"{cpu_name()}, {threads} threads, {seeds} seeds")
    for line in planted_table(seeds, epochs):
        typer.echo(line)


if __name__ == "__main__":
    app()

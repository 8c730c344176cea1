"""The command line of the generators: `python -m common.generative VERB --help`."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from common import cli
from common.errors import ConfigError
from common.index.build import IndexSettings
from common.index.options import IndexOption, UriOption, typed_again
from common.training.options import RayAddressOption, TrainEngineOption, TrainWorkersOption

ROOT = Path(__file__).resolve().parents[2]
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Sequential recommenders that generate semantic IDs, and what they are compared with.",
)

ModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="tiger, eager, eager_llm, store, atomic, sasrec, popularity, nearest, or a file"
    ),
]
DataOption = Annotated[Path, typer.Option("--data", help="Folder with NAME.inter.json, or a Track 2 data root")]
OutOption = Annotated[Path, typer.Option("--out", help="The run's folder; the same command goes on from what is there")]
SetOption = Annotated[list[str] | None, typer.Option("--set", "-s", help="Override one key: a.b=value; repeatable")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error")]


def typed(text: str) -> str:
    """Return text in which commands can be typed as they stand, with paths under the working directory cut short."""
    return cli.typed(text, "common.generative", os.environ, Path.cwd())


def say(line: str) -> None:
    """Print one line of a command's report."""
    typer.echo(typed(line))


def reported(debug: bool) -> AbstractContextManager[None]:
    """Turn errors of the user into one block and an exit code."""
    return cli.reported(debug, typed)


def searched(index: str, uri: str | None) -> IndexSettings:
    """Return what searches vectors; the token of a server is read from the environment."""
    return IndexSettings.of(index, uri, os.environ.get("MIRC_MILVUS_TOKEN", ""))


def alone() -> None:
    """Raise `ConfigError` where torchrun has started several processes of a command that runs in one."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("this command runs in one process", where="torchrun", todo="train with torchrun, then this")


@app.command()
def train(
    data: DataOption,
    out: OutOption,
    model: ModelOption = "tiger",
    overrides: SetOption = None,
    engine: TrainEngineOption = "local",
    workers: TrainWorkersOption = 2,
    address: RayAddressOption = None,
    debug: DebugOption = False,
) -> None:
    """Make the semantic IDs and train the model; interrupted, the same command goes on.

    Several processes, each with its share of every batch, on storage that all of them see:
    torchrun --nproc-per-node 2 -m common.generative train ..., or --engine ray --workers 2.

    Example: python -m common.generative train --model tiger --data DIR --out runs/tiger --set train.epochs=30
    """
    from common.generative.app import open_together, train_on_ray, train_to

    with reported(debug):
        changes, target = overrides or [], out.resolve()
        if engine == "ray":
            place = {"workers": workers, "address": address, "here": Path.cwd()}
            train_on_ray(model, changes, data, target, ROOT, say, **place)
        else:
            run = open_together(model, changes, data, target, say, os.environ)
            train_to(run, ROOT)
            if not run.world.main:
                return
        say(f"next: python -m common.generative evaluate --model {model} --data {data} --out {out}{_again(overrides)}")


@app.command()
def evaluate(
    data: DataOption,
    out: OutOption,
    model: ModelOption = "tiger",
    overrides: SetOption = None,
    index: IndexOption = "faiss",
    uri: UriOption = None,
    debug: DebugOption = False,
) -> None:
    """Recall@k, NDCG@k and MRR on each user's last item; trains first if --out has no model yet.

    Example: python -m common.generative evaluate --model sasrec --data DIR --out runs/sasrec
    """
    from common.generative.app import evaluate_to, open_run

    with reported(debug):
        alone()
        run = open_run(model, overrides or [], data, out.resolve(), say, searched(index, uri))
        report = evaluate_to(run, ROOT)
        say(report.headline)
        cli.print_rich(report.render())
        say(f"wrote {run.out / 'metrics.json'}")
        again = _again(overrides) + typed_again(index, uri)
        say(f"next: python -m common.generative recommend --model {model} --data {data} --out {out}{again}")


@app.command()
def recommend(
    data: DataOption,
    out: OutOption,
    model: ModelOption = "tiger",
    to: Annotated[
        Path | None, typer.Option("--to", help=".parquet or .json [default: OUT/recommendations.parquet]")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Items a user")] = 10,
    users: Annotated[Path | None, typer.Option("--users", help="File of user ids, one a line or a JSON list")] = None,
    exclude: Annotated[
        Path | None, typer.Option("--exclude", help="File of item ids never to recommend (sold out)")
    ] = None,
    overrides: SetOption = None,
    index: IndexOption = "faiss",
    uri: UriOption = None,
    debug: DebugOption = False,
) -> None:
    """Write the k best next items of users, after all that they have in the data.

    Example: python -m common.generative recommend --data DIR --out runs/tiger -k 10 --to next.json --exclude sold.txt
    """
    from common.generative.app import open_run, recommend_to

    with reported(debug):
        alone()
        run = open_run(model, overrides or [], data, out.resolve(), say, searched(index, uri))
        target = (to or run.out / "recommendations.parquet").resolve()
        count, items = recommend_to(run, target, k, users, exclude)
        say(f"wrote {target}: {count:,} users, {items:,} items")


@app.command()
def export(
    data: DataOption,
    out: OutOption,
    model: ModelOption = "tiger",
    to: Annotated[Path | None, typer.Option("--to", help=".parquet: generated lists, a line an item")] = None,
    rows: Annotated[
        Path | None, typer.Option("--rows", help=".parquet: features of the rows of a Track 2 data root")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=0, help="Items a list; 0 with --rows: log-probabilities only")] = 50,
    folds: Annotated[
        int, typer.Option(min=1, help="Of --rows: a user's rows are scored by a model trained without this user")
    ] = 2,
    overrides: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Write generated candidates with scores, and features of (history, item) rows for Track 2's rankers.

    --to: each user's k best next items after all that the data has of him. --rows: of each row of train, valid and
    test the exact log-probability of its item after its own history, and the item's rank in the generated list. With
    --folds 1 the run's own model scores, and rows whose answer it was trained on are marked as not known.

    Example: python -m common.generative export --model tiger --data ROOT --out runs/tiger --rows rows.parquet -k 50
    """
    from common.generative.app import export_to, open_run

    with reported(debug):
        alone()
        run = open_run(model, overrides or [], data, out.resolve(), say)
        targets = [None if one is None else one.resolve() for one in (to, rows)]
        export_to(run, data, targets[0], targets[1], k, folds)


@app.command("export-ids")
def export_ids(
    data: DataOption,
    out: OutOption,
    model: ModelOption = "tiger",
    to: Annotated[Path | None, typer.Option("--to", help=".parquet [default: OUT/ids.parquet]")] = None,
    overrides: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Write the run's semantic IDs, made first if need be: a file that other runs and both tracks read.

    Read by: --set ids=FILE here, features.semantic_ids of Track 2, ids.file of Track 1's route cart.

    Example: python -m common.generative export-ids --model tiger --data DIR --out runs/tiger --to ids.parquet
    """
    from common.generative.app import open_run
    from common.generative.export import export_ids as write

    with reported(debug):
        alone()
        run = open_run(model, overrides or [], data, out.resolve(), say)
        target = (to or run.out / "ids.parquet").resolve()
        count, sizes = write(run, target)
        say(f"wrote {target}: {count:,} IDs of {' x '.join(map(str, sizes))} codes")


def _again(overrides: list[str] | None) -> str:
    return "".join(f" --set {one}" for one in overrides or [])


def main() -> None:
    """Run the command line."""
    cli.main(app, os.environ)


if __name__ == "__main__":
    main()

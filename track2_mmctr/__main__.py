"""The command line of Track 2: `python -m track2_mmctr VERB --help`."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Literal

import typer

from common import cli
from common.download.cli import Track
from common.download.cli import add_command as add_download
from common.training.options import RayAddressOption, TrainEngineOption, TrainWorkersOption
from track2_mmctr.explore.cli import add_explore
from track2_mmctr.items_cli import ItemsPlace, add_items
from track2_mmctr.options import CacheOption, ConfigOption, DataOption, DebugOption, OutOption, SetOption, TaskOption
from track2_mmctr.prepare_cli import add_prepare
from track2_mmctr.report_cli import Surroundings, add_report

ROOT = Path(__file__).resolve().parents[1]
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Track 2, multimodal CTR prediction: from items and click histories to a scored submission.",
)


def typed(text: str) -> str:
    """Return text in which commands can be typed as they stand, with paths under the working directory cut short."""
    return cli.typed(text, "track2_mmctr", os.environ, Path.cwd())


def say(line: str) -> None:
    """Print one line of a command's report."""
    typer.echo(typed(line))


def reported(debug: bool) -> AbstractContextManager[None]:
    """Turn errors of the user into one block and an exit code."""
    return cli.reported(debug, typed)


def data_root(given: Path | None) -> Path:
    """Return the data root: --data, else MIRC_DATA, else data/ where microlens/ is present, else the sample."""
    return cli.data_root(given, os.environ, ROOT / "data", ("microlens",))


def cache_folder(given: Path | None) -> Path:
    """Return the cache: --cache, else MIRC_CACHE, else data/cache in the project."""
    return cli.cache_folder(given, os.environ, ROOT / "data")


def default_out(config: str, root: Path) -> Path:
    """Return submissions/track2-<config>[-sample].zip."""
    return ROOT / "submissions" / f"track2-{config}{_sample(root)}.zip"


def _sample(root: Path) -> str:
    return "-sample" if root == ROOT / "data" / "sample" else ""


@app.command()
def doctor(data: DataOption = None, cache: CacheOption = None) -> None:
    """Check the machine, packages and data, and say what to do about each.

    Example: python -m track2_mmctr doctor
    """
    from common.doctor import examine, render

    with reported(False):
        checks = examine(
            data_root(data),
            cache_folder(cache),
            ROOT / "runs",
            track="track2",
            environment=os.environ,
            home=Path.home(),
            requirements=ROOT / "requirements.txt",
        )
        cli.print_rich(render(checks))
        if any(check.status == "fail" for check in checks):
            raise typer.Exit(1)


def _downloads() -> Track:
    from track2_mmctr.download import TRACK

    return TRACK


add_download(app, "track2_mmctr", ROOT, os.environ, typed, _downloads)
add_prepare(app, reported, say)
add_items(
    app,
    ItemsPlace(
        data_root,
        cache_folder,
        lambda name, root: ROOT / "data" / "embeddings" / f"{name}{_sample(root)}.parquet",
        lambda: os.environ.get("MIRC_API_KEY"),
        reported,
        say,
    ),
)


@app.command()
def run(
    config: ConfigOption = "baseline",
    data: DataOption = None,
    out: OutOption = None,
    overrides: SetOption = None,
    cache: CacheOption = None,
    engine: TrainEngineOption = "local",
    workers: TrainWorkersOption = 2,
    address: RayAddressOption = None,
    debug: DebugOption = False,
) -> None:
    """Train a ranker and write a validated submission, with its local score. Resumes after an interruption.

    Several processes, each with its share of every batch, on storage that all of them see:
    torchrun --nproc-per-node 2 -m track2_mmctr run --config din, or --engine ray --workers 2.

    Example: python -m track2_mmctr run --config din --data data/sample --set train.epochs=3
    """
    from track2_mmctr.app import load, print_result, run_config, run_on_ray

    with reported(debug):
        root, loaded = data_root(data), load(config, overrides or [])
        target = (out or default_out(loaded.name, root)).resolve()
        kept = cache_folder(cache)
        if engine == "ray":
            place = {"workers": workers, "address": address, "here": Path.cwd()}
            result = run_on_ray(loaded, root, target, kept, ROOT, say, **place)
        else:
            result = run_config(loaded, root, target, kept, ROOT, os.environ, say)
        if result is not None:
            print_result(result, root, say)


@app.command()
def task1(
    embedding: Annotated[
        str | None, typer.Option("--embedding", help="Parquet of `embed` [default: item_emb_d128 of item_info]")
    ] = None,
    data: DataOption = None,
    out: OutOption = None,
    overrides: SetOption = None,
    cache: CacheOption = None,
    debug: DebugOption = False,
) -> None:
    """Score item embeddings under the organisers' fixed DIN; only its five allowed settings can be set.

    Example: python -m track2_mmctr task1 --data data/sample --set learning_rate=0.002
    """
    from track2_mmctr.app import print_result, run_config
    from track2_mmctr.task1 import task1_config

    with reported(debug):
        root, loaded = data_root(data), task1_config(overrides or [], embedding)
        target = out or default_out(loaded.name, root)
        result = run_config(loaded, root, target, cache_folder(cache), ROOT, os.environ, say)
        if result is not None:
            print_result(result, root, say)


@app.command()
def score(
    path: Annotated[Path, typer.Argument(help="A run's folder, or a submission zip")],
    data: DataOption = None,
    task: TaskOption = None,
    cache: CacheOption = None,
    debug: DebugOption = False,
) -> None:
    """Score a run or a submission where labels are known: AUC with its error, GAUC, log-loss, calibration, parts.

    Example: python -m track2_mmctr score submissions/track2-baseline-sample.zip --data data/sample
    """
    from track2_mmctr.evaluate import open_data, score_path

    with reported(debug):
        cli.print_rich(score_path(path, open_data(data_root(data), cache_folder(cache)), task).render())
        say(f"next: python -m track2_mmctr compare {path} OTHER --data {data_root(data)}")


@app.command()
def validate(
    submission: Annotated[Path, typer.Argument(help="The submission zip")],
    data: DataOption = None,
    cache: CacheOption = None,
    debug: DebugOption = False,
) -> None:
    """Check a submission against every rule; list the faults with line, value and rule.

    Example: python -m track2_mmctr validate submissions/track2-baseline-sample.zip --data data/sample
    """
    from track2_mmctr.evaluate import open_data, validate_path

    with reported(debug):
        say(validate_path(submission, open_data(data_root(data), cache_folder(cache))).check().render())
        say(f"next: python -m track2_mmctr submit {submission} --data {data_root(data)} --dry-run")


@app.command()
def submit(
    submission: Annotated[Path, typer.Argument(help="The submission zip, or a CSV with ID and a task column")],
    data: DataOption = None,
    competition: Annotated[int | None, typer.Option(help="Codabench's number of it [default: the challenge's]")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be uploaded, and log nothing")] = False,
    cache: CacheOption = None,
    debug: DebugOption = False,
) -> None:
    """Check a submission, pack it where it is a bare CSV, log it, and print Codabench's page and each step there.

    Example: python -m track2_mmctr submit submissions/track2-baseline-sample.zip --data data/sample --dry-run
    """
    from common.submission.codabench import COMPETITION
    from track2_mmctr.evaluate import open_data
    from track2_mmctr.submit import submit

    with reported(debug):
        root = data_root(data)
        submit(
            submission,
            open_data(root, cache_folder(cache)),
            bool(_sample(root)),
            ROOT / "runs",
            competition=competition or COMPETITION,
            dry_run=dry_run,
            say=say,
        )


add_report(app, Surroundings(data_root, cache_folder, lambda: ROOT / "runs", reported, say))


@app.command()
def tune(
    config: ConfigOption = "baseline",
    trials: Annotated[int, typer.Option(min=1, help="Finished trials in all, those of earlier calls included")] = 20,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that fit trials side by side; the machine's threads are divided")
    ] = 1,
    data: DataOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Best YAML [default: runs/tuned-<config>.yaml]")] = None,
    overrides: SetOption = None,
    cache: CacheOption = None,
    debug: DebugOption = False,
) -> None:
    """Search the space that a configuration declares under `tune`; resumes, prunes, writes the best as YAML.

    With --workers N trials run side by side; the same command goes on with any other number of workers.

    Example: python -m track2_mmctr tune --config din --trials 20 --data data/sample
    """
    from track2_mmctr.app import load, tune_to

    with reported(debug):
        loaded = load(config, overrides or [])
        target = out or ROOT / "runs" / f"tuned-{loaded.name}.yaml"
        tune_to(loaded, trials, workers, data_root(data), target, cache_folder(cache), os.environ, say)


@app.command()
def ensemble(
    runs: Annotated[list[Path], typer.Argument(help="Folders of two or more runs")],
    method: Annotated[
        Literal["stacked", "mean", "rank"], typer.Option(help="stacked = weights fitted on valid")
    ] = "stacked",
    data: DataOption = None,
    out: OutOption = None,
    cache: CacheOption = None,
    debug: DebugOption = False,
) -> None:
    """Combine the logits of runs into one submission, with its own run record.

    Example: python -m track2_mmctr ensemble runs/A runs/B --data data/sample
    """
    from track2_mmctr.app import ensemble_to

    with reported(debug):
        root = data_root(data)
        ensemble_to(runs, method, root, out or default_out("ensemble", root), cache_folder(cache), ROOT, say)


add_explore(app, ROOT, reported, say, data_root, cache_folder)


def main() -> None:
    """Run the command line."""
    cli.main(app, os.environ)


if __name__ == "__main__":
    main()

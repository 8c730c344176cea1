"""The command line of Track 1: `python -m track1_mdr VERB --help`."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from common import cli
from common.download.cli import Track
from common.download.cli import add_command as add_download
from common.engine.choose import AddressOption, EngineOption, WorkersOption, open_engine
from common.errors import ConfigError
from common.index.build import IndexSettings
from common.index.options import IndexOption, UriOption
from track1_mdr.explore.cli import add_explore
from track1_mdr.report.cli import add_report

ROOT = Path(__file__).resolve().parents[1]
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Track 1, multimodal document retrieval: from documents and questions to a scored submission.",
)

DataOption = Annotated[
    Path | None, typer.Option("--data", help="Data root [default: MIRC_DATA, else data/, else data/sample]")
]
CacheOption = Annotated[
    Path | None, typer.Option("--cache", help="Folder of finished OCR and embeddings [default: data/cache]")
]
ConfigOption = Annotated[str, typer.Option("--config", "-c", help="A name in track1_mdr/configs, or a YAML file")]
SetOption = Annotated[list[str] | None, typer.Option("--set", "-s", help="Override one key: a.b=value; repeatable")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error")]


def typed(text: str) -> str:
    """Return text in which commands can be typed as they stand, with paths under the working directory cut short."""
    return cli.typed(text, "track1_mdr", os.environ, Path.cwd())


def say(line: str) -> None:
    """Print one line of a command's report."""
    typer.echo(typed(line))


def reported(debug: bool) -> AbstractContextManager[None]:
    """Turn errors of the user into one block and an exit code."""
    return cli.reported(debug, typed)


def data_root(given: Path | None) -> Path:
    """Return the data root: --data, else MIRC_DATA, else data/ where a part is present, else the sample."""
    return cli.data_root(given, os.environ, ROOT / "data", ("mmdocir", "m2kr"))


def cache_folder(given: Path | None) -> Path:
    """Return the cache: --cache, else MIRC_CACHE, else data/cache in the project."""
    return cli.cache_folder(given, os.environ, ROOT / "data")


def default_out(config: str, root: Path) -> Path:
    """Return submissions/track1-<config>[-sample].csv."""
    sample = "-sample" if root == ROOT / "data" / "sample" else ""
    return ROOT / "submissions" / f"track1-{config}{sample}.csv"


def parse_shard(text: str) -> tuple[int, int]:
    """Return (i, n) of "i/n", with i counted from 0."""
    left, slash, right = text.partition("/")
    if slash and left.isdecimal() and right.isdecimal() and int(left) < int(right):
        return int(left), int(right)
    raise ConfigError("a shard has the form i/n", where="--shard", expected="0/4, 1/4, ... 3/4", got=text)


@app.command()
def doctor(data: DataOption = None, cache: CacheOption = None) -> None:
    """Check the machine, packages, data and credentials, and say what to do about each.

    Example: python -m track1_mdr doctor
    """
    from common.doctor import examine, render

    with reported(False):
        checks = examine(
            data_root(data),
            cache_folder(cache),
            ROOT / "runs",
            track="track1",
            environment=os.environ,
            home=Path.home(),
            requirements=ROOT / "requirements.txt",
        )
        cli.print_rich(render(checks))
        if any(check.status == "fail" for check in checks):
            raise typer.Exit(1)


def _downloads() -> Track:
    from track1_mdr.download import TRACK

    return TRACK


add_download(app, "track1_mdr", ROOT, os.environ, typed, _downloads)


@app.command()
def prepare(
    pdfs: Annotated[Path, typer.Option("--pdfs", help="Folder of PDFs")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the official page and layout tables")],
    cache: CacheOption = None,
    images: Annotated[bool, typer.Option(help="Also write page images into the table")] = True,
    ocr: Annotated[bool, typer.Option(help="Read pages without text, and figures, by OCR")] = True,
    allow_faults: Annotated[int, typer.Option(help="Failed pages to put up with")] = 0,
    engine: EngineOption = "local",
    ray_address: AddressOption = None,
    workers: WorkersOption = None,
    debug: DebugOption = False,
) -> None:
    """Turn PDFs into the official tables: page text, OCR, page images, layout blocks. Resumes where it stopped.

    Example: python -m track1_mdr prepare --pdfs data/sample/mmdocir/pdfs --out data/prepared
    """
    from common.faults import FaultLog
    from track1_mdr.config import OcrConfig
    from track1_mdr.datasets.prepare import prepare_pdfs

    with reported(debug):
        faults, kept = FaultLog(), cache_folder(cache)
        with open_engine(engine, ray_address, workers) as chosen:
            made = prepare_pdfs(pdfs, out, OcrConfig(enabled=ocr), kept, faults, images=images, engine=chosen)
        say(f"wrote {made.pages_file} and {made.layouts_file}: {made.documents} documents, {made.pages} pages")
        for note in made.notes:
            say(note)
        faults.check(allow_faults, f"mend the files, or pass --allow-faults {len(faults)}")
        say("next: put both tables and the questions under <data root>/mmdocir, then python -m track1_mdr run --help")


@app.command()
def run(
    config: ConfigOption = "baseline",
    data: DataOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="The submission [default: submissions/...csv]")] = None,
    overrides: SetOption = None,
    cache: CacheOption = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: only encode part i of n (from 0) into the cache, and stop")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Training queries for routes of type cart: passage_id, text, doc_name")
    ] = None,
    index: IndexOption = "faiss",
    uri: UriOption = None,
    engine: EngineOption = "local",
    ray_address: AddressOption = None,
    workers: WorkersOption = None,
    debug: DebugOption = False,
) -> None:
    """Run a configuration: data, routes, fusion, rerank, a validated submission, and its local score.

    Example: python -m track1_mdr run --config baseline --data data/sample --set tasks.mmdocir.rerank=null
    """
    from track1_mdr.app import encode_shard, print_result, query_overrides, run_config

    with reported(debug):
        root, kept = data_root(data), cache_folder(cache)
        changes = [*(overrides or [])]
        if queries is not None:
            changes += query_overrides(config, changes, queries)
        part = None if shard is None else parse_shard(shard)
        searched = IndexSettings.of(index, uri, os.environ.get("MIRC_MILVUS_TOKEN", ""))
        with open_engine(engine, ray_address, workers) as chosen:
            if part is not None:
                encode_shard(config, changes, root, kept, part, say, chosen)
                return
            result = run_config(config, changes, root, out, kept, ROOT, default_out, say, searched, chosen)
        print_result(result, root, say)


@app.command()
def fit(
    out: Annotated[Path, typer.Option("--out", help="Folder of the fitted fusion")],
    config: ConfigOption = "baseline",
    data: DataOption = None,
    task: Annotated[str, typer.Option(help="mmdocir or m2kr")] = "mmdocir",
    folds: Annotated[int, typer.Option(min=2, help="Folds by document")] = 8,
    note: Annotated[str, typer.Option(help="Kept in the model: what it was fitted on")] = "",
    overrides: SetOption = None,
    cache: CacheOption = None,
    debug: DebugOption = False,
) -> None:
    """Fit the learned fusion on data with gold, with folds by document; print its out-of-fold score.

    Example: python -m track1_mdr fit --data data/sample --folds 3 --out runs/my_fusion
    """
    from track1_mdr.app import fit_fusion

    with reported(debug):
        fit_fusion(config, overrides or [], data_root(data), cache_folder(cache), ROOT, task, folds, out, note, say)


@app.command()
def score(
    submission: Annotated[Path, typer.Argument(help="The submission CSV")],
    data: DataOption = None,
    debug: DebugOption = False,
) -> None:
    """Score a submission on the gold that is at hand, as the leaderboard does, with parts and ceiling.

    Example: python -m track1_mdr score submissions/track1-baseline-sample.csv --data data/sample
    """
    from track1_mdr.evaluate import score_files

    with reported(debug):
        root = data_root(data)
        cli.print_rich(score_files(submission, root).render())
        say(f"next: python -m track1_mdr compare {submission} OTHER.csv --data {root}")


@app.command()
def validate(
    submission: Annotated[Path, typer.Argument(help="The submission CSV")],
    data: DataOption = None,
    debug: DebugOption = False,
) -> None:
    """Check a submission against every rule; list the faults with row, value and rule.

    Example: python -m track1_mdr validate submissions/track1-baseline-sample.csv --data data/sample
    """
    from track1_mdr.evaluate import validate_file

    with reported(debug):
        report = validate_file(submission, data_root(data)).check()
        say(report.render())
        say(f"next: python -m track1_mdr submit {submission} --data {data_root(data)} --dry-run")


@app.command()
def submit(
    submission: Annotated[Path, typer.Argument(help="The submission CSV")],
    data: DataOption = None,
    message: Annotated[str | None, typer.Option("--message", "-m", help="[default: the configuration's name]")] = None,
    competition: Annotated[str | None, typer.Option(help="Kaggle's name of it [default: the challenge's]")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent, and send nothing")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Send without asking")] = False,
    again: Annotated[bool, typer.Option("--again", help="Send bytes that have a score already")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the score")] = 900.0,
    debug: DebugOption = False,
) -> None:
    """Check a submission, show what will be sent, ask, send it to Kaggle, wait for the score, and log both scores.

    Example: python -m track1_mdr submit submissions/track1-baseline-sample.csv --data data/sample --dry-run
    """
    from common.kaggle import Kaggle
    from track1_mdr.submit import COMPETITION, submit

    with reported(debug):
        submit(
            submission,
            data_root(data),
            ROOT / "runs",
            competition=competition or COMPETITION,
            message=message,
            dry_run=dry_run,
            again=again,
            seconds=wait,
            agree=lambda: cli.agreed("send it?", yes),
            say=say,
            kaggle=Kaggle(os.environ),
        )


@app.command()
def merge(
    first: Annotated[Path, typer.Argument(help="A submission of one task")],
    second: Annotated[Path, typer.Argument(help="A submission of the other task")],
    out: Annotated[Path, typer.Option("--out", help="The joined submission")],
    data: DataOption = None,
    debug: DebugOption = False,
) -> None:
    """Join two partial submissions, one a task, into one file; checked as `validate` does.

    Example: python -m track1_mdr merge mmdocir.csv m2kr.csv --out submissions/both.csv --data data/sample
    """
    from common.submission.mdr import merge_submissions
    from track1_mdr.gold import read_ground

    with reported(debug):
        report = merge_submissions(first, second, out, read_ground(data_root(data)).expected)
        say(report.render())
        say(f"next: python -m track1_mdr score {out}")


add_report(app, lambda: ROOT, reported, say, data_root, cache_folder)
add_explore(app, ROOT, reported, say, data_root, cache_folder)


def main() -> None:
    """Run the command line."""
    cli.main(app, os.environ)


if __name__ == "__main__":
    main()

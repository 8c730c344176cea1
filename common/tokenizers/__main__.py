"""The command line of the tokenizers: `python -m common.tokenizers fit|encode|report|uni-code --help`."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Literal

import typer

from common import cli
from common.engine.choose import AddressOption, EngineOption, WorkersOption, open_engine

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Quantization tokenizers: from vectors to semantic IDs.",
)

DataOption = Annotated[Path, typer.Option("--data", help="Vectors: a .npy array [N, D], or a parquet table with lists")]
ColumnOption = Annotated[str | None, typer.Option("--column", help="The parquet column, where there are several")]
ModelOption = Annotated[Path, typer.Option("--model", help="Folder of a fitted quantizer")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="kind=NAME, or a setting of it: codebook_sizes=[256,256,256]")
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error")]


def typed(text: str) -> str:
    """Return text in which commands can be typed as they stand, with paths under the working directory cut short."""
    return cli.typed(text, "common.tokenizers", os.environ, Path.cwd())


def say(line: str) -> None:
    """Print one line of a command's report."""
    typer.echo(typed(line))


def reported(debug: bool) -> AbstractContextManager[None]:
    """Turn errors of the user into one block and an exit code."""
    return cli.reported(debug, typed)


@app.command()
def fit(
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", help="Folder to write the quantizer to")],
    column: ColumnOption = None,
    set_: SetOption = None,
    seed: Annotated[int, typer.Option(min=0)] = 7,
    debug: DebugOption = False,
) -> None:
    """Fit a quantizer: rq_kmeans, rq_vae, vq, product, residual, balanced_tree or slot_kmeans.

    Example: python -m common.tokenizers fit --data items.npy --out runs/ids --set codebook_sizes=[256,256,256]
    """
    from common.tokenizers.app import fit_to

    with reported(debug):
        fit_to(data, column, out, set_ or [], seed, say)


@app.command()
def encode(
    model: ModelOption,
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", help="Parquet of item_id, sid_0, sid_1, ...")],
    column: ColumnOption = None,
    dedup: Annotated[
        Literal["append", "sinkhorn", "raise"], typer.Option(help="What to do where two items get the same codes")
    ] = "append",
    rank_codes: Annotated[int, typer.Option(min=0, help="Codes of the appended level; 0 = as many as are needed")] = 0,
    engine: EngineOption = "local",
    ray_address: AddressOption = None,
    workers: WorkersOption = None,
    debug: DebugOption = False,
) -> None:
    """Write the semantic ID of every vector, no two the same.

    Example: python -m common.tokenizers encode --model runs/ids --data items.npy --out runs/ids/ids.parquet
    """
    from common.tokenizers.app import encode_to

    with reported(debug), open_engine(engine, ray_address, workers, processes=False) as chosen:
        encode_to(model, data, column, out, dedup, rank_codes, say, chosen)


@app.command()
def report(
    model: ModelOption,
    data: DataOption,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for report.json and report.png [default: MODEL]")
    ] = None,
    column: ColumnOption = None,
    debug: DebugOption = False,
) -> None:
    """Print error, perplexity and dead codes by level, and collisions; draw them.

    Example: python -m common.tokenizers report --model runs/ids --data items.npy
    """
    from common.tokenizers.app import report_to

    with reported(debug):
        report_to(model, data, column, out or model, say)


@app.command()
def uni_code(
    out: Annotated[Path, typer.Option("--out", help="Folder for the tokenizer and ids.parquet")],
    text: Annotated[Path | None, typer.Option("--text", help="Vectors of texts: .npy, or parquet with ids")] = None,
    image: Annotated[Path | None, typer.Option("--image", help="Vectors of images, the same")] = None,
    modality: Annotated[list[str] | None, typer.Option("--modality", help="NAME=FILE, another modality")] = None,
    column: Annotated[list[str] | None, typer.Option("--column", help="NAME=COLUMN of that file's vectors")] = None,
    encoder: Annotated[
        list[str] | None, typer.Option("--encoder", help="NAME=ENCODER that made the vectors; checked with --model")
    ] = None,
    model: Annotated[Path | None, typer.Option("--model", help="A fitted tokenizer to use: nothing is trained")] = None,
    pool: Annotated[
        Literal["most", "all"], typer.Option(help="Of an item's steps: its most frequent code, or a level a step")
    ] = "most",
    missing: Annotated[
        Literal["error", "other"], typer.Option(help="Items without a modality: refuse, or the other one's codes")
    ] = "error",
    rank_codes: Annotated[int, typer.Option(min=0, help="Codes of the rank level; 0 = as many as are needed")] = 0,
    set_: Annotated[list[str] | None, typer.Option("--set", "-s", help="A setting: codes=256, fit.epochs=20")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 7,
    device: Annotated[str, typer.Option(help="Where training runs: cpu or cuda")] = "cpu",
    engine: EngineOption = "local",
    ray_address: AddressOption = None,
    workers: WorkersOption = None,
    debug: DebugOption = False,
) -> None:
    """Fit one codebook of two or three modalities, and write IDs: a code of each modality, then a rank.

    Example: python -m common.tokenizers uni-code --text text.parquet --image image.parquet --out runs/uni_code
    """
    from common.tokenizers.uni_code.command import fit_ids, parse_sources

    with reported(debug), open_engine(engine, ray_address, workers, processes=False) as chosen:
        fit_ids(
            parse_sources({"text": text, "image": image}, modality or [], column or [], encoder or []),
            out,
            set_ or [],
            seed=seed,
            model=model,
            pool=pool,
            missing=missing,
            rank_codes=rank_codes,
            device=device,
            say=say,
            engine=chosen,
        )


if __name__ == "__main__":
    cli.main(app, os.environ)

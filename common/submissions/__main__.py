"""The command line of what was sent: `python -m common.submissions list`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from common import cli
from common.submission import send_log
from common.submissions.listing import lines, recorded, rows

ROOT = Path(__file__).resolve().parents[2]
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Submissions of both tracks: local and public scores, and the gap between them.",
)
RunsOption = Annotated[Path | None, typer.Option("--runs", help="Folder of the run log [default: runs/]")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error")]


def typed(text: str) -> str:
    """Return text in which commands can be typed as they stand, with paths under the working directory cut short."""
    for module in ("track1_mdr", "track2_mmctr"):
        text = cli.typed(text, module, os.environ, Path.cwd())
    return text


def say(line: str) -> None:
    """Print one line of a command's report."""
    typer.echo(typed(line))


@app.command("list")
def show(
    runs: RunsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list")] = False,
    debug: DebugOption = False,
) -> None:
    """List all files that runs made or that were sent: local score, public score, their gap, the file's hash.

    Example: python -m common.submissions list
    """
    with cli.reported(debug, typed):
        found = rows(runs or ROOT / "runs")
        if as_json:
            typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
            return
        if not found:
            say("no run has left a submission yet; next: python -m track1_mdr run --help")
            return
        for line in lines(found):
            say(line)
        say("gap = public - local, Track 1 in points; a local score of one task alone has none; whole hashes: --json")


@app.command()
def record(
    file: Annotated[str, typer.Argument(help="A submission file, the start of its SHA-256, or a run's name")],
    public: Annotated[float, typer.Option("--public", help="The score on the leaderboard")],
    runs: RunsOption = None,
    debug: DebugOption = False,
) -> None:
    """Note the public score of a file that was uploaded in the browser (Codabench, or Kaggle's own page).

    Example: python -m common.submissions record submissions/track2-baseline.zip --public 0.9123
    """
    with cli.reported(debug, typed):
        folder = runs or ROOT / "runs"
        attempt = recorded(folder, file, public)
        send_log.append(folder, attempt)
        difference = send_log.gap(attempt)
        told = "" if difference is None else f", local {attempt.local}, gap {difference:+.4f}"
        say(f"noted: {attempt.file}, sha256 {attempt.sha256[:12]}, public {public:g}{told}")
        say("next: python -m common.submissions list")


@app.command()
def refresh(runs: RunsOption = None, debug: DebugOption = False) -> None:
    """Ask Kaggle for the scores that were not known when `submit` ended.

    Example: python -m common.submissions refresh
    """
    from common.kaggle import Kaggle
    from common.submission.send import refresh as ask

    with cli.reported(debug, typed):
        news = ask(runs or ROOT / "runs", Kaggle(os.environ), say)
        say("no news" if not news else "next: python -m common.submissions list")


def main() -> None:
    """Run the command line."""
    cli.main(app, os.environ)


if __name__ == "__main__":
    main()

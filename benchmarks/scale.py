"""From measured constants to 10 M passages and 1 B items: what it takes, what it costs, what breaks first.

    python -m benchmarks.scale                                            # the tables of docs/scale.md
    python -m benchmarks.scale --from TABLE.json --from GROWTH.json --save --into docs/scale.md

TABLE.json is of `python -m benchmarks --out`, GROWTH.json of `python -m benchmarks growth --out`. `--save` makes their
constants the stored ones (benchmarks/scale_constants.json), `--into` writes the tables between the page's markers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.suite.journal import load_run
from benchmarks.suite.scale_constants import Constants, constants_of
from benchmarks.suite.scale_tables import TABLES
from common import cli
from common.atomic import write_text
from common.errors import DataError

STORED = Path(__file__).with_name("scale_constants.json")
_BLOCK = r"(<!-- scale: {name} -->\n).*?(<!-- end -->)"


def stored(path: Path = STORED) -> Constants:
    """Return the stored constants."""
    return Constants.from_json(json.loads(path.read_text(encoding="utf-8")))


def into(text: str, constants: Constants) -> str:
    """Return a page with each table between its markers, `<!-- scale: NAME -->` and `<!-- end -->`.

    Raises
    ------
    DataError
        A table has no place in the page.
    """
    for name, table in TABLES.items():
        block = re.compile(_BLOCK.format(name=re.escape(name)), re.DOTALL)
        if not block.search(text):
            raise DataError("the page has no place for a table", expected=f"<!-- scale: {name} --> and <!-- end -->")
        body = f"\n{table(constants)}\n\n"
        text = block.sub(lambda match, body=body: match.group(1) + body + match.group(2), text)
    return text


def main(
    runs: Annotated[list[Path] | None, typer.Option("--from", help="Saved runs; none = the stored constants")] = None,
    save: Annotated[bool, typer.Option("--save", help="Keep the constants of the runs as the stored ones")] = False,
    page: Annotated[Path | None, typer.Option("--into", help="Write the tables into this page")] = None,
) -> None:
    """Print what growing takes, from measured constants."""
    with cli.reported(False, str):
        bodies: list[dict[str, Any]] = [load_run(path) for path in runs or []]
        constants = constants_of(bodies) if bodies else stored()
        if save:
            write_text(STORED, json.dumps(constants.to_json(), indent=1, ensure_ascii=False) + "\n")
            constants = stored(STORED)  # rounded: what the page says is computed from what is kept
        for name, table in TABLES.items():
            typer.echo(f"\n{name}\n\n{table(constants)}")
        if page is not None:
            write_text(page, into(page.read_text(encoding="utf-8"), constants))
            typer.echo(f"\nwrote {page}")


if __name__ == "__main__":
    typer.run(main)

"""What the command lines of both tracks share. The environment and the working folder are handed in by `__main__`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from common.errors import ConfigError, UserError


def typed(text: str, module: str, environment: Mapping[str, str], folder: Path) -> str:
    """Return text in which commands can be typed as they stand, with paths under `folder` cut short.

    `python -m MODULE` (and that of the list of submissions) becomes the running interpreter's own path where its
    environment is not activated.
    """
    if not environment.get("VIRTUAL_ENV") and sys.prefix != sys.base_prefix:
        for name in (module, "common.submissions"):
            text = re.sub(rf"(?<![\w/])python -m {re.escape(name)}\b", f"{sys.executable} -m {name}", text)
    return text.replace(f"{folder}/", "")


@contextmanager
def reported(debug: bool, typed: Callable[[str], str]) -> Iterator[None]:
    """Turn a `UserError` into one block on standard error and exit code 2; Ctrl-C into a line and 130."""
    try:
        yield
    except UserError as error:
        if debug:
            raise
        typer.secho(f"error: {typed(error.block())}", err=True, fg="red")
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.secho("interrupted; finished work is kept, run the same command to go on", err=True)
        raise typer.Exit(130) from None


def agreed(question: str, yes: bool) -> bool:
    """Return whether the user agrees; `yes` answers for them.

    Raises
    ------
    ConfigError
        Nobody can be asked: standard input is no terminal.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigError("nobody is there to agree", where="standard input", todo="add --yes, or --dry-run to look")
    return typer.confirm(question)


def data_root(given: Path | None, environment: Mapping[str, str], home: Path, parts: Sequence[str]) -> Path:
    """Return the data root: `given`, else MIRC_DATA, else `home` where one of `parts` is there, else its sample/.

    Raises
    ------
    ConfigError
        The folder that was asked for is not there.
    """
    if given is not None or environment.get("MIRC_DATA"):
        root = (given or Path(environment["MIRC_DATA"])).expanduser()
        if not root.is_dir():
            raise ConfigError(
                "no such data root", where="--data" if given else "MIRC_DATA", got=root, todo="see data/README.md"
            )
        return root.resolve()
    return home if any((home / part).is_dir() for part in parts) else home / "sample"


def cache_folder(given: Path | None, environment: Mapping[str, str], home: Path) -> Path:
    """Return the cache: `given`, else MIRC_CACHE, else `home`/cache."""
    return (given or Path(environment.get("MIRC_CACHE") or home / "cache")).resolve()


def print_rich(renderable: object) -> None:
    """Print a table or other rich renderable to standard output."""
    from rich.console import Console

    Console().print(renderable)


def main(call: Callable[[], None], environment: MutableMapping[str, str]) -> None:
    """Run a command line with line-buffered output, so that logs of long runs are in order.

    Idle threads of OpenMP (torch, faiss, scikit-learn) sleep instead of spinning: beside another job on the same
    cores, spinning ones take the time that the working ones wait for. `environment` (the process' own) tells the
    library so before it is loaded, unless the user has chosen.
    """
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True)
    call()

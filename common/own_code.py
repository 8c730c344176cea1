"""A team's own code by the name of its file, so that several routes or rankers of one's own stand side by side."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.errors import ConfigError

OWN_FILE = r"^my_[a-z0-9_]+$"
"""What a file of one's own is called, without .py: a configuration names no module but these."""


def own_module(package: str, file: str) -> str:
    """Return the module name of `file`.py in a track's package; nothing is imported.

    Raises
    ------
    ConfigError
        There is no such file; the error lists the `my_` files that there are.
    """
    name = f"{package}.{file}"
    if find_spec(name) is None:
        spec = find_spec(package)
        folder = Path(spec.origin).parent if spec and spec.origin else Path(package)
        there = ", ".join(sorted(path.stem for path in folder.glob("my_*.py")))
        raise ConfigError(
            "no such file of your own", where=folder / f"{file}.py", expected=f"one of: {there}", got=file
        )
    return name


def load_class(module: str, name: str) -> Any:
    """Import a module and return its class `name`; raise `ConfigError` where it has none."""
    loaded = importlib.import_module(module)
    found = getattr(loaded, name, None)
    if found is None:
        raise ConfigError("the file lacks its class", where=module, expected=f"class {name}")
    return found

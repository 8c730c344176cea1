"""`python -m benchmarks.suite.child CALL ARGUMENTS OUT`: one measurement in a process of its own.

CALL is "module:function", ARGUMENTS a JSON object, OUT the file that the `Measured` is written to.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.suite.meter import peak
from benchmarks.suite.work import Measured
from common.atomic import write_text
from common.errors import UserError


def end_with(parent: int) -> None:
    """End this process and its children when the one that started it is gone: nothing measures for nobody."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=look, daemon=True).start()


def main(call: str, arguments: str, out: str) -> None:
    """Measure; an error ends in one line that says what it was."""
    try:
        measure(call, arguments, out)
    except Exception as error:
        traceback.print_exc()
        what = error.what if isinstance(error, UserError) else str(error)
        print(f"{type(error).__name__}: {' '.join(what.split())}", file=sys.stderr)  # one line, the last one
        sys.exit(1)


def measure(call: str, arguments: str, out: str) -> None:
    """Measure and write what was found."""
    if os.getpgid(0) == os.getpid():  # in a group of its own
        end_with(os.getppid())
    module, _, function = call.partition(":")
    found = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    if found is None:  # a preparation finds nothing
        found = Measured({})
    if found.peak is None:
        found = replace(found, peak=peak())
    write_text(Path(out), json.dumps(asdict(found)))


if __name__ == "__main__":
    main(*sys.argv[1:])

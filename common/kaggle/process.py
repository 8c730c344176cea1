"""Running the Kaggle client in a process of its own: time limits, a watch over what it writes, no secrets out."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.kaggle.credentials import hide, secret_values

# With these the client prints every request, its Authorization header with it.
_LOUD = ("VERBOSE", "VERBOSE_OUTPUT")
_LOOK = 0.2  # seconds between two looks at the folder


@dataclass(frozen=True)
class Answer:
    """What the client printed, and its exit code; `stalled` where it was ended for its silence.

    Secrets are taken out; addresses with their signatures are still in: what is shown goes through `redact`.
    """

    code: int
    out: str
    err: str
    stalled: bool = False

    @property
    def text(self) -> str:
        """Both outputs, errors first."""
        return f"{self.err}\n{self.out}".strip()


@dataclass(frozen=True)
class Watch:
    """A folder that must grow: by `rate` bytes a second on average over each `seconds`.

    `seen` is told the bytes that are there.
    """

    folder: Path
    seconds: float
    rate: float
    seen: Callable[[int], None]


def run_client(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    *,
    limit: float | None,
    watch: Watch | None = None,
    held: Sequence[int] = (),
) -> Answer:
    """Run `kaggle ARGUMENTS` and return its answer.

    Parameters
    ----------
    arguments
        A list; no shell sees it.
    environ
        The client's whole environment.
    limit
        Seconds after which it is ended; None sets no limit.
    watch
        Ends a client that stands still.
    held
        File descriptors that it inherits: a lock stays held as long as the client lives, whatever becomes of us.

    Raises
    ------
    UserError
        The client is not installed.
    """
    if importlib.util.find_spec("kaggle") is None:
        raise UserError("the Kaggle client is not installed", todo="pip install -r requirements.txt")
    kept = {name: value for name, value in environ.items() if name not in _LOUD} | {"PYTHONIOENCODING": "utf-8"}
    # -P: a folder named kaggle in the working directory is not the client.
    command = [sys.executable, "-P", "-m", "kaggle", "-W", *arguments]
    process = subprocess.Popen(
        command,
        env=kept,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=tuple(held),
    )
    try:
        out, err, stalled = _wait(process, limit, watch)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    secrets = secret_values(environ)
    said, told = (hide(data.decode("utf-8", errors="replace"), secrets) for data in (out, err))
    return Answer(process.returncode, said, told, stalled)


def _wait(process: subprocess.Popen[bytes], limit: float | None, watch: Watch | None) -> tuple[bytes, bytes, bool]:
    began = mark = time.monotonic()
    size = 0
    while True:
        try:
            return *process.communicate(timeout=_LOOK if watch or limit else None), False
        except subprocess.TimeoutExpired:
            now = time.monotonic()
        ended = limit is not None and now - began > limit
        if watch is not None:
            there = folder_bytes(watch.folder)
            watch.seen(there)
            size = min(size, there)  # a file that is begun again
            if now - mark >= watch.seconds:
                ended = ended or there - size < watch.rate * (now - mark)
                mark, size = now, there
        if ended:
            process.kill()
            return *process.communicate(), True


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files under a folder, as far as they can be seen."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size  # noqa: PTH116, PTH118
            except OSError:  # gone since it was listed
                continue
    return total

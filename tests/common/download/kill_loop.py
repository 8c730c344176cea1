"""Downloads that are killed at random moments, each in a process of its own; prints what was found after each.

python -m tests.common.download.kill_loop ROOT ADDRESS ROUNDS SEED: the server at ADDRESS has `rows.jsonl` and
`pics.zip`, in one of several versions that it tells apart by itself.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from common.download.command import Options, download, make_setup
from common.download.fetcher import Choices
from common.download.journal import old_of, recover, tidy
from common.download.net import Net
from common.download.parts import Offer, Part, Want
from common.download.record import Record

FOLDERS = ("pics",)


def parts(address: str) -> list[Part]:
    """Return a table and a folder of pictures."""
    offers = (Offer("pages", f"{address}/d/"),)
    return [
        Part("rows", "rows", "all", (Want("t", (r"rows\.jsonl",)),), offers),
        Part("pics", "pictures", "all", (Want("pics", (r"pics\.zip",), folder=True),), offers),
    ]


def state(root: Path) -> dict[str, str]:
    """Return the digest of the table, and of the folder's names and bytes; "" where there is none."""
    found = {"rows": "", "pics": ""}
    if (root / "t" / "rows.jsonl").is_file():
        found["rows"] = hashlib.sha256((root / "t" / "rows.jsonl").read_bytes()).hexdigest()
    folder = root / "pics" if (root / "pics").is_dir() else old_of(root / "pics")
    if folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        content = b"".join(f"{p.relative_to(folder)}\n".encode() + p.read_bytes() for p in files)
        found["pics"] = hashlib.sha256(content).hexdigest()
    return found


def recorded(root: Path) -> bool:
    """Recover the root as the next download does; return whether its record then fits what is there."""
    record = Record(root)
    for name in FOLDERS:
        tidy(root / name)
    recover(root, record)
    entry = record.get("t/rows.jsonl")
    return entry is None or entry.sha256 == state(root)["rows"]


def kill_after(child: int, seconds: float) -> tuple[bool, float]:
    """Kill a process when the time is up; return whether that ended it, and after how long it was gone."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False, time.monotonic() - began
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1]), time.monotonic() - began


def main() -> None:
    """Run the loop."""
    root, address, rounds, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    rng, whole = random.Random(seed), 60.0
    options = Options(again=True, choices=Choices(accept_changes=True))
    for number in range(rounds + 1):
        child = os.fork()
        if child == 0:
            setup = make_setup({}, root, Net(read=5.0, backoff=0.01), lambda _: None)
            download(parts(address), root, options, setup, lambda _: [])
            os._exit(0)
        # The first one comes to its end. The shortest so far tells how long one takes.
        killed, took = kill_after(child, rng.uniform(0, 1.3 * whole) if number else whole)
        whole = whole if killed else min(whole, took)
        if number:
            before = state(root)
            fits = recorded(root)
            print(json.dumps({"killed": killed, "before": before, "after": state(root), "fits": fits}))


if __name__ == "__main__":
    main()

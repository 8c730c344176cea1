"""Downloads killed at random moments: what is there is always the old state or the new one, and the record fits."""

import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.common.download.archive_files import zip_bytes
from tests.common.download.helpers import random_bytes
from tests.loopback.http_server import Served, Trouble, WebServer

ROOT = Path(__file__).resolve().parents[3]


def table(version: int) -> bytes:
    return f'{{"version": {version}}}\n'.encode() * 9000


def pictures(version: int) -> list[tuple[str, bytes]]:
    return [(f"{number}.jpg", random_bytes(2000, seed=number + 1000 * version)) for number in range(60)]


def digests(version: int) -> tuple[str, str]:
    """Return the digests of one version, as the loop makes them."""
    members = sorted(pictures(version))
    content = b"".join(f"{name}\n".encode() + data for name, data in members)
    return hashlib.sha256(table(version)).hexdigest(), hashlib.sha256(content).hexdigest()


def kills(folder: Path, rounds: int) -> list[dict[str, object]]:
    """Kill downloads of two versions that take turns on the server."""
    sites = [
        {"/d/rows.jsonl": Served(table(version)), "/d/pics.zip": Served(zip_bytes(pictures(version)))}
        for version in (0, 1)
    ]
    with WebServer(sites[0]) as web:
        turn = [0]

        def change() -> None:
            turn[0] += 1
            web.files.update(sites[turn[0] % 2])

        # Each list of files is a new version: a download asks for it once, at its beginning.
        web.files["/d/"] = Served(b'<a href="rows.jsonl">r</a><a href="pics.zip">p</a>', kind="text/html")
        web.always["/d/"] = Trouble(before=change)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.common.download.kill_loop",
                folder,
                web.address,
                str(rounds),
                "5",
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(rounds: list[dict[str, object]], at_least: int) -> None:
    """Check every round: the old state or a new one, of table and pictures each."""
    known = {name: {digests(version)[place] for version in (0, 1)} for place, name in enumerate(("rows", "pics"))}
    for number, found in enumerate(rounds):
        for when in ("before", "after"):
            states = found[when]
            assert isinstance(states, dict)
            for name, digest in states.items():
                assert digest in known[name], (number, when, name)
        assert found["fits"], number
    assert sum(bool(found["killed"]) for found in rounds) >= at_least
    after = [found["after"] for found in rounds]
    assert any(first != second for first, second in itertools.pairwise(after))  # some came to their end


def test_a_kill_leaves_the_old_or_the_new_state(tmp_path: Path) -> None:
    check(kills(tmp_path, 12), 4)


@pytest.mark.slow
def test_fifty_kills_leave_the_old_or_the_new_state(tmp_path: Path) -> None:
    check(kills(tmp_path, 50), 15)

"""What the tests of downloads share: quick limits that record their waits, and files made from a seed."""

import random
from dataclasses import dataclass, field
from pathlib import Path

from common.download.net import Net, Remote, session
from common.download.transfer import fetch


@dataclass
class Told:
    """Lines that were said, and seconds that were waited."""

    lines: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def net(self, *, tries: int = 4, read: float = 5.0, slow_rate: float = 1024.0, slow_after: float = 60.0) -> Net:
        """Return limits whose waits take no time."""
        return Net(5.0, read, tries, 1.0, 120.0, slow_rate, slow_after, sleep=self.waits.append)

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join(self.lines)


def random_bytes(size: int, seed: int = 0) -> bytes:
    """Return bytes that do not repeat and do not shrink."""
    return random.Random(seed).randbytes(size)


def remote(address: str, path: str, size: int | None = None, sha256: str | None = None, **headers: str) -> Remote:
    """Return a file of a test server."""
    name = path.rpartition("/")[2]
    return Remote(name, f"{address}{path}", f"test {path}", size, sha256, headers)


def get(file: Remote, part: Path, told: Told, net: Net | None = None) -> str:
    """Fetch a file as downloads do."""
    with session() as http:
        return fetch(file, part, net or told.net(), http, told.lines.append)

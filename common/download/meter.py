"""How far a transfer is: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from common.download.net import Net, Say
from common.progress import bar

LINE_SECONDS = 30.0


def size_text(count: float | None) -> str:
    """Return a number of bytes for people.

    >>> size_text(2_570_000_000), size_text(999), size_text(None)
    ('2.57 GB', '999 B', '?')
    """
    if count is None:
        return "?"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"


def time_text(seconds: float) -> str:
    """Return a duration for people.

    >>> time_text(75), time_text(4000)
    ('1 min 15 s', '1 h 7 min')
    """
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


class Meter:
    """Shows name, bytes, rate and the time that is left."""

    def __init__(self, name: str, total: int | None, start: int, net: Net, say: Say) -> None:
        self.name, self.total, self.start, self.net, self.say = name, total, start, net, say
        self.done = start
        self.began = self.last = net.clock()
        self._bar = bar(name, total=total, unit="B")
        self._bar.unit_scale = True
        if start:
            self._bar.update(start)

    def add(self, count: int) -> None:
        """Count bytes that have come."""
        self.done += count
        self._bar.update(count)
        now = self.net.clock()
        if self._bar.disable and now - self.last >= LINE_SECONDS:
            self.last = now
            self.say(f"{self.name}: {self.line(now)}")

    def line(self, now: float) -> str:
        """Return bytes, rate and time left."""
        rate = (self.done - self.start) / max(now - self.began, 1e-9)
        left = ""
        if self.total is not None and rate > 0:
            left = f", {time_text((self.total - self.done) / rate)} left"
        of = "" if self.total is None else f" of {size_text(self.total)}"
        return f"{size_text(self.done)}{of}, {size_text(rate)}/s{left}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.close()

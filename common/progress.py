"""Progress with a rate and an ETA; silent when the output is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar, cast

from tqdm import tqdm

T = TypeVar("T")
_hushed = False


def hush() -> None:
    """Show no bar from now on in this process: another one shows them."""
    global _hushed
    _hushed = True


def progress(items: Iterable[T], what: str, *, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Iterate over `items` and show `what`, the count, the rate and the ETA on standard error."""
    yield from bar(what, total=total, unit=unit, items=items)


def bar(what: str, *, total: int | None = None, unit: str = "it", items: Iterable[T] | None = None) -> tqdm[T]:
    """Return a tqdm bar to update by hand; disabled when standard error is not a terminal."""
    made = tqdm(
        items,
        desc=what,
        total=total,
        unit=unit,
        disable=_hushed or not sys.stderr.isatty(),
        dynamic_ncols=True,
        leave=False,
    )
    return cast("tqdm[T]", made)  # without items the type of the bar's items is not known

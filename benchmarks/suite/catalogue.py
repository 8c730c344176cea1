"""All works, in the order of the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.suite import works_codes, works_ctr, works_engines, works_jobs, works_pages, works_text
from benchmarks.suite.work import Context, Work
from common.errors import ConfigError

WORKS: dict[str, Callable[[Context], Work]] = {
    "din": works_ctr.din,
    "rankers": works_ctr.rankers,
    "pdf": works_pages.pdf,
    "ocr": works_pages.scans,
    "text": works_text.text,
    "bm25": works_text.lexical,
    "quantizers": works_codes.coders,
    "trie": works_codes.trie,
    "beam": works_codes.beams,
    "index": works_engines.indexes,
    "ray": works_engines.ray,
    "reports": works_jobs.reports,
    "jobs": works_jobs.jobs,
    "startup": works_jobs.startup,
}


def chosen(names: str | None, known: Sequence[str], option: str = "--only") -> list[str]:
    """Return the names of a list with commas, all where there is none.

    Raises
    ------
    ConfigError
        A name is not known.
    """
    if not names:
        return list(known)
    asked = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise ConfigError(f"no such work: {', '.join(unknown)}", where=option, expected=f"some of: {', '.join(known)}")
    return asked

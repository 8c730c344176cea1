"""Plain web pages: folder listings as servers make them, and single files."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import PurePosixPath
from urllib.parse import quote, unquote, urljoin, urlsplit

import urllib3

from common.download.net import Attempts, Hints, Remote, SourceError, Transient, open_url
from common.download.parts import Found, Offer
from common.download.source import HttpSource, Setup
from common.download.transfer import head

PAGE_BYTES = 4 << 20
PAGES = 40
"""Most folders of a page that are looked into."""
_PAGE_HINTS = Hints(
    login="the page is open to all as a rule: open it in a browser and see what it asks for",
    rules="open the page in a browser and see what it asks for, or try another --source",
)


class PagesSource(HttpSource):
    """Plain web pages: a folder listing as servers make it, followed into its folders; or one file by its address."""

    def __init__(self, offer: Offer, setup: Setup) -> None:
        super().__init__(offer, setup)
        self._files: list[Found] | None = None
        self._sizes: dict[str, int | None] = {}

    def files(self) -> Sequence[Found]:
        """See `Source`."""
        if self._files is None:
            base = self.offer.address
            if not base.endswith("/"):
                self._files = [Found(unquote(urlsplit(base).path.rpartition("/")[2]))]
            else:
                self._files = self._walk(base)
        return self._files

    def _walk(self, base: str) -> list[Found]:
        waiting, seen, found = [base], {base}, list[Found]()
        while waiting and len(seen) <= PAGES:
            page = waiting.pop(0)
            for link in self._links(page):
                address = urljoin(page, link).partition("#")[0]
                if not address.startswith(base) or "?" in address or address in seen:
                    continue
                seen.add(address)
                if address.endswith("/"):
                    waiting.append(address)
                else:
                    found.append(Found(unquote(address[len(base) :])))
        if not found:
            raise SourceError(
                "the page lists no files", where=self.offer.title, todo="open it in a browser: the data may have moved"
            )
        return found

    def _links(self, page: str) -> list[str]:
        remote = Remote("the list of files", page, page, hints=_PAGE_HINTS)
        attempts = Attempts(self.setup.net, self.setup.say)
        while True:
            try:
                with contextlib.closing(open_url(self.http, "GET", remote, self.setup.net)) as answer:
                    text = answer.raw.read(PAGE_BYTES, decode_content=True)
                break
            except Transient as fault:
                attempts.failed(fault)
            except (urllib3.exceptions.HTTPError, OSError):
                error = SourceError(
                    "the list of files cannot be read", where=self.offer.title, todo=_PAGE_HINTS.missing
                )
                attempts.failed(Transient(error))
        parser = _Links()
        parser.feed(text.decode("utf-8", "replace"))
        return parser.found

    def size(self, file: Found) -> int | None:
        """See `Source`."""
        if file.name not in self._sizes:
            self._sizes[file.name] = head(self.remote(file), self.setup.net, self.http, self.setup.say)
        return self._sizes[file.name]

    def remote(self, file: Found) -> Remote:
        """See `HttpSource`."""
        base = self.offer.address
        url = base + quote(file.name) if base.endswith("/") else base
        return Remote(PurePosixPath(file.name).name, url, f"pages {url}", self._sizes.get(file.name), hints=_PAGE_HINTS)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]

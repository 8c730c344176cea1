"""Pages in a headless Chromium, for the tests of all that writes pages.

How a test finds its way about a page: charts are drawn when `open` returns (`.plot svg`); a gallery's controls are
`input[type=search]`, `select[data-filter=KEY]` (a Choice's key), `select[data-sort]`, `.turn`, `.reset`; `.count` says
"shown 12 of 60 questions"; `.card[data-card=N]` is the N-th of the cards given, drawn as one scrolls.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

DEBIAN = Path("/usr/bin/chromium")
ARGUMENTS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# Text that runs out of a box that cuts it, or out of the window; what a scrolling box holds can be reached.
_CUT = """() => {
  const cut = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const parent = node.parentElement;
    if (!node.data.trim() || parent.closest("script, style, noscript, select, .skip")) continue;
    if (!parent.checkVisibility({ contentVisibilityAuto: true, visibilityProperty: true })) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const boxes = parent.closest("svg") ? [parent.getBoundingClientRect()] : [...range.getClientRects()];
    let reach = parent;
    for (; reach; reach = reach.parentElement) {
      const style = getComputedStyle(reach);
      if (/auto|scroll/.test(style.overflowX + style.overflowY)) break;
      const clips = /hidden|clip/.test(style.overflow) || style.contentVisibility === "auto";
      if (!clips) continue;
      const edge = reach.getBoundingClientRect();
      const over = boxes.find((b) => b.right > edge.right + 2 || b.left < edge.left - 2
        || b.bottom > edge.bottom + 2 || b.top < edge.top - 2);
      if (over) { cut.push(`${node.data.trim().slice(0, 60)} (in ${reach.tagName} ${reach.className})`); break; }
    }
    if (!reach && boxes.some((b) => b.right > innerWidth + 1 || b.left < -1)) {
      cut.push(`${node.data.trim().slice(0, 60)} (out of the window)`);
    }
  }
  return cut;
}"""


@dataclass
class BrowserPage:
    """Opens files in the browser and keeps what went wrong in them."""

    browser: Browser
    faults: list[str] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)

    def open(self, path: Path, width: int = 1440, height: int = 900, scheme: str = "light", anchor: str = "") -> Page:
        """Open a file, its charts drawn; errors of the console and requests fail the test when it ends."""
        context = self.browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda said: self._told(said.type, said.text))
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("requestfailed", lambda request: self.faults.append(f"failed request: {request.url[:200]}"))
        page.on("request", lambda request: self._asked(request.url))
        page.goto(path.as_uri() + anchor)
        if page.locator("[data-chart]").count():
            page.wait_for_selector("html[data-charts=drawn]", state="attached")
        return page

    def close(self) -> None:
        """Close everything and fail on what went wrong."""
        for context in self.contexts:
            context.close()
        assert not self.faults, "\n".join(self.faults)

    def _told(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.faults.append(f"{kind} in the console: {text}")

    def _asked(self, url: str) -> None:
        if not url.startswith(("file:", "data:", "blob:")):
            self.faults.append(f"request to the network: {url[:200]}")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Headless Chromium: Debian's, or Playwright's own; skips, saying what to install, where neither is there.

    Once a module, not a session: while it is open, its event loop forbids asyncio.run to all other tests.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = DEBIAN if DEBIAN.exists() else Path(playwright.chromium.executable_path)
        if not path.exists():
            pytest.skip("no Chromium: apt-get install chromium, or python -m playwright install chromium")
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # root has no sandbox
        browser = playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS, *sandbox])
        yield browser
        browser.close()


@pytest.fixture
def browser_page(chromium: Browser) -> Iterator[BrowserPage]:
    """Pages in Chromium: `browser_page.open(path, width=360)`."""
    opened = BrowserPage(chromium)
    yield opened
    opened.close()


def until(page: Page, condition: str) -> None:
    """Wait for a condition in JavaScript; Playwright's own wait needs eval, which a page's policy forbids."""
    for _ in range(400):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"not within 10 s: {condition}")


def assert_fits(page: Page) -> None:
    """Fail where the body is wider than the window, or a text is cut."""
    width, room = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= room, f"the page is {width} pixels wide in a window of {room}"
    cut = page.evaluate(_CUT)
    assert not cut, "text is cut: " + "; ".join(cut[:5])

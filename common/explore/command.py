"""The end of `explore` on both tracks: the page is written, the findings are printed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from common.cli import print_rich
from common.explore.findings import Finding, counted, render
from common.pages.blocks import Page
from common.pages.render import write_page


def finish(findings: Sequence[Finding], page: Page, target: Path, following: str, say: Callable[[str], None]) -> None:
    """Write the page to `target`, print the findings and their number; `following` is the command to type next."""
    size = write_page(target, page)
    print_rich(render(findings))
    say(counted(findings))
    say(f"wrote {target} ({size / 1e6:.1f} MB): open it in a browser")
    say(f"next: {following}")

"""The README's three pictures, taken of pages that a run of each track left behind.

    ./run_all.sh && .venv/bin/python -m docs.make_pictures

opens the reports of the last run of each track (or of --track1 RUN, --track2 RUN) in headless Chromium.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "pictures"
WIDTH, HEIGHT, QUALITY = 1280, 760, 82
BROWSER = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync")


@dataclass(frozen=True)
class Picture:
    """A part of a page: the track whose report it is, where on it, and in which colours."""

    name: str
    track: str
    anchor: str
    scheme: Literal["light", "dark"]


PICTURES = (
    Picture("track1-scores", "track1_mdr", "scores", "light"),
    Picture("track1-questions", "track1_mdr", "questions", "dark"),
    Picture("track2-items", "track2_mmctr", "neighbours", "light"),
)


def take(pages: dict[str, Path]) -> None:
    """Write docs/pictures/NAME.webp for each picture; `pages` holds each track's report."""
    from playwright.sync_api import sync_playwright

    debian = Path("/usr/bin/chromium")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=debian if debian.is_file() else None, args=list(BROWSER))
        for picture in PICTURES:
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=picture.scheme)
            page.goto(pages[picture.track].as_uri())
            for _ in range(6):  # what is drawn on the way moves the place
                page.locator(f"#{picture.anchor}").evaluate("(e) => e.scrollIntoView()")
                page.wait_for_timeout(600)
            shot = Image.open(io.BytesIO(page.screenshot()))
            target = OUT / f"{picture.name}.webp"
            shot.convert("RGB").save(target, "WEBP", quality=QUALITY, method=6)
            typer.echo(f"wrote {target.relative_to(ROOT)}: {target.stat().st_size / 1000:.0f} kB")
        browser.close()


def main(
    track1: Annotated[str, typer.Option(help="A run of Track 1")] = "last",
    track2: Annotated[str, typer.Option(help="A run of Track 2")] = "last",
) -> None:
    """Write the reports of both runs, and take the pictures."""
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pages = {"track1_mdr": Path(folder) / "1.html", "track2_mmctr": Path(folder) / "2.html"}
        for (module, page), run in zip(pages.items(), (track1, track2), strict=True):
            subprocess.run([sys.executable, "-m", module, "report", run, "--out", str(page)], check=True, cwd=ROOT)
        take(pages)


if __name__ == "__main__":
    typer.run(main)

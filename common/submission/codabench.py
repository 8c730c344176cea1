"""What a user does on Codabench, which takes uploads in the browser: the page, and each step with the file's name.

The competition's number is the organisers'; the names of tabs and states are the platform's as we know them, and
were not compared with the live site.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

COMPETITION = 5372
PAGE = "https://www.codabench.org/competitions/{}/"


def page(competition: int = COMPETITION) -> str:
    """Return the competition's page."""
    return PAGE.format(competition)


def steps(zip_file: Path, tasks: Sequence[str], competition: int = COMPETITION) -> list[str]:
    """Return the steps of an upload, a line each."""
    column = " and ".join(tasks)
    return [
        f"1. open {page(competition)} and sign in (or sign up, which asks for a confirmed e-mail address)",
        "2. tab My Submissions; the first time: accept the terms there, register, and wait until the organisers agree",
        f"3. choose the phase or task that takes the column {column}; a file with another column scores nothing there",
        f"4. click the upload button and choose {zip_file} as it is, neither unpacked nor packed again",
        "5. wait until its status is Finished (Failed: open it and read the logs), and note the score",
        f"6. python -m common.submissions record {zip_file} --public SCORE",
    ]

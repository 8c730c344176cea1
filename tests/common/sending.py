"""A Kaggle in a folder, and a worker that writes and sends submissions until it is killed."""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from common.kaggle import Kaggle, KaggleError, Limits, Submission
from common.submission.mdr import ExpectedSubmission, write_submission
from common.submission.send import outgoing, send

PAGES = {str(question): 9 for question in range(10_000, 10_040)}
EXPECTED = ExpectedSubmission(pages=PAGES)


@dataclass
class FolderKaggle(Kaggle):
    """Keeps what is submitted as files in `folder`, so that it outlives a process; `script` changes what happens."""

    folder: Path
    allowed: int = 10_000
    script: dict[str, list[Exception]] = field(default_factory=dict)
    score: float | None = 0.5
    error: str | None = None
    new_user: bool = False
    rest: float = 0.0
    on_wait: Callable[[], None] = lambda: None

    def _step(self, name: str) -> None:
        time.sleep(self.rest)
        if self.script.get(name):
            raise self.script[name].pop(0)

    def all(self) -> list[Submission]:
        """Return what was submitted, oldest first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files = sorted(self.folder.glob("*.json"), key=lambda path: int(path.stem))
        return [Submission(**json.loads(path.read_text())) for path in files]

    def limits(self, competition: str) -> Limits | None:
        self._step("limits")
        count = len(self.all())
        if self.new_user:
            return Limits(0, 0, 0)
        return Limits(count, count + 7, max(self.allowed - count, 0))

    def submit(self, competition: str, file: Path, message: str) -> Submission:
        self._step("submit")
        ref = len(self.all())
        row = {"competition": competition, "file": file.read_text(), "message": message, "ref": ref}
        hidden = self.folder / f".{ref}"
        hidden.write_text(json.dumps(row))
        hidden.replace(self.folder / f"{ref}.json")
        self._step("answer")
        return Submission(competition, str(file), message, ref)

    def find(self, competition: str, mark: str) -> Submission | None:
        self._step("find")
        return next((sent for sent in reversed(self.all()) if mark in sent.message), None)

    def look(self, submission: Submission) -> Submission:
        self._step("look")
        status = "error" if self.error else "complete" if self.score is not None else "pending"
        return Submission(
            submission.competition, submission.file, submission.message, submission.ref, status, self.score, self.error
        )

    def wait(
        self,
        submission: Submission,
        *,
        seconds: float = 900.0,
        seen: Callable[[Submission, float], None] = lambda *_: None,
    ) -> Submission:
        self.on_wait()
        found = self.look(submission)
        seen(found, 0.0)
        return found


def network() -> KaggleError:
    """Return an error after which nobody knows whether the file arrived."""
    return KaggleError("network", "Kaggle did not take the submission", got="connection reset", todo="try again")


def rankings(version: int) -> dict[str, list[str]]:
    """Return all rows of a version; no two versions are alike."""
    return {question: [str((version >> row & 1) + i) for i in range(5)] for row, question in enumerate(PAGES)}


def write(version: int, folder: Path) -> None:
    """Write a version of the file."""
    write_submission(folder / "mine.csv", rankings(version), EXPECTED)


def deliver(folder: Path, rest: float = 0.0) -> None:
    """Send the file that is there."""
    what = outgoing("track1", "slug", folder / "mine.csv", "rows", folder / "runs", None, lambda: None)
    send(what, FolderKaggle(folder / "kaggle", rest=rest), folder / "runs", agree=lambda: True, say=lambda _: None)


def main() -> None:
    """Fork a worker for each version number on standard input; say its process number, then how it ended.

    A worker writes the file and sends it; of an odd version it only sends it, so that more kills hit that.
    """
    folder = Path(sys.argv[1])
    while line := sys.stdin.readline():
        version = int(line)
        if version % 2:
            write(version, folder)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                if version % 2 == 0:
                    write(version, folder)
                deliver(folder, rest=0.003)
                code = 0
            finally:
                os._exit(code)
        print(child, flush=True)
        sys.stdin.readline()  # until then an ended worker keeps its number
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print({0: "ended", -9: "killed"}.get(status, f"failed with {status}"), flush=True)


if __name__ == "__main__":
    main()

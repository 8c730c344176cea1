"""Kaggle's competitions and data sets: list and download files, submit, read scores.

A place is a competition's name, or a data set's OWNER/NAME where a method takes both.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import DataError, UserError
from common.kaggle.answers import Status, fields, rows, score_of, status_of
from common.kaggle.credentials import Credentials, find_credentials
from common.kaggle.delivery import alone, move_into_place, part_folder, whole_file
from common.kaggle.errors import RETRIED, RULES_PAGE, KaggleError, explain, kind_of, no_login, short
from common.kaggle.process import Answer, Watch, run_client

__all__ = ["RULES_PAGE", "Kaggle", "Limits", "RemoteFile", "Submission"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)?")
_TRIES = 4


@dataclass(frozen=True)
class RemoteFile:
    """A file that Kaggle offers; `size` in bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Limits:
    """Submissions made today (UTC) and in all, and how many more are allowed today.

    All three are 0 for a user who is in no team yet: then nothing is known.
    """

    today: int
    total: int
    left: int


@dataclass(frozen=True)
class Submission:
    """A file that was sent: `ref` is Kaggle's number of it; `public_score` in Kaggle's own unit."""

    competition: str
    file: str
    message: str
    ref: int
    status: Status = "pending"
    public_score: float | None = None
    error: str | None = None


class Kaggle:
    """Kaggle for one user.

    Parameters
    ----------
    environ
        The environment of the client, in which credentials are looked for; `os.environ` as a rule.
    pause
        Sleeps between tries; tests hand in a shorter one.
    stall
        (seconds, bytes a second): a download that grows less is ended; the same call resumes it.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        pause: Callable[[float], None] = time.sleep,
        stall: tuple[float, float] = (120.0, 1000.0),
    ) -> None:
        self._environ = dict(environ)
        self._pause, self._stall = pause, stall
        self._listed: dict[str, list[RemoteFile]] = {}

    def credentials(self) -> Credentials | None:
        """Return where the credentials are that the client takes, never what they are; None where there are none."""
        return find_credentials(self._environ)

    def files(self, competition: str) -> list[RemoteFile]:
        """Return the files of a competition or data set.

        Raises
        ------
        KaggleError
            No credentials, rules not accepted, no such place, too many requests, ...
        """
        found: list[RemoteFile] = []
        token: str | None = None
        while True:
            paging = ["--page-size", "200", *(["--page-token", token] if token else [])]
            command = [_group(competition), "files", competition, "--format", "json", *paging]
            answer = self._ask(command, competition, "list its files")
            for row in rows(answer, competition):
                found.append(RemoteFile(str(row["name"]), int(row["size"])))
            more = re.search(r"^Next Page Token = (\S+)$", answer.out, re.MULTILINE)
            if more is None or more[1] == token:
                break
            token = more[1]
        self._listed[competition] = found
        return found

    def download(
        self,
        competition: str,
        folder: Path,
        *,
        file: str | None = None,
        seen: Callable[[int], None] = lambda _: None,
    ) -> Path:
        """Download one file, or the zip of all, into `folder`; it appears there whole or not at all.

        What was cut, by an error or a kill, is kept in a hidden folder beside it, and the same call goes on there,
        where the server still has the same file. Kaggle gives no checksum: a zip is checked to be whole, and any
        other file to have the listed size; members of a zip are checked when they are unpacked.

        Parameters
        ----------
        competition
            A competition, or a data set OWNER/NAME.
        file
            The name as `files` has it; None takes all as one zip.
        seen
            Told, a few times a second, the bytes that are on disk so far.

        Returns
        -------
        Path
            The file: `<place>.zip`, or the file's own name, with `.zip` behind it where Kaggle zipped it.

        Raises
        ------
        KaggleError
            As `files`; the download stands still; a web page or a damaged file came.
        UserError
            Another process downloads the same file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        size = None if file is None else self._size(competition, file)
        part = part_folder(folder, competition, file)
        command = [_group(competition), "download", competition, "-p", str(part), "-q"]
        if file is not None:
            command += ["-f", file]
        with alone(part) as lock:
            watch = Watch(part, *self._stall, seen)
            # The client itself resumes five times.
            self._ask(command, competition, "send the file", limit=None, tries=2, watch=watch, held=[lock])
            return move_into_place(whole_file(part, competition, file, size), part, folder)

    def limits(self, competition: str) -> Limits | None:
        """Return today's allowance; None where Kaggle does not tell."""
        try:
            command = ["competitions", "submission-limits", competition, "--json"]
            answer = self._ask(command, competition, "tell today's allowance")
            values = json.loads(answer.out[answer.out.index("{") :])
        except KaggleError as error:
            if error.kind == "absent":
                return None
            raise
        except ValueError:
            return None
        return Limits(*(int(values.get(name) or 0) for name in ("numToday", "numTotal", "numAllowedNow")))

    def submit(self, competition: str, file: Path, message: str) -> Submission:
        """Send a file, once. Whether it scores, `wait` tells.

        Raises
        ------
        KaggleError
            Kaggle refused it: `kind` "refused" with its own words (a daily limit, a closed competition). After any
            other kind the file may have arrived all the same: `find` tells.
        DataError
            There is no such file.
        """
        if not file.is_file():
            raise DataError("there is no such file", where=file, todo="check the path of the submission file")
        command = ["competitions", "submit", competition, "-f", str(file.resolve()), f"--message={message}", "-q"]
        answer = self._run(command, competition, limit=900.0)
        if answer.stalled:
            raise KaggleError(
                "stalled", "the upload did not end in 15 minutes", where=competition, todo="check the connection"
            )
        found = re.search(r"^Submission ref: (\d+)$", answer.out, re.MULTILINE)
        if answer.code == 0 and found is None:
            raise KaggleError(
                "answer",
                "Kaggle took the submission and gave no number for it",
                where=competition,
                got=short(answer.text),
                todo="see the submissions page of the competition in a browser",
            )
        if answer.code != 0 or found is None:
            raise explain(answer.text, competition, "take the submission", self.credentials())
        return Submission(competition, str(file), message, int(found[1]))

    def find(self, competition: str, mark: str) -> Submission | None:
        """Return the newest submission (of the last 20) whose description has `mark` in it, or None."""
        command = ["competitions", "submissions", competition, "--format", "json"]
        answer = self._ask(command, competition, "list the submissions")
        for row in rows(answer, competition) if "[" in answer.out else []:
            if mark in str(row.get("description") or ""):
                sent = Submission(competition, str(row["fileName"]), str(row["description"]), int(row["ref"]))
                return replace(
                    sent, status=status_of(str(row["status"])), public_score=score_of(row.get("publicScore"))
                )
        return None

    def look(self, submission: Submission) -> Submission:
        """Return the submission with its status and score of now."""
        command = ["competitions", "submission", str(submission.ref)]
        answer = self._ask(command, submission.competition, "tell the state of the submission")
        told = fields(answer.out)
        if "Status" not in told:
            raise KaggleError(
                "answer",
                "Kaggle's answer about a submission cannot be read",
                where=submission.ref,
                got=short(answer.text),
                todo="see the submissions page of the competition in a browser",
            )
        status = status_of(told["Status"])
        error = (told.get("Error") or "Kaggle gives no reason") if status == "error" else None
        return replace(submission, status=status, public_score=score_of(told.get("Public Score")), error=error)

    def wait(
        self,
        submission: Submission,
        *,
        seconds: float = 900.0,
        seen: Callable[[Submission, float], None] = lambda *_: None,
    ) -> Submission:
        """Ask until the submission is scored or refused; after `seconds` it is returned as "pending".

        `seen` is told each answer and the seconds waited so far.
        """
        waited, rest = 0.0, 2.0
        while True:
            try:
                submission = self.look(submission)
            except KaggleError as error:  # a new submission may not be found for a moment
                if error.kind != "absent":
                    raise
            seen(submission, waited)
            if submission.status != "pending" or waited >= seconds:
                return submission
            rest = min(rest * 1.5, 30.0, max(seconds - waited, 0.1))
            self._pause(rest)
            waited += rest

    def _size(self, place: str, file: str) -> int:
        listed = self._listed.get(place) or self.files(place)
        sizes = {entry.name: entry.size for entry in listed}
        if file not in sizes:
            names = ", ".join(list(sizes)[:10]) + (", ..." if len(sizes) > 10 else "")
            raise KaggleError("absent", f"{place} has no file {file}", got=names, todo="name one of these")
        return sizes[file]

    def _ask(
        self,
        command: Sequence[str],
        place: str,
        doing: str,
        *,
        limit: float | None = 180.0,
        tries: int = _TRIES,
        watch: Watch | None = None,
        held: Sequence[int] = (),
    ) -> Answer:
        """Run a command that may be run again; too many requests, server and network errors are tried again."""
        for number in range(1, tries + 1):
            answer = self._run(command, place, limit=limit, watch=watch, held=held)
            if answer.stalled:
                raise KaggleError(
                    "stalled",
                    f"Kaggle stood still and did not {doing}",
                    where=place,
                    todo="check the connection, then run the same command again: it goes on where it was",
                )
            if answer.code == 0:
                return answer
            if number == tries or kind_of(answer.text) not in RETRIED:
                raise explain(answer.text, place, doing, self.credentials())
            self._pause(2.0**number)
        raise AssertionError("unreachable")

    def _run(
        self,
        command: Sequence[str],
        place: str,
        *,
        limit: float | None,
        watch: Watch | None = None,
        held: Sequence[int] = (),
    ) -> Answer:
        if not _NAME.fullmatch(place):
            raise UserError("not a name of Kaggle", expected="a competition, or OWNER/NAME of a data set", got=place)
        if self.credentials() is None:
            raise no_login()
        return run_client(command, self._environ, limit=limit, watch=watch, held=held)


def _group(place: str) -> str:
    return "datasets" if "/" in place else "competitions"

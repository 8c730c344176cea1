"""Runs and bare submissions side by side: what `compare` is given, read and scored alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import ConfigError
from common.metrics.retrieval import KS
from common.submission.mdr import TASKS, read_submission
from track1_mdr.compare import Comparison, Contestant, compare_two
from track1_mdr.evaluate import known_gold, scorable
from track1_mdr.gold import Ground
from track1_mdr.report.collect import RunFiles, find_run, read_run
from track1_mdr.report.page import data_config
from track1_mdr.report.scoring import final_answers
from track1_mdr.report.views import Data, read_data


@dataclass(frozen=True)
class Entry:
    """One of the runs to compare.

    Attributes
    ----------
    label
        "A", "B", ... in the order given: what a page calls it where there is little room.
    name
        The folder's name, or the file's.
    file
        The submission, None where a run's is lost.
    run
        What the run left; None for a bare submission.
    """

    label: str
    name: str
    file: Path | None
    run: RunFiles | None

    @property
    def what(self) -> str:
        """The configuration's name, or the file's."""
        return str(self.run.record.get("config", self.name)) if self.run is not None else self.name


def read_entries(given: Sequence[str], runs: Path) -> list[Entry]:
    """Return what was given: submission files, and runs by folder, name or "last".

    Raises
    ------
    ConfigError
        Fewer than two, or more than there are letters.
    DataError
        There is no such file and no such run.
    """
    if not 2 <= len(given) <= 26:
        raise ConfigError("nothing to compare", where="compare", expected="2 to 26 runs or files", got=len(given))
    entries: list[Entry] = []
    for label, text in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", given, strict=False):
        path = Path(text)
        if path.is_file() or path.suffix == ".csv":  # a file that is not there is said to be so when it is read
            alike = sum(Path(other).name == path.name for other in given) > 1
            entries.append(Entry(label, str(path) if alike else path.name, path, None))
        else:
            run = read_run(find_run(text, runs))
            file = Path(run.record["submission"]["path"]) if run.submission is not None else None
            entries.append(Entry(label, run.name, file, run))
    return entries


def runs_of(entries: Sequence[Entry]) -> list[RunFiles]:
    """Return the runs among the entries."""
    return [entry.run for entry in entries if entry.run is not None]


def left_by(entry: Entry) -> RunFiles:
    """Return what the entry's run left; a bare submission is a run that left nothing else.

    Raises
    ------
    InvalidSubmission
        The file breaks a rule of the format.
    """
    if entry.run is not None:
        return entry.run
    path = entry.file or Path(entry.name)
    return RunFiles(path, {}, None, {}, {}, {}, read_submission(path))


def data_of(entries: Sequence[Entry], root: Path, cache: Path) -> Data:
    """Return what a page shows of the data, of all tasks of all entries, read as the first run read it."""
    held = {task for entry in entries for task in left_by(entry).tasks}
    config = data_config(next(iter(runs_of(entries)), None))
    return read_data(root, config, cache, [task for task in TASKS if task in held])


def contestant(entry: Entry, ground: Ground, data: Data | None) -> Contestant:
    """Return a validated submission, or what a run's own scores give in the place of a lost one.

    Raises
    ------
    InvalidSubmission
        The file breaks a rule.
    DataError
        There is no gold for its tasks.
    """
    if entry.file is not None:
        return Contestant(entry.name, *scorable(entry.file, ground))
    run = entry.run
    if run is None or data is None:
        raise RuntimeError("an entry without a file is a run, and needs the data")
    answers: dict[str, Sequence[str]] = {}
    for task in run.tasks:
        answers |= {i: ids[: max(KS)] for i, ids in final_answers(run, task, data.views[task]).items()}
    gold, notes = known_gold(answers, ground, run.folder)
    return Contestant(entry.name, answers, gold, [*notes, "the submission is lost: scored from scores.parquet"])


def compare_entries(entries: Sequence[Entry], ground: Ground, data: Data | None) -> list[Comparison]:
    """Return the first entry's comparison with each other one, over the tasks that both hold."""
    first, *others = [contestant(entry, ground, data) for entry in entries]
    return [compare_two(first, other, ground) for other in others]

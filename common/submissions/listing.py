"""What the list of submissions holds, and the note of a score that was read in the browser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.experiment import read_log
from common.hashing import file_digest
from common.submission import send_log
from common.submission.send_log import Attempt, LocalScore


def rows(runs: Path) -> list[dict[str, Any]]:
    """Return a row for each file that a run made and for each attempt to send one, in the order of the log.

    A run whose file was sent has the rows of its attempts only.
    """
    sent = send_log.attempts(runs)
    known = {attempt.sha256 for attempt in sent}
    found: list[tuple[str, dict[str, Any]]] = []
    for line in read_log(runs):
        file = line.get("submission")
        if line.get("event") == send_log.EVENT or not file or file["sha256"] in known:
            continue
        local = send_log.local_score(send_log.as_track(line["track"]), line.get("metrics") or {})
        found.append((str(line["started"]), _row(line, file["path"], file["sha256"], local)))
    found += [(attempt.time, _sent_row(attempt)) for attempt in sent]
    return [row for _, row in sorted(found, key=lambda pair: pair[0])]


def _row(line: Mapping[str, Any], file: str, sha256: str, local: LocalScore | None) -> dict[str, Any]:
    return {
        "track": line["track"],
        "run": line["run"],
        "file": file,
        "sha256": sha256,
        "state": "not sent",
        "local": None if local is None else local.value,
        "local_is": None if local is None else local.name,
        "public": None,
        "gap": None,
        "time": line["started"],
        "error": None,
    }


def _sent_row(attempt: Attempt) -> dict[str, Any]:
    line, public = {"track": attempt.track, "run": attempt.run, "started": attempt.time}, attempt.public_score
    return _row(line, attempt.file, attempt.sha256, attempt.local) | {
        "state": attempt.state,
        "public": None if public is None else send_log.public_value(attempt.track, public),
        "gap": send_log.gap(attempt),
        "error": attempt.error,
    }


def lines(found: list[dict[str, Any]]) -> list[str]:
    """Return a row's figures, then its file, hash and run on lines of their own: no terminal cuts them."""
    shown = [
        f"{'made or sent':<16}  {'track':<6}  {'state':<8}  {'local':>7}  {'public':>7}  {'gap':>7}  local score of"
    ]
    for row in found:
        digits = 4 if row["track"] == "track2" else 2
        figures = [row["local"], row["public"], row["gap"]]
        local, public, difference = ("-" if value is None else f"{value:.{digits}f}" for value in figures)
        if row["gap"] is not None:
            difference = f"{row['gap']:+.{digits}f}"
        stamp, state = str(row["time"])[:16].replace("T", " "), row["state"].replace("_", " ")
        columns = f"{stamp:<16}  {row['track']:<6}  {state:<8}  {local:>7}  {public:>7}  {difference:>7}"
        shown.append(f"{columns}  {row['local_is'] or ''}".rstrip())
        shown.append(f"  {row['file']}")
        shown.append(f"  sha256 {row['sha256'][:12]}, {row['run'] or 'no run of the log'}")
        if row["error"]:
            shown.append(f"  {row['error']}")
    return shown


def recorded(runs: Path, name: str, public: float) -> Attempt:
    """Return the attempt to log: the last one with the file's bytes, else one of its own."""
    path = Path(name)
    sha = file_digest(path) if path.is_file() else str(send_log.choose(runs, name)["submission"]["sha256"])
    scored = _scored(send_log.attempts(runs), sha, public)
    if scored is not None:
        return scored
    run = send_log.find_run(runs, sha)
    if run is None:
        raise UserError(
            "the log knows no run and no submission with these bytes",
            where=runs / "log.jsonl",
            got=f"{name}, sha256 {sha[:12]}",
            todo="check it first: python -m track2_mmctr submit FILE, or python -m track1_mdr submit FILE --dry-run",
        )
    track = send_log.as_track(run["track"])
    return Attempt(
        id=f"hand-{sha[:10]}",
        track=track,
        place="by hand",
        file=str(path.resolve() if path.is_file() else run["submission"]["path"]),
        sha256=sha,
        state="complete",
        time=send_log.now(),
        run=str(run["run"]),
        local=send_log.local_score(track, run.get("metrics") or {}),
        public_score=public,
    )


def _scored(sent: list[Attempt], sha256: str, public: float) -> Attempt | None:
    """Return the last attempt with these bytes, scored; None where there is none."""
    same = [attempt for attempt in sent if attempt.sha256 == sha256]
    return replace(same[-1], state="complete", public_score=public, error=None) if same else None
